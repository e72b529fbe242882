// The scalar oracle: the operations of kernels/kernels.h as they are defined there, one plain loop nest each.
// Sums are in double and rounded once, when a result is stored. The fast kernels of every device are tested
// against it, so it is kept simple rather than fast. Notation and shapes as in kernels.h.
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "kernels/error.h"
#include "kernels/half.h"
#include "kernels/kernels.h"

namespace vmamba {
namespace {

float load(const View& view, int64_t row, int64_t channel) {
  const int64_t i = row * view.row_stride + channel;
  if (view.dtype == DType::float32) return view.as<float>()[i];
  return half_to_float(view.dtype, view.as<uint16_t>()[i]);
}

void store(const View& view, int64_t row, int64_t channel, double value) {
  const int64_t i = row * view.row_stride + channel;
  const float single = static_cast<float>(value);
  if (view.dtype == DType::float32)
    view.as<float>()[i] = single;
  else
    view.as<uint16_t>()[i] = float_to_half(view.dtype, single);
}

double activated(Activation act, double x) {
  switch (act) {
    case Activation::none:
      return x;
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::gelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::relu:
      return x > 0 || std::isnan(x) ? x : 0;
    case Activation::sigmoid:
      return 1 / (1 + std::exp(-x));
  }
  return x;
}

double softplus(double x) {
  return x > 20 ? x : std::log1p(std::exp(x));
}

// The row of an NHWC map that holds pixel (row, column) of image b.
int64_t pixel(const View& map, int64_t b, int64_t row, int64_t column) {
  return (b * map.dim(1) + row) * map.dim(2) + column;
}

class ScalarKernels final : public Kernels {
 public:
  ScalarKernels() : Kernels(Device{}) {}
  std::string description() const override { return "scalar oracle"; }

  void* allocate(size_t bytes) override {
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (bytes > 0 && memory == nullptr) throw OutOfMemory(fmt::format("no {} bytes of memory left", bytes));
    return memory;
  }
  void release(void* memory) noexcept override { std::free(memory); }
  size_t available_memory() const override { return 0; }
  void copy(const View& from, const View& to) override { std::memmove(to.data, from.data, from.bytes()); }
  void mark() override { marks_.push_back(std::chrono::steady_clock::now()); }
  std::vector<float> elapsed_ms() override {
    std::vector<float> times;
    for (size_t i = 1; i < marks_.size(); ++i)
      times.push_back(std::chrono::duration<float, std::milli>(marks_[i] - marks_[i - 1]).count());
    marks_.clear();
    return times;
  }

 protected:
  void do_normalize(const View& pixels, const float* mean, const float* std, const View& y) override {
    for (int64_t row = 0; row < y.rows(); ++row)
      for (int64_t c = 0; c < 3; ++c)  // in float32, as torchvision does it
        store(y, row, c, (static_cast<float>(pixels.as<uint8_t>()[row * 3 + c]) / 255.0f - mean[c]) / std[c]);
  }

  void do_nchw_to_nhwc(const View& x, const View& y) override {
    const int64_t pixels = y.dim(1) * y.dim(2);
    for (int64_t row = 0; row < y.rows(); ++row)
      for (int64_t c = 0; c < y.channels(); ++c)
        store(y, row, c, x.as<float>()[((row / pixels) * y.channels() + c) * pixels + row % pixels]);
  }

  void do_cast(const View& x, const View& y) override {
    for (int64_t row = 0; row < y.rows(); ++row)
      for (int64_t c = 0; c < y.channels(); ++c) store(y, row, c, load(x, row, c));
  }

  void do_linear(const Linear& op) override {
    const auto& [x, w, bias, act, residual, y] = op;
    std::vector<double> out(static_cast<size_t>(y.channels()));
    for (int64_t row = 0; row < y.rows(); ++row) {
      for (int64_t o = 0; o < y.channels(); ++o) {
        double sum = bias ? bias.as<float>()[o] : 0;
        for (int64_t i = 0; i < x.channels(); ++i)
          sum += static_cast<double>(load(x, row, i)) * load(w, o, i);
        out[static_cast<size_t>(o)] = activated(act, sum) + (residual ? load(residual, row, o) : 0);
      }
      for (int64_t o = 0; o < y.channels(); ++o) store(y, row, o, out[static_cast<size_t>(o)]);
    }
  }

  void do_conv2d(const Conv2d& op) override {
    const auto& [x, w, bias, stride, padding, y] = op;
    for (int64_t b = 0; b < y.dim(0); ++b)
      for (int64_t i = 0; i < y.dim(1); ++i)
        for (int64_t j = 0; j < y.dim(2); ++j)
          for (int64_t o = 0; o < y.dim(3); ++o) {
            double sum = bias ? bias.as<float>()[o] : 0;
            for (int64_t u = 0; u < w.dim(1); ++u)
              for (int64_t v = 0; v < w.dim(2); ++v) {
                const int64_t row = i * stride + u - padding, column = j * stride + v - padding;
                if (row < 0 || row >= x.dim(1) || column < 0 || column >= x.dim(2)) continue;
                for (int64_t c = 0; c < x.dim(3); ++c)
                  sum += static_cast<double>(load(x, pixel(x, b, row, column), c)) *
                         load(w, (o * w.dim(1) + u) * w.dim(2) + v, c);
              }
            store(y, pixel(y, b, i, j), o, sum);
          }
  }

  void do_depthwise_conv2d(const DepthwiseConv2d& op) override {
    const auto& [x, w, bias, act, y] = op;
    const int64_t half = w.dim(0) / 2;
    for (int64_t b = 0; b < y.dim(0); ++b)
      for (int64_t i = 0; i < y.dim(1); ++i)
        for (int64_t j = 0; j < y.dim(2); ++j)
          for (int64_t d = 0; d < y.dim(3); ++d) {
            double sum = bias ? bias.as<float>()[d] : 0;
            for (int64_t u = 0; u < w.dim(0); ++u)
              for (int64_t v = 0; v < w.dim(1); ++v) {
                const int64_t row = i + u - half, column = j + v - half;
                if (row < 0 || row >= x.dim(1) || column < 0 || column >= x.dim(2)) continue;
                sum +=
                    static_cast<double>(load(x, pixel(x, b, row, column), d)) * load(w, u * w.dim(1) + v, d);
              }
            store(y, pixel(y, b, i, j), d, activated(act, sum));
          }
  }

  void do_layer_norm(const LayerNorm& op) override {
    const auto& [x, gamma, beta, epsilon, act, gate, rounding, y] = op;
    const DType rounded = rounding == Rounding::each_step ? y.dtype : DType::float32;
    const int64_t channels = x.channels();
    std::vector<double> out(static_cast<size_t>(channels));
    for (int64_t row = 0; row < x.rows(); ++row) {
      double mean = 0, variance = 0;
      for (int64_t c = 0; c < channels; ++c) mean += load(x, row, c);
      mean /= static_cast<double>(channels);
      for (int64_t c = 0; c < channels; ++c) variance += std::pow(load(x, row, c) - mean, 2);
      variance /= static_cast<double>(channels);
      for (int64_t c = 0; c < channels; ++c) {
        double value = (load(x, row, c) - mean) / std::sqrt(variance + static_cast<double>(epsilon));
        if (gamma) value = value * gamma.as<float>()[c] + beta.as<float>()[c];
        value = round_to(rounded, static_cast<float>(value));
        if (act != Activation::none) value = round_to(rounded, static_cast<float>(activated(act, value)));
        out[static_cast<size_t>(c)] = gate ? value * load(gate, row, c) : value;
      }
      for (int64_t c = 0; c < channels; ++c) store(y, row, c, out[static_cast<size_t>(c)]);
    }
  }

  void do_channel_affine(const ChannelAffine& op) override {
    const auto& [x, scale, shift, act, y] = op;
    for (int64_t row = 0; row < x.rows(); ++row)
      for (int64_t c = 0; c < x.channels(); ++c)
        store(y, row, c,
              activated(act,
                        static_cast<double>(load(x, row, c)) * scale.as<float>()[c] + shift.as<float>()[c]));
  }

  void do_activate(const Activate& op) override {
    const auto& [x, act, gate, rounding, y] = op;
    for (int64_t row = 0; row < x.rows(); ++row)
      for (int64_t c = 0; c < x.channels(); ++c) {
        double value = activated(act, load(x, row, c));
        if (rounding == Rounding::each_step) value = round_to(y.dtype, static_cast<float>(value));
        store(y, row, c, gate ? value * load(gate, row, c) : value);
      }
  }

  void do_add(const View& x, const View& other, const View& y) override {
    for (int64_t row = 0; row < x.rows(); ++row)
      for (int64_t c = 0; c < x.channels(); ++c)
        store(y, row, c, static_cast<double>(load(x, row, c)) + load(other, row % other.rows(), c));
  }

  void do_softmax_pixels(const View& x, const View& y) override {
    const int64_t pixels = x.dim(1) * x.dim(2);
    for (int64_t b = 0; b < x.dim(0); ++b)
      for (int64_t c = 0; c < x.dim(3); ++c) {
        double largest = -INFINITY, sum = 0;
        for (int64_t p = 0; p < pixels; ++p) largest = std::fmax(largest, load(x, b * pixels + p, c));
        for (int64_t p = 0; p < pixels; ++p) sum += std::exp(load(x, b * pixels + p, c) - largest);
        for (int64_t p = 0; p < pixels; ++p)
          store(y, b * pixels + p, c, std::exp(load(x, b * pixels + p, c) - largest) / sum);
      }
  }

  void do_merge_patches(const View& x, const View& y) override {
    const int64_t channels = x.dim(3);
    for (int64_t b = 0; b < y.dim(0); ++b)
      for (int64_t i = 0; i < y.dim(1); ++i)
        for (int64_t j = 0; j < y.dim(2); ++j)
          for (int64_t quarter = 0; quarter < 4; ++quarter) {
            const int64_t row = 2 * i + quarter % 2, column = 2 * j + quarter / 2;
            const bool inside = row < x.dim(1) && column < x.dim(2);
            for (int64_t c = 0; c < channels; ++c)
              store(y, pixel(y, b, i, j), quarter * channels + c,
                    inside ? load(x, pixel(x, b, row, column), c) : 0);
          }
  }

  void do_mean_pool(const View& x, const View& y) override {
    const int64_t pixels = x.dim(1) * x.dim(2);
    for (int64_t b = 0; b < x.dim(0); ++b)
      for (int64_t c = 0; c < x.dim(3); ++c) {
        double sum = 0;
        for (int64_t p = 0; p < pixels; ++p) sum += load(x, b * pixels + p, c);
        store(y, b, c, sum / static_cast<double>(pixels));
      }
  }

  void do_selective_scan_2d(const SelectiveScan2d& s) override {
    const int64_t height = s.x.dim(1), width = s.x.dim(2), channels = s.x.dim(3), states = s.A.dim(2);
    const int directions = direction_count(s.order);
    const int64_t per_direction = s.projections.channels() / directions, rank = per_direction - 2 * states;
    const DType written = s.direction_rounding == DirectionRounding::storage ? s.x.dtype : DType::float32;
    std::vector<float> y(static_cast<size_t>(directions * s.x.elements()));
    std::vector<double> h(static_cast<size_t>(states));

    for (int k = 0; k < directions; ++k) {
      const ScanDirection direction = scan_direction(s.order, k);
      const int64_t lines = direction.per_line ? (direction.columns ? width : height) : 1;
      const int64_t length = height * width / lines;
      // Row of the i-th pixel of a forward sequence.
      const auto at = [&](int64_t b, int64_t line, int64_t i) {
        const int64_t step = line * length + i;
        return direction.columns ? pixel(s.x, b, step % height, step / height) : b * height * width + step;
      };
      for (int64_t b = 0; b < s.x.dim(0); ++b)
        for (int64_t line = 0; line < lines; ++line)
          for (int64_t d = 0; d < channels; ++d) {
            std::fill(h.begin(), h.end(), 0.0);
            const int64_t kd = k * channels + d;
            for (int64_t i = 0; i < length; ++i) {
              const int64_t from = at(b, line, direction.reversed ? length - 1 - i : i);
              const int64_t to = direction.mirrored_output ? at(b, line, i) : from;
              const int64_t first = k * per_direction;
              double dt = 0;
              if (s.dt_weight)
                for (int64_t r = 0; r < rank; ++r)
                  dt += static_cast<double>(load(s.dt_weight, kd, r)) * load(s.projections, from, first + r);
              else
                dt = load(s.projections, from, first + d / (channels / rank));
              dt = round_to(s.x.dtype, static_cast<float>(dt));
              const double delta = softplus(dt + s.dt_bias.as<float>()[kd]);
              const double x = load(s.x, from, d);
              double sum = s.D.as<float>()[kd] * x;
              for (int64_t n = 0; n < states; ++n) {
                double& state = h[static_cast<size_t>(n)];
                state = std::exp(delta * s.A.as<float>()[kd * states + n]) * state +
                        delta * load(s.projections, from, first + rank + n) * x;
                sum += load(s.projections, from, first + rank + states + n) * state;
              }
              y[static_cast<size_t>(k * s.x.elements() + to * channels + d)] =
                  round_to(written, static_cast<float>(sum));
            }
          }
    }
    for (int64_t i = 0; i < s.x.elements(); ++i) {
      const auto of = [&](int k) { return y[static_cast<size_t>(k * s.x.elements() + i)]; };
      s.y.as<float>()[i] = directions == 2 ? of(0) + of(1) : (of(0) + of(2)) + (of(1) + of(3));
    }
    if (s.directions) std::memcpy(s.directions.data, y.data(), y.size() * sizeof(float));
  }

 private:
  std::vector<std::chrono::steady_clock::time_point> marks_;
};

}  // namespace

std::unique_ptr<Kernels> make_scalar_kernels() {
  return std::make_unique<ScalarKernels>();
}

}  // namespace vmamba
