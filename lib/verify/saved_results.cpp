#include "lib/verify/saved_results.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "kernels/error.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/support/sha256.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

using Json = nlohmann::ordered_json;

struct SavedAnswer {
  std::string file;  // image name for display
  Answer answer;
  std::string label;  // the name of its class, where the file has one
  std::vector<int> truth;
  bool doubled = false;
};

struct Read {
  SavedResults results;
  std::vector<SavedAnswer> answers;               // in file order
  std::unordered_map<std::string, size_t> index;  // image key → index in answers
  std::map<std::string, std::string> unread;      // unreadable images: key → image name
  bool names(const std::string& key) const { return index.contains(key) || unread.contains(key); }
};

// One or several class indices; empty if the value is neither.
std::vector<int> class_numbers(const Json& json) {
  std::vector<int> numbers;
  for (const Json& value : json.is_array() ? json : Json::array({json})) {
    const bool good = value.is_number_integer() && value >= 0 && value <= INT32_MAX;
    if (!good) return {};
    numbers.push_back(value.get<int>());
  }
  return numbers;
}

// Parses "top": class indices (eval) or objects (classify). False if it is neither.
bool read_top(const Json& line, SavedAnswer& saved) {
  Answer& answer = saved.answer;
  const Json& top = line["top"];
  if (!top.is_array()) return false;
  if (top.empty()) return true;
  const bool objects = top[0].is_object();
  const Json first = objects ? top[0].value("class", Json()) : top[0];
  const std::vector<int> number = class_numbers(first);
  const Json probability = (objects ? top[0] : line).value("probability", Json());
  const bool has_probability = (objects ? top[0] : line).contains("probability");
  if (number.size() != 1 || first.is_array() || !has_probability ||
      !(probability.is_number() || probability.is_null()))
    return false;
  if (probability.is_null()) return true;  // the logits were NaN
  answer.label = number[0];
  if (const Json label = objects ? top[0].value("label", Json()) : Json(); label.is_string())
    saved.label = label;
  if (!objects || top.size() < 2 || !top[1].is_object()) return true;
  const Json one = top[0].value("logit", Json()), two = top[1].value("logit", Json());
  if (one.is_number() && two.is_number()) answer.margin = one.get<double>() - two.get<double>();
  return true;
}

// Of eval --results: whether it has a line of each image.
void check_finished(const Read& read) {
  const Json& header = read.results.header;
  if (!header.is_object() || !header.contains("eval")) return;
  const Json made_by = header.value("made_by", Json());
  const Json images = made_by.is_object() ? made_by.value("images", Json()) : Json();
  if (!images.is_number_unsigned())
    fail_input(
        "{}: does not say how many images it is of, so it may not be finished: it is of an older version",
        read.results.path);
  const size_t lines = read.answers.size() + read.unread.size();
  if (lines < images.get<size_t>())
    fail_input("{}: is not finished: it has {} of {} images: run eval --results {} again", read.results.path,
               lines, images.get<size_t>(), shell_quoted(read.results.path));
}

Read read_results(const std::string& path) {
  Read read;
  const std::string text = read_file(path);
  read.results.path = path;
  read.results.sha256 = sha256(text);
  size_t begin = 0;
  bool by_position = false, is_done = false;  // a file of classify --results, its last line
  for (int number = 1; begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (by_position && !is_done && end == text.size()) break;  // an incomplete last line
    const Json line = parse_shallow(std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
    if (number == 1 && line.is_object() && line.contains("shard") && !line.contains("file")) {
      if (line["shard"] != "0/1")
        fail_input("{}: holds one shard: put all together with --merge first", path);
      by_position = line.contains("classify");
    }
    if (number == 1 && line.is_object() && (line.contains("eval") || by_position) && !line.contains("file")) {
      read.results.header = line;
      continue;
    }
    if (by_position && !is_done && line.is_object() && line.contains("end")) {
      is_done = true;
      continue;
    }
    if (!by_position && line.is_object() && line.contains("at"))
      fail_input("{}:{}: a line of classify --results, whose first line is missing: give the whole file",
                 path, number);
    SavedAnswer saved;
    bool good = !is_done && line.is_object() && line.value("file", Json()).is_string();
    std::string key;
    if (good) {
      saved.file = line["file"].get<std::string>();
      key = key_of_named(line, "file");
      if (line.contains("class")) {
        saved.truth = class_numbers(line["class"]);
        good = !saved.truth.empty();
      }
      const bool failed = line.value("error", Json()).is_string() && !line.contains("top");
      if (good && failed) {
        read.unread.emplace(std::move(key), std::move(saved.file));
        continue;
      }
      good = good && line.contains("top") && read_top(line, saved);
    }
    if (!good)
      fail_input("{}:{}: not a line of eval --results, classify --results or classify --format jsonl", path,
                 number);
    const auto [found, is_new] = read.index.emplace(std::move(key), read.answers.size());
    if (is_new)
      read.answers.push_back(std::move(saved));
    else
      read.answers[found->second].doubled = true;
  }
  if (by_position && !is_done)
    fail_input("{}: is not finished: run classify --results {} again", path, shell_quoted(path));
  // A later run of eval retries unreadable images.
  std::erase_if(read.unread, [&](const auto& unread) { return read.index.contains(unread.first); });
  check_finished(read);
  read.results.unread = read.unread.size();
  for (const SavedAnswer& answer : read.answers)
    if (answer.doubled) read.results.doubled.push_back(answer.file);
  return read;
}

// Images that `other` names and `read` does not, or that `other` could read and `read` could not.
std::vector<std::string> missing_in(const Read& read, const Read& other) {
  std::vector<std::pair<size_t, std::string>> found;
  for (const auto& [key, place] : other.index)
    if (!read.index.contains(key)) found.emplace_back(place, other.answers[place].file);
  std::ranges::sort(found);
  std::vector<std::string> missing;
  for (auto& [place, file] : found) missing.push_back(std::move(file));
  for (const auto& [key, file] : other.unread)
    if (!read.names(key)) missing.push_back(file);
  return missing;
}

}  // namespace

bool SavedComparison::equal() const {
  const auto whole = [](const SavedResults& side) { return side.missing.empty() && side.doubled.empty(); };
  return whole(a) && whole(b) && labels.holds();
}

SavedComparison compare_saved(const std::string& path_a, const std::string& path_b, double min_agreement) {
  Read a = read_results(path_a);
  const Read b = read_results(path_b);
  SavedComparison comparison{a.results, b.results, {}};
  comparison.a.missing = missing_in(a, b);
  comparison.b.missing = missing_in(b, a);
  LabelAgreement& labels = comparison.labels;
  labels.minimum = min_agreement;
  std::vector<const std::string*> keys(a.answers.size());
  for (const auto& [key, place] : a.index) keys[place] = &key;
  bool common = false;
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto found = b.index.find(*keys[i]);
    if (found == b.index.end()) continue;
    common = true;
    const SavedAnswer &one = a.answers[i], &two = b.answers[found->second];
    if (!one.truth.empty() && !two.truth.empty() && one.truth != two.truth)
      fail_input("{}: of class {} in {}, of class {} in {}: the two files are of different data sets",
                 in_quotes(one.file), fmt::join(one.truth, " or "), path_a, fmt::join(two.truth, " or "),
                 path_b);
    if (one.answer.label == two.answer.label && !one.label.empty() && !two.label.empty() &&
        one.label != two.label)
      fail_input("{}: class {} is {} in {}, {} in {}: the two files are of other class lists",
                 in_quotes(one.file), one.answer.label, in_quotes(one.label), path_a, in_quotes(two.label),
                 path_b);
    if (!one.doubled && !two.doubled)
      labels.add(one.file, one.answer, two.answer, one.truth.empty() ? two.truth : one.truth);
  }
  const bool same_names =
      std::ranges::any_of(a.unread, [&](const auto& one) { return b.names(one.first); }) ||
      std::ranges::any_of(b.unread, [&](const auto& one) { return a.names(one.first); });
  if (!common && same_names)
    fail_input("nothing to compare: no image could be read in both {} and {}", path_a, path_b);
  if (!common)
    fail_input(
        "nothing to compare: {} and {} have no image in common: eval names images from its folder, classify as "
        "they were given",
        path_a, path_b);
  labels.truth = labels.right.images > 0 ? "the files' class" : "the files do not say what the images show";
  return comparison;
}

}  // namespace vmamba
