// Evaluation preprocessing, identical to Pillow + torchvision: resize the short side, crop the centre,
// normalise.
#pragma once
#include <span>

#include "lib/config/config.h"
#include "lib/images/image.h"
#include "lib/tensors/tensor.h"

namespace vmamba {

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

// Decodes and preprocesses image files to (B, 3, crop, crop).
HostTensor preprocessed(const std::vector<std::string>& files, const PreprocessConfig& preprocess);

}  // namespace vmamba
