// eval's result as one HTML page.
#pragma once
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "lib/images/image_source.h"
#include "lib/labels/accuracy.h"

namespace vmamba {

// The images that are worth a look, and the calibration, of any number of answers.
class AnswersToShow {
 public:
  struct Shown {
    std::string file;
    std::vector<int> right;  // correct classes
    int answer = 0;
    double probability = 0;  // of the answer
    ImageRef image;
  };
  struct Bin {
    int64_t images = 0, right = 0;
    double probability = 0;  // sum
  };
  static constexpr size_t most = 24;

  void add(const Shown& shown);
  // The mean of |accuracy − mean probability| over the bins, weighted by their images: the expected calibration error (C. Guo et
  // al., On calibration of modern neural networks, 2017).
  double calibration_error() const;

  std::vector<Shown> confidently_wrong, least_certain;  // by probability
  std::array<Bin, 15> bins{};                           // of equal width
};

struct EvalPage {
  std::string title;  // the data set
  const Accuracy& accuracy;
  const std::vector<std::string>& names;
  bool several = false;  // images may have several correct classes: nothing is told class by class
  const AnswersToShow& answers;
  std::vector<std::pair<std::string, std::string>> facts, ran_on;
  PreprocessConfig preprocess;  // thumbnails are crops as the model sees them
};
// Reads the images that it shows.
std::string eval_page(const EvalPage& eval);

// A list of pictures with two lines each, for other pages too.
struct Card {
  std::string jpeg;  // empty: could not be read
  std::string head, text;
};
std::string cards(const std::vector<Card>& all);

}  // namespace vmamba
