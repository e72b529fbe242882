#include "lib/images/jpeg_pack.h"

#include <bit>
#include <cstring>

#include "kernels/error.h"
#include "kernels/jpeg.h"
#include "lib/images/libjpeg.h"
#include "lib/images/preprocess.h"

namespace vmamba {
namespace {

static_assert(sizeof(JCOEF) == sizeof(int16_t));

// Row-major position of each coefficient in zigzag order.
constexpr int natural_order[DCTSIZE2] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,
                                         12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
                                         35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
                                         58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

bool read_header(const EncodedImage& encoded, JpegDecoder& decoder) {
  if (setjmp(decoder.errors.jump)) return false;
  decoder.open(encoded);
  return jpeg_read_header(&decoder.info, TRUE) == JPEG_HEADER_OK;
}

// Sets `rows` to the first needed block of each row of blocks, component by component; false unless the whole file is
// valid. The rows are owned by the decoder.
bool read_coefficients(JpegDecoder& decoder, const JpegImage& image, const JBLOCK** const rows) {
  jpeg_decompress_struct& info = decoder.info;
  if (setjmp(decoder.errors.jump)) return false;
  jvirt_barray_ptr* arrays = jpeg_read_coefficients(&info);
  if (arrays == nullptr || decoder.errors.base.num_warnings > 0 || lacks_scans(info)) return false;
  int next = 0;
  for (int c = 0; c < image.components; ++c) {
    const JpegComponent& component = image.component[c];
    for (int row = 0; row < component.blocks_down; ++row)
      rows[next++] = info.mem->access_virt_barray(reinterpret_cast<j_common_ptr>(&info), arrays[c],
                                                  static_cast<JDIMENSION>(component.top + row), 1, FALSE)[0] +
                     component.left;
  }
  return true;
}

// Determines the blocks of a component that the window needs. False for sampling factors that libjpeg refuses too.
bool plan_component(const jpeg_decompress_struct& info, const jpeg_component_info& from,
                    const JpegImage& image, JpegComponent& to) {
  if (info.max_h_samp_factor % from.h_samp_factor != 0 || info.max_v_samp_factor % from.v_samp_factor != 0)
    return false;
  to.across = info.max_h_samp_factor / from.h_samp_factor;
  to.down = info.max_v_samp_factor / from.v_samp_factor;
  to.width = static_cast<int>(from.downsampled_width);
  to.height = static_cast<int>(from.downsampled_height);
  to.upsampling = JpegUpsampling::replicate;
  if (to.across == 2 && to.down == 1 && to.width > 2) to.upsampling = JpegUpsampling::h2v1;
  if (to.across == 1 && to.down == 2) to.upsampling = JpegUpsampling::h1v2;
  if (to.across == 2 && to.down == 2 && to.width > 2) to.upsampling = JpegUpsampling::h2v2;
  const int margin = to.upsampling != JpegUpsampling::replicate;
  const auto blocks = [margin](int begin, int count, int step, int size, int32_t& first, int32_t& number) {
    first = std::max(begin / step - margin, 0) / jpeg_block;
    number = std::min((begin + count - 1) / step + margin, size - 1) / jpeg_block + 1 - first;
  };
  blocks(image.left, image.columns, to.across, to.width, to.left, to.blocks_across);
  blocks(image.top, image.rows, to.down, to.height, to.top, to.blocks_down);
  return true;
}

// Appends tables to a packed image.
class Packer {
 public:
  Packer(PackedJpeg& packed, size_t expected) : packed_(packed) {
    packed_.clear();
    packed_.reserve(expected);
    packed_.resize(sizeof(JpegImage));
  }
  // Appends `count` zeroed values and returns their offset.
  template <class T>
  uint32_t add(size_t count) {
    const size_t at = (packed_.size() + jpeg_alignment - 1) / jpeg_alignment * jpeg_alignment;
    packed_.resize(at + count * sizeof(T));
    return static_cast<uint32_t>(at);
  }
  template <class T>
  uint32_t add(const std::vector<T>& values) {
    const uint32_t at = add<T>(values.size());
    std::memcpy(packed_.data() + at, values.data(), values.size() * sizeof(T));
    return at;
  }
  template <class T>
  T* at(uint32_t offset) {
    return reinterpret_cast<T*>(packed_.data() + offset);
  }
  void shrink(size_t bytes) { packed_.resize(bytes); }
  void finish(JpegImage& image) {
    add<uint8_t>(0);
    packed_.resize((packed_.size() + jpeg_alignment - 1) / jpeg_alignment * jpeg_alignment);
    image.bytes = static_cast<uint32_t>(packed_.size());
    std::memcpy(packed_.data(), &image, sizeof image);
  }

 private:
  PackedJpeg& packed_;
};

// Appends one pass of the resize; its sample indices are relative to the start of the window.
JpegPass add_pass(Packer& packer, ResizeWeights& weights, int begin) {
  for (int& first : weights.first) first -= begin;
  JpegPass pass{};
  pass.count = weights.count();
  pass.stride = weights.stride;
  pass.first = packer.add(weights.first);
  pass.taps = packer.add(weights.taps);
  pass.weights = packer.add(weights.weights);
  return pass;
}

void pack_coefficients(Packer& packer, JpegImage& image, const std::vector<const JBLOCK*>& rows) {
  const auto blocks = static_cast<size_t>(image.blocks);
  image.masks = packer.add<uint64_t>(blocks);
  image.firsts = packer.add<uint32_t>(blocks);
  std::vector<int16_t> values;
  size_t block = 0;
  auto row = rows.begin();
  for (int c = 0; c < image.components; ++c) {
    for (int y = 0; y < image.component[c].blocks_down; ++y, ++row)
      for (int x = 0; x < image.component[c].blocks_across; ++x, ++block) {
        const JCOEF* coefficients = (*row)[x];
        uint64_t mask = 0;
        for (int i = 0; i < jpeg_coefficients; ++i) mask |= uint64_t{coefficients[i] != 0} << i;
        packer.at<uint64_t>(image.masks)[block] = mask;
        packer.at<uint32_t>(image.firsts)[block] = static_cast<uint32_t>(values.size());
        for (; mask != 0; mask &= mask - 1) values.push_back(coefficients[std::countr_zero(mask)]);
      }
  }
  image.values = packer.add(values);
}

// Builds a decoding table as libjpeg does; false if libjpeg would refuse it.
bool make_table(const JHUFF_TBL* from, bool is_dc, JpegHuffmanTable& to) {
  if (from == nullptr) return false;
  int code = 0, symbol = 0;
  for (int length = 1; length <= jpeg_longest_code; ++length, code *= 2) {
    const int count = from->bits[length];
    if (code + count > 1 << length || symbol + count > 256) return false;
    to.last[length] = count > 0 ? code + count - 1 : -1;
    to.offset[length] = symbol - code;
    for (int i = 0; i < count; ++i, ++code, ++symbol) {
      to.symbols[symbol] = from->huffval[symbol];
      if (is_dc && from->huffval[symbol] > 15) return false;
      const int left = jpeg_lookup_bits - length;
      if (left >= 0)
        std::fill_n(to.lookup + (code << left), 1 << left,
                    static_cast<uint16_t>(length << 8 | from->huffval[symbol]));
    }
  }
  return true;
}

// Copies the scan after the header without stuffed zeros, split at the restart markers. False unless the markers are in
// sequence and the image ends with the scan.
bool pack_data(Packer& packer, const jpeg_decompress_struct& info, JpegScan& scan) {
  const JOCTET *from = info.src->next_input_byte, *end = from + info.src->bytes_in_buffer;
  scan.data = packer.add<uint8_t>(info.src->bytes_in_buffer + jpeg_padding);
  auto* const data = packer.at<uint8_t>(scan.data);
  uint8_t* to = data;
  std::vector<JpegSegment> segments(1);
  for (;;) {
    const auto* marker = static_cast<const JOCTET*>(std::memchr(from, 0xff, static_cast<size_t>(end - from)));
    if (marker == nullptr || marker + 1 == end) return false;
    to = std::copy(from, marker, to);
    from = marker + 2;
    const JOCTET code = marker[1];
    if (code == 0) {
      *to++ = 0xff;
      continue;
    }
    segments.back().end = static_cast<uint32_t>(to - data);
    if (code == JPEG_EOI) break;
    if (code != JPEG_RST0 + (segments.size() - 1) % 8 ||
        segments.size() == static_cast<size_t>(scan.segments))
      return false;
    segments.push_back({.begin = static_cast<uint32_t>(to - data)});
  }
  if (segments.size() != static_cast<size_t>(scan.segments)) return false;
  packer.shrink(static_cast<size_t>(scan.data) + static_cast<size_t>(to - data) + jpeg_padding);
  constexpr uint32_t least_bits = 256, most_spans = 512;
  const auto bits = static_cast<uint32_t>(to - data) * 8;
  scan.span_bits = std::max(least_bits, (bits / most_spans + 31) / 32 * 32);
  for (JpegSegment& segment : segments) {
    segment.first_span = static_cast<uint32_t>(scan.spans);
    const uint32_t size = (segment.end - segment.begin) * 8;
    scan.spans += static_cast<int32_t>(std::max((size + scan.span_bits - 1) / scan.span_bits, 1u));
  }
  scan.segment_table = packer.add(segments);
  return true;
}

bool is_below(int number, int end) {
  return number >= 0 && number < end;
}

// False unless the data is a single Huffman-coded scan with all components.
bool pack_scan(Packer& packer, const jpeg_decompress_struct& info, JpegImage& image) {
  if (info.progressive_mode || info.arith_code || info.data_precision != 8 ||
      info.comps_in_scan != info.num_components || info.Ss != 0 || info.Se != DCTSIZE2 - 1 || info.Ah != 0 ||
      info.Al != 0)
    return false;
  JpegScan& scan = image.scan;
  std::vector<JpegHuffmanTable> tables;
  const bool alone = image.components == 1;
  for (int c = 0; c < image.components; ++c) {
    const jpeg_component_info& component = info.comp_info[c];
    if (info.cur_comp_info[c] != &component || !is_below(component.quant_tbl_no, NUM_QUANT_TBLS) ||
        !is_below(component.dc_tbl_no, NUM_HUFF_TBLS) || !is_below(component.ac_tbl_no, NUM_HUFF_TBLS))
      return false;
    const JQUANT_TBL* quantisation = info.quant_tbl_ptrs[component.quant_tbl_no];
    if (quantisation == nullptr) return false;
    std::copy_n(quantisation->quantval, jpeg_coefficients, image.component[c].quantisation);
    tables.resize(tables.size() + 2);
    if (!make_table(info.dc_huff_tbl_ptrs[component.dc_tbl_no], true, tables[tables.size() - 2]) ||
        !make_table(info.ac_huff_tbl_ptrs[component.ac_tbl_no], false, tables.back()))
      return false;
    const int columns = alone ? 1 : component.h_samp_factor, rows = alone ? 1 : component.v_samp_factor;
    scan.mcu_columns[c] = static_cast<uint8_t>(columns);
    scan.mcu_rows[c] = static_cast<uint8_t>(rows);
    if (scan.blocks_per_mcu + columns * rows > jpeg_most_blocks_per_mcu) return false;
    for (int i = 0; i < columns * rows; ++i)
      scan.block[scan.blocks_per_mcu++] = {.component = static_cast<uint8_t>(c),
                                           .column = static_cast<uint8_t>(i % columns),
                                           .row = static_cast<uint8_t>(i / columns),
                                           .dc_table = static_cast<uint8_t>(2 * c),
                                           .ac_table = static_cast<uint8_t>(2 * c + 1)};
  }
  const auto mcus = [](JDIMENSION size, int blocks) {
    const int pixels = blocks * jpeg_block;
    return (static_cast<int>(size) + pixels - 1) / pixels;
  };
  scan.mcus_across = mcus(info.image_width, alone ? 1 : info.max_h_samp_factor);
  scan.mcus = scan.mcus_across * mcus(info.image_height, alone ? 1 : info.max_v_samp_factor);
  scan.mcus_per_segment =
      info.restart_interval == 0 ? scan.mcus : std::min(static_cast<int>(info.restart_interval), scan.mcus);
  scan.segments = (scan.mcus + scan.mcus_per_segment - 1) / scan.mcus_per_segment;
  for (int z = 0; z < jpeg_coefficients; ++z) scan.natural_order[z] = static_cast<uint8_t>(natural_order[z]);
  scan.tables = static_cast<int32_t>(tables.size());
  scan.huffman_tables = packer.add(tables);
  image.entropy = JpegEntropy::huffman;
  return pack_data(packer, info, scan);
}

}  // namespace

bool pack_jpeg(const EncodedImage& encoded, const PreprocessConfig& preprocess, PackedJpeg& packed) {
  if (encoded.format != ImageFormat::jpeg || encoded.pixels() > most_packed_pixels ||
      encoded.bytes.size() > most_packed_bytes)
    return false;
  JpegDecoder decoder;
  const jpeg_decompress_struct& info = decoder.info;
  if (!read_header(encoded, decoder)) return false;
  JpegImage image{};
  image.components = info.num_components;
  if (info.jpeg_color_space == JCS_GRAYSCALE && info.num_components == 1)
    image.color = JpegColor::grey;
  else if (info.jpeg_color_space == JCS_YCbCr && info.num_components == 3)
    image.color = JpegColor::ycbcr;
  else if (info.jpeg_color_space == JCS_RGB && info.num_components == 3)
    image.color = JpegColor::rgb;
  else
    return false;

  CropPlan plan;
  try {
    plan = plan_crop(encoded.width, encoded.height, preprocess);
  } catch (const InputError&) {
    return false;
  }
  ResizeWeights across =
      resize_weights(encoded.width, plan.width, plan.x.begin, plan.x.count, preprocess.interpolation);
  ResizeWeights down =
      resize_weights(encoded.height, plan.height, plan.y.begin, plan.y.count, preprocess.interpolation);
  image.left = across.lowest();
  image.columns = across.end() - image.left;
  image.top = down.lowest();
  image.rows = down.end() - image.top;
  image.out_left = plan.x.offset;
  image.out_top = plan.y.offset;
  int rows_of_blocks = 0;
  for (int c = 0; c < image.components; ++c) {
    JpegComponent& component = image.component[c];
    if (!plan_component(info, info.comp_info[c], image, component)) return false;
    component.first_block = image.blocks;
    image.blocks += component.blocks_across * component.blocks_down;
    rows_of_blocks += component.blocks_down;
  }

  Packer packer(packed, encoded.bytes.size() + 65536);
  image.across = add_pass(packer, across, image.left);
  image.down = add_pass(packer, down, image.top);
  if (pack_scan(packer, info, image)) {
    packer.finish(image);
    return true;
  }
  image.entropy = JpegEntropy::coefficients;
  std::vector<const JBLOCK*> rows(static_cast<size_t>(rows_of_blocks));
  if (!read_coefficients(decoder, image, rows.data())) return false;
  for (int c = 0; c < image.components; ++c) {
    const JQUANT_TBL* table = info.comp_info[c].quant_table;
    if (table == nullptr) return false;
    std::copy_n(table->quantval, jpeg_coefficients, image.component[c].quantisation);
  }
  pack_coefficients(packer, image, rows);
  packer.finish(image);
  return true;
}

}  // namespace vmamba
