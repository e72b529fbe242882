// Evaluation preprocessing, identical to Pillow + torchvision: resize the short side, crop the centre, normalise.
#pragma once
#include <span>

#include "lib/config.h"
#include "lib/image.h"

namespace vmamba {

Image resize(const Image& image, int width, int height, Interpolation interpolation);
// Resized and cropped: crop × crop × 3 bytes.
Image resize_and_crop(const Image& image, const PreprocessConfig& preprocess);
// (u8 / 255 − mean[c]) / std[c] in float32, from HWC bytes to CHW (layout of the saved `input` tensors).
void normalize_chw(const Image& image, const PreprocessConfig& preprocess, std::span<float> out);

}  // namespace vmamba
