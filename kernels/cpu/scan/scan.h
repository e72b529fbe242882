// What the scan backends share: the arguments, all in float32, and the walk over the pixels. Each backend is
// a file scan_NAME.cpp. The equations and the notation are those of SelectiveScan2d in kernels/kernels.h.
#pragma once
#include <cstdint>

#include "kernels/cpu/memory.h"
#include "kernels/cpu/vector_kernels.h"
#include "kernels/kernels.h"

namespace vmamba::cpu {

struct ScanArgs {
  Rows x;                            // a row is a pixel: (B·H·W, D)
  Rows projections;                  // (B·H·W, K·(R + 2N))
  const float* dt_weight = nullptr;  // (K, ceil(D / 16), R, 16), see blocked_weight; null for Mamba-2
  const float* dt_bias = nullptr;    // (K, D)
  const float* A = nullptr;          // (K, D, N)
  const float* D = nullptr;          // (K, D)
  bool same_A = false;               // A is the same for all n: one exponential per channel and step
  float* directions = nullptr;       // (K, B, H, W, D): receives the output of each direction; may be null
  float* y = nullptr;                // (B, H, W, D)
  ScanOrder order = ScanOrder::cross;
  DType round_dt = DType::float32;  // what the time step before its bias is rounded to
  DType round_y = DType::float32;   // what each direction's output is rounded to
  int64_t batch = 0, height = 0, width = 0, channels = 0, states = 0, rank = 0;

  // Address of dt_weight[k, d, 0]; the stride of r is 16. The weights of sixteen channels are contiguous: the
  // rows of the whole tensor have a large stride and would collide in few sets of the cache.
  const float* blocked_weight(int64_t k, int64_t d) const {
    return dt_weight + ((k * ((channels + 15) / 16) + d / 16) * rank * 16) + d % 16;
  }
  int64_t pixels() const { return height * width; }
  int64_t direction_values() const { return batch * pixels() * channels; }  // of one direction's output
  int directions_count() const { return direction_count(order); }
};

// The pixels of one sequence of a direction, one step after the other.
class Walk {
 public:
  // sequence: the line, if the direction has a sequence per line, else 0. from: the first step.
  Walk(const ScanArgs& args, bool columns, bool reversed, bool per_line, int64_t sequence, int64_t from) {
    const int64_t lines = columns ? args.width : args.height;
    const int64_t along = columns ? args.width : 1, across = columns ? 1 : args.width;
    line_length_ = columns ? args.height : args.width;
    const int64_t steps = per_line ? line_length_ : lines * line_length_;
    const int64_t step = reversed ? steps - 1 - from : from;
    const int64_t line = per_line ? sequence : step / line_length_, in_line = step % line_length_;
    pixel_ = line * across + in_line * along;
    done_in_line_ = reversed ? line_length_ - 1 - in_line : in_line;
    forward_ = reversed ? -along : along;
    wrap_ = reversed ? line_length_ * along - across : across - line_length_ * along;
  }
  int64_t pixel() const { return pixel_; }
  void next() {
    pixel_ += forward_;
    if (++done_in_line_ == line_length_) done_in_line_ = 0, pixel_ += wrap_;
  }

 private:
  int64_t pixel_, forward_, wrap_, line_length_, done_in_line_;
};

struct DirectionWalk {
  Walk read, write;
  DirectionWalk(const ScanArgs& args, ScanDirection direction, int64_t sequence, int64_t from)
      : read(args, direction.columns, direction.reversed, direction.per_line, sequence, from),
        write(args, direction.columns, direction.reversed && !direction.mirrored_output, direction.per_line,
              sequence, from) {}
};

// What is done with a direction's output. directions_only: it is stored, and merge_directions writes y
// afterwards.
enum class ScanMerge : uint8_t { set_y, add_to_y, directions_only };

inline int64_t sequence_count(const ScanArgs& args, ScanDirection direction) {
  return direction.per_line ? (direction.columns ? args.width : args.height) : 1;
}

// y = ((y_1 + y_3) + y_0) + y_2, or y_1 + y_0, from all directions' outputs (K, B, H, W, D).
void merge_directions(const ScanArgs& args, const float* directions, int threads);

// The algorithm that `backend` names (scan.cpp).
void run_scan(ScanBackend backend, const ScanArgs& args, ScratchMemory& memory, int threads);

}  // namespace vmamba::cpu
