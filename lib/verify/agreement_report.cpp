#include "lib/verify/agreement_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "lib/support/text.h"

namespace vmamba {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t most_named = 10;  // in the text report; JSON lists all

std::string percent(int64_t part, int64_t whole) {
  return fmt::format("{:.3f} %",
                     whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string class_name(const LabelAgreement& labels, int label) {
  if (label < 0) return "no answer";
  const auto i = static_cast<size_t>(label);
  return i < labels.names.size() ? printable(labels.names[i]) : fmt::format("class {}", label);
}

std::string and_more(size_t all) {
  return all > most_named ? fmt::format("  and {} more, which --format json names\n", all - most_named) : "";
}

std::string verdict(const LabelAgreement& labels) {
  if (!labels.minimum) return {};
  const std::string asked = fmt::format("--min-agreement {:g}", *labels.minimum);
  const std::string reached = fmt::format("{} {}", labels.holds() ? "reaches" : "is below", asked);
  if (labels.holds() && *labels.minimum == 1) return reached + ", on these images";
  return reached + (labels.conclusive()
                        ? ", as the whole interval does"
                        : ", but the interval holds both: more images are needed to conclude");
}

Json number(int label) {
  return label < 0 ? Json() : Json(label);
}

template <class Value>
Json or_null(const std::optional<Value>& value) {
  return value ? Json(*value) : Json();
}

std::string listed(const std::string& what, const std::vector<std::string>& files) {
  if (files.empty()) return {};
  std::string text = fmt::format("{}: {}\n", what, files.size());
  for (size_t i = 0; i < std::min(files.size(), most_named); ++i)
    text += fmt::format("  {}\n", printable(files[i], std::string::npos));
  return text + and_more(files.size());
}

// "a  a.jsonl, SHA-256 …: …", with the model if the file has a header.
std::string file_line(const char* side, const SavedResults& results) {
  std::string model = "of classify --format jsonl, which does not note the model";
  if (results.header.is_object()) {
    std::vector<std::string> said;
    for (const char* key : {"eval", "weights_sha256", "config_sha256", "device", "dtype", "forward_core",
                            "selective_scan_backend"})
      if (results.header.contains(key) && results.header[key].is_string())
        said.push_back(fmt::format("{} {}", key, printable(results.header[key].get<std::string>(), 200)));
    model = fmt::format("{}", fmt::join(said, ", "));
  }
  return fmt::format("{:<11}{}, SHA-256 {}: {}\n", side, results.path, results.sha256, model);
}

Json to_json(const SavedResults& results) {
  return {{"file", results.path},       {"sha256", results.sha256},   {"header", results.header},
          {"missing", results.missing}, {"doubled", results.doubled}, {"unread", results.unread}};
}

}  // namespace

std::string agreement_summary(const LabelAgreement& labels) {
  const Interval range = labels.interval();
  std::string text = fmt::format("labels agree for {} of {}, {}, 95 % interval {:.3f} to {:.3f} %",
                                 labels.agreeing, counted(static_cast<size_t>(labels.images), "image"),
                                 percent(labels.agreeing, labels.images), 100 * range.low, 100 * range.high);
  if (labels.minimum) text += ": " + verdict(labels);
  return text;
}

std::string text_report(const LabelAgreement& labels) {
  std::string text;
  if (labels.no_answer_a + labels.no_answer_b > 0)
    text += fmt::format("no answer: a {}, b {}, whose logits are NaN or infinite: they agree with nothing\n",
                        labels.no_answer_a, labels.no_answer_b);
  if (!labels.flips.empty()) {
    text += fmt::format("flips: {}", labels.flips.size());
    if (const std::vector<double> margins = labels.margins(); !margins.empty())
      text += fmt::format(", margins of a (its largest logit less the next) {:.3g} to {:.3g}, median {:.3g}",
                          margins.front(), margins.back(), margins[margins.size() / 2]);
    text += '\n';
    for (size_t i = 0; i < std::min(labels.flips.size(), most_named); ++i) {
      const Flip& flip = labels.flips[i];
      text += fmt::format("  {}  {} -> {}{}\n", printable(flip.file, std::string::npos),
                          class_name(labels, flip.a.label), class_name(labels, flip.b.label),
                          flip.a.margin ? fmt::format(", margin {:.3g}", *flip.a.margin) : "");
    }
    text += and_more(labels.flips.size());
  }
  if (labels.right.images == 0)
    return text + (labels.truth.empty() ? "" : fmt::format("no accuracies: {}\n", labels.truth));
  const auto& right = labels.right;
  text += fmt::format(
      "accuracy: a {}, b {} of {}; right in a alone {}, in b alone {}; McNemar's exact "
      "test, two-sided: p = {:.3g}\n",
      percent(right.a, right.images), percent(right.b, right.images),
      counted(static_cast<size_t>(right.images), "image"), right.a_alone, right.b_alone,
      mcnemar_exact(right.a_alone, right.b_alone));
  const auto worse = labels.worse_classes();
  if (!worse.empty()) text += fmt::format("classes that got worse: {}\n", worse.size());
  for (size_t i = 0; i < std::min(worse.size(), most_named); ++i)
    text += fmt::format("  {}  of {} right in a {}, in b {}\n", class_name(labels, worse[i].first),
                        counted(static_cast<size_t>(worse[i].second.images), "image"), worse[i].second.a,
                        worse[i].second.b);
  return text + and_more(worse.size());
}

Json json_report(const LabelAgreement& labels) {
  const Interval range = labels.interval();
  Json json{{"images", labels.images},
            {"agreeing", labels.agreeing},
            {"share", labels.share()},
            {"interval", {range.low, range.high}},
            {"minimum", or_null(labels.minimum)},
            {"holds", labels.minimum ? Json(labels.holds()) : Json()},
            {"conclusive", labels.minimum ? Json(labels.conclusive()) : Json()},
            {"no_answer", {{"a", labels.no_answer_a}, {"b", labels.no_answer_b}}}};
  const std::vector<double> margins = labels.margins();
  json["margins"] = margins.empty() ? Json()
                                    : Json{{"least", margins.front()},
                                           {"median", margins[margins.size() / 2]},
                                           {"largest", margins.back()}};
  json["flips"] = Json::array();
  for (const Flip& flip : labels.flips)
    json["flips"].push_back({{"file", flip.file},
                             {"a", number(flip.a.label)},
                             {"b", number(flip.b.label)},
                             {"margin", or_null(flip.a.margin)}});
  json["truth"] = labels.truth;
  json["accuracy"] = Json();
  if (labels.right.images == 0) return json;
  const auto& right = labels.right;
  json["accuracy"] = {{"images", right.images},
                      {"a", share(right.a, right.images)},
                      {"b", share(right.b, right.images)},
                      {"a_alone", right.a_alone},
                      {"b_alone", right.b_alone},
                      {"p", mcnemar_exact(right.a_alone, right.b_alone)},
                      {"worse", Json::array()}};
  for (const auto& [label, counts] : labels.worse_classes())
    json["accuracy"]["worse"].push_back({{"class", label},
                                         {"label", class_name(labels, label)},
                                         {"images", counts.images},
                                         {"a", counts.a},
                                         {"b", counts.b}});
  return json;
}

std::string text_report(const SavedComparison& comparison) {
  const auto &a = comparison.a, &b = comparison.b;
  std::string text = file_line("a", a) + file_line("b", b) + '\n';
  text += listed("missing in a", a.missing) + listed("missing in b", b.missing);
  text += listed("several answers in a", a.doubled) + listed("several answers in b", b.doubled);
  if (a.unread + b.unread > 0)
    text += fmt::format("could not be read: {} in a, {} in b\n", a.unread, b.unread);
  return text + agreement_summary(comparison.labels) + "\n" + text_report(comparison.labels) +
         fmt::format("{}{}\n", comparison.equal() ? "equal" : "different",
                     comparison.labels.holds() && !comparison.equal()
                         ? ": the two files are not of the same images, each once"
                         : "");
}

Json json_report(const SavedComparison& comparison) {
  return {{"kind", "results"},
          {"equal", comparison.equal()},
          {"a", to_json(comparison.a)},
          {"b", to_json(comparison.b)},
          {"data_set", json_report(comparison.labels)}};
}

}  // namespace vmamba
