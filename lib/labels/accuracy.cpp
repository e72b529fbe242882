// Accuracy counts, confusion tables, and the mapping of folders to classes.
#include "lib/labels/accuracy.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {

void Accuracy::add(int truth, const std::vector<int>& top) {
  ClassCounts& of_class = classes_.at(static_cast<size_t>(truth));
  const auto place = static_cast<size_t>(std::find(top.begin(), top.end(), truth) - top.begin());
  for (ClassCounts* counts : {&total_, &of_class}) {
    ++counts->images;
    counts->top1 += !top.empty() && place == 0;
    counts->top5 += place < std::min<size_t>(5, top.size());
    counts->no_answer += top.empty();
  }
  if (!top.empty()) ++answers_[static_cast<size_t>(truth)][top[0]];
}

void Accuracy::add_any(const std::vector<int>& right, const std::vector<int>& top) {
  ++total_.images;
  total_.top1 += !top.empty() && std::find(right.begin(), right.end(), top[0]) != right.end();
  total_.no_answer += top.empty();
}

Interval wilson_interval(int64_t part, int64_t whole) {
  if (whole == 0) return {0, 1};
  constexpr double z = 1.959963984540054;  // quantile for a two-sided 95 % interval
  const double n = static_cast<double>(whole), p = static_cast<double>(part) / n, scale = 1 + z * z / n;
  const double centre = (p + z * z / (2 * n)) / scale;
  const double half = z / scale * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  return {part == 0 ? 0 : centre - half, part == whole ? 1 : centre + half};
}

double Accuracy::mean_class_top1() const {
  double sum = 0;
  int with_images = 0;
  for (const ClassCounts& counts : classes_) {
    if (counts.images == 0) continue;
    sum += static_cast<double>(counts.top1) / static_cast<double>(counts.images);
    ++with_images;
  }
  return with_images == 0 ? 0 : sum / with_images;
}

int Accuracy::usual_mistake(int truth) const {
  int mistake = -1;
  int64_t most = 0;
  for (const auto& [answer, images] : answers(truth)) {
    if (answer == truth || images <= most) continue;
    mistake = answer;
    most = images;
  }
  return mistake;
}

std::vector<int> Accuracy::shown_classes() const {
  std::vector<int> shown;
  std::vector<bool> occurs(classes_.size(), classes_.size() <= most_classes_shown_whole);
  for (size_t truth = 0; truth < classes_.size(); ++truth) {
    if (classes_[truth].images > 0) occurs[truth] = true;
    for (const auto& [answer, images] : answers_[truth]) occurs[static_cast<size_t>(answer)] = true;
  }
  for (size_t i = 0; i < occurs.size(); ++i)
    if (occurs[i]) shown.push_back(static_cast<int>(i));
  return shown;
}

void write_confusion_csv(std::ostream& out, const Accuracy& accuracy, const std::vector<std::string>& names) {
  const std::vector<int> classes = accuracy.shown_classes();
  out << "true class";
  for (const int answer : classes) out << ',' << csv_field(names[static_cast<size_t>(answer)]);
  out << '\n';
  for (const int truth : classes) {
    out << csv_field(names[static_cast<size_t>(truth)]);
    auto given = accuracy.answers(truth).begin();  // in the order of the classes
    for (const int answer : classes) {
      const bool is_given = given != accuracy.answers(truth).end() && given->first == answer;
      out << ',' << (is_given ? (given++)->second : 0);
    }
    out << '\n';
  }
}

namespace {

std::vector<std::string> loosened(std::vector<std::string> names) {
  for (std::string& name : names) {
    name = lower_case(name);
    std::ranges::replace_if(
        name, [](char c) { return c == '_' || c == '-'; }, ' ');
  }
  return names;
}

// A folder whose name says another class than its place in the sorted order is an error.
void check_sorted_order(const std::vector<std::string>& folders, const Labels& labels,
                        const std::string& where) {
  for (const std::vector<std::string>* known : {&labels.ids, &labels.names}) {
    const std::vector<std::string> words = loosened(folders), of_classes = loosened(*known);
    const std::vector<int> by_name = classes_by_name(words, of_classes).classes;
    for (size_t i = 0; i < folders.size(); ++i) {
      if (by_name[i] == ClassesByName::none || of_classes[i] == words[i]) continue;
      fail_input(
          "{}: folder {} would be class {} ({}) by the sorted order, but it is the label of {}, and not all folders "
          "are labels: rename them, or give --labels FILE with a line FOLDER<tab>NAME for each class",
          where, folders[i], i, in_quotes(labels.names[i]),
          by_name[i] == ClassesByName::two ? "two other classes" : fmt::format("class {}", by_name[i]));
    }
  }
  std::vector<int64_t> numbers;
  for (const std::string& folder : folders)
    if (const std::optional<int64_t> number = parse_number<int64_t>(folder)) numbers.push_back(*number);
  const size_t in_order = std::ranges::is_sorted_until(numbers) - numbers.begin();
  if (numbers.size() == folders.size() && in_order < folders.size())
    fail_input(
        "{}: folder {} would be class {} by the sorted order, after folder {}: rename them, or give --labels FILE "
        "with the class of each: {{\"0\": [\"FOLDER\", \"NAME\"], …}}",
        where, folders[in_order], in_order, folders[in_order - 1]);
}

}  // namespace

std::vector<int> classes_of_folders(const std::vector<std::string>& folders, const Labels& labels,
                                    int num_classes, const std::string& where, std::string& form) {
  for (const bool loosely : {false, true})
    for (const std::vector<std::string>* known : {&labels.ids, &labels.names}) {
      const ClassesByName by_name =
          loosely ? classes_by_name(loosened(folders), loosened(*known)) : classes_by_name(folders, *known);
      if (by_name.found == folders.size()) {
        if (!by_name.twice.empty())
          fail_input(
              "{}: {} is the label of two classes: name the folders by ids, and give --labels with ids",
              where, by_name.twice);
        if (loosely) form = "folders, which are labels but for case, spaces, '_' and '-'";
        return by_name.classes;
      }
      if (loosely && by_name.found > folders.size() / 2) {
        const auto missing =
            std::ranges::find(by_name.classes, ClassesByName::none) - by_name.classes.begin();
        fail_input("{}: folder {} is not among the labels, the others are", where,
                   folders[static_cast<size_t>(missing)]);
      }
    }
  if (folders.size() != static_cast<size_t>(num_classes))
    fail_input(
        "{}: {}, but the model has {} classes, and the folders' names are not among its labels: give "
        "--labels FILE with a line FOLDER<tab>NAME for each class",
        where, counted(folders.size(), "folder"), num_classes);
  check_sorted_order(folders, labels, where);
  form = "folders in sorted order, as their names are no labels";
  std::vector<int> classes(folders.size());
  std::iota(classes.begin(), classes.end(), 0);
  return classes;
}

}  // namespace vmamba
