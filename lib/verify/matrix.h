// Everything that can run here against everything else: each device, dtype, scan backend and forward core,
// their logits compared pair by pair.
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

// What the choice leaves open is varied: a list per axis.
struct MatrixAxes {
  std::vector<Device> devices;
  std::vector<Precision> precisions;  // one is left out where the device does not have it
  std::vector<ScanBackend> backends;
  std::vector<ForwardCoreVersion> cores;
};

struct Matrix {
  std::string input;
  std::vector<Variant> variants;
  std::vector<std::vector<Diff>> pairs;  // pairs[i][j], j < i: logits of i against those of j
  bool equal() const;
};
Matrix compare_all(const Side& model, const MatrixAxes& axes, const CheckInput& input,
                   const CheckOptions& options);

}  // namespace vmamba
