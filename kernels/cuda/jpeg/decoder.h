// DecodeJpegs on the GPU: a batch of packed images of unlike sizes at once.
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
  JpegState start, reached;  // of its first symbol, and after its last
  uint32_t blocks;           // that end in it
  int32_t again;             // its start has changed
};

// One image in the memory of the device.
struct JpegJob {
  const JpegImage* image;
  int16_t* coefficients;  // of all blocks, zeroed; these three only of images whose entropy coding is left
  int16_t* differences;   // of the DC coefficients of the scan's blocks
  JpegSpan* spans;
  uint8_t* samples;   // of all components' blocks, each component row by row
  uchar4* pixels;     // red, green, blue, of the window
  uint8_t* narrowed;  // after the first pass of the resize
  uint8_t* crop;
  int32_t* unfit;  // set to 1 where the pixels could differ from libjpeg's
};
// The largest of a batch, for the size of the grids.
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
  // Waits for the queued work; then the memory of `op` may be changed.
  std::vector<int64_t> decode(const DecodeJpegs& op, Staging& staging, const Stream& stream);

 private:
  // Grows only while nothing that uses it is queued.
  template <class Memory>
  struct Growing {
    Memory memory;
    size_t bytes = 0;
    uint8_t* at_least(size_t wanted);
  };

  // Decodes the first images of `jpegs` that fit into the workspace; their number.
  size_t decode_some(std::span<const DecodeJpegs::Packed> jpegs, const View& y, const Stream& stream,
                     std::vector<int64_t>& unfit);

  Growing<PinnedMemory> host_;
  Growing<DeviceMemory> device_;
};

}  // namespace vmamba::cuda
