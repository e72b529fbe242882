// Accuracy: correct answers in total and per class, and the confusion between classes.
#pragma once
#include <cstdint>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "lib/labels/labels.h"

namespace vmamba {

struct ClassCounts {
  int64_t images = 0, top1 = 0, top5 = 0;
  int64_t no_answer = 0;  // images without an answer, counted in neither top1 nor top5
};

class Accuracy {
 public:
  explicit Accuracy(int num_classes) : classes_(static_cast<size_t>(num_classes)) {}

  // `top`: the five most likely classes (fewer if the model has fewer), best first; empty if the model gave no answer.
  void add(int truth, const std::vector<int>& top);
  // An image with several correct classes: counts only in the total's top1.
  void add_any(const std::vector<int>& right, const std::vector<int>& top);

  const ClassCounts& total() const { return total_; }
  const std::vector<ClassCounts>& classes() const { return classes_; }
  // The mean of the per-class top-1, over the classes that have images.
  double mean_class_top1() const;
  // The top-1 answers for the images of class `truth`: class → number of images.
  const std::map<int, int64_t>& answers(int truth) const { return answers_[static_cast<size_t>(truth)]; }
  // The most frequent wrong class for images of `truth`; −1 if there is none.
  int usual_mistake(int truth) const;
  // The classes of the confusion table, sorted: all, or only those that occur if there are too many.
  static constexpr size_t most_classes_shown_whole = 4096;
  std::vector<int> shown_classes() const;

 private:
  ClassCounts total_;
  std::vector<ClassCounts> classes_;
  std::vector<std::map<int, int64_t>> answers_ = std::vector<std::map<int, int64_t>>(classes_.size());
};

// `part` / `whole`; 0 if `whole` is 0.
inline double share(int64_t part, int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

// The 95 % confidence interval of the proportion `part` / `whole`: Wilson's score interval (E. B. Wilson, Probable
// inference, the law of succession, and statistical inference, J. Am. Stat. Assoc. 22, 1927).
struct Interval {
  double low = 0, high = 1;
};
Interval wilson_interval(int64_t part, int64_t whole);

// A table of shown_classes(): the first row and column are names (`names` holds those of all classes), rows are true
// classes, columns are answers.
void write_confusion_csv(std::ostream& out, const Accuracy& accuracy, const std::vector<std::string>& names);

// The classes of a data set's folders (sorted by name): matched by label id or name, also without regard to case, spaces,
// '_' and '-', else by order if there is one folder per class and no name contradicts it. `form` tells what was assumed;
// unchanged where all names are labels. InputError explains the mismatch.
std::vector<int> classes_of_folders(const std::vector<std::string>& folders, const Labels& labels,
                                    int num_classes, const std::string& where, std::string& form);

}  // namespace vmamba
