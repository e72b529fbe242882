// The oracle of DecodeJpegs: one image, step by step.
#pragma once
#include "kernels/jpeg.h"

namespace vmamba {

// Writes the crop of height · width · 3 bytes; false if its pixels could differ from libjpeg's.
bool decode_jpeg(const JpegImage& image, int height, int width, uint8_t* crop);

}  // namespace vmamba
