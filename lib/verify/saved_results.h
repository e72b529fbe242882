// Compares two results files as written by `eval --results`, `classify --results` or `classify --format jsonl`.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/verify/agreement.h"

namespace vmamba {

struct SavedResults {
  std::string path, sha256;
  nlohmann::ordered_json header;     // of --results; null for --format jsonl
  std::vector<std::string> missing;  // images that only the other file has
  std::vector<std::string> doubled;  // images that occur more than once; they are not compared
  size_t unread = 0;                 // images recorded as unreadable
};

struct SavedComparison {
  SavedResults a, b;
  LabelAgreement labels;  // over the images in both files
  // Both files hold the same images, each once, and enough labels agree.
  bool equal() const;
};
// InputError if a line has none of these formats, if a file of classify --results is not finished, if the files give one
// image different ground truths, or if they have no image in common.
SavedComparison compare_saved(const std::string& a, const std::string& b, double min_agreement);

}  // namespace vmamba
