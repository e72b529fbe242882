// The packed form of a JPEG, reduced to what one crop needs, and the arithmetic that decodes it: the operation
// DecodeJpegs (kernels/kernels.h). All of it is integer arithmetic and reproduces libjpeg-turbo and Pillow bit for bit:
// dequantisation, the accurate inverse DCT (jidctint.c), fancy upsampling (jdsample.c), YCbCr to RGB (jdcolor.c),
// and the resize in two passes that are each rounded to 8 bits. Shared by the devices: the functions of this file are
// compiled for both host and GPU.
//
// A packed image is one block of memory: a JpegImage and, at offsets from its start, the tables that it refers to.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/jpeg_huffman.h"

namespace vmamba {

inline constexpr int jpeg_block = 8;          // samples along a side
inline constexpr int jpeg_alignment = 16;     // of every table
inline constexpr int resample_bits = 22;      // weights of the resize are in units of 2^-22
inline constexpr int jpeg_components = 3;     // at most
inline constexpr int jpeg_coefficients = 64;  // in a block

enum class JpegColor : int32_t { grey, ycbcr, rgb };

enum class JpegEntropy : int32_t {
  coefficients,  // decoded by the host
  huffman,       // left to the device
};

enum class JpegUpsampling : int32_t {
  replicate,  // by any factors, including 1
  h2v1,       // the others interpolate 3 : 1 between the nearest samples in each doubled direction
  h1v2,
  h2v2,
};

struct JpegComponent {
  JpegUpsampling upsampling;
  int32_t across, down;                           // pixels per sample
  int32_t width, height;                          // samples of the image
  int32_t left, top, blocks_across, blocks_down;  // the blocks that the crop needs
  int32_t first_block;                            // their place among the blocks of all components
  uint16_t quantisation[jpeg_coefficients];       // row-major
};

// One pass of the resize: output i is the weighted sum of taps[i] samples from first[i] on. Samples count from the
// start of the window.
struct JpegPass {
  int32_t count, stride;          // outputs; weights per output
  uint32_t first, taps, weights;  // offsets of int32[count], int32[count], int32[count · stride]
};

struct JpegImage {
  uint32_t bytes;  // of the whole block
  JpegColor color;
  int32_t components, blocks;
  JpegComponent component[jpeg_components];
  int32_t left, top, columns, rows;  // the window of pixels that the crop is made of
  JpegPass across, down;
  int32_t out_left, out_top;  // of the resized window in the crop; the rest is black
  JpegEntropy entropy;
  // coefficients: per block a mask of its nonzero coefficients (row-major) and the index of the first; then all values.
  uint32_t masks, firsts, values;  // offsets of uint64[blocks], uint32[blocks], int16[]
  JpegScan scan;                   // huffman
};

template <class T>
VMAMBA_HOST_DEVICE const T* jpeg_table(const JpegImage* image, uint32_t offset) {
  return reinterpret_cast<const T*>(reinterpret_cast<const unsigned char*>(image) + offset);
}

// The inverse DCT in one direction, in place: values are 8 numbers, `stride` apart. The result is scaled by 2^13.
// Returns false if libjpeg-turbo's 16-bit vector code could give another result.
VMAMBA_HOST_DEVICE inline bool jpeg_inverse_dct(int32_t* values, int stride) {
  int32_t v[8], sum = 0;
  for (int i = 0; i < 8; ++i) {
    v[i] = values[i * stride];
    const int32_t size = v[i] < 0 ? -v[i] : v[i];
    sum = size > 32767 || sum > 32767 ? 65536 : sum + size;
  }
  if (sum > 32767) return false;
  // Constants in units of 2^-13.
  const int32_t shared = (v[2] + v[6]) * 4433;
  const int32_t even2 = shared - v[6] * 15137, even3 = shared + v[2] * 6270;
  const int32_t even0 = (v[0] + v[4]) * 8192, even1 = (v[0] - v[4]) * 8192;
  const int32_t tmp10 = even0 + even3, tmp13 = even0 - even3, tmp11 = even1 + even2, tmp12 = even1 - even2;
  int32_t tmp0 = v[7], tmp1 = v[5], tmp2 = v[3], tmp3 = v[1];
  int32_t z1 = tmp0 + tmp3, z2 = tmp1 + tmp2, z3 = tmp0 + tmp2, z4 = tmp1 + tmp3;
  const int32_t z5 = (z3 + z4) * 9633;
  tmp0 *= 2446, tmp1 *= 16819, tmp2 *= 25172, tmp3 *= 12299;
  z1 *= -7373, z2 *= -20995;
  z3 = z3 * -16069 + z5, z4 = z4 * -3196 + z5;
  tmp0 += z1 + z3, tmp1 += z2 + z4, tmp2 += z2 + z3, tmp3 += z1 + z4;
  values[0 * stride] = tmp10 + tmp3, values[7 * stride] = tmp10 - tmp3;
  values[1 * stride] = tmp11 + tmp2, values[6 * stride] = tmp11 - tmp2;
  values[2 * stride] = tmp12 + tmp1, values[5 * stride] = tmp12 - tmp1;
  values[3 * stride] = tmp13 + tmp0, values[4 * stride] = tmp13 - tmp0;
  return true;
}

// Right shifts after the column pass and after the row pass.
inline constexpr int jpeg_first_shift = 11, jpeg_last_shift = 18;
VMAMBA_HOST_DEVICE inline int32_t jpeg_descaled(int32_t value, int shift) {
  return (value + (1 << (shift - 1))) >> shift;
}
// A sample; clears `exact` where libjpeg's range-limit table differs from saturation.
VMAMBA_HOST_DEVICE inline uint8_t jpeg_sample(int32_t value, bool& exact) {
  value = jpeg_descaled(value, jpeg_last_shift);
  exact = exact && value >= -512 && value < 512;
  value += 128;
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// A component's value at pixel (x, y) of the image. plane: the samples of its blocks, row by row.
VMAMBA_HOST_DEVICE inline int jpeg_upsampled(const JpegComponent& c, const uint8_t* plane, int x, int y) {
  const int stride = c.blocks_across * jpeg_block;
  plane -= int64_t{c.top} * jpeg_block * stride + c.left * jpeg_block;
  if (c.upsampling == JpegUpsampling::replicate) return plane[int64_t{y / c.down} * stride + x / c.across];
  int column = x, row = y, next_column = x, next_row = y;
  if (c.upsampling != JpegUpsampling::h1v2) {
    column = x / 2;
    next_column = x % 2 == 0 ? (column > 0 ? column - 1 : 0) : column + 1 < c.width ? column + 1 : column;
  }
  if (c.upsampling != JpegUpsampling::h2v1) {
    row = y / 2;
    next_row = y % 2 == 0 ? (row > 0 ? row - 1 : 0) : row + 1 < c.height ? row + 1 : row;
  }
  const uint8_t *near = plane + int64_t{row} * stride, *far = plane + int64_t{next_row} * stride;
  if (c.upsampling == JpegUpsampling::h2v1) return (3 * near[column] + near[next_column] + 1 + x % 2) >> 2;
  if (c.upsampling == JpegUpsampling::h1v2) return (3 * near[column] + far[column] + 1 + y % 2) >> 2;
  const int sum = 3 * near[column] + far[column], next = 3 * near[next_column] + far[next_column];
  return (3 * sum + next + 8 - x % 2) >> 4;
}

VMAMBA_HOST_DEVICE inline uint8_t jpeg_clipped(int value) {
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// Pixel (x, y) of the image. planes: of each component.
VMAMBA_HOST_DEVICE inline void jpeg_pixel(const JpegImage& image, const uint8_t* const planes[], int x, int y,
                                          uint8_t* rgb) {
  const int first = jpeg_upsampled(image.component[0], planes[0], x, y);
  if (image.color == JpegColor::grey) {
    rgb[0] = rgb[1] = rgb[2] = static_cast<uint8_t>(first);
    return;
  }
  const int second = jpeg_upsampled(image.component[1], planes[1], x, y);
  const int third = jpeg_upsampled(image.component[2], planes[2], x, y);
  if (image.color == JpegColor::rgb) {
    rgb[0] = static_cast<uint8_t>(first);
    rgb[1] = static_cast<uint8_t>(second);
    rgb[2] = static_cast<uint8_t>(third);
    return;
  }
  const int blue = second - 128, red = third - 128, half = 1 << 15;  // constants in units of 2^-16
  rgb[0] = jpeg_clipped(first + ((91881 * red + half) >> 16));
  rgb[1] = jpeg_clipped(first + ((-22554 * blue - 46802 * red + half) >> 16));
  rgb[2] = jpeg_clipped(first + ((116130 * blue + half) >> 16));
}

// Output i of a pass over `channels` bytes at a time: load(sample, values) reads the bytes of one sample of the window.
template <int channels, class Load>
VMAMBA_HOST_DEVICE inline void jpeg_resample(const JpegImage* image, const JpegPass& pass, int i, Load load,
                                             uint8_t* out) {
  const int first = jpeg_table<int32_t>(image, pass.first)[i],
            taps = jpeg_table<int32_t>(image, pass.taps)[i];
  const int32_t* weights = jpeg_table<int32_t>(image, pass.weights) + int64_t{i} * pass.stride;
  int32_t sums[channels];
  for (int c = 0; c < channels; ++c) sums[c] = 1 << (resample_bits - 1);
  for (int t = 0; t < taps; ++t) {
    uint8_t values[channels];
    load(first + t, values);
    for (int c = 0; c < channels; ++c) sums[c] += weights[t] * values[c];
  }
  for (int c = 0; c < channels; ++c) out[c] = jpeg_clipped(sums[c] >> resample_bits);
}

}  // namespace vmamba
