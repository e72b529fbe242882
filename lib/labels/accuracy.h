// Counting right answers: over all images and class by class; which classes are taken for which.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "lib/labels/labels.h"

namespace vmamba {

struct ClassCounts {
  int64_t images = 0, top1 = 0, top5 = 0;
};

class Accuracy {
 public:
  explicit Accuracy(int num_classes) : classes_(static_cast<size_t>(num_classes)) {}

  // `top`: the five most likely classes (fewer where the model has fewer), best first.
  void add(int truth, const std::vector<int>& top);

  const ClassCounts& total() const { return total_; }
  const std::vector<ClassCounts>& classes() const { return classes_; }
  // The mean of the classes' own top-1, over the classes that have images.
  double mean_class_top1() const;
  // Images of class truth that were taken for class answer.
  int64_t confused(int truth, int answer) const;
  // The class that images of `truth` are most often taken for, if it is not the right one; else −1.
  int usual_mistake(int truth) const;

 private:
  ClassCounts total_;
  std::vector<ClassCounts> classes_;
  std::vector<std::vector<std::pair<int, int64_t>>> answers_{
      classes_.size()};  // a class: (answer, images), sparse
};

// A table: the first row and column are the classes' names, a row is a true class, a column an answer.
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
