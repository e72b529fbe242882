// Do two models give the images of a data set the same labels? The share that agrees and how sure it is, the
// images whose label flips, and, where it is known what they show, whose labels are right more often.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lib/labels/accuracy.h"
#include "lib/verify/check_result.h"

namespace vmamba {

// The label that a model gives an image. Logits that are NaN, or of which the largest is infinite, give none.
struct Answer {
  int label = -1;                // −1: none
  std::optional<double> margin;  // the largest logit less the next; absent: not known
};
Answer answer_of(std::span<const float> logits);

struct Flip {
  std::string file;
  Answer a, b;
};

struct LabelAgreement {
  std::optional<double> minimum;  // the share that is asked for; absent: nothing is
  int64_t images = 0, agreeing = 0;
  int64_t no_answer_a = 0, no_answer_b = 0;  // of the images; no answer agrees with nothing
  std::vector<Flip> flips;                   // the images that do not agree, in order

  // Of the images of which it is known what they show.
  struct Right {
    int64_t images = 0, a = 0, b = 0, a_alone = 0, b_alone = 0;
  } right;
  std::map<int, Right> classes;    // those of images with one right class
  std::vector<std::string> names;  // of the classes; empty: not known
  std::string truth;               // where it is known from, or why it is not

  // `truth`: the classes that are right; empty: not known.
  void add(std::string file, const Answer& a, const Answer& b, const std::vector<int>& truth);

  double share() const;
  Interval interval() const;  // of the share among all such images
  bool holds() const { return !minimum || share() >= *minimum; }
  // Whether the whole interval lies on one side of the minimum.
  bool conclusive() const;
  // Of the flips, those that are known, sorted.
  std::vector<double> margins() const;
  // The classes of which b has fewer right than a, most lost first.
  std::vector<std::pair<int, Right>> worse_classes() const;
};

// McNemar's exact test, two-sided: how likely images that one model alone gets right are shared out at least as
// unevenly when neither model is better.
double mcnemar_exact(int64_t a_alone, int64_t b_alone);

// What the images of a data set show; `classes` are those of the files in their order.
struct ImageTruth {
  std::vector<int> classes;  // empty: not known
  std::vector<std::string> names;
  std::string source;
};

// Runs both sides, which have the same classes, over image files, a batch at a time. InputError names a file that cannot be read.
LabelAgreement compare_labels(const Side& a, const Side& b, const std::vector<std::string>& files,
                              const ImageTruth& truth, const CheckOptions& options,
                              const std::function<void(const LabelAgreement& so_far)>& progress);

}  // namespace vmamba
