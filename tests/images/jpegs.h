// JPEGs of every shape, made with libjpeg; and crops of them by both ways of decoding.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include <jpeglib.h>

#include "kernels/error.h"
#include "kernels/kernels.h"
#include "lib/images/image.h"
#include "lib/images/jpeg_pack.h"
#include "lib/images/preprocess.h"

namespace vmamba::testing {

struct JpegShape {
  int width = 0, height = 0;
  int across = 2, down = 2;  // sampling factors of the first component; 0: grey
  int quality = 90;
  int restart_blocks = 0, restart_rows = 0;
  bool optimise = false, progressive = false, arithmetic = false, rgb = false;

  std::string name() const {
    return fmt::format("{}x{} {}x{} quality {} restart {}/{}{}{}{}{}", width, height, across, down, quality,
                       restart_blocks, restart_rows, optimise ? " optimised" : "",
                       progressive ? " progressive" : "", arithmetic ? " arithmetic" : "", rgb ? " RGB" : "");
  }
};

// Smooth areas, edges and noise.
inline std::string encoded_jpeg(const JpegShape& shape, unsigned seed = 1) {
  const int components = shape.across == 0 ? 1 : 3;
  jpeg_compress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &memory, &size);
  info.image_width = static_cast<JDIMENSION>(shape.width);
  info.image_height = static_cast<JDIMENSION>(shape.height);
  info.input_components = components;
  info.in_color_space = components == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_set_defaults(&info);
  if (shape.rgb) jpeg_set_colorspace(&info, JCS_RGB);
  jpeg_set_quality(&info, shape.quality, TRUE);
  info.comp_info[0].h_samp_factor = std::max(shape.across, 1);
  info.comp_info[0].v_samp_factor = std::max(shape.down, 1);
  info.restart_interval = static_cast<unsigned>(shape.restart_blocks);
  info.restart_in_rows = shape.restart_rows;
  info.optimize_coding = shape.optimise;
  info.arith_code = shape.arithmetic;
  if (shape.progressive) jpeg_simple_progression(&info);
  jpeg_start_compress(&info, TRUE);
  std::mt19937 random(seed);
  std::vector<JSAMPLE> row(static_cast<size_t>(shape.width) * components);
  for (int y = 0; y < shape.height; ++y) {
    for (int x = 0; x < shape.width; ++x)
      for (int c = 0; c < components; ++c) {
        int value = 128 + 3 * ((x * (c + 1) + y * (3 - c)) % 40) - (x + 2 * y) % 251 / 4;
        if ((x / 11 + y / 7) % 5 == c) value = (c * 97 + x * y) % 2 == 0 ? 255 : 0;
        if (y % 32 > 16) value += static_cast<int>(random() % 64);
        row[static_cast<size_t>(x * components + c)] = static_cast<JSAMPLE>(std::clamp(value, 0, 255));
      }
    JSAMPROW line = row.data();
    jpeg_write_scanlines(&info, &line, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  std::string bytes(reinterpret_cast<char*>(memory), size);
  std::free(memory);
  return bytes;
}

// Every way to store an image: samplings, restart markers, tables, orders of coefficients.
inline std::vector<JpegShape> jpeg_shapes() {
  std::vector<JpegShape> shapes;
  const int samplings[][2] = {{0, 0}, {1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}, {4, 2}, {1, 4}, {3, 1}};
  const int sizes[][2] = {{1, 1},   {2, 3},   {3, 2},  {5, 4},   {8, 8},   {9, 17},   {16, 16},
                          {17, 15}, {33, 31}, {4, 65}, {64, 48}, {97, 61}, {131, 77}, {160, 200}};
  int number = 0;
  for (const auto& [across, down] : samplings)
    for (const auto& [width, height] : sizes)
      for (int kind = 0; kind < 6; ++kind) {
        JpegShape shape{width, height, across, down};
        shape.quality = std::vector{90, 75, 100, 30, 95, 5}[static_cast<size_t>(number++ % 6)];
        shape.optimise = kind == 1 || kind == 4;
        shape.progressive = kind == 2;
        shape.restart_blocks = kind == 3 ? 1 + number % 5 : 0;
        shape.restart_rows = kind == 4 ? 1 : 0;
        shape.arithmetic = kind == 5 && number % 4 == 0;
        shape.rgb = kind == 5 && across > 0 && number % 4 == 1;
        shapes.push_back(shape);
      }
  return shapes;
}

inline PreprocessConfig crop_of(int resize, int crop, Interpolation interpolation = Interpolation::bicubic) {
  PreprocessConfig preprocess;
  preprocess.resize = resize;
  preprocess.crop = crop;
  preprocess.interpolation = interpolation;
  return preprocess;
}

// The crop of `packed` by `kernels`; empty where it must not be used.
inline std::vector<uint8_t> decoded_crop(Kernels& kernels, const PackedJpeg& packed, int crop) {
  std::vector<uint8_t> pixels(static_cast<size_t>(crop) * crop * 3, 77);
  const View host(pixels.data(), DType::uint8, Device{}, {1, crop, crop, 3});
  const DecodeJpegs::Packed one{0, packed};
  View y = host;
  y.device = kernels.device();
  y.data = kernels.allocate(host.bytes());
  const bool fit = kernels.decode_jpegs({.jpegs = {&one, 1}, .pixels = host, .y = y}).empty();
  kernels.copy(y, host);
  kernels.release(y.data);
  if (!fit) pixels.clear();
  return pixels;
}

}  // namespace vmamba::testing
