// Counting right answers: over all images and class by class; which classes are taken for which.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "lib/labels/labels.h"

namespace vmamba {

struct ClassCounts {
  int64_t images = 0, top1 = 0, top5 = 0;
  int64_t no_answer = 0;  // of the images; neither in top1 nor in top5
};

class Accuracy {
 public:
  explicit Accuracy(int num_classes) : classes_(static_cast<size_t>(num_classes)) {}

  // `top`: the five most likely classes (fewer where the model has fewer), best first; empty: the model gave no
  // answer.
  void add(int truth, const std::vector<int>& top);
  // An image of which several classes are right: it counts in the total's top1 only.
  void add_any(const std::vector<int>& right, const std::vector<int>& top);

  const ClassCounts& total() const { return total_; }
  const std::vector<ClassCounts>& classes() const { return classes_; }
  // The mean of the classes' own top-1, over the classes that have images.
  double mean_class_top1() const;
  // What the images of class truth were taken for: class and images.
  const std::map<int, int64_t>& answers(int truth) const { return answers_[static_cast<size_t>(truth)]; }
  // The wrong class that images of `truth` are most often taken for; −1: none.
  int usual_mistake(int truth) const;
  // The classes of a table of confusion: all, or of many those that occur. Sorted.
  static constexpr size_t most_classes_shown_whole = 4096;
  std::vector<int> shown_classes() const;

 private:
  ClassCounts total_;
  std::vector<ClassCounts> classes_;
  std::vector<std::map<int, int64_t>> answers_ = std::vector<std::map<int, int64_t>>(classes_.size());
};

// Where the true share of `part` in `whole` lies with 95 % confidence: Wilson's score interval (E. B. Wilson, Probable
// inference, the law of succession, and statistical inference, J. Am. Stat. Assoc. 22, 1927).
struct Interval {
  double low = 0, high = 1;
};
Interval wilson_interval(int64_t part, int64_t whole);

// A table of shown_classes(): the first row and column are the names (of all classes), a row is a true class, a
// column an answer.
void write_confusion_csv(const std::filesystem::path& path, const Accuracy& accuracy,
                         const std::vector<std::string>& names);
// Its picture: rows are true classes, columns answers, the darker the larger the share of the row; wrong
// answers in red.
void write_confusion_png(const std::filesystem::path& path, const Accuracy& accuracy);

// Class ids of a data set's folders (sorted names): by the labels' ids or names if they are among them, else
// by their order if there is one for each class. InputError says what fits neither.
std::vector<int> classes_of_folders(const std::vector<std::string>& folders, const Labels& labels,
                                    int num_classes, const std::string& where);

}  // namespace vmamba
