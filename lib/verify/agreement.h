// Label agreement of two models over a data set: the share of images with the same label and its confidence
// interval, the images whose label differs, and, where the ground truth is known, both accuracies.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lib/labels/accuracy.h"
#include "lib/verify/check_result.h"

namespace vmamba {

// The top-1 label of an image. There is none if a logit is NaN or the largest one is infinite.
struct Answer {
  int label = -1;                // −1: none
  std::optional<double> margin;  // largest logit minus the second largest; absent if unknown
};
Answer answer_of(std::span<const float> logits);

struct Flip {
  std::string file;
  Answer a, b;
  ImageRef image;  // to be read again; of saved results, the file of that name
};

struct LabelAgreement {
  std::optional<double> minimum;  // required share of agreement; absent without --min-agreement
  int64_t images = 0, agreeing = 0;
  int64_t no_answer_a = 0, no_answer_b = 0;  // images without a label; they count as disagreeing
  std::vector<Flip> flips;                   // images whose labels differ, in input order

  // Images whose ground truth is known; a_alone: correct on a only.
  struct Right {
    int64_t images = 0, a = 0, b = 0, a_alone = 0, b_alone = 0;
  } right;
  std::map<int, Right> classes;    // by class, images with a single correct class
  std::vector<std::string> names;  // class names; empty if unknown
  std::string truth;               // source of the ground truth, or why there is none

  // `truth`: the correct classes; empty if unknown.
  void add(const std::string& file, const Answer& a, const Answer& b, const std::vector<int>& truth,
           const ImageRef& image = {});

  double share() const;
  Interval interval() const;  // 95 % confidence interval of share()
  bool holds() const { return !minimum || share() >= *minimum; }
  // Whether the interval excludes the minimum.
  bool conclusive() const;
  // The known margins of the flips, sorted.
  std::vector<double> margins() const;
  // Classes on which b is correct less often than a, largest loss first.
  std::vector<std::pair<int, Right>> worse_classes() const;
};

// Two-sided p-value of McNemar's exact test: the probability of a split at least as uneven as this one if both models
// are equally accurate.
double mcnemar_exact(int64_t a_alone, int64_t b_alone);

// Ground truth of a data set; `classes` has one entry per image, in their order.
struct ImageTruth {
  std::vector<int> classes;  // empty if unknown
  std::vector<std::string> names;
  std::string source;
};

// Adds the next images: those behind the labels.images that are in it already, with the logits (B, classes) of both sides.
void add_batch(LabelAgreement& labels, const std::vector<ImageRef>& images, const ImageTruth& truth,
               const HostTensor& a, const HostTensor& b);

}  // namespace vmamba
