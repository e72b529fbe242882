// Resampling, bit-identical to Pillow on 8-bit images: a horizontal pass, then a vertical one, each a fixed-point
// weighted sum, rounded and clipped to 8 bits; a pass that keeps its size is skipped. For a pass from `in` to `out`
// samples with scale s = in / out, output i is centred at c = (i + 1/2)·s and covers the samples [c − r, c + r]
// with r = support · max(s, 1) (antialiasing), weighted by the filter f, in units of 2^-22. Only the rows and
// columns inside the crop are computed, which does not change their values.
#include "lib/images/preprocess.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/error.h"
#include "lib/images/resample_rows.h"

namespace vmamba {
namespace {

struct Filter {
  double support;
  double (*weight)(double x);
};

double bilinear(double x) {
  x = std::abs(x);
  return x < 1 ? 1 - x : 0;
}

double bicubic(double x) {  // a = −1/2
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

Filter filter_of(Interpolation interpolation) {
  return interpolation == Interpolation::bicubic ? Filter{2, bicubic} : Filter{1, bilinear};
}

ResamplePass view_of(const ResizeWeights& pass) {
  return {pass.count(), pass.stride, pass.first.data(), pass.taps.data(), pass.weights.data()};
}

struct Window {
  int left = 0, top = 0, width = 0, height = 0;
};

// Computes the part `window` of the image resized to width × height; rows of `out` are out_stride bytes apart.
void resize_window(const Image& image, int width, int height, const Window& window,
                   Interpolation interpolation, uint8_t* out, size_t out_stride) {
  const size_t in_stride = static_cast<size_t>(image.width) * 3,
               row_bytes = static_cast<size_t>(window.width) * 3;
  const bool horizontal = width != image.width, vertical = height != image.height;
  ResizeWeights down;
  int first_row = window.top, rows = window.height;  // rows of the image that the vertical pass reads
  if (vertical) {
    down = resize_weights(image.height, height, window.top, window.height, interpolation);
    first_row = down.lowest();
    rows = down.end() - first_row;
  }
  const uint8_t* source = image.rgb.data() + first_row * in_stride + static_cast<size_t>(window.left) * 3;
  size_t source_stride = in_stride;
  std::vector<uint8_t> narrowed;
  if (horizontal) {
    const ResizeWeights across = resize_weights(image.width, width, window.left, window.width, interpolation);
    uint8_t* to = out;
    size_t to_stride = out_stride;
    if (vertical) {
      narrowed.resize(rows * row_bytes);
      to = narrowed.data();
      to_stride = row_bytes;
    }
    std::vector<uint8_t> last_row;
    for (int y = 0; y < rows; ++y) {
      const uint8_t* in = image.rgb.data() + (first_row + y) * in_stride;
      if (first_row + y == image.height - 1) {  // read past its end: needs a padded copy
        last_row.assign(in, in + in_stride);
        last_row.push_back(0);
        in = last_row.data();
      }
      resample_across(in, view_of(across), to + y * to_stride);
    }
    source = to;
    source_stride = to_stride;
  }
  if (vertical) {
    for (int y = 0; y < window.height; ++y) {
      resample_down(source + (down.first[y] - first_row) * source_stride, source_stride, down.of(y),
                    down.taps[y], row_bytes, out + y * out_stride);
    }
  } else if (!horizontal) {
    for (int y = 0; y < window.height; ++y)
      std::memcpy(out + y * out_stride, source + y * source_stride, row_bytes);
  }
}

// The part of `size` resized samples inside a centred window of `crop`.
CropPlan::Range centre(int64_t size, int crop) {
  if (size >= crop) {  // round half to even
    return {static_cast<int>(std::nearbyint(static_cast<double>(size - crop) / 2)), crop, 0};
  }
  return {0, static_cast<int>(size), static_cast<int>((crop - size) / 2)};
}

}  // namespace

ResizeWeights resize_weights(int in, int out, int begin, int count, Interpolation interpolation) {
  ResizeWeights pass;
  if (in == out) {
    pass.stride = 1;
    for (int i = 0; i < count; ++i) pass.first.push_back(begin + i);
    pass.taps.assign(static_cast<size_t>(count), 1);
    pass.weights.assign(static_cast<size_t>(count), 1 << resample_bits);
    return pass;
  }
  const Filter filter = filter_of(interpolation);
  const double scale = static_cast<double>(in) / out;
  const double filter_scale = std::max(scale, 1.0), support = filter.support * filter_scale;
  const double inverse_scale = 1.0 / filter_scale;
  pass.stride = std::min(static_cast<int>(std::ceil(support)) * 2 + 1, in);
  pass.first.resize(count);
  pass.taps.resize(count);
  pass.weights.resize(static_cast<size_t>(count) * pass.stride);
  std::vector<double> exact(pass.stride);
  for (int i = 0; i < count; ++i) {
    const double centre = (begin + i + 0.5) * scale;
    // NOLINTBEGIN(bugprone-incorrect-roundings): as Pillow rounds
    const int low = std::max(static_cast<int>(centre - support + 0.5), 0);
    const int high = std::min(static_cast<int>(centre + support + 0.5), in);
    // NOLINTEND(bugprone-incorrect-roundings)
    double sum = 0;
    for (int j = low; j < high; ++j) {
      exact[j - low] = filter.weight((j - centre + 0.5) * inverse_scale);
      sum += exact[j - low];
    }
    int32_t* weights = pass.weights.data() + static_cast<size_t>(i) * pass.stride;
    for (int j = 0; j < high - low; ++j) {
      const double weight = (sum != 0 ? exact[j] / sum : exact[j]) * (1 << resample_bits);
      weights[j] = static_cast<int32_t>(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    pass.first[i] = low;
    pass.taps[i] = high - low;
  }
  return pass;
}

Image resize(const Image& image, int width, int height, Interpolation interpolation) {
  check(width > 0 && height > 0, "resize to {} x {}", width, height);
  Image result{width, height, std::vector<uint8_t>(static_cast<size_t>(width) * height * 3)};
  resize_window(image, width, height, {0, 0, width, height}, interpolation, result.rgb.data(),
                static_cast<size_t>(width) * 3);
  return result;
}

CropPlan plan_crop(int width, int height, const PreprocessConfig& preprocess) {
  const int shorter = std::min(width, height), longer = std::max(width, height);
  const double exact = static_cast<double>(int64_t{preprocess.resize} * longer) / shorter;
  if (!(exact <= INT32_MAX)) fail_input("{} x {} pixels are too elongated to resize", width, height);
  const int resized = static_cast<int>(exact);
  CropPlan plan;
  plan.width = width <= height ? preprocess.resize : resized;
  plan.height = width <= height ? resized : preprocess.resize;
  plan.x = centre(plan.width, preprocess.crop);
  plan.y = centre(plan.height, preprocess.crop);
  return plan;
}

void resize_and_crop(const Image& image, const PreprocessConfig& preprocess, std::span<uint8_t> out) {
  const int crop = preprocess.crop;
  const size_t row = static_cast<size_t>(crop) * 3;
  check(out.size() == row * crop, "a crop of {0} x {0} x 3 into {1} bytes", crop, out.size());
  const auto& [width, height, x, y] = plan_crop(image.width, image.height, preprocess);
  if (x.count < crop || y.count < crop) std::fill(out.begin(), out.end(), uint8_t{0});
  resize_window(image, width, height, {x.begin, y.begin, x.count, y.count}, preprocess.interpolation,
                out.data() + y.offset * row + static_cast<size_t>(x.offset) * 3, row);
}

Image resize_and_crop(const Image& image, const PreprocessConfig& preprocess) {
  const int crop = preprocess.crop;
  Image result{crop, crop, std::vector<uint8_t>(static_cast<size_t>(crop) * crop * 3)};
  resize_and_crop(image, preprocess, result.rgb);
  return result;
}

void normalize_chw(std::span<const uint8_t> rgb, const PreprocessConfig& preprocess, std::span<float> out) {
  check(out.size() == rgb.size(), "{} bytes to normalise into {} floats", rgb.size(), out.size());
  const size_t plane = rgb.size() / 3;
  for (int c = 0; c < 3; ++c) {
    float table[256];
    for (int value = 0; value < 256; ++value)
      table[value] = (static_cast<float>(value) / 255.0f - preprocess.mean[c]) / preprocess.std[c];
    for (size_t i = 0; i < plane; ++i) out[c * plane + i] = table[rgb[i * 3 + c]];
  }
}

}  // namespace vmamba
