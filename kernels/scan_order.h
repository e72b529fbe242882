// The orders in which the 2-D selective scan visits the pixels of a feature map, as index arithmetic: the map
// is never copied into scan order. A direction scans the whole map as one sequence, or each row or column as
// a sequence of its own.
#pragma once
#include <cstdint>
#include <string_view>

namespace vmamba {

enum class ScanOrder : uint8_t {
  cross,            // k0 row-major, k1 column-major, k2 = k0 reversed, k3 = k1 reversed
  unidi,            // all four row-major, forward
  bidi,             // k0, k1 row-major forward, k2, k3 row-major reversed
  cascade_rows,     // two directions: each row forward, each row reversed
  cascade_columns,  // two directions: each column forward, each column reversed
};

// One direction of an order. mirrored_output: the output of step i of a reversed sequence is written to the
// pixel of step i of the forward sequence, not to the pixel that was read (as upstream's cascade does).
struct ScanDirection {
  bool columns = false;
  bool reversed = false;
  bool per_line = false;
  bool mirrored_output = false;
};

constexpr int direction_count(ScanOrder order) {
  return order == ScanOrder::cascade_rows || order == ScanOrder::cascade_columns ? 2 : 4;
}

constexpr ScanDirection scan_direction(ScanOrder order, int k) {
  switch (order) {
    case ScanOrder::cross:
      return {.columns = (k & 1) != 0, .reversed = k >= 2};
    case ScanOrder::unidi:
      return {};
    case ScanOrder::bidi:
      return {.reversed = k >= 2};
    case ScanOrder::cascade_rows:
      return {.reversed = k == 1, .per_line = true, .mirrored_output = k == 1};
    case ScanOrder::cascade_columns:
      return {.columns = true, .reversed = k == 1, .per_line = true, .mirrored_output = k == 1};
  }
  return {};
}

}  // namespace vmamba
