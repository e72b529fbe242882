// Evaluation preprocessing, identical to Pillow + torchvision: resize the short side, crop the centre,
// normalise.
#pragma once
#include <algorithm>
#include <span>
#include <vector>

#include "lib/config/config.h"
#include "lib/images/image.h"

namespace vmamba {

// The weights for `count` outputs of one pass of the resize, in units of 2^-resample_bits: output i reads taps[i]
// samples from first[i] on.
struct ResizeWeights {
  int stride = 0;  // elements per output in `weights`
  std::vector<int> first, taps;
  std::vector<int32_t> weights;

  int count() const { return static_cast<int>(first.size()); }
  const int32_t* of(int i) const { return weights.data() + static_cast<size_t>(i) * stride; }
  // The samples that are read: [lowest, end).
  int lowest() const { return *std::min_element(first.begin(), first.end()); }
  int end() const {
    int last = 0;
    for (int i = 0; i < count(); ++i) last = std::max(last, first[i] + taps[i]);
    return last;
  }
};
// For outputs [begin, begin + count) of a pass from `in` to `out` samples. One that keeps the size copies.
ResizeWeights resize_weights(int in, int out, int begin, int count, Interpolation interpolation);

// The resized image, and which part of it lies where in the crop.
struct CropPlan {
  struct Range {
    int begin = 0, count = 0, offset = 0;  // of the resized samples; the offset in the crop
  };
  int width = 0, height = 0;
  Range x, y;
};
CropPlan plan_crop(int width, int height, const PreprocessConfig& preprocess);

// Byte-identical to Pillow's Image.resize.
Image resize(const Image& image, int width, int height, Interpolation interpolation);
// Resizes the short side to preprocess.resize and crops the central preprocess.crop × preprocess.crop: crop · crop · 3
// bytes into `out`. A resized image smaller than the crop is centred on black, as in torchvision.
void resize_and_crop(const Image& image, const PreprocessConfig& preprocess, std::span<uint8_t> out);
Image resize_and_crop(const Image& image, const PreprocessConfig& preprocess);
// (u8 / 255 − mean[c]) / std[c] in float32, from height × width × 3 bytes to planar CHW, the layout of saved `input`
// tensors.
void normalize_chw(std::span<const uint8_t> rgb, const PreprocessConfig& preprocess, std::span<float> out);
inline void normalize_chw(const Image& image, const PreprocessConfig& preprocess, std::span<float> out) {
  normalize_chw(image.rgb, preprocess, out);
}

}  // namespace vmamba
