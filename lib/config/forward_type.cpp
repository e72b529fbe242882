// The table of forward types and postfixes, and their parser.
#include "lib/config/forward_type.h"

#include <algorithm>

#include "kernels/error.h"
#include "lib/config/forward_type_spelling.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

constexpr ForwardSpec bases[] = {
    {.base = "v0", .precision = CorePrecision::float32_block, .old_block = true},
    {.base = "v0seq", .precision = CorePrecision::float32_block, .old_block = true},
    {.base = "v01", .precision = CorePrecision::float32_core},
    {.base = "v02", .precision = CorePrecision::float32_core},
    {.base = "v03", .precision = CorePrecision::float32_core},
    {.base = "v04", .precision = CorePrecision::storage_in},
    {.base = "v05", .precision = CorePrecision::storage_in},
    {.base = "v051d", .precision = CorePrecision::storage_in, .order = ScanOrder::unidi},
    {.base = "v052d", .precision = CorePrecision::storage_in, .order = ScanOrder::bidi},
    // the second scan of the cascade uses cascade_columns
    {.base = "v052dc",
     .precision = CorePrecision::storage_in,
     .core = Core::cascade,
     .order = ScanOrder::cascade_rows},
    {.base = "v2", .precision = CorePrecision::float32_core},
    {.base = "v3", .precision = CorePrecision::storage_in},
    {.base = "m0", .precision = CorePrecision::storage_in, .core = Core::mamba2},
};

struct Postfix {
  std::string_view name;
  void (*apply)(ForwardSpec& spec);
  bool replaces_out_norm = false;  // such postfixes exclude each other
};

// In the order in which the Python project strips them off the end, so they stand the other way round in a type.
constexpr Postfix postfixes[] = {
    {"_no32", [](ForwardSpec& spec) { spec.no32 = true; }},
    {"_oact", [](ForwardSpec& spec) { spec.out_act = true; }},
    {"_noz", [](ForwardSpec& spec) { spec.gated = false; }},
    {"_nozact", [](ForwardSpec& spec) { spec.gate_act = false; }},
    {"_onnone", [](ForwardSpec& spec) { spec.out_norm = OutNorm::none; }, true},
    {"_ondwconv3", [](ForwardSpec& spec) { spec.out_norm = OutNorm::dwconv3; }, true},
    {"_oncnorm", [](ForwardSpec& spec) { spec.out_norm = OutNorm::cnorm; }, true},
    {"_onsoftmax", [](ForwardSpec& spec) { spec.out_norm = OutNorm::softmax; }, true},
    {"_onsigmoid", [](ForwardSpec& spec) { spec.out_norm = OutNorm::sigmoid; }, true},
};

std::string known_types() {
  return fmt::format("known: {}, each but v0 and v0seq with any of {}", joined(forward_type_bases()),
                     joined(forward_type_postfixes()));
}

std::vector<std::string_view> parts(std::string_view text) {
  std::vector<std::string_view> found;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('_', begin + 1), text.size());
    found.push_back(text.substr(begin, end - begin));
    if (end == text.size()) break;
    begin = end;
  }
  return found;
}

const ForwardSpec* find_base(std::string_view name) {
  const auto* row = std::ranges::find(bases, name, &ForwardSpec::base);
  return row == std::end(bases) ? nullptr : row;
}

const Postfix* find_postfix(std::string_view name) {
  const auto* row = std::ranges::find(postfixes, name, &Postfix::name);
  return row == std::end(postfixes) ? nullptr : row;
}

// All output norms have one place.
size_t place_from_end(std::string_view postfix) {
  const Postfix* row = find_postfix(postfix);
  return row == nullptr || row->replaces_out_norm ? std::size(postfixes)
                                                  : static_cast<size_t>(row - postfixes);
}

}  // namespace

bool SpelledForwardType::put_in_order() {
  if (std::ranges::is_sorted(postfixes, std::ranges::greater{}, place_from_end)) return false;
  std::ranges::stable_sort(postfixes, std::ranges::greater{}, place_from_end);
  return true;
}

std::string SpelledForwardType::joined() const {
  std::string text = base;
  for (const std::string& postfix : postfixes) text += postfix;
  return text;
}

std::optional<SpelledForwardType> spell_forward_type(std::string_view text,
                                                     const std::vector<std::string_view>& more_bases,
                                                     const std::vector<std::string_view>& more_postfixes) {
  std::string squeezed = lower_case(text);
  std::erase(squeezed, '_');
  // Longest first, so that v052dc is tried before v052d and v05, and nozact before noz.
  std::vector<std::string_view> base_names = forward_type_bases(), postfix_names = forward_type_postfixes();
  base_names.insert(base_names.end(), more_bases.begin(), more_bases.end());
  postfix_names.insert(postfix_names.end(), more_postfixes.begin(), more_postfixes.end());
  const auto longest_first = [](std::vector<std::string_view>& names) {
    std::ranges::sort(names, std::ranges::greater{}, &std::string_view::size);
  };
  longest_first(base_names);
  longest_first(postfix_names);
  const auto bare = [](std::string_view name) { return name.substr(name.starts_with('_') ? 1 : 0); };

  for (const std::string_view base : base_names) {
    if (!squeezed.starts_with(base)) continue;
    SpelledForwardType spelled{std::string(base), {}};
    std::string_view rest = std::string_view(squeezed).substr(base.size());
    while (!rest.empty()) {
      const auto name = std::ranges::find_if(
          postfix_names, [&](std::string_view postfix) { return rest.starts_with(bare(postfix)); });
      if (name == postfix_names.end()) break;
      spelled.postfixes.emplace_back(*name);
      rest.remove_prefix(bare(*name).size());
    }
    const ForwardSpec* row = find_base(base);
    const bool takes_no_postfix = row != nullptr && row->old_block;
    if (rest.empty() && !(takes_no_postfix && !spelled.postfixes.empty())) return spelled;
  }
  return std::nullopt;
}

std::string respelled_forward_type(std::string_view forward_type) {
  auto spelled = spell_forward_type(forward_type);
  if (!spelled) return "";
  spelled->put_in_order();
  return spelled->joined();
}

ForwardSpec parse_forward_type(std::string_view forward_type, std::string_view where) {
  if (forward_type.starts_with("xv")) {
    fail_input("{}: forward_type {} is of the xv family, which the released code itself cannot run; {}",
               where, in_quotes(forward_type), known_types());
  }
  const auto names = parts(forward_type);
  const ForwardSpec* base = find_base(names.front());
  bool understood = base != nullptr;
  for (size_t i = 1; i < names.size(); ++i) understood = understood && find_postfix(names[i]);
  if (!understood) {
    std::string hint = respelled_forward_type(forward_type);
    if (hint.empty()) {
      if (!base) {
        hint = nearest(names.front(), forward_type_bases());
        if (!hint.empty()) hint += forward_type.substr(names.front().size());
      } else {
        for (const std::string_view name : names) {
          if (name != names.front())
            hint += find_postfix(name) ? name : nearest(name, forward_type_postfixes());
        }
        hint.insert(0, names.front());
        if (hint == base->base) hint.clear();
      }
      if (const std::string ordered = respelled_forward_type(hint); !ordered.empty()) hint = ordered;
    }
    if (hint == forward_type) hint.clear();
    fail_input("{}: unknown forward_type {}{}; {}", where, in_quotes(forward_type),
               hint.empty() ? "" : fmt::format(": did you mean {}?", in_quotes(hint)), known_types());
  }

  ForwardSpec spec = *base;
  if (spec.old_block && names.size() > 1) {
    fail_input("{}: forward_type {}: {} takes no postfix; use {} alone, or a newer base such as \"v05{}\"",
               where, in_quotes(forward_type), base->base, in_quotes(base->base), names[1]);
  }
  std::string_view out_norm;
  for (size_t i = 1; i < names.size(); ++i) {
    const Postfix& postfix = *find_postfix(names[i]);
    if (std::find(names.begin() + 1, names.begin() + static_cast<std::ptrdiff_t>(i), names[i]) !=
        names.begin() + static_cast<std::ptrdiff_t>(i)) {
      fail_input("{}: forward_type {}: {} stands twice; write it once", where, in_quotes(forward_type),
                 names[i]);
    }
    if (postfix.replaces_out_norm && !out_norm.empty()) {
      fail_input("{}: forward_type {}: {} and {} both replace the output norm; keep one", where,
                 in_quotes(forward_type), out_norm, names[i]);
    }
    if (postfix.replaces_out_norm) out_norm = names[i];
    postfix.apply(spec);
  }
  return spec;
}

std::vector<std::string_view> forward_type_bases() {
  std::vector<std::string_view> names;
  for (const ForwardSpec& row : bases) names.push_back(row.base);
  return names;
}

std::vector<std::string_view> forward_type_postfixes() {
  std::vector<std::string_view> names;
  for (const Postfix& row : postfixes) names.push_back(row.name);
  return names;
}

}  // namespace vmamba
