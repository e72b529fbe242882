// Compares the logits of every combination of device, dtype, scan backend and forward core that runs here, pairwise.
#pragma once
#include <string>
#include <vector>

#include "lib/verify/check_equal.h"

namespace vmamba {

struct Variant {
  Device device{};
  Precision precision{};
  ScanBackend backend{};
  ForwardCoreVersion core{};
};
std::string to_string(const Variant& variant);  // "cpu float32 torch v0"

// The values of each axis; an option given on the command line fixes its axis.
struct MatrixAxes {
  std::vector<Device> devices;
  std::vector<Precision> precisions;  // those a device lacks are skipped on it
  std::vector<ScanBackend> backends;
  std::vector<ForwardCoreVersion> cores;
};

struct Matrix {
  std::string input;
  std::vector<Variant> variants;
  std::vector<std::vector<Diff>> pairs;  // pairs[i][j], j < i: logits of variant i against variant j
  bool equal() const;
};
Matrix compare_all(const Side& model, const MatrixAxes& axes, const CheckInput& input,
                   const CheckOptions& options);

}  // namespace vmamba
