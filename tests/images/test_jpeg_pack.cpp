// JPEGs by the way of DecodeJpegs give the same bytes as libjpeg and the resize; what could differ goes the other way.
#include <doctest/doctest.h>

#include "kernels/jpeg.h"
#include "tests/images/images.h"
#include "tests/images/jpegs.h"

using namespace vmamba;
using namespace vmamba::testing;

namespace {

// Compares both ways; false if the file is not packed or not fit.
bool check_same(Kernels& kernels, const EncodedImage& encoded, const PreprocessConfig& preprocess) {
  PackedJpeg packed;
  if (!pack_jpeg(encoded, preprocess, packed)) return false;
  const std::vector<uint8_t> crop = decoded_crop(kernels, packed, preprocess.crop);
  if (crop.empty()) return false;
  const Image wanted = resize_and_crop(decode_image(encoded), preprocess);
  CHECK(crop == wanted.rgb);
  return true;
}

}  // namespace

TEST_CASE("every sampling, size, quality, restart interval and order of coefficients") {
  const auto kernels = make_scalar_kernels();
  size_t same = 0, all = 0, left_to_device = 0;
  for (const JpegShape& shape : jpeg_shapes()) {
    INFO(shape.name());
    const EncodedImage encoded = parse_image(encoded_jpeg(shape), "made.jpg");
    const int shorter = std::min(shape.width, shape.height), longer = std::max(shape.width, shape.height);
    for (const PreprocessConfig& preprocess :
         {crop_of(shorter, longer), crop_of(40, 32), crop_of(24, 24, Interpolation::bilinear)}) {
      same += check_same(*kernels, encoded, preprocess);
      ++all;
    }
    PackedJpeg packed;
    CHECK(pack_jpeg(encoded, crop_of(40, 32), packed));
    const bool huffman = reinterpret_cast<const JpegImage*>(packed.data())->entropy == JpegEntropy::huffman;
    CHECK(huffman == !(shape.progressive || shape.arithmetic));
    left_to_device += huffman;
  }
  CHECK(same == all);
  CHECK(left_to_device > 500);
}

TEST_CASE("the photographs and odd images") {
  const auto kernels = make_scalar_kernels();
  size_t same = 0;
  for (const char* folder : {"images", "odd_images"})
    for (const ExpectedPixels& expected : expected_pixels(folder)) {
      if (expected.step != "decode") continue;
      INFO(expected.file.string());
      const EncodedImage encoded = open_image(expected.file);
      if (encoded.format == ImageFormat::jpeg) same += check_same(*kernels, encoded, crop_of(256, 224));
    }
  CHECK(same >= 10);
}

TEST_CASE("what is not packed: four components, other formats, large files, elongated images") {
  PackedJpeg packed;
  CHECK_FALSE(pack_jpeg(open_image(data("images/cat_cmyk.jpg")), crop_of(256, 224), packed));
  CHECK_FALSE(pack_jpeg(open_image(data("coffee.png")), crop_of(256, 224), packed));
  CHECK_FALSE(pack_jpeg(parse_image(encoded_jpeg({.width = 60000, .height = 1, .across = 0}), "long.jpg"),
                        crop_of(1 << 20, 224), packed));
  std::string bytes = encoded_jpeg({.width = 20, .height = 20});
  CHECK(pack_jpeg(parse_image(bytes, "small.jpg"), crop_of(256, 224), packed));
  bytes.resize(most_packed_bytes + 1);
  CHECK_FALSE(pack_jpeg(parse_image(bytes, "large.jpg"), crop_of(256, 224), packed));
}

TEST_CASE("a damaged file is decoded to the same bytes or not at all") {
  const auto kernels = make_scalar_kernels();
  std::mt19937 random(5);
  size_t same = 0;
  const std::vector<JpegShape> shapes = jpeg_shapes();
  for (size_t i = 0; i < shapes.size(); ++i) {
    INFO(shapes[i].name());
    const std::string whole = encoded_jpeg(shapes[i]);
    for (int kind = 0; kind < 4; ++kind) {
      std::string bytes = whole;
      if (kind == 3) bytes.resize(bytes.size() - random() % (bytes.size() / 4));
      for (int flips = 0; flips <= kind && kind < 3; ++flips)
        bytes[2 + random() % (bytes.size() - 2)] ^= static_cast<char>(1 << random() % 8);
      EncodedImage encoded;
      try {
        encoded = parse_image(bytes, "damaged.jpg");
      } catch (const InputError&) {
        continue;
      }
      CHECK_NOTHROW(same +=
                    check_same(*kernels, encoded, crop_of(40, 32)));  // what libjpeg refuses is refused
    }
  }
  CHECK(same > 10);
}
