#include "lib/verify/truth_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/verify/check_result.h"

namespace vmamba {
namespace {

using Json = nlohmann::ordered_json;

// Figures of one side per tap. growth: ratio of relative L2 to that of the preceding block or downsample; NaN if none.
struct Figures {
  double max_abs = 0, relative_l2 = 0, ulps = 0, growth = 0;
};
std::vector<Figures> figures_of(const TruthReport& report, TruthError TruthTap::*side, DType storage) {
  std::vector<Figures> figures;
  double before = 0;
  for (const TruthTap& tap : report.taps) {
    const TruthError& error = tap.*side;
    Figures each{error.finite > 0 ? error.max_abs : std::numeric_limits<double>::quiet_NaN(),
                 tap.relative_l2(error), tap.ulps(error, storage), std::numeric_limits<double>::quiet_NaN()};
    if (is_coarse(tap.name)) {
      if (before > 0 && std::isfinite(before)) each.growth = each.relative_l2 / before;
      before = each.relative_l2;
    }
    figures.push_back(each);
  }
  return figures;
}

// A figure, or "-" where no element is finite on both sides.
std::string figure(double value, int digits) {
  return std::isnan(value) ? "-" : fmt::format("{:.{}g}", value, digits);
}

int64_t count_nearer(const TruthReport& report, char side) {
  return std::count_if(report.taps.begin(), report.taps.end(),
                       [&](const TruthTap& tap) { return tap.nearer() == side; });
}

// "b is outside what float32 can do in 2 of 9 taps, first in layers.0.blocks.1.op.scan"; empty if it is not.
std::string outside(const TruthReport& report, char name, TruthError TruthTap::*side, const TruthSide& by) {
  const auto is_outside = [&](const TruthTap& tap) { return (tap.*side).outside; };
  const auto first = std::find_if(report.taps.begin(), report.taps.end(), is_outside);
  if (first == report.taps.end()) return {};
  return fmt::format("{} is outside what {} can do in {} of {} taps, first in {}", name, by.dtype,
                     std::count_if(report.taps.begin(), report.taps.end(), is_outside), report.taps.size(),
                     first->name);
}

}  // namespace

std::vector<std::string> truth_verdict(const TruthReport& report) {
  const size_t taps = report.taps.size();
  if (taps == 0) return {"no tap is of the shape that the truth has: nothing is judged"};
  const int64_t a = count_nearer(report, 'a'), b = count_nearer(report, 'b'),
                same = count_nearer(report, '=');
  std::string nearer = fmt::format("both are as near to the truth in all {} taps", taps);
  if (a == b && a > 0) nearer = fmt::format("each is nearer to the truth in {} of {} taps", a, taps);
  if (a != b) {
    const char near = a > b ? 'a' : 'b', far = a > b ? 'b' : 'a';
    nearer = fmt::format("{} is nearer to the truth in {} of {} taps, {} in {}", near, std::max(a, b), taps,
                         far, std::min(a, b));
  }
  if (a + b > 0 && same > 0) nearer += fmt::format(", both are as near in {}", same);
  for (const TruthTap& tap : report.taps)
    if (tap.name == "logits")
      nearer += fmt::format("; relative L2 of the logits: a {}, b {}", figure(tap.relative_l2(tap.a), 2),
                            figure(tap.relative_l2(tap.b), 2));
  const auto empty = std::count_if(report.taps.begin(), report.taps.end(), [](const TruthTap& tap) {
    return tap.a.finite == 0 && tap.b.finite == 0;
  });
  if (empty > 0)
    nearer += fmt::format("; no element is finite in {} of {} taps: they are not judged", empty, taps);
  const std::string of_a = outside(report, 'a', &TruthTap::a, report.a),
                    of_b = outside(report, 'b', &TruthTap::b, report.b);
  if (!of_a.empty() && !of_b.empty()) return {nearer, of_a, of_b};
  if (!of_a.empty()) return {nearer, of_a + fmt::format("; b is not outside what {} can do", report.b.dtype)};
  if (!of_b.empty()) return {nearer, of_b + fmt::format("; a is not outside what {} can do", report.a.dtype)};
  if (report.a.dtype == report.b.dtype)
    return {nearer, fmt::format("neither is outside what {} can do", report.a.dtype)};
  return {nearer, fmt::format("neither is outside what its dtype can do: a {}, b {}", report.a.dtype,
                              report.b.dtype)};
}

std::string truth_text(const TruthReport& report, bool all) {
  const std::vector<Figures> a = figures_of(report, &TruthTap::a, report.a.storage),
                             b = figures_of(report, &TruthTap::b, report.b.storage);
  const auto shown = [&](const TruthTap& tap) {
    return all || is_coarse(tap.name) || tap.a.outside || tap.b.outside;
  };
  size_t width = 20;
  for (const TruthTap& tap : report.taps)
    if (shown(tap)) width = std::max(width, tap.name.size());
  std::string text =
      fmt::format("\ntruth      config and weights of {}: {}\n\n", report.of, to_string(report.run));
  text += fmt::format("{:<{}}", "error against truth", width);
  for (const char side : {'a', 'b'})
    text += fmt::format(" | {}: {:>9} {:>9} {:>9} {:>7}", side, "max abs", "rel L2", "ULPs", "growth");
  text += " | nearer\n";
  for (size_t i = 0; i < report.taps.size(); ++i) {
    const TruthTap& tap = report.taps[i];
    if (!shown(tap)) continue;
    text += fmt::format("{:<{}}", tap.name, width);
    for (const auto& [figures, outside] : {std::pair(a[i], tap.a.outside), std::pair(b[i], tap.b.outside)})
      text += fmt::format(" | {} {:>9} {:>9} {:>9} {:>7}", outside ? "->" : "  ", figure(figures.max_abs, 3),
                          figure(figures.relative_l2, 3), figure(figures.ulps, 3),
                          std::isnan(figures.growth) ? "" : fmt::format("x{:.2f}", figures.growth));
    text += fmt::format(" | {}\n", tap.nearer());
  }
  text += '\n';
  for (const std::string& line : truth_verdict(report)) text += fmt::format("truth: {}\n", line);
  return text;
}

Json truth_json(const TruthReport& report) {
  const std::vector<Figures> a = figures_of(report, &TruthTap::a, report.a.storage),
                             b = figures_of(report, &TruthTap::b, report.b.storage);
  Json json{{"of", std::string(1, report.of)},
            {"run", report.run},
            {"nearer",
             {{"a", count_nearer(report, 'a')},
              {"b", count_nearer(report, 'b')},
              {"same", count_nearer(report, '=')}}},
            {"verdict", truth_verdict(report)},
            {"taps", Json::array()}};
  json["run"]["choice"] = "";
  const auto side = [](const Figures& figures, const TruthError& error) {
    return Json{{"max_abs", figures.max_abs},   {"relative_l2", figures.relative_l2},
                {"ulps", figures.ulps},         {"growth", figures.growth},
                {"nonfinite", error.nonfinite}, {"outside", error.outside}};
  };
  for (size_t i = 0; i < report.taps.size(); ++i) {
    const TruthTap& tap = report.taps[i];
    json["taps"].push_back({{"name", tap.name},
                            {"max_truth", tap.max_truth},
                            {"nearer", tap.nearer() == '=' ? "same" : std::string(1, tap.nearer())},
                            {"a", side(a[i], tap.a)},
                            {"b", side(b[i], tap.b)}});
  }
  return json;
}

}  // namespace vmamba
