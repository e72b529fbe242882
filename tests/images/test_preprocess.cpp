// Resize, crop and normalise against what Pillow and torchvision give: no byte differs.
#include <doctest/doctest.h>

#include <hwy/targets.h>
#include <cstring>
#include <sstream>

#include "kernels/error.h"
#include "lib/images/preprocess.h"
#include "lib/tensors/state_dict.h"
#include "tests/images/images.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;

namespace {

PreprocessConfig sizes(int resize, int crop, Interpolation interpolation = Interpolation::bicubic) {
  PreprocessConfig preprocess;
  preprocess.resize = resize;
  preprocess.crop = crop;
  preprocess.interpolation = interpolation;
  return preprocess;
}

Image gradient(int width, int height) {
  Image image{width, height, {}};
  for (int i = 0; i < width * height * 3; ++i) image.rgb.push_back(static_cast<uint8_t>(i * 37 + i / 7));
  return image;
}

}  // namespace

TEST_CASE("crops are Pillow's") {
  int crops = 0;
  for (const ExpectedPixels& expected : expected_pixels()) {
    if (expected.step == "decode") continue;
    INFO(expected.file, " ", expected.step);
    std::istringstream step(expected.step);
    int size = 0, crop = 0;
    std::string interpolation;
    step >> size >> crop >> interpolation;
    const Image result = resize_and_crop(
        read_image(expected.file),
        sizes(size, crop, interpolation == "bilinear" ? Interpolation::bilinear : Interpolation::bicubic));
    CHECK(result.width == crop);
    CHECK(result.height == crop);
    CHECK(fnv1a(result.rgb) == expected.hash);
    ++crops;
  }
  CHECK(crops >= 90);
}

TEST_CASE("crops of 64 pixels have 0 differing bytes") {
  const StateDict crops = read_safetensors(data("images/crop64.safetensors"));
  REQUIRE(crops.tensors.size() == 5);
  for (const auto& [name, tensor] : crops.tensors) {
    INFO(name);
    const bool above = name == "chelsea.png" || name == "coffee.png";
    const Image result =
        resize_and_crop(read_image(data(above ? name : "images/" + name)), sizes(256 * 64 / 224, 64));
    REQUIRE(tensor.dims == std::vector<int64_t>{64, 64, 3});
    const auto* wanted = static_cast<const uint8_t*>(tensor.data);
    int differing = 0;
    for (size_t i = 0; i < result.rgb.size(); ++i) differing += result.rgb[i] != wanted[i];
    CHECK(differing == 0);
  }
}

TEST_CASE("a crop is the same as the middle of the whole resized image") {
  for (const auto& [width, height] : {std::pair{97, 61}, {61, 97}, {33, 33}, {5, 300}}) {
    const Image image = gradient(width, height);
    const int size = 40, crop = 29;
    const int other =
        static_cast<int>(static_cast<double>(size * std::max(width, height)) / std::min(width, height));
    const Image whole =
        resize(image, width <= height ? size : other, width <= height ? other : size, Interpolation::bicubic);
    const Image middle = resize_and_crop(image, sizes(size, crop));
    const auto begin = [&](int extent) { return static_cast<int>(std::nearbyint((extent - crop) / 2.0)); };
    for (int y = 0; y < crop; ++y) {
      const size_t from =
          (static_cast<size_t>(begin(whole.height) + y) * whole.width + begin(whole.width)) * 3;
      CHECK(std::memcmp(&middle.rgb[static_cast<size_t>(y) * crop * 3], &whole.rgb[from], crop * 3) == 0);
    }
  }
}

TEST_CASE("every vector target of this machine gives the same bytes") {
  const Image photo = read_image(data("images/rocket.jpg")), other = gradient(61, 97);
  const auto results = [&] {
    return std::vector{resize(photo, 333, 222, Interpolation::bicubic).rgb,
                       resize(photo, 41, 37, Interpolation::bilinear).rgb,
                       resize(other, 130, 75, Interpolation::bicubic).rgb};
  };
  const auto wanted = results();
  int targets = 0;
  const int64_t supported = hwy::SupportedTargets();
  for (int64_t left = supported; left != 0; left &= left - 1, ++targets) {
    hwy::SetSupportedTargetsForTest(left & -left);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    INFO(hwy::TargetName(left & -left));
    CHECK(results() == wanted);
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(supported);
  CHECK(targets > 0);
}

TEST_CASE("a size that is kept is copied, a constant stays constant") {
  const Image image = gradient(31, 17);
  CHECK(resize(image, 31, 17, Interpolation::bicubic).rgb == image.rgb);
  Image grey{13, 9, std::vector<uint8_t>(13 * 9 * 3, 201)};
  for (const Interpolation interpolation : {Interpolation::bilinear, Interpolation::bicubic})
    for (const auto& [width, height] : {std::pair{1, 1}, {64, 2}, {7, 90}, {13, 4}})
      for (const uint8_t byte : resize(grey, width, height, interpolation).rgb) REQUIRE(byte == 201);
}

TEST_CASE("an image smaller than the crop is centred on black") {
  Image white{2, 4, std::vector<uint8_t>(2 * 4 * 3, 255)};
  const Image result =
      resize_and_crop(white, sizes(2, 5));  // 2 × 4, the crop 5 × 5: padding 1 left, 2 right, 0 above
  for (int y = 0; y < 5; ++y)
    for (int x = 0; x < 5; ++x) {
      INFO(x, " ", y);
      CHECK(int{result.rgb[static_cast<size_t>(y * 5 + x) * 3]} == (y < 4 && x >= 1 && x < 3 ? 255 : 0));
    }
}

TEST_CASE("an image of one row of a million pixels takes neither time nor memory") {
  const Image image = gradient(1'000'000, 1);
  const Image result = resize_and_crop(image, sizes(256, 224));
  CHECK(result.rgb.size() == 224u * 224 * 3);
  CHECK_THROWS_AS(resize_and_crop(Image{100'000'000, 1, std::vector<uint8_t>(3)}, sizes(256, 224)),
                  InputError);
}

TEST_CASE("normalising is float32 arithmetic, channel by channel") {
  const PreprocessConfig preprocess = sizes(2, 2);
  const Image image{2, 2, {0, 1, 2, 3, 4, 5, 250, 251, 252, 253, 254, 255}};
  std::vector<float> planes(12);
  normalize_chw(image, preprocess, planes);
  for (int c = 0; c < 3; ++c)
    for (int i = 0; i < 4; ++i) {
      const float value = static_cast<float>(image.rgb[static_cast<size_t>(i) * 3 + c]) / 255.0f;
      CHECK(planes[static_cast<size_t>(c) * 4 + i] == (value - preprocess.mean[c]) / preprocess.std[c]);
    }
}
