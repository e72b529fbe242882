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

bool read_header(const EncodedImage& encoded, JpegDecoder& decoder) {
  if (setjmp(decoder.errors.jump)) return false;
  decoder.open(encoded);
  return jpeg_read_header(&decoder.info, TRUE) == JPEG_HEADER_OK;
}

// The first block of each row of blocks in the window of each component; false unless the whole file is sound. The
// rows belong to the decoder.
bool read_coefficients(JpegDecoder& decoder, const JpegImage& image, const JBLOCK** const rows) {
  jpeg_decompress_struct& info = decoder.info;
  if (setjmp(decoder.errors.jump)) return false;
  jvirt_barray_ptr* arrays = jpeg_read_coefficients(&info);
  if (arrays == nullptr || decoder.errors.base.num_warnings > 0) return false;
  for (int i = 0; info.coef_bits != nullptr && i < image.components * DCTSIZE2; ++i)
    if (info.coef_bits[i / DCTSIZE2][i % DCTSIZE2] != 0) return false;
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

// The blocks of a component that the window of pixels needs. False for sampling that libjpeg refuses too.
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
  // Room for `count` values, zeroed; its offset.
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
  void finish(JpegImage& image) {
    add<uint8_t>(0);
    packed_.resize((packed_.size() + jpeg_alignment - 1) / jpeg_alignment * jpeg_alignment);
    image.bytes = static_cast<uint32_t>(packed_.size());
    std::memcpy(packed_.data(), &image, sizeof image);
  }

 private:
  PackedJpeg& packed_;
};

// Samples of the pass count from the start of the window.
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
  static thread_local std::vector<int16_t> values;
  values.resize(blocks * jpeg_coefficients);
  uint32_t used = 0;
  size_t block = 0;
  auto row = rows.begin();
  for (int c = 0; c < image.components; ++c) {
    for (int y = 0; y < image.component[c].blocks_down; ++y, ++row)
      for (int x = 0; x < image.component[c].blocks_across; ++x, ++block) {
        const JCOEF* coefficients = (*row)[x];
        uint64_t mask = 0;
        for (int i = 0; i < jpeg_coefficients; ++i) mask |= uint64_t{coefficients[i] != 0} << i;
        packer.at<uint64_t>(image.masks)[block] = mask;
        packer.at<uint32_t>(image.firsts)[block] = used;
        for (; mask != 0; mask &= mask - 1) values[used++] = coefficients[std::countr_zero(mask)];
      }
  }
  image.values = packer.add<int16_t>(used);
  std::memcpy(packer.at<int16_t>(image.values), values.data(), used * sizeof(int16_t));
}

}  // namespace

bool pack_jpeg(const EncodedImage& encoded, const PreprocessConfig& preprocess, PackedJpeg& packed) {
  if (encoded.format != ImageFormat::jpeg || encoded.pixels() > most_packed_pixels) return false;
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

  Packer packer(packed, encoded.bytes.size() * 2 + 65536);
  image.across = add_pass(packer, across, image.left);
  image.down = add_pass(packer, down, image.top);
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
