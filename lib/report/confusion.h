// The confusion of classes as a picture, and its largest entries.
#pragma once
#include <string>
#include <vector>

#include "lib/labels/accuracy.h"

namespace vmamba {

struct ConfusedPair {
  int truth = 0, answer = 0;
  int64_t count = 0, images = 0;  // of `images` images of `truth`, `count` were taken for `answer`
};
// All pairs of different classes that occur, largest count first.
std::vector<ConfusedPair> confused_pairs(const Accuracy& accuracy);
// Up to `most` classes of the largest pairs, those of one pair beside each other.
std::vector<int> most_confused(const std::vector<ConfusedPair>& pairs, size_t most);

// PNG. Up to 32 classes that occur: the whole table, with names and counts. More: an overview of all, and the table of the 32 in
// the largest confusions. Right answers are blue, wrong ones orange, darker for a larger part of the row (by square root).
std::string confusion_picture(const Accuracy& accuracy, const std::vector<std::string>& names);

}  // namespace vmamba
