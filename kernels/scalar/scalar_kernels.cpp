// The scalar oracle: the operations of kernels/kernels.h as they are defined there, one plain loop nest each.
// Sums are in double and rounded once, when a result is stored. The fast kernels of every device are tested
// against it, and float64 runs on it, so it is kept simple rather than fast: loops are split over threads by
// what they write, and each sum has one order. Notation and shapes as in kernels.h.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "kernels/error.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "kernels/scalar/jpeg.h"

namespace vmamba {
namespace {

double load(const View& view, int64_t row, int64_t channel) {
  const int64_t i = row * view.row_stride + channel;
  if (view.dtype == DType::float64) return view.as<double>()[i];
  if (view.dtype == DType::float32) return view.as<float>()[i];
  return half_to_float(view.dtype, view.as<uint16_t>()[i]);
}
// Of a dense View.
double load(const View& view, int64_t i) {
  return load(view, 0, i);
}

void store(const View& view, int64_t row, int64_t channel, double value) {
  const int64_t i = row * view.row_stride + channel;
  const float single = static_cast<float>(value);
  if (view.dtype == DType::float64)
    view.as<double>()[i] = value;
  else if (view.dtype == DType::float32)
    view.as<float>()[i] = single;
  else
    view.as<uint16_t>()[i] = float_to_half(view.dtype, single);
}

double rounded(DType dtype, double value) {
  return dtype == DType::float64 ? value : static_cast<double>(round_to(dtype, static_cast<float>(value)));
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

// The weights (out, in) of a product, widened, in tiles of outputs: (out / tile, in, tile), zeros beyond the
// last. The sums of one tile stay in registers and cache while its inputs pass.
class Tiles {
 public:
  static constexpr int64_t tile = 32;
  explicit Tiles(const View& w)
      : outputs_(w.dim(0)), inputs_(w.elements() / w.dim(0)), values_(count() * inputs_ * tile) {
    for (int64_t o = 0; o < outputs_; ++o)
      for (int64_t i = 0; i < inputs_; ++i)
        values_[(o / tile * inputs_ + i) * tile + o % tile] = load(w, o * inputs_ + i);
  }
  int64_t count() const { return (outputs_ + tile - 1) / tile; }
  // sums += x · w[i] of the tile's outputs.
  void add(double* sums, int64_t of, int64_t i, double x) const {
    const double* w = values_.data() + (of * inputs_ + i) * tile;
    for (int64_t j = 0; j < tile; ++j) sums[j] += x * w[j];
  }
  // Calls each(output, j) for the outputs of a tile.
  template <class Each>
  void outputs(int64_t of, const Each& each) const {
    for (int64_t o = of * tile; o < std::min(outputs_, (of + 1) * tile); ++o) each(o, o % tile);
  }

 private:
  int64_t outputs_, inputs_;
  std::vector<double> values_;
};

class ScalarKernels final : public Kernels {
 public:
  explicit ScalarKernels(int threads) : Kernels(Device{}, true), threads_(threads_to_use(threads)) {}
  std::string description() const override {
    return fmt::format("scalar oracle, {} thread{}", threads_, threads_ == 1 ? "" : "s");
  }

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

  bool decodes_jpegs() const override { return true; }
  std::vector<int64_t> do_decode_jpegs(const DecodeJpegs& op) override {
    if (op.pixels.data != op.y.data) copy(op.pixels, op.y);
    const size_t each = op.y.bytes() / static_cast<size_t>(op.y.dim(0));
    std::vector<int64_t> unfit;
    for (const auto& [place, bytes] : op.jpegs)
      if (!decode_jpeg(*reinterpret_cast<const JpegImage*>(bytes.data()), static_cast<int>(op.y.dim(1)),
                       static_cast<int>(op.y.dim(2)), op.y.as<uint8_t>() + static_cast<size_t>(place) * each))
        unfit.push_back(place);
    return unfit;
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
    const Tiles tiles(w);
    each_range(y.rows(), [&](int64_t begin, int64_t end) {
      for (int64_t of = 0; of < tiles.count(); ++of)
        for (int64_t row = begin; row < end; ++row) {
          double sums[Tiles::tile] = {};
          if (bias) tiles.outputs(of, [&](int64_t o, int64_t j) { sums[j] = load(bias, o); });
          for (int64_t i = 0; i < x.channels(); ++i) tiles.add(sums, of, i, load(x, row, i));
          tiles.outputs(of, [&](int64_t o, int64_t j) {
            store(y, row, o, activated(act, sums[j]) + (residual ? load(residual, row, o) : 0));
          });
        }
    });
  }

  void do_conv2d(const Conv2d& op) override {
    const auto& [x, w, bias, stride, padding, y] = op;
    const Tiles tiles(w);
    each_range(y.rows(), [&](int64_t begin, int64_t end) {
      for (int64_t of = 0; of < tiles.count(); ++of)
        for (int64_t at = begin; at < end; ++at) {
          const int64_t b = at / (y.dim(1) * y.dim(2)), i = at / y.dim(2) % y.dim(1), j = at % y.dim(2);
          double sums[Tiles::tile] = {};
          if (bias) tiles.outputs(of, [&](int64_t o, int64_t k) { sums[k] = load(bias, o); });
          for (int64_t u = 0; u < w.dim(1); ++u)
            for (int64_t v = 0; v < w.dim(2); ++v) {
              const int64_t row = i * stride + u - padding, column = j * stride + v - padding;
              if (row < 0 || row >= x.dim(1) || column < 0 || column >= x.dim(2)) continue;
              for (int64_t c = 0; c < x.dim(3); ++c)
                tiles.add(sums, of, (u * w.dim(2) + v) * x.dim(3) + c, load(x, pixel(x, b, row, column), c));
            }
          tiles.outputs(of, [&](int64_t o, int64_t k) { store(y, at, o, sums[k]); });
        }
    });
  }

  void do_depthwise_conv2d(const DepthwiseConv2d& op) override {
    const auto& [x, w, bias, act, y] = op;
    const int64_t half = w.dim(0) / 2;
    each_range(y.rows(), [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) {
        const int64_t b = at / (y.dim(1) * y.dim(2)), i = at / y.dim(2) % y.dim(1), j = at % y.dim(2);
        for (int64_t d = 0; d < y.dim(3); ++d) {
          double sum = bias ? load(bias, d) : 0;
          for (int64_t u = 0; u < w.dim(0); ++u)
            for (int64_t v = 0; v < w.dim(1); ++v) {
              const int64_t row = i + u - half, column = j + v - half;
              if (row < 0 || row >= x.dim(1) || column < 0 || column >= x.dim(2)) continue;
              sum += load(x, pixel(x, b, row, column), d) * load(w, u * w.dim(1) + v, d);
            }
          store(y, at, d, activated(act, sum));
        }
      }
    });
  }

  void do_layer_norm(const LayerNorm& op) override {
    const auto& [x, gamma, beta, epsilon, act, gate, rounding, y] = op;
    const DType step = rounding == Rounding::each_step ? y.dtype : computed_in(y.dtype);
    const int64_t channels = x.channels();
    each_range(x.rows(), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        double mean = 0, variance = 0;
        for (int64_t c = 0; c < channels; ++c) mean += load(x, row, c);
        mean /= static_cast<double>(channels);
        for (int64_t c = 0; c < channels; ++c) variance += std::pow(load(x, row, c) - mean, 2);
        variance /= static_cast<double>(channels);
        for (int64_t c = 0; c < channels; ++c) {
          double value = (load(x, row, c) - mean) / std::sqrt(variance + static_cast<double>(epsilon));
          if (gamma) value = value * load(gamma, c) + load(beta, c);
          value = rounded(step, value);
          if (act != Activation::none) value = rounded(step, activated(act, value));
          store(y, row, c, gate ? value * load(gate, row, c) : value);
        }
      }
    });
  }

  void do_channel_affine(const ChannelAffine& op) override {
    const auto& [x, scale, shift, act, y] = op;
    for (int64_t row = 0; row < x.rows(); ++row)
      for (int64_t c = 0; c < x.channels(); ++c)
        store(y, row, c, activated(act, load(x, row, c) * load(scale, c) + load(shift, c)));
  }

  void do_activate(const Activate& op) override {
    const auto& [x, act, gate, rounding, y] = op;
    for (int64_t row = 0; row < x.rows(); ++row)
      for (int64_t c = 0; c < x.channels(); ++c) {
        double value = activated(act, load(x, row, c));
        if (rounding == Rounding::each_step) value = rounded(y.dtype, value);
        store(y, row, c, gate ? value * load(gate, row, c) : value);
      }
  }

  void do_add(const View& x, const View& other, const View& y) override {
    for (int64_t row = 0; row < x.rows(); ++row)
      for (int64_t c = 0; c < x.channels(); ++c)
        store(y, row, c, load(x, row, c) + load(other, row % other.rows(), c));
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
    const DType summed = computed_in(s.x.dtype);
    const DType written = s.direction_rounding == DirectionRounding::storage ? s.x.dtype : summed;
    std::vector<double> y(static_cast<size_t>(directions * s.x.elements()));
    std::vector<double> states_of_threads(static_cast<size_t>(threads_ * states));

    parallel_ranges(threads_, directions * channels, 1, [&](int64_t begin, int64_t end, int thread) {
      double* h = states_of_threads.data() + thread * states;
      for (int64_t kd = begin; kd < end; ++kd) {
        const int k = static_cast<int>(kd / channels);
        const int64_t d = kd % channels, first = k * per_direction;
        const ScanDirection direction = scan_direction(s.order, k);
        const int64_t lines = direction.per_line ? (direction.columns ? width : height) : 1;
        const int64_t length = height * width / lines;
        // Row of the i-th pixel of a forward sequence.
        const auto at = [&](int64_t b, int64_t line, int64_t i) {
          const int64_t at_step = line * length + i;
          return direction.columns ? pixel(s.x, b, at_step % height, at_step / height)
                                   : b * height * width + at_step;
        };
        for (int64_t b = 0; b < s.x.dim(0); ++b)
          for (int64_t line = 0; line < lines; ++line) {
            std::fill(h, h + states, 0.0);
            for (int64_t i = 0; i < length; ++i) {
              const int64_t from = at(b, line, direction.reversed ? length - 1 - i : i);
              const int64_t to = direction.mirrored_output ? at(b, line, i) : from;
              double dt = 0;
              if (s.dt_weight)
                for (int64_t r = 0; r < rank; ++r)
                  dt += load(s.dt_weight, kd, r) * load(s.projections, from, first + r);
              else
                dt = load(s.projections, from, first + d / (channels / rank));
              const double delta = softplus(rounded(s.x.dtype, dt) + load(s.dt_bias, kd));
              const double x = load(s.x, from, d);
              double sum = load(s.D, kd) * x;
              for (int64_t n = 0; n < states; ++n) {
                h[n] = std::exp(delta * load(s.A, kd * states + n)) * h[n] +
                       delta * load(s.projections, from, first + rank + n) * x;
                sum += load(s.projections, from, first + rank + states + n) * h[n];
              }
              y[static_cast<size_t>(k * s.x.elements() + to * channels + d)] = rounded(written, sum);
            }
          }
      }
    });
    for (int64_t i = 0; i < s.x.elements(); ++i) {
      const auto of = [&](int k) { return y[static_cast<size_t>(k * s.x.elements() + i)]; };
      const auto sum = [&](double one, double other) { return rounded(summed, one + other); };
      store(s.y, 0, i, directions == 2 ? of(0) + of(1) : sum(of(0), of(2)) + sum(of(1), of(3)));
    }
    if (s.directions)
      for (size_t i = 0; i < y.size(); ++i) store(s.directions, 0, static_cast<int64_t>(i), y[i]);
  }

 private:
  // Calls body(begin, end) for shares of [0, count), one a thread.
  template <class Body>
  void each_range(int64_t count, const Body& body) const {
    parallel_ranges(threads_, count, 1, body);
  }

  const int threads_;
  std::vector<std::chrono::steady_clock::time_point> marks_;
};

}  // namespace

std::unique_ptr<Kernels> make_scalar_kernels(int threads) {
  return std::make_unique<ScalarKernels>(threads);
}

}  // namespace vmamba
