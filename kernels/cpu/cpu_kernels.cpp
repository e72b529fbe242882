// CpuKernels: memory, threads, and the operations of kernels/kernels.h in terms of the float32 kernels of
// this folder. An operation widens its 16-bit operands into scratch memory, computes in float32, and rounds
// the result into y. Notation and shapes as in kernels.h.
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cgroup.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <optional>

#include "kernels/cpu/memory.h"
#include "kernels/cpu/products/amx.h"
#include "kernels/cpu/products/onednn.h"
#include "kernels/cpu/scan/scan.h"
#include "kernels/cpu/vector_kernels.h"
#include "kernels/error.h"
#include "kernels/parallel.h"
#include "kernels/platform.h"

namespace vmamba::cpu {
namespace {

// Memory for the intermediate values of one operation. Grows to what the largest operation needs and is then
// reused.
class Scratch final : public ScratchMemory {
 public:
  float* floats(int64_t count) override {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 255) / 256 * 256;
    if (blocks_.empty() || blocks_.back().used + bytes > blocks_.back().size) {
      const auto size = std::max(bytes, huge_page);
      blocks_.push_back({std::unique_ptr<char, Free>(static_cast<char*>(aligned_memory(size))), size, 0});
    }
    Block& block = blocks_.back();
    block.used += bytes;
    return reinterpret_cast<float*>(block.memory.get() + block.used - bytes);
  }
  // Takes back everything handed out; several blocks are replaced by one of their total size.
  void reset() {
    size_t size = 0;
    for (Block& block : blocks_) size += block.size, block.used = 0;
    if (blocks_.size() <= 1) return;
    blocks_.clear();
    blocks_.push_back({std::unique_ptr<char, Free>(static_cast<char*>(aligned_memory(size))), size, 0});
  }

 private:
  struct Block {
    std::unique_ptr<char, Free> memory;
    size_t size, used;
  };
  std::vector<Block> blocks_;
};

// What was derived from weights, by their address and shape.
template <class Value>
class WeightCache {
 public:
  const Value* find(const View& w) const {
    const auto found = entries_.find(w.data);
    return found != entries_.end() && found->second.first == w.dims ? &found->second.second : nullptr;
  }
  Value& insert(const View& w, Value value) {
    auto& entry = entries_[w.data] = {w.dims, std::move(value)};
    return entry.second;
  }
  // Drops what was derived from weights in [begin, begin + bytes).
  void forget(const void* begin, size_t bytes) noexcept {
    const auto* end = static_cast<const char*>(begin) + bytes;
    entries_.erase(entries_.lower_bound(begin), entries_.lower_bound(end));
  }

 private:
  std::map<const void*, std::pair<std::array<int64_t, View::max_rank>, Value>> entries_;
};

// A vector of float32 weights, or null.
const float* values_or_null(const View& view) {
  return view.as<float>();
}

// Whether oneDNN gives the same bits with any number of threads (docs/verification.md, Repeatability).
bool any_threads_same_bits() {
  constexpr auto wanted = static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & wanted) == wanted;
}

class CpuKernels final : public Kernels {
 public:
  explicit CpuKernels(int threads)
      : Kernels(Device{}),
        chooses_(threads == 0),
        most_threads_(threads_to_use(threads)),
        threads_(most_threads_) {
    if (amx_available()) amx_.emplace(scratch_);
  }

  std::string description() const override {
    return fmt::format("{}, {} thread{}{}, {}", processor_name(), most_threads_,
                       most_threads_ == 1 ? "" : "s", may_use_one() ? " (1 for small forwards)" : "",
                       simd_target());
  }
  void expect_work(uint64_t multiply_accumulates) override {
    const bool is_small = multiply_accumulates < work_to_wake_for / static_cast<uint64_t>(most_threads_);
    threads_ = is_small && may_use_one() ? 1 : most_threads_;
  }

  // --- Memory.
  void* allocate(size_t bytes) override {
    void* memory = aligned_memory(bytes);
    owned_.emplace(memory, bytes);
    return memory;
  }
  void release(void* memory) noexcept override {
    const auto found = owned_.find(memory);
    if (found != owned_.end()) {
      forget(memory, found->second);
      owned_.erase(found);
    }
    std::free(memory);
  }
  size_t available_memory() const override { return free_memory(); }
  void copy(const View& from, const View& to) override {
    std::memcpy(to.data, from.data, from.bytes());
    forget(to.data, to.bytes());
  }
  void mark() override { marks_.push_back(std::chrono::steady_clock::now()); }
  std::vector<float> elapsed_ms() override {
    std::vector<float> times;
    for (size_t i = 1; i < marks_.size(); ++i) {
      times.push_back(std::chrono::duration<float, std::milli>(marks_[i] - marks_[i - 1]).count());
    }
    marks_.clear();
    return times;
  }

 protected:
  void do_normalize(const View& pixels, const float* mean, const float* std, const View& y) override {
    begin();
    std::array<std::array<float, 3>, 256> values{};  // of each byte
    for (size_t byte = 0; byte < 256; ++byte) {
      for (size_t c = 0; c < 3; ++c) values[byte][c] = (static_cast<float>(byte) / 255.0f - mean[c]) / std[c];
    }
    const Out out = output(y);
    const auto* bytes = pixels.as<uint8_t>();
    parallel_ranges(threads_, y.rows(), 1 << 12, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        for (size_t c = 0; c < 3; ++c)
          out.rows.at(row)[c] = values[bytes[row * 3 + static_cast<int64_t>(c)]][c];
      }
    });
    finish(out);
  }

  void do_nchw_to_nhwc(const View& x, const View& y) override {
    begin();
    const Out out = output(y);
    const int64_t pixels = x.dim(2) * x.dim(3), channels = x.dim(1);
    parallel_ranges(threads_, y.rows(), 1 << 12, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const float* from = x.as<float>() + row / pixels * channels * pixels + row % pixels;
        for (int64_t c = 0; c < channels; ++c) out.rows.at(row)[c] = from[c * pixels];
      }
    });
    finish(out);
  }

  void do_cast(const View& x, const View& y) override {
    begin();
    PointwiseArgs args;
    args.x = input(x);
    const Out out = output(y);
    args.y = out.rows;
    args.channels = x.channels();
    run_rows(x, args);
    finish(out);
    forget(y.data, static_cast<size_t>(y.rows() * y.row_stride) * size_of(y.dtype));
  }

  void do_linear(const Linear& op) override {
    const auto& [x, w, bias, act, residual, y] = op;
    begin();
    const Rows in = input(x);
    const Out out = output(y);
    LinearShape shape;
    shape.rows = x.rows(), shape.in = x.channels(), shape.out = y.channels();
    shape.x_stride = in.stride, shape.y_stride = out.rows.stride;
    shape.act = act;
    shape.bias = static_cast<bool>(bias);
    // oneDNN's ReLU turns NaN into a number, and on ARM its sigmoid too, so they are separate steps.
    const bool fused = act != Activation::relu && act != Activation::sigmoid;
    Rows result = out.rows;
    if (residual && fused) {
      shape.accumulate = true;
      if (residual.data != out.rows.data) copy_rows(residual, out.rows);
    } else if (residual) {
      result = {scratch_.floats(shape.rows * shape.out), shape.out};
      shape.y_stride = shape.out;
    }
    if (!fused) shape.act = Activation::none;
    if (amx_) {
      amx_->use_threads(threads_);
      amx_->linear(shape, x.dtype, in.data, source(w), values_or_null(bias), result.data);
    } else {
      with_onednn(
          [&] { onednn_.linear(shape, in.data, source(op.w), values_or_null(op.bias), result.data); });
    }
    if (!fused) {
      PointwiseArgs args;
      args.x = args.y = result;
      args.act = act;
      args.channels = shape.out;
      run_rows(y, args);
      if (residual) {
        const AddArgs sum{result, input(residual), out.rows, shape.rows, shape.out};
        parallel_rows(y, [&](int64_t first, int64_t last) { add_rows(sum, first, last); });
      }
    }
    finish(out);
  }

  void do_conv2d(const Conv2d& op) override {
    const auto& [x, w, bias, stride, padding, y] = op;
    begin();
    const Rows in = input(x);
    const Out out = output(y);
    const ConvShape shape{.batch = x.dim(0),
                          .height = x.dim(1),
                          .width = x.dim(2),
                          .in = x.dim(3),
                          .out = y.dim(3),
                          .kernel_height = w.dim(1),
                          .kernel_width = w.dim(2),
                          .out_height = y.dim(1),
                          .out_width = y.dim(2),
                          .stride = stride,
                          .padding = padding,
                          .bias = static_cast<bool>(bias)};
    if (amx_) {
      amx_->use_threads(threads_);
      amx_->conv2d(shape, x.dtype, in.data, source(w), values_or_null(bias), out.rows.data);
    } else {
      with_onednn(
          [&] { onednn_.conv2d(shape, in.data, source(op.w), values_or_null(op.bias), out.rows.data); });
    }
    finish(out);
  }

  void do_depthwise_conv2d(const DepthwiseConv2d& op) override {
    const auto& [x, w, bias, act, y] = op;
    begin();
    DepthwiseArgs args;
    args.x = input(x);
    const Out out = output(y);
    args.y = out.rows;
    args.w = w.as<float>();
    args.bias = values_or_null(bias);
    args.height = x.dim(1), args.width = x.dim(2), args.channels = x.dim(3), args.kernel = w.dim(0);
    args.act = act;
    float* zeros = scratch_.floats(args.channels);
    std::fill_n(zeros, args.channels, 0.0f);
    args.zeros = zeros;
    parallel_ranges(threads_, x.dim(0) * x.dim(1), 1,
                    [&](int64_t first, int64_t last) { depthwise_lines(args, first, last); });
    finish(out);
  }

  void do_layer_norm(const LayerNorm& op) override {
    const auto& [x, gamma, beta, epsilon, act, gate, rounding, y] = op;
    begin();
    NormArgs args;
    args.x = input(x);
    const Out out = output(y);
    args.y = out.rows;
    args.gamma = values_or_null(gamma);
    args.beta = values_or_null(beta);
    args.epsilon = epsilon;
    args.channels = x.channels();
    // With one step alone, finish() rounds its result.
    const bool in_steps =
        rounding == Rounding::each_step && y.dtype != DType::float32 && (act != Activation::none || gate);
    if (!in_steps) {
      args.act = act;
      if (gate) args.gate = input(gate);
    }
    parallel_rows(x, [&](int64_t first, int64_t last) { layer_norm_rows(args, first, last); });
    if (in_steps) {
      round_rows(out);
      activate_rounded(out, act, gate);
    }
    finish(out);
  }

  void do_channel_affine(const ChannelAffine& op) override {
    const auto& [x, scale, shift, act, y] = op;
    begin();
    PointwiseArgs args;
    args.x = input(x);
    const Out out = output(y);
    args.y = out.rows;
    args.scale = scale.as<float>();
    args.shift = shift.as<float>();
    args.act = act;
    args.channels = x.channels();
    run_rows(x, args);
    finish(out);
  }

  void do_activate(const Activate& op) override {
    const auto& [x, act, gate, rounding, y] = op;
    begin();
    PointwiseArgs args;
    args.x = input(x);
    const Out out = output(y);
    args.y = out.rows;
    args.act = act;
    args.channels = x.channels();
    const bool in_steps = rounding == Rounding::each_step && gate && y.dtype != DType::float32;
    if (in_steps) {
      args.act = Activation::none;
    } else if (gate) {
      args.gate = input(gate);
    }
    run_rows(x, args);
    if (in_steps) activate_rounded(out, act, gate);
    finish(out);
  }

  void do_add(const View& x, const View& other, const View& y) override {
    begin();
    const Rows in = input(x), second = input(other);
    const Out out = output(y);
    const AddArgs args{in, second, out.rows, other.rows(), x.channels()};
    parallel_rows(x, [&](int64_t first, int64_t last) { add_rows(args, first, last); });
    finish(out);
  }

  void do_softmax_pixels(const View& x, const View& y) override {
    begin();
    const Rows in = input(x);
    const Out out = output(y);
    const int64_t pixels = x.dim(1) * x.dim(2);
    for_channels(x, [&](int64_t b, int64_t first, int64_t last) {
      softmax_rows({in.at(b * pixels), in.stride}, pixels, first, last,
                   {out.rows.at(b * pixels), out.rows.stride});
    });
    finish(out);
  }

  void do_merge_patches(const View& x, const View& y) override {
    const int64_t height = x.dim(1), width = x.dim(2), out_height = y.dim(1), out_width = y.dim(2);
    const size_t bytes = static_cast<size_t>(x.channels()) * size_of(x.dtype);
    const int64_t x_step = x.row_stride * static_cast<int64_t>(size_of(x.dtype)),
                  y_step = y.row_stride * static_cast<int64_t>(size_of(y.dtype));
    parallel_ranges(threads_, y.rows(), 64, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t b = row / (out_height * out_width), h = row / out_width % out_height,
                      w = row % out_width;
        for (int quarter = 0; quarter < 4; ++quarter) {
          const int64_t from_h = 2 * h + quarter % 2, from_w = 2 * w + quarter / 2;
          char* to = y.as<char>() + row * y_step + static_cast<size_t>(quarter) * bytes;
          if (from_h < height && from_w < width) {
            std::memcpy(to, x.as<char>() + ((b * height + from_h) * width + from_w) * x_step, bytes);
          } else {
            std::memset(to, 0, bytes);
          }
        }
      }
    });
  }

  void do_mean_pool(const View& x, const View& y) override {
    begin();
    const Rows in = input(x);
    const int64_t pixels = x.dim(1) * x.dim(2);
    for_channels(x, [&](int64_t b, int64_t first, int64_t last) {
      mean_rows({in.at(b * pixels), in.stride}, pixels, first, last, y.as<float>() + b * y.row_stride);
    });
  }

  void do_selective_scan_2d(const SelectiveScan2d& scan) override {
    begin();
    ScanArgs args;
    args.order = scan.order;
    args.batch = scan.x.dim(0), args.height = scan.x.dim(1), args.width = scan.x.dim(2);
    args.channels = scan.x.dim(3), args.states = scan.A.dim(2);
    args.rank = scan.projections.channels() / args.directions_count() - 2 * args.states;
    args.x = input(scan.x);
    args.projections = input(scan.projections);
    if (scan.dt_weight) args.dt_weight = blocked(scan.dt_weight);
    args.dt_bias = scan.dt_bias.as<float>();
    args.A = scan.A.as<float>();
    args.D = scan.D.as<float>();
    args.same_A = has_same_states(scan.A);
    args.directions = scan.directions.as<float>();
    args.y = scan.y.as<float>();
    args.round_dt = scan.x.dtype;
    args.round_y = scan.direction_rounding == DirectionRounding::storage ? scan.x.dtype : DType::float32;
    run_scan(scan.backend, args, scratch_, threads_);
  }

 private:
  // Where an operation writes its float32 result: the memory of `target`, or scratch that finish() rounds
  // into it.
  struct Out {
    Rows rows;
    View target;
  };

  void begin() { scratch_.reset(); }

  template <class Body>
  void parallel_rows(const View& view, const Body& body) {
    parallel_ranges(threads_, view.rows(), 4096 / std::clamp<int64_t>(view.channels(), 1, 4096), body);
  }
  void run_rows(const View& view, const PointwiseArgs& args) {
    parallel_rows(view, [&](int64_t first, int64_t last) { pointwise_rows(args, first, last); });
  }
  // Calls body(image, first, last) for ranges of 64 channels of each image of a map.
  template <class Body>
  void for_channels(const View& map, const Body& body) {
    const int64_t shares = (map.channels() + 63) / 64;
    parallel_ranges(threads_, map.dim(0) * shares, 1, [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) {
        const int64_t channel = item % shares * 64;
        body(item / shares, channel, std::min(channel + 64, map.channels()));
      }
    });
  }

  Rows input(const View& view) {
    if (view.dtype == DType::float32) return {view.as<float>(), view.row_stride};
    const Rows rows{scratch_.floats(view.elements()), view.channels()};
    parallel_rows(view, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        widen(view.dtype, view.as<uint16_t>() + row * view.row_stride, rows.at(row), view.channels());
      }
    });
    return rows;
  }
  Out output(const View& view) {
    if (view.dtype == DType::float32) return {{view.as<float>(), view.row_stride}, view};
    return {{scratch_.floats(view.elements()), view.channels()}, view};
  }
  void finish(const Out& out) {
    const View& view = out.target;
    if (view.dtype == DType::float32) return;
    parallel_rows(view, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        narrow(view.dtype, out.rows.at(row), view.as<uint16_t>() + row * view.row_stride, view.channels());
      }
    });
  }
  void round_rows(const Out& out) {
    const View& view = out.target;
    parallel_rows(view, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row)
        round_in_place(view.dtype, out.rows.at(row), view.channels());
    });
  }
  // out = round(act(out)) · gate; out is rounded already.
  void activate_rounded(const Out& out, Activation act, const View& gate) {
    PointwiseArgs args;
    args.x = args.y = out.rows;
    args.channels = out.target.channels();
    if (act != Activation::none) {
      args.act = act;
      run_rows(out.target, args);
      round_rows(out);
    }
    if (gate) {
      args.act = Activation::none;
      args.gate = input(gate);
      run_rows(out.target, args);
    }
  }
  void copy_rows(const View& from, const Rows& to) {
    PointwiseArgs args;
    args.x = input(from);
    args.y = to;
    args.channels = from.channels();
    run_rows(from, args);
  }

  // --- Weights. Only memory of this object may be cached by its address: release, copy and cast tell when it
  // changes.
  bool is_owned(const void* memory) const {
    auto after = owned_.upper_bound(const_cast<void*>(memory));
    if (after == owned_.begin()) return false;
    --after;
    return static_cast<const char*>(memory) < static_cast<const char*>(after->first) + after->second;
  }
  WeightSource source(const View& w) const { return {w.data, w.dtype, w.elements(), is_owned(w.data)}; }
  void forget(const void* memory, size_t bytes) noexcept {
    onednn_.forget(memory, bytes);
    if (amx_) amx_->forget(memory, bytes);
    blocked_.forget(memory, bytes);
    same_states_.forget(memory, bytes);
  }
  // Whether A (K, D, N) has the same value for all states of a channel.
  bool has_same_states(const View& A) {
    if (const bool* known = same_states_.find(A)) return *known;
    bool same = true;
    for (int64_t row = 0; row < A.rows() && same; ++row) {
      const float* values = A.as<float>() + row * A.row_stride;
      same = std::all_of(values, values + A.channels(), [&](float a) { return a == values[0]; });
    }
    if (is_owned(A.data)) same_states_.insert(A, same);
    return same;
  }
  // dt_weight (K, D, R) T as (K, ceil(D / 16), R, 16) float32, zero beyond D.
  const float* blocked(const View& w) {
    if (const auto* values = blocked_.find(w)) return values->data();
    const Rows in = input(w);
    const int64_t count = w.dim(0), channels = w.dim(1), rank = w.dim(2), blocks = (channels + 15) / 16;
    const int64_t size = count * blocks * rank * 16;
    float* to = nullptr;
    if (is_owned(w.data)) {
      to = blocked_.insert(w, std::vector<float>(static_cast<size_t>(size))).data();
    } else {
      to = scratch_.floats(size);
    }
    std::fill_n(to, size, 0.0f);
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t d = 0; d < channels; ++d) {
        for (int64_t r = 0; r < rank; ++r) {
          to[((k * blocks + d / 16) * rank + r) * 16 + d % 16] = in.at(k * channels + d)[r];
        }
      }
    }
    return to;
  }

  template <class Body>
  void with_onednn(const Body& body) {
    const Team team(threads_);
    onednn_.use_threads(team.size);
    try {
      body();
    } catch (const dnnl::error& error) {
      if (error.status == dnnl_out_of_memory)
        throw OutOfMemory("out of memory in oneDNN; use a smaller batch");
      fail_machine("oneDNN: {} (status {})", error.what(), static_cast<int>(error.status));
    }
  }

  // 12 ms on one of two threads. Threads that sleep between a forward's short operations gain nothing then, and lose on a
  // busy machine (docs/reliability.md). More threads gain more, and are likelier to find a free processor.
  static constexpr uint64_t work_to_wake_for = uint64_t{1} << 31;

  bool may_use_one() const {
    return chooses_ && most_threads_ > 1 && waiting_threads_sleep() && any_threads_same_bits();
  }

  const bool chooses_;  // the number of threads was not given
  const int most_threads_;
  int threads_;  // the maximum of every operation
  Scratch scratch_;
  OneDnn onednn_;
  std::optional<AmxProducts> amx_;  // instead of oneDNN where the processor has it
  std::map<void*, size_t> owned_;   // address and bytes of what allocate returned
  WeightCache<std::vector<float>> blocked_;
  WeightCache<bool> same_states_;
  std::vector<std::chrono::steady_clock::time_point> marks_;
};

}  // namespace

std::unique_ptr<Kernels> make_cpu_kernels(int threads) {
  return std::make_unique<CpuKernels>(threads);
}

}  // namespace vmamba::cpu
