// Two files of saved answers beside each other: what `eval --results` and `classify --format jsonl` write.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/verify/agreement.h"

namespace vmamba {

struct SavedResults {
  std::string path, sha256;
  nlohmann::ordered_json header;     // what model answered, as eval notes it; null: classify does not
  std::vector<std::string> missing;  // images that the other file has and this has not
  std::vector<std::string> doubled;  // images with several answers; none of them is compared
  size_t unread = 0;                 // images that could not be read, and have no answer for that
};

struct SavedComparison {
  SavedResults a, b;
  LabelAgreement labels;  // of the images that both have an answer for
  // Both files are of the same images, each once, and their labels agree as far as is asked.
  bool equal() const;
};
// InputError where a line is neither command's, where they say of one image that it shows different classes, and
// where the two have no image in common.
SavedComparison compare_saved(const std::string& a, const std::string& b, double min_agreement);

}  // namespace vmamba
