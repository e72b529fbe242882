// DecodeJpegs on the GPU: a batch of packed images of different sizes in one launch per step.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/cuda/resources.h"
#include "kernels/cuda/staging.h"
#include "kernels/jpeg.h"
#include "kernels/kernels.h"

namespace vmamba::cuda {

// A part of a segment of entropy-coded data (huffman.cu).
struct JpegSpan {
  int32_t segment;
  uint32_t end;              // bit at which the next span begins
  JpegState start, reached;  // state before its first and after its last symbol
  uint32_t blocks;           // number of blocks that end in this span
  int32_t again;             // set if `start` changed: decode again
};

// One image: pointers into device memory.
struct JpegJob {
  const JpegImage* image;
  int16_t* coefficients;  // of all blocks, zeroed; the next three only if entropy decoding is done here
  int16_t* differences;   // of the DC coefficients of the scan's blocks
  JpegSpan* spans;
  uint8_t* samples;   // of all components' blocks, each component row by row
  uchar4* pixels;     // red, green, blue, of the window
  uint8_t* narrowed;  // after the first pass of the resize
  uint8_t* crop;
  int32_t* unfit;  // set to 1 if the pixels could differ from libjpeg's
};
// Maxima over a batch, which determine the grid sizes.
struct JpegExtent {
  int64_t blocks = 0, pixels = 0, narrowed = 0;
};
inline constexpr int jpeg_most_tables = 2 * jpeg_components;
// Queues the work of `count` jobs; crops are height × width.
void decode_entropy(const JpegJob* jobs, int count, const Stream& stream);
void decode_jpegs(const JpegJob* jobs, int count, const JpegExtent& largest, int height, int width,
                  const Stream& stream);

class JpegDecoder {
 public:
  // Waits for the queued work; afterwards the caller may reuse the memory of `op`.
  std::vector<int64_t> decode(const DecodeJpegs& op, Staging& staging, const Stream& stream);

 private:
  // Grows only while no queued work uses it.
  template <class Memory>
  struct Growing {
    Memory memory;
    size_t bytes = 0;
    uint8_t* at_least(size_t wanted);
  };

  // Decodes as many leading images of `jpegs` as fit into the workspace, and returns how many.
  size_t decode_some(std::span<const DecodeJpegs::Packed> jpegs, const View& y, const Stream& stream,
                     std::vector<int64_t>& unfit);

  Growing<PinnedMemory> host_;
  Growing<DeviceMemory> device_;
};

}  // namespace vmamba::cuda
