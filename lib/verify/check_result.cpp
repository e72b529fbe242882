#include "lib/verify/check_result.h"

#include <algorithm>

#include "lib/verify/agreement.h"

namespace vmamba {

bool CheckResult::equal() const {
  if (labels && labels->minimum) return labels->holds();
  return !first_outside() && (reference.empty() || only_in_a.empty());
}

const Diff* CheckResult::first_differing() const {
  const auto found =
      std::find_if(taps.begin(), taps.end(), [](const Diff& diff) { return !diff.identical(); });
  return found == taps.end() ? nullptr : &*found;
}

bool CheckResult::within(const Diff& tap) const {
  const Diff* by_itself = derived ? find_diff(own, tap.name) : nullptr;
  return tap.within() && (!by_itself || by_itself->within());
}

const Diff* CheckResult::first_outside() const {
  for (const Diff& tap : taps)
    if (!within(tap)) return tap.within() ? find_diff(own, tap.name) : &tap;
  return nullptr;
}

bool equal(const std::vector<NamedResult>& cases) {
  return std::all_of(cases.begin(), cases.end(), [](const NamedResult& each) { return each.result.equal(); });
}

const Diff* find_diff(const std::vector<Diff>& diffs, std::string_view name) {
  const auto found =
      std::find_if(diffs.begin(), diffs.end(), [&](const Diff& diff) { return diff.name == name; });
  return found == diffs.end() ? nullptr : &*found;
}

bool is_coarse(std::string_view tap) {
  const auto place = in_block(tap);
  return !place || place->rest.empty();
}

const Diff* first_own(const CheckResult& result) {
  const Diff* first = nullptr;
  for (const Diff& diff : result.own) {
    if (!diff.within()) return &diff;
    if (!first && !diff.identical()) first = &diff;
  }
  return first;
}

}  // namespace vmamba
