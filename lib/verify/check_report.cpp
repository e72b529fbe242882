#include "lib/verify/check_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "lib/support/text.h"
#include "lib/verify/agreement_report.h"
#include "lib/verify/diagnose.h"
#include "lib/verify/truth_report.h"

namespace vmamba {
namespace {

using Json = nlohmann::ordered_json;

// The bound that is closest to being exceeded: "0.0015 of 0.01", "relative L2 0.003 of 0.005"; or "12 not finite".
std::string of_bound(const Diff& diff) {
  if (diff.differing_nonfinite > 0) return fmt::format("{} not finite", diff.differing_nonfinite);
  if (diff.outside_l2 > 0 && diff.outside == 0)
    return fmt::format("relative L2 {:.2g} of {:.2g} in one batch", diff.outside_l2, diff.outside_l2_bound);
  if (!diff.norm_is_nearer()) return fmt::format("{:.2g} of {:.2g}", diff.nearest, diff.bound);
  return fmt::format("relative L2 {:.2g} of {:.2g}", diff.relative_l2(), diff.l2_bound);
}

// The tap, or own error of a step, with the largest error relative to its bound; null if nothing was compared.
const Diff* largest_share(const CheckResult& result) {
  const Diff* worst = nullptr;
  const auto look = [&](const std::vector<Diff>& diffs) {
    for (const Diff& diff : diffs)
      if (diff.problem.empty() && (!worst || diff.share() > worst->share())) worst = &diff;
  };
  look(result.taps);
  if (result.derived) look(result.own);
  return worst;
}

std::string nonfinite_note(const Diff& diff) {
  std::string note;
  if (diff.nan_b + diff.inf_b > 0)
    note += fmt::format("  b: {} NaN, {} inf, first at {}", diff.nan_b, diff.inf_b,
                        diff.place(diff.first_nonfinite_b));
  if (diff.nan_a + diff.inf_a > 0)
    note += fmt::format("  a: {} NaN, {} inf, first at {}", diff.nan_a, diff.inf_a,
                        diff.place(diff.first_nonfinite_a));
  return note;
}

std::string percent(int64_t part, int64_t whole) {
  return fmt::format("{:.3g}%",
                     whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

// "b differs by itself, from the same input, at:" and one step per line; empty if none does. If a step is outside its
// tolerance, steps that differ within theirs are left out.
std::string own_places(const CheckResult& result) {
  const bool outside =
      std::any_of(result.own.begin(), result.own.end(), [](const Diff& diff) { return !diff.within(); });
  std::vector<std::string> kinds;
  std::map<std::string, int> times;
  for (const Diff& diff : result.own) {
    if (outside ? diff.within() : diff.identical()) continue;
    const auto place = in_block(diff.name);
    const std::string kind(!place                ? std::string_view(diff.name)
                           : place->rest.empty() ? "a block's sum"
                                                 : place->rest);
    if (++times[kind] == 1) kinds.push_back(kind);
  }
  if (kinds.empty()) return {};
  std::string text =
      fmt::format("b {} by itself, from the same input, at:\n", outside ? "leaves its tolerance" : "differs");
  for (const std::string& kind : kinds)
    text += fmt::format("  {}{}\n", kind, times[kind] > 1 ? fmt::format(" ({} times)", times[kind]) : "");
  return text;
}

Json place(const Diff& diff, int64_t index) {
  return index < 0 ? Json() : Json(diff.coordinates(index));
}

// JSON has no infinity or NaN: they become null.
Json to_json(const Diff& diff, const Diff* own) {
  Json json{{"name", diff.name}, {"shape", diff.dims}};
  json["within"] = diff.within();
  json["identical"] = diff.identical();
  if (!diff.problem.empty()) {
    json["problem"] = diff.problem;
    return json;
  }
  json["bound"] = diff.bound;
  json["max_abs"] = diff.figure(diff.max_abs);
  json["max_rel"] = diff.figure(diff.max_rel);
  json["mean_abs"] = diff.figure(diff.mean_abs());
  json["relative_l2"] = diff.figure(diff.relative_l2());
  json["cosine"] = diff.figure(diff.cosine());
  json["psnr"] = diff.figure(diff.psnr());
  json["max_reference"] = diff.max_reference;
  json["elements"] = diff.elements;
  json["differing"] = diff.differing;
  json["outside"] = diff.outside;
  json["nan"] = {{"a", diff.nan_a}, {"b", diff.nan_b}};
  json["inf"] = {{"a", diff.inf_a}, {"b", diff.inf_b}};
  json["first_differing"] = place(diff, diff.first_differing);
  json["first_outside"] = place(diff, diff.first_outside);
  json["worst"] = place(diff, diff.worst);
  json["first_nonfinite"] = {{"a", place(diff, diff.first_nonfinite_a)},
                             {"b", place(diff, diff.first_nonfinite_b)}};
  if (own)
    json["by_itself"] = {{"identical", own->identical()},
                         {"within", own->within()},
                         {"max_abs", own->figure(own->max_abs)},
                         {"outside", own->outside},
                         {"share_of_bound", own->share()}};
  return json;
}

Json to_json(const Tolerance& tolerance) {
  return {{"absolute", tolerance.absolute},
          {"relative", tolerance.relative},
          {"relative_l2", tolerance.relative_l2}};
}

Json to_json(const RunReport& report, const std::string& choice = "") {
  Json json{{"choice", choice}};
  json.update(Json(report));
  return json;
}

}  // namespace

std::string to_string(const Tolerance& tolerance) {
  std::string text =
      fmt::format("|a - b| <= max({:g}, {:g} * max|a|)", tolerance.absolute, tolerance.relative);
  if (std::isfinite(tolerance.relative_l2))
    text += fmt::format(" and ||a - b|| <= {:g} * ||a||", tolerance.relative_l2);
  return text;
}

std::string side_a(const CheckResult& result) {
  if (!result.reference.empty()) return result.reference;
  return result.choice_a + (result.choice_a.empty() ? "" : ": ") + to_string(result.report_a);
}

std::string side_b(const CheckResult& result) {
  return result.choice_b + (result.choice_b.empty() ? "" : ": ") + to_string(result.report_b);
}

std::string tolerance_line(const CheckResult& result) {
  if (!result.derived) return fmt::format("{} ({})", to_string(result.tolerance), result.tolerance_source);
  return fmt::format("what rounding explains, of each step by itself and of the whole ({}); of the input {}",
                     result.tolerance_source, to_string(result.tolerance));
}

std::string summary(const CheckResult& result) {
  int64_t within = 0, identical = 0;
  for (const Diff& diff : result.taps) {
    within += result.within(diff);
    identical += diff.identical();
  }
  const Diff* worst = largest_share(result);
  std::string text =
      fmt::format("{}: {} of {} taps within tolerance, {} bit for bit",
                  result.equal() ? "equal" : "different", within, result.taps.size(), identical);
  if (result.labels && result.labels->minimum)
    return fmt::format("{}; {}", text, agreement_summary(*result.labels));
  if (worst && worst->share() > 0)
    text += fmt::format("; worst against its bound: {} ({})", worst->name, of_bound(*worst));
  return text;
}

namespace {

std::string head(const CheckResult& result) {
  return fmt::format("a          {}\nb          {}\ninput      {}\ntolerance  {}\n\n", side_a(result),
                     side_b(result), result.input, tolerance_line(result));
}

std::string table(const CheckResult& result, bool all) {
  std::string text;
  const auto line = [&]<class... Args>(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
    text += '\n';
  };
  const Diff* differing = result.first_differing();
  const Diff* outside = result.first_outside();
  const auto shown = [&](const Diff& diff) {
    return all || is_coarse(diff.name) || (differing && block_of(diff.name) == block_of(differing->name)) ||
           (outside && block_of(diff.name) == block_of(outside->name));
  };
  size_t width = 20;
  for (const Diff& diff : result.taps)
    if (shown(diff)) width = std::max(width, diff.name.size());
  line("{:<{}} {:>9} {:>9} {:>9} {:>9} {:>12} {:>7} {:>9} {:>10} {:>8}", "tap", width, "max abs", "max rel",
       "mean abs", "rel L2", "cosine", "PSNR", "outside", "by itself", "of bound");
  for (const Diff& diff : result.taps) {
    if (!shown(diff)) continue;
    if (!diff.problem.empty()) {
      line("{:<{}} {}  <-", diff.name, width, diff.problem);
      continue;
    }
    const Diff* own = find_diff(result.own, diff.name);
    const auto figure = [](const Diff& of, double value, const char* format) {
      return std::isnan(of.figure(value)) ? "-" : fmt::format(fmt::runtime(format), value);
    };
    line("{:<{}} {:>9} {:>9} {:>9} {:>9} {:>12} {:>7} {:>9} {:>10} {:>8}{}{}", diff.name, width,
         figure(diff, diff.max_abs, "{:.3g}"), figure(diff, diff.max_rel, "{:.3g}"),
         figure(diff, diff.mean_abs(), "{:.3g}"), figure(diff, diff.relative_l2(), "{:.3g}"),
         figure(diff, diff.cosine(), "{:.9f}"), figure(diff, diff.psnr(), "{:.1f}"),
         percent(diff.outside, diff.elements), own ? figure(*own, own->max_abs, "{:.3g}") : "",
         own ? fmt::format("{:.2g}", own->share()) : "", result.within(diff) ? "" : "  <-",
         nonfinite_note(diff));
  }
  return text + '\n';
}

std::string verdict(const CheckResult& result, bool all) {
  std::string text;
  const auto line = [&]<class... Args>(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
    text += '\n';
  };
  const Diff *differing = result.first_differing(), *outside = result.first_outside();
  if (!result.reference.empty())
    for (const std::string& name : result.only_in_a)
      line("{}: in the reference, but no tap of this model", name);
  line("{}", summary(result));
  if (differing) line("first to differ: {}", differing->name);
  // A step's own error may exceed its bound while every tap is within the looser bound of accumulated error.
  const bool drifted = outside && !find_diff(result.taps, outside->name)->within();
  const char* by_itself = drifted ? "" : "by itself ";
  const bool in_one = outside && outside->outside_l2 > 0;
  if (outside && outside->problem.empty() && outside->outside == 0)
    line("first outside its tolerance: {}, {}relative L2 {:.3g} of {:.3g}{}", outside->name, by_itself,
         in_one ? outside->outside_l2 : outside->relative_l2(),
         in_one ? outside->outside_l2_bound : outside->l2_bound, in_one ? " in one batch" : "");
  else if (outside && outside->problem.empty() && outside->worst < 0)
    line("first outside its tolerance: {}, {}first at {}", outside->name, by_itself,
         outside->place(outside->first_outside));
  else if (outside && outside->problem.empty())
    line("first outside its tolerance: {}, {}first at {}, most at {}: {:g} against {:g}", outside->name,
         by_itself, outside->place(outside->first_outside), outside->place(outside->worst), outside->worst_a,
         outside->worst_b);
  else if (outside)
    line("first outside its tolerance: {}", outside->name);
  text += own_places(result);
  if (result.agreement.images > 0)
    line("top-1 agrees for {} of {}, top-5 for {} of {}", result.agreement.top1,
         counted(static_cast<size_t>(result.agreement.images), "image"), result.agreement.top5,
         result.agreement.images);
  if (result.labels && !result.labels->minimum) line("{}", agreement_summary(*result.labels));
  if (result.labels) text += text_report(*result.labels);
  for (const std::string& cause : result.causes) line("cause: {}", cause);
  for (const std::string& note : result.notes) line("note: {}", note);
  if (result.truth) text += truth_text(*result.truth, all);
  return text;
}

// "different: 2 of 10 cases differ", "equal: all 10 cases"
std::string count(const std::vector<NamedResult>& cases, const char* what) {
  const auto differing =
      std::count_if(cases.begin(), cases.end(), [](const NamedResult& each) { return !each.result.equal(); });
  if (differing == 0) return fmt::format("equal: all {} {}", cases.size(), what);
  return fmt::format("different: {} of {} {} differ", differing, cases.size(), what);
}

Json to_json(const CheckResult& result) {
  Json json{{"kind", "comparison"}, {"equal", result.equal()}};
  if (result.reference.empty())
    json["a"] = to_json(result.report_a, result.choice_a);
  else
    json["a"] = {{"reference", result.reference}};
  json["b"] = to_json(result.report_b, result.choice_b);
  json["input"] = result.input;
  json["tolerance"] = to_json(result.tolerance);
  json["tolerance"]["source"] = result.tolerance_source;
  json["tolerance"]["derived"] = result.derived;
  const auto name = [](const Diff* diff) { return diff ? Json(diff->name) : Json(); };
  json["first_differing"] = name(result.first_differing());
  json["first_outside"] = name(result.first_outside());
  json["agreement"] = {
      {"images", result.agreement.images}, {"top1", result.agreement.top1}, {"top5", result.agreement.top5}};
  if (result.labels) json["data_set"] = json_report(*result.labels);
  json["causes"] = result.causes;
  json["notes"] = result.notes;
  json["taps"] = Json::array();
  for (const Diff& diff : result.taps)
    json["taps"].push_back(to_json(diff, find_diff(result.own, diff.name)));
  json["only_in_a"] = result.only_in_a;
  json["only_in_b"] = result.only_in_b;
  if (result.truth) json["truth"] = truth_json(*result.truth);
  return json;
}

Json cases_json(const char* kind, const std::vector<NamedResult>& cases) {
  Json json{{"kind", kind}, {"equal", equal(cases)}, {"cases", Json::array()}};
  for (const NamedResult& each : cases) {
    Json entry{{"name", each.name}};
    entry.update(to_json(each.result));
    json["cases"].push_back(std::move(entry));
  }
  return json;
}

}  // namespace

std::string text_report(const CheckResult& result, bool all) {
  return head(result) + table(result, all) + verdict(result, all);
}

Json json_report(const CheckResult& result) {
  return to_json(result);
}

std::string dtypes_report(const std::vector<NamedResult>& cases, bool all) {
  std::string text;
  for (const auto& [name, result] : cases)
    text += fmt::format("--- {}\n{}{}{}\n", name, head(result),
                        all || !result.equal() ? table(result, all) : "", verdict(result, all));
  return text + count(cases, "dtypes") + "\n";
}

Json dtypes_json(const std::vector<NamedResult>& cases) {
  return cases_json("dtypes", cases);
}

std::string stress_report(const std::vector<NamedResult>& cases) {
  const CheckResult& first = cases.front().result;
  std::string text = fmt::format("a          {}\nb          {}\ntolerance  {}\n\n", side_a(first),
                                 side_b(first), tolerance_line(first));
  std::vector<std::array<std::string, 5>> table{
      {"case", "verdict", "worst against its bound", "at", "first outside its tolerance"}};
  std::string overflow;
  for (const auto& [name, result] : cases) {
    const Diff *outside = result.first_outside(), *worst = largest_share(result);
    table.push_back({name,
                     both_overflow(result) ? "both overflow"
                     : result.equal()      ? "equal"
                                           : "different",
                     worst ? of_bound(*worst) : "-", worst ? worst->name : "-",
                     outside ? outside->name : "-"});
    if (both_overflow(result)) overflow += fmt::format("; both overflow at {}", name);
  }
  std::array<size_t, 5> widths{};
  for (const auto& row : table)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  for (const auto& row : table)
    text += fmt::format("{:<{}}  {:<{}}  {:>{}}  {:<{}}  {}\n", row[0], widths[0], row[1], widths[1], row[2],
                        widths[2], row[3], widths[3], row[4]);
  text += fmt::format("\n{}{}\n", count(cases, "cases"), overflow);
  for (const auto& [name, result] : cases)
    if (!result.equal())
      for (const std::string& cause : result.causes) text += fmt::format("cause: {}: {}\n", name, cause);
  return text;
}

Json stress_json(const std::vector<NamedResult>& cases) {
  Json json = cases_json("stress", cases);
  for (size_t i = 0; i < cases.size(); ++i)
    json["cases"][i]["both_overflow"] = both_overflow(cases[i].result);
  return json;
}

std::string text_report(const Matrix& matrix) {
  std::string text = fmt::format(
      "input  {}\nrelative L2 of the logits; = bit for bit, ! outside tolerance\n\n", matrix.input);
  size_t width = 0;
  for (const Variant& variant : matrix.variants) width = std::max(width, to_string(variant).size());
  for (size_t i = 0; i < matrix.variants.size(); ++i) {
    text += fmt::format("{:>3}  {:<{}}", i + 1, to_string(matrix.variants[i]), width);
    for (const Diff& diff : matrix.pairs[i])
      text += fmt::format(" {:>7}", diff.identical()   ? "="
                                    : diff.nonfinite() ? "NaN!"
                                                       : fmt::format("{:.0e}{}", diff.relative_l2(),
                                                                     diff.within() ? "" : "!"));
    text += '\n';
  }
  text += fmt::format("{:>3}  {:<{}}", "", "", width);
  for (size_t i = 0; i + 1 < matrix.variants.size(); ++i) text += fmt::format(" {:>7}", i + 1);
  return text + fmt::format("\n\n{}: {} ways to run, every pair compared\n",
                            matrix.equal() ? "equal" : "different", matrix.variants.size());
}

Json json_report(const Matrix& matrix) {
  Json json{{"kind", "matrix"}, {"equal", matrix.equal()}, {"input", matrix.input}};
  json["variants"] = Json::array();
  for (const Variant& variant : matrix.variants) json["variants"].push_back(to_string(variant));
  json["pairs"] = Json::array();
  for (size_t i = 0; i < matrix.pairs.size(); ++i)
    for (size_t j = 0; j < i; ++j) {
      Json entry{{"a", j}, {"b", i}};
      entry.update(to_json(matrix.pairs[i][j], nullptr));
      json["pairs"].push_back(std::move(entry));
    }
  return json;
}

std::string text_report(const PrecisionSearch& search) {
  std::string text =
      fmt::format("{}\ninput      {}\ntolerance  {} on the logits of each, {:g} times to spare\n",
                  to_string(search.report), search.input, to_string(search.tolerance), search.margin);
  const auto off = [](const Diff& diff) {
    return fmt::format("{}: {}", diff.name,
                       diff.nan_b + diff.inf_b > 0 ? "NaN or infinite" : "off by " + of_bound(diff));
  };
  text += fmt::format("as it is   {}\n", off(search.before));
  if (!search.found)
    return text + fmt::format("not enough: with every step in float32, {}\n", off(search.after));
  if (search.float32_ops.empty())
    text += "no step needs float32\n";
  else
    text += fmt::format("with them  {}\n{} in float32 needed (found in {} runs): {}\n", off(search.after),
                        counted(search.float32_ops.size(), "step"), search.runs,
                        fmt::join(search.float32_ops, ", "));
  return text + fmt::format("held out   {}: {}: {}\n", search.held_out.within() ? "held" : "violated",
                            search.held_out_input, off(search.held_out));
}

Json json_report(const PrecisionSearch& search) {
  return {{"kind", "find_precision"},
          {"equal", search.holds()},
          {"found", search.found},
          {"b", to_json(search.report)},
          {"input", search.input},
          {"margin", search.margin},
          {"tolerance", to_json(search.tolerance)},
          {"float32_ops", search.float32_ops},
          {"before", to_json(search.before, nullptr)},
          {"after", to_json(search.after, nullptr)},
          {"held_out", search.found ? Json{{"input", search.held_out_input},
                                           {"held", search.held_out.within()},
                                           {"diff", to_json(search.held_out, nullptr)}}
                                    : Json()},
          {"runs", search.runs}};
}

std::string text_report(const Repeatability& repeated) {
  std::string text = fmt::format("{}\ninput  {}\n", to_string(repeated.report), repeated.input);
  return text + (repeated.identical()
                     ? fmt::format("identical: {} runs, {} taps, bit for bit\n", repeated.runs, repeated.taps)
                     : fmt::format("different: {}\n", repeated.first_difference));
}

Json json_report(const Repeatability& repeated) {
  return {{"kind", "repeat"},
          {"equal", repeated.identical()},
          {"b", to_json(repeated.report)},
          {"input", repeated.input},
          {"runs", repeated.runs},
          {"taps", repeated.taps},
          {"first_difference", repeated.identical() ? Json() : Json(repeated.first_difference)}};
}

std::string text_report(const std::optional<InitDivergence>& divergence) {
  if (!divergence) return "equal: both configs build the same state dict from the same seed\n";
  const auto side = [](const std::optional<InitStep>& step) {
    return step ? fmt::format("{} {}, {}", step->tensor, shape_string(step->dims), step->fill)
                : "nothing more";
  };
  return fmt::format("different: the initialisations diverge at step {}\na  {}\nb  {}\n",
                     divergence->step + 1, side(divergence->a), side(divergence->b));
}

Json json_report(const std::optional<InitDivergence>& divergence) {
  Json json{{"kind", "init_order"}, {"equal", !divergence}};
  const auto side = [](const std::optional<InitStep>& step) {
    return step ? Json{{"tensor", step->tensor}, {"shape", step->dims}, {"fill", step->fill}} : Json();
  };
  json["step"] = divergence ? Json(divergence->step + 1) : Json();
  json["a"] = divergence ? side(divergence->a) : Json();
  json["b"] = divergence ? side(divergence->b) : Json();
  return json;
}

}  // namespace vmamba
