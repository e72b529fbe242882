// From coefficients to crops: inverse DCT, upsampling and colour, and the two passes of the resize. blockIdx.y is the
// image; along x the blocks stride over its work.
#include "kernels/cuda/jpeg/decoder.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tuning.h"

namespace vmamba::cuda {
namespace {

using tuning::jpeg::threads;

// Column `column` of a block of coefficients. The index of a packed coefficient is the number of mask bits before it.
__device__ void load_column(const JpegJob& job, int block, int column, int32_t (&values)[jpeg_block]) {
  const JpegImage* image = job.image;
  if (image->entropy == JpegEntropy::huffman) {
#pragma unroll
    for (int row = 0; row < jpeg_block; ++row)
      values[row] = job.coefficients[int64_t{block} * jpeg_coefficients + row * jpeg_block + column];
    return;
  }
  const uint64_t mask = jpeg_table<uint64_t>(image, image->masks)[block];
  const int16_t* from =
      jpeg_table<int16_t>(image, image->values) + jpeg_table<uint32_t>(image, image->firsts)[block];
#pragma unroll
  for (int row = 0; row < jpeg_block; ++row) {
    const uint64_t bit = uint64_t{1} << (row * jpeg_block + column);
    values[row] = (mask & bit) != 0 ? from[__popcll(mask & (bit - 1))] : 0;
  }
}

// Eight threads per block of coefficients: each transforms one column, then one row.
__global__ void __launch_bounds__(threads) inverse_dct_kernel(const JpegJob* jobs) {
  wait_for_previous();
  constexpr int blocks_at_once = threads / jpeg_block, pitch = jpeg_block + 1;
  __shared__ int32_t tiles[blocks_at_once][jpeg_block * pitch];
  const JpegJob job = jobs[blockIdx.y];
  const JpegImage* image = job.image;
  const int lane = static_cast<int>(threadIdx.x) % jpeg_block;
  int32_t* tile = tiles[threadIdx.x / jpeg_block];
  bool exact = true;
  for (int64_t first = int64_t{blockIdx.x} * blocks_at_once; first < image->blocks;
       first += int64_t{gridDim.x} * blocks_at_once) {
    const int block = static_cast<int>(first) + static_cast<int>(threadIdx.x) / jpeg_block;
    const bool inside = block < image->blocks;
    int c = 0;
    while (c + 1 < image->components && block >= image->component[c + 1].first_block) ++c;
    const JpegComponent& component = image->component[c];
    int32_t values[jpeg_block] = {};
    if (inside) {
      load_column(job, block, lane, values);
#pragma unroll
      for (int row = 0; row < jpeg_block; ++row)
        values[row] *= component.quantisation[row * jpeg_block + lane];
    }
    const bool in_range = jpeg_inverse_dct(values, 1);
    exact = exact && in_range;
#pragma unroll
    for (int row = 0; row < jpeg_block; ++row)
      tile[row * pitch + lane] = in_range ? jpeg_descaled(values[row], jpeg_first_shift) : 0;
    __syncwarp();
#pragma unroll
    for (int column = 0; column < jpeg_block; ++column) values[column] = tile[lane * pitch + column];
    __syncwarp();
    if (!inside) continue;
    exact = jpeg_inverse_dct(values, 1) && exact;
    union {
      uint8_t samples[jpeg_block];
      uint2 pack;
    };
#pragma unroll
    for (int column = 0; column < jpeg_block; ++column) samples[column] = jpeg_sample(values[column], exact);
    const int place = block - component.first_block;
    const int row = place / component.blocks_across, column = place - row * component.blocks_across;
    const int64_t at = int64_t{component.first_block} * jpeg_coefficients +
                       (int64_t{row} * jpeg_block + lane) * component.blocks_across * jpeg_block +
                       column * jpeg_block;
    *reinterpret_cast<uint2*>(job.samples + at) = pack;
  }
  if (!exact) *job.unfit = 1;
}

__global__ void __launch_bounds__(threads) pixels_kernel(const JpegJob* jobs) {
  wait_for_previous();
  const JpegJob job = jobs[blockIdx.y];
  const JpegImage* image = job.image;
  const uint8_t* planes[jpeg_components];
  for (int c = 0; c < jpeg_components; ++c)
    planes[c] = job.samples + int64_t{image->component[c].first_block} * jpeg_coefficients;
  const int64_t count = int64_t{image->columns} * image->rows;
  for (int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * threads) {
    const int row = static_cast<int>(i / image->columns), column = static_cast<int>(i) - row * image->columns;
    uint8_t rgb[3];
    jpeg_pixel(*image, planes, image->left + column, image->top + row, rgb);
    job.pixels[i] = {rgb[0], rgb[1], rgb[2], 0};
  }
}

__global__ void __launch_bounds__(threads) across_kernel(const JpegJob* jobs) {
  wait_for_previous();
  const JpegJob job = jobs[blockIdx.y];
  const JpegImage* image = job.image;
  const int64_t count = int64_t{image->across.count} * image->rows;
  for (int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * threads) {
    const int row = static_cast<int>(i / image->across.count);
    const int column = static_cast<int>(i) - row * image->across.count;
    const uchar4* line = job.pixels + int64_t{row} * image->columns;
    jpeg_resample<3>(
        image, image->across, column,
        [line](int sample, uint8_t* rgb) {
          const uchar4 pixel = line[sample];
          rgb[0] = pixel.x, rgb[1] = pixel.y, rgb[2] = pixel.z;
        },
        job.narrowed + i * 3);
  }
}

// Each thread computes `bytes` adjacent bytes of the crop, whose rows are multiples of that.
template <int bytes>
__global__ void __launch_bounds__(threads) down_kernel(const JpegJob* jobs, int height, int width) {
  wait_for_previous();
  struct alignas(bytes) Pack {
    uint8_t values[bytes];
  };
  const JpegJob job = jobs[blockIdx.y];
  const JpegImage* image = job.image;
  const int packs = width * 3 / bytes, narrow = image->across.count * 3;
  const int64_t count = int64_t{height} * packs;
  // Words of the resized window map to words of the crop only if both offsets are multiples of the word.
  const bool whole = narrow % bytes == 0 && image->out_left * 3 % bytes == 0;
  for (int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * threads) {
    const int row = static_cast<int>(i / packs) - image->out_top;
    const int first = static_cast<int>(i % packs) * bytes - image->out_left * 3;
    Pack pack{};
    if (row >= 0 && row < image->down.count && whole) {
      if (first >= 0 && first < narrow)
        jpeg_resample<bytes>(
            image, image->down, row,
            [&](int sample, uint8_t* values) {
              const Pack from =
                  *reinterpret_cast<const Pack*>(job.narrowed + int64_t{sample} * narrow + first);
              for (int b = 0; b < bytes; ++b) values[b] = from.values[b];
            },
            pack.values);
    } else if (row >= 0 && row < image->down.count) {
      for (int b = 0; b < bytes; ++b)
        if (first + b >= 0 && first + b < narrow)
          jpeg_resample<1>(
              image, image->down, row,
              [&](int sample, uint8_t* value) {
                *value = job.narrowed[int64_t{sample} * narrow + first + b];
              },
              pack.values + b);
    }
    reinterpret_cast<Pack*>(job.crop)[i] = pack;
  }
}

dim3 grid_for(int64_t largest, int64_t per_block, int images) {
  const int64_t most = std::max(tuning::jpeg::blocks_in_flight / images, 1);
  return dim3(static_cast<unsigned>(std::clamp<int64_t>((largest + per_block - 1) / per_block, 1, most)),
              static_cast<unsigned>(images));
}

}  // namespace

void decode_jpegs(const JpegJob* jobs, int count, const JpegExtent& largest, int height, int width,
                  const Stream& stream) {
  launch(inverse_dct_kernel,
         {.grid = grid_for(largest.blocks, threads / jpeg_block, count), .block = threads}, stream, jobs);
  launch(pixels_kernel, {.grid = grid_for(largest.pixels, threads, count), .block = threads}, stream, jobs);
  launch(across_kernel, {.grid = grid_for(largest.narrowed, threads, count), .block = threads}, stream, jobs);
  const auto down = [&](auto kernel, int bytes) {
    launch(kernel, {.grid = grid_for(int64_t{height} * width * 3 / bytes, threads, count), .block = threads},
           stream, jobs, height, width);
  };
  if (width % 4 == 0)
    down(down_kernel<4>, 4);
  else
    down(down_kernel<1>, 1);
}

}  // namespace vmamba::cuda
