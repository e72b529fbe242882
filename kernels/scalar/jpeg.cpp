#include "kernels/scalar/jpeg.h"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

namespace vmamba {
namespace {

using Block = std::array<int16_t, jpeg_coefficients>;

Block block_of(const JpegImage& image, int block) {
  Block coefficients{};
  uint64_t mask = jpeg_table<uint64_t>(&image, image.masks)[block];
  const int16_t* values =
      jpeg_table<int16_t>(&image, image.values) + jpeg_table<uint32_t>(&image, image.firsts)[block];
  for (; mask != 0; mask &= mask - 1) coefficients[static_cast<size_t>(std::countr_zero(mask))] = *values++;
  return coefficients;
}

bool inverse_dct(const Block& coefficients, const uint16_t* quantisation, uint8_t* samples, int stride) {
  int32_t values[jpeg_coefficients];
  for (int i = 0; i < jpeg_coefficients; ++i)
    values[i] = coefficients[static_cast<size_t>(i)] * quantisation[i];
  bool exact = true;
  for (int column = 0; column < jpeg_block; ++column) exact &= jpeg_inverse_dct(values + column, jpeg_block);
  if (!exact) return false;
  for (int32_t& value : values) value = jpeg_descaled(value, jpeg_first_shift);
  for (int row = 0; row < jpeg_block; ++row) {
    if (!jpeg_inverse_dct(values + row * jpeg_block, 1)) return false;
    for (int column = 0; column < jpeg_block; ++column)
      samples[row * stride + column] = jpeg_sample(values[row * jpeg_block + column], exact);
  }
  return exact;
}

}  // namespace

bool decode_jpeg(const JpegImage& image, int height, int width, uint8_t* crop) {
  std::vector<uint8_t> samples(static_cast<size_t>(image.blocks) * jpeg_coefficients);
  const uint8_t* planes[jpeg_components] = {};
  for (int c = 0; c < image.components; ++c) {
    const JpegComponent& component = image.component[c];
    uint8_t* plane = samples.data() + static_cast<size_t>(component.first_block) * jpeg_coefficients;
    planes[c] = plane;
    const int stride = component.blocks_across * jpeg_block;
    for (int row = 0; row < component.blocks_down; ++row)
      for (int column = 0; column < component.blocks_across; ++column) {
        const Block block = block_of(image, component.first_block + row * component.blocks_across + column);
        if (!inverse_dct(block, component.quantisation,
                         plane + (static_cast<ptrdiff_t>(row) * stride + column) * jpeg_block, stride))
          return false;
      }
  }

  std::vector<uint8_t> line(static_cast<size_t>(image.columns) * 3);
  const size_t narrow = static_cast<size_t>(image.across.count) * 3;
  std::vector<uint8_t> narrowed(narrow * static_cast<size_t>(image.rows));
  for (int row = 0; row < image.rows; ++row) {
    for (int column = 0; column < image.columns; ++column)
      jpeg_pixel(image, planes, image.left + column, image.top + row, line.data() + column * 3);
    for (int i = 0; i < image.across.count; ++i)
      for (int c = 0; c < 3; ++c)
        narrowed[static_cast<size_t>(row) * narrow + static_cast<size_t>(i * 3 + c)] =
            jpeg_resampled(&image, image.across, i, line.data() + c, 3);
  }
  std::fill_n(crop, static_cast<size_t>(height) * width * 3, uint8_t{0});
  for (int i = 0; i < image.down.count; ++i) {
    uint8_t* out = crop + (static_cast<ptrdiff_t>(image.out_top + i) * width + image.out_left) * 3;
    for (size_t x = 0; x < narrow; ++x)
      out[x] = jpeg_resampled(&image, image.down, i, narrowed.data() + x, static_cast<int64_t>(narrow));
  }
  return true;
}

}  // namespace vmamba
