// The two inner loops of the 8-bit resize (lib/images/preprocess.cpp), vectorised. Weights are in units of
// 2^-resample_bits (kernels/jpeg.h); sums are rounded and clipped to 8 bits.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/jpeg.h"

namespace vmamba {

// The weights for `count` outputs of a pass: output i is the sum of taps[i] samples from first[i] on, weighted
// by weights[i · stride …].
struct ResamplePass {
  int count, stride;
  const int *first, *taps;
  const int32_t* weights;
};

// Computes `count` RGB pixels from one row of RGB pixels. Pixels are loaded as four bytes: `in` must be readable
// for one byte past its last pixel.
void resample_across(const uint8_t* in, const ResamplePass& pass, uint8_t* out);
// Computes `width` bytes, each the weighted sum over `taps` rows that are `stride` bytes apart.
void resample_down(const uint8_t* in, size_t stride, const int32_t* weights, int taps, size_t width,
                   uint8_t* out);

}  // namespace vmamba
