// What a scan looks at, as a picture and as a page.
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/images/image.h"
#include "lib/model/scan_maps.h"

namespace vmamba {

// Class activation map: logit = mean over the pixels of values, plus bias, because the classifier is linear in the mean of its
// norm's output (B. Zhou et al., Learning deep features for discriminative localization, 2016).
struct ClassMap {
  std::string name;  // of the class
  double probability = 0, logit = 0, bias = 0;
  int64_t height = 0, width = 0;
  std::vector<double> values;
};

struct Look {
  std::string file, layer;
  Image picture;                // the model's input, in more pixels
  int64_t row = 0, column = 0;  // of the output pixel in the layer's map
  ScanOrder order{};
  ScanMaps maps;
  std::optional<ClassMap> class_map;  // absent in a backbone
  std::vector<std::pair<std::string, std::string>> facts, ran_on;
};

// "k1: columns, top to bottom"
std::string direction_title(ScanOrder order, int k);

// Distances are the larger of those in rows and columns, from the output pixel.
struct RowSummary {
  double weight = 0;           // sum of the weights
  double self = 0;             // part of the magnitude that is at the pixel itself
  int64_t half = 0, most = 0;  // smallest distances that hold 50 % and 90 % of the magnitude
};
RowSummary summary_of(const Look& look, const ScanRow& row);
// The value below which this part of a sorted list lies.
double quantile(const std::vector<double>& sorted, double part);

std::string look_sheet(const Look& look);  // PNG
std::string look_page(const Look& look);   // HTML

}  // namespace vmamba
