#include "kernels/scalar/jpeg.h"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

namespace vmamba {
namespace {

using Block = std::array<int16_t, jpeg_coefficients>;

Block packed_block(const JpegImage& image, int block) {
  Block coefficients{};
  uint64_t mask = jpeg_table<uint64_t>(&image, image.masks)[block];
  const int16_t* values =
      jpeg_table<int16_t>(&image, image.values) + jpeg_table<uint32_t>(&image, image.firsts)[block];
  for (; mask != 0; mask &= mask - 1) coefficients[static_cast<size_t>(std::countr_zero(mask))] = *values++;
  return coefficients;
}

// Sink of jpeg_decode that stores the coefficients of a scan.
struct Store {
  const JpegScan& scan;
  Block* blocks;
  size_t number = 0;

  void begin(uint32_t n) { number = n; }
  void dc(int difference) { blocks[number][0] = static_cast<int16_t>(difference); }
  void ac(int z, int value) { blocks[number][scan.natural_order[z]] = static_cast<int16_t>(value); }
};

// Decodes all blocks of a segment; DC coefficients are still differences.
bool decode_segment(const JpegImage& image, int s, Block* blocks) {
  const JpegScan& scan = image.scan;
  const JpegSegment& segment = jpeg_table<JpegSegment>(&image, scan.segment_table)[s];
  const uint32_t count = jpeg_segment_blocks(scan, s);
  JpegState state{segment.begin * 8, 0};
  bool sound = true;
  const uint32_t ended = jpeg_decode(scan, jpeg_table<JpegHuffmanTable>(&image, scan.huffman_tables),
                                     jpeg_table<uint8_t>(&image, scan.data), state, segment.end * 8, count,
                                     sound, Store{scan, blocks});
  return sound && ended == count && jpeg_segment_is_over(segment, state);
}

// Decodes the blocks that the crop needs, ordered by component; false if the data is corrupt.
bool decode_scan(const JpegImage& image, std::vector<Block>& needed) {
  const JpegScan& scan = image.scan;
  const auto per_mcu = static_cast<size_t>(scan.blocks_per_mcu);
  std::vector<Block> blocks(static_cast<size_t>(scan.mcus) * per_mcu);
  for (int s = 0; s < scan.segments; ++s)
    if (!decode_segment(image, s, blocks.data() + static_cast<size_t>(s) * scan.mcus_per_segment * per_mcu))
      return false;
  int dc[jpeg_components] = {};
  for (int mcu = 0; mcu < scan.mcus; ++mcu) {
    if (mcu % scan.mcus_per_segment == 0) std::fill_n(dc, jpeg_components, 0);
    for (size_t b = 0; b < per_mcu; ++b) {
      Block& block = blocks[static_cast<size_t>(mcu) * per_mcu + b];
      const JpegMcuBlock& in_mcu = scan.block[b];
      const JpegComponent& component = image.component[in_mcu.component];
      int& value = dc[in_mcu.component];
      value += block[0];
      if (value != static_cast<int16_t>(value)) return false;
      block[0] = static_cast<int16_t>(value);
      const int row = mcu / scan.mcus_across * scan.mcu_rows[in_mcu.component] + in_mcu.row - component.top;
      const int column =
          mcu % scan.mcus_across * scan.mcu_columns[in_mcu.component] + in_mcu.column - component.left;
      if (row >= 0 && row < component.blocks_down && column >= 0 && column < component.blocks_across)
        needed[static_cast<size_t>(component.first_block + row * component.blocks_across + column)] = block;
    }
  }
  return true;
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
  std::vector<Block> blocks(static_cast<size_t>(image.blocks));
  if (image.entropy == JpegEntropy::huffman) {
    if (!decode_scan(image, blocks)) return false;
  } else {
    for (int i = 0; i < image.blocks; ++i) blocks[static_cast<size_t>(i)] = packed_block(image, i);
  }
  std::vector<uint8_t> samples(static_cast<size_t>(image.blocks) * jpeg_coefficients);
  const uint8_t* planes[jpeg_components] = {};
  for (int c = 0; c < image.components; ++c) {
    const JpegComponent& component = image.component[c];
    uint8_t* plane = samples.data() + static_cast<size_t>(component.first_block) * jpeg_coefficients;
    planes[c] = plane;
    const int stride = component.blocks_across * jpeg_block;
    for (int row = 0; row < component.blocks_down; ++row)
      for (int column = 0; column < component.blocks_across; ++column) {
        const Block& block =
            blocks[static_cast<size_t>(component.first_block + row * component.blocks_across + column)];
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
      jpeg_resample<3>(
          &image, image.across, i,
          [&](int column, uint8_t* rgb) {
            std::copy_n(line.data() + static_cast<ptrdiff_t>(column) * 3, 3, rgb);
          },
          narrowed.data() + static_cast<size_t>(row) * narrow + static_cast<size_t>(i) * 3);
  }
  std::fill_n(crop, static_cast<size_t>(height) * width * 3, uint8_t{0});
  for (int i = 0; i < image.down.count; ++i) {
    uint8_t* out = crop + (static_cast<ptrdiff_t>(image.out_top + i) * width + image.out_left) * 3;
    for (size_t x = 0; x < narrow; ++x)
      jpeg_resample<1>(
          &image, image.down, i,
          [&](int row, uint8_t* value) { *value = narrowed[static_cast<size_t>(row) * narrow + x]; },
          out + x);
  }
  return true;
}

}  // namespace vmamba
