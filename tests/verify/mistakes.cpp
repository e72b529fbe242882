#include "tests/verify/mistakes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/half.h"
#include "lib/config/names.h"

namespace vmamba::testing {
namespace {

// The scalar oracle, with what a Mistaken says.
class MistakenKernels : public Kernels {
 public:
  MistakenKernels(const Mistaken& mistaken, const std::string& last_tap)
      : Kernels(Device{}), plain_(make_scalar_kernels()), mistaken_(mistaken), last_tap_(last_tap) {}
  std::string description() const override { return "mistaken"; }
  void* allocate(size_t bytes) override { return plain_->allocate(bytes); }
  void release(void* memory) noexcept override { plain_->release(memory); }
  size_t available_memory() const override { return plain_->available_memory(); }
  void copy(const View& from, const View& to) override { plain_->copy(from, to); }
  void mark() override {}
  std::vector<float> elapsed_ms() override { return {}; }

 protected:
  void do_normalize(const View& a, const float* b, const float* c, const View& d) override {
    plain_->normalize(a, b, c, d);
  }
  void do_nchw_to_nhwc(const View& a, const View& b) override { plain_->nchw_to_nhwc(a, b); }
  void do_cast(const View& a, const View& b) override { plain_->cast(a, b); }
  void do_linear(const Linear& right) override {
    Linear linear = right;
    const bool otherwise = replaced(right.act) && !right.residual;
    if (otherwise) linear.act = Activation::none;
    HostTensor x, w;
    if (mistaken_.factors && (mistaken_.product_after.empty() || last_tap_ == mistaken_.product_after)) {
      x = rounded(right.x), w = rounded(right.w);
      linear.x = View(x.values.data(), DType::float32, Device{}, {right.x.rows(), right.x.channels()});
      linear.w = View(w.values.data(), DType::float32, Device{}, {right.w.rows(), right.w.channels()});
      linear.y = flat(right.y);
      if (right.residual) linear.residual = flat(right.residual);
    }
    plain_->linear(linear);
    if (otherwise) replace(right.act, right.y);
  }
  void do_conv2d(const Conv2d& conv) override { plain_->conv2d(conv); }
  void do_depthwise_conv2d(const DepthwiseConv2d& right) override {
    DepthwiseConv2d conv = right;
    if (replaced(right.act)) conv.act = Activation::none;
    plain_->depthwise_conv2d(conv);
    if (replaced(right.act)) replace(right.act, right.y);
  }
  void do_layer_norm(const LayerNorm& right) override {
    LayerNorm norm = right;
    if (mistaken_.epsilon > 0) norm.epsilon = mistaken_.epsilon;
    if (mistaken_.ungated) norm.gate = {};
    HostTensor gated;
    if (mistaken_.gated_first && right.gate) {
      gated.values.resize(static_cast<size_t>(right.x.elements()));
      norm.x = dense(gated, right.x);
      plain_->activate({.x = right.x, .gate = right.gate, .y = norm.x});
      norm.gate = {};
    }
    const bool otherwise = replaced(right.act);
    const View gate = norm.gate;
    if (otherwise) norm.act = Activation::none, norm.gate = {};
    plain_->layer_norm(norm);
    if (mistaken_.unbiased && right.act == Activation::none && !gate)
      each(right.y, [&, shrink = std::sqrt(1 - 1 / static_cast<float>(right.x.channels()))](float& v, int64_t,
                                                                                            int64_t c) {
        const float shift = right.beta ? right.beta.as<float>()[c] : 0;
        v = (v - shift) * shrink + shift;
      });
    if (!otherwise) return;
    replace(right.act, right.y);
    if (gate) plain_->activate({.x = right.y, .gate = gate, .y = right.y});
  }
  void do_channel_affine(const ChannelAffine& right) override {
    ChannelAffine affine = right;
    if (replaced(right.act)) affine.act = Activation::none;
    plain_->channel_affine(affine);
    if (replaced(right.act)) replace(right.act, right.y);
  }
  void do_activate(const Activate& right) override {
    if (!replaced(right.act)) return plain_->activate(right);
    HostTensor values;
    values.values.resize(static_cast<size_t>(right.x.elements()));
    const View room = dense(values, right.x);
    plain_->activate({.x = right.x, .y = room});
    replace(right.act, room);
    plain_->activate({.x = room, .gate = right.gate, .y = right.y});
  }
  void do_add(const View& a, const View& b, const View& c) override { plain_->add(a, b, c); }
  void do_softmax_pixels(const View& a, const View& b) override { plain_->softmax_pixels(a, b); }
  void do_merge_patches(const View& a, const View& b) override { plain_->merge_patches(a, b); }
  void do_mean_pool(const View& a, const View& b) override { plain_->mean_pool(a, b); }
  void do_selective_scan_2d(const SelectiveScan2d& s) override {
    mistaken_.scan ? mistaken_.scan(s) : plain_->selective_scan_2d(s);
  }

 private:
  const std::function<float(float)>& other(Activation act) const {
    static const std::function<float(float)> none;
    return act == Activation::gelu ? mistaken_.gelu : act == Activation::silu ? mistaken_.silu : none;
  }
  bool replaced(Activation act) const { return static_cast<bool>(other(act)); }
  template <class Change>
  static void each(const View& y, Change&& change) {
    for (int64_t row = 0; row < y.rows(); ++row)
      for (int64_t c = 0; c < y.channels(); ++c) change(y.as<float>()[row * y.row_stride + c], row, c);
  }
  void replace(Activation act, const View& y) const {
    each(y, [&](float& v, int64_t, int64_t) { v = other(act)(v); });
  }
  HostTensor rounded(const View& x) const {
    HostTensor result;
    result.values.resize(static_cast<size_t>(x.elements()));
    each(x, [&](float& v, int64_t row, int64_t c) {
      result.values[static_cast<size_t>(row * x.channels() + c)] = mistaken_.factors(v);
    });
    return result;
  }
  static View dense(HostTensor& values, const View& like) {
    return View(values.values.data(), DType::float32, Device{},
                {like.dim(0), like.dim(1), like.dim(2), like.dim(3)});
  }
  static View flat(const View& view) {
    View result(view.data, view.dtype, view.device, {view.rows(), view.channels()});
    result.row_stride = view.row_stride;
    return result;
  }

  std::unique_ptr<Kernels> plain_;
  const Mistaken& mistaken_;
  const std::string& last_tap_;
};

class MistakenTaps : public Taps {
 public:
  MistakenTaps(Kernels& kernels, const Mistaken& mistaken, std::string& last_tap)
      : transfer_(kernels), mistaken_(mistaken), last_tap_(last_tap) {}
  bool wants(std::string_view) override { return true; }
  void at(std::string_view name, const View& value) override {
    last_tap_ = name;
    HostTensor host = transfer_.download(value);
    if (mistaken_.tap) {
      mistaken_.tap(last_tap_, host, values);
      transfer_.upload(host, value);
    }
    values.add(last_tap_, std::move(host));
  }
  TapValues values;

 private:
  Transfer transfer_;
  const Mistaken& mistaken_;
  std::string& last_tap_;
};

double softplus(double x) {
  return x > 20 ? x : std::log1p(std::exp(x));
}

// --- Making mistakes.

using Make = std::function<bool(Mistaken&)>;

Make in_scan(void (*change)(ScanMistake&), bool only_cross = false) {
  ScanMistake mistake;
  change(mistake);
  return [=](Mistaken& run) {
    if (run.config.ssm_ratio <= 0) return false;
    if (only_cross &&
        (run.config.forward.order != ScanOrder::cross || run.config.forward.core == Core::cascade))
      return false;
    run.scan = [=](const SelectiveScan2d& s) { mistaken_scan(mistake, s); };
    return true;
  };
}

bool ends(std::string_view name, std::string_view end) {
  return name.ends_with(end);
}

// Changes the values of every tensor whose name ends so; false: none, or nothing changed.
bool change(StateDict& weights, std::string_view end, const std::function<void(HostTensor&)>& edit,
            bool first_only = false) {
  StateDict result;
  result.where = weights.where;
  bool any = false;
  for (const auto& [name, tensor] : weights.tensors) {
    if (!is_floating(tensor.dtype) || !ends(name, end) || (any && first_only)) {
      result.tensors.emplace_back(name, tensor);
      continue;
    }
    HostTensor values = tensor.to_float32();
    const std::vector<float> before = values.values;
    edit(values);
    any |= values.values != before;
    result.add(name, values);
  }
  weights = std::move(result);
  return any;
}
Make in_weights(std::string end, std::function<void(HostTensor&)> edit, bool first_only = false) {
  return [=](Mistaken& run) { return change(run.weights, end, edit, first_only); };
}
// The largest element of the first such tensor, off by a thousandth.
Make one_element(std::string end) {
  return in_weights(
      std::move(end),
      [](HostTensor& t) {
        const auto less = [](float x, float y) { return std::abs(x) < std::abs(y); };
        *std::max_element(t.values.begin(), t.values.end(), less) *= 1.001f;
      },
      true);
}
// Rows of each of K = 4 directions' matrix: `from` gives the row that stands at `row`.
void permute_rows(HostTensor& t, int64_t rows, const std::function<int64_t(int64_t)>& from) {
  const int64_t columns = t.elements() / rows;
  const std::vector<float> old = t.values;
  for (int64_t row = 0; row < rows; ++row)
    std::copy_n(old.begin() + from(row) * columns, columns, t.values.begin() + row * columns);
}
Make swapped_directions(std::string end) {
  return in_weights(std::move(end), [](HostTensor& t) {
    const int64_t quarter = t.elements() / 4;
    std::swap_ranges(t.values.begin(), t.values.begin() + quarter, t.values.begin() + quarter);
  });
}
Make with_gelu(float (*f)(float)) {
  return [=](Mistaken& run) {
    run.gelu = f;
    return true;
  };
}
Make with_silu(float (*f)(float)) {
  return [=](Mistaken& run) {
    run.silu = f;
    return true;
  };
}
Make at_tap(std::string end, std::function<void(HostTensor&, const TapValues&)> edit) {
  return [=](Mistaken& run) {
    run.tap = [=](const std::string& tap, HostTensor& value, const TapValues& before) {
      if (ends(tap, end)) edit(value, before);
    };
    return true;
  };
}
Make rounded_at(std::string end, DType dtype) {
  return at_tap(std::move(end), [=](HostTensor& value, const TapValues&) {
    for (float& v : value.values) v = round_to(dtype, v);
  });
}
// Every block's output, and the residual stream that it started from.
Make at_blocks(std::function<void(HostTensor& block, const HostTensor& stream)> edit) {
  return [=](Mistaken& run) {
    run.tap = [=](const std::string& tap, HostTensor& value, const TapValues& before) {
      const auto place = in_block(tap);
      if (!place || !place->rest.empty()) return;
      const HostTensor* stream = nullptr;
      for (const auto& [name, each] : before.all())
        if (const auto other = in_block(name); (!other || other->rest.empty())) stream = &each;
      if (stream && stream->dims == value.dims) edit(value, *stream);
    };
    return true;
  };
}
Make in_config(std::function<bool(Config&)> edit) {
  return [=](Mistaken& run) { return edit(run.config); };
}
Make in_input(std::function<void(HostTensor&)> edit) {
  return [=](Mistaken& run) {
    edit(run.input);
    return true;
  };
}
Make with_epsilon(float epsilon) {
  return [=](Mistaken& run) {
    run.epsilon = epsilon;
    return true;
  };
}
Make with_factors(std::string after, float (*round)(float)) {
  return [=](Mistaken& run) {
    run.factors = round;
    run.product_after = after;
    return true;
  };
}

float sigmoid(float x) {
  return 1 / (1 + std::exp(-x));
}

std::vector<Mistake> catalogue() {
  std::vector<Mistake> all;
  const auto add = [&](std::string name, Make make, std::string cause = {}) {
    all.push_back({std::move(name), std::move(cause), std::move(make)});
  };
  // Activations.
  add("GELU by tanh", with_gelu([](float x) {
        return 0.5f * x * (1 + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
      }));
  add("GELU as x sigmoid(1.702 x)", with_gelu([](float x) { return x * sigmoid(1.702f * x); }));
  add("SiLU in place of GELU", with_gelu([](float x) { return x * sigmoid(x); }));
  add("ReLU in place of GELU", with_gelu([](float x) { return std::max(0.0f, x); }));
  add("GELU left out", with_gelu([](float x) { return x; }));
  add("SiLU by a hard sigmoid", with_silu([](float x) { return x * std::clamp(x / 6 + 0.5f, 0.0f, 1.0f); }));
  add("sigmoid in place of SiLU", with_silu(sigmoid));
  add("GELU in place of SiLU", with_silu([](float x) { return 0.5f * x * (1 + std::erf(x * 0.70710678f)); }));
  add("SiLU left out", with_silu([](float x) { return x; }));
  add("SiLU with exp in 11 bits",
      with_silu([](float x) { return x / (1 + round_to(DType::float16, std::exp(-x))); }));
  // Norms.
  add("LayerNorm's epsilon 1e-6", with_epsilon(1e-6f));
  add("LayerNorm's epsilon 1e-3", with_epsilon(1e-3f));
  add("LayerNorm's variance over C - 1", [](Mistaken& run) { return run.unbiased = true; });
  add("BatchNorm's epsilon 1e-3", in_weights("running_var", [](HostTensor& t) {
        for (float& v : t.values) v += 1e-3f - 1e-5f;
      }));
  add("out_norm after the gate", [](Mistaken& run) {
    return run.gated_first = run.config.forward.gated && run.config.forward.out_norm == OutNorm::layer_norm;
  });
  add("out_norm's bias left out",
      in_weights("out_norm.bias", [](HostTensor& t) { std::fill(t.values.begin(), t.values.end(), 0.0f); }));
  add("classifier.norm left out", [](Mistaken& run) {
    run.tap = [](const std::string& tap, HostTensor& value, const TapValues& before) {
      if (tap == "classifier.norm") value = before.all().back().second;
    };
    return run.config.norm_layer != NormLayer::bn;
  });
  // The gate.
  add("the gate z left out", [](Mistaken& run) {
    return run.ungated = run.config.forward.gated && run.config.forward.out_norm == OutNorm::layer_norm;
  });
  add("the gate's activation left out", in_config([](Config& config) {
        const bool had = config.forward.gated && config.forward.gate_act && !config.forward.old_block;
        config.forward.gate_act = false;
        return had;
      }));
  add("x and z swapped", [](Mistaken& run) {
    return run.config.forward.gated && change(run.weights, ".in_proj.weight", [](HostTensor& t) {
             std::swap_ranges(t.values.begin(), t.values.begin() + t.elements() / 2,
                              t.values.begin() + t.elements() / 2);
           });
  });
  // The scan.
  add("A 1 % too large", in_scan([](ScanMistake& m) { m.A = [](double A) { return A * 1.01; }; }));
  add("A 0.1 % too large", in_scan([](ScanMistake& m) { m.A = [](double A) { return A * 1.001; }; }));
  add("A's sign", in_scan([](ScanMistake& m) { m.A = [](double A) { return -A; }; }), "its sign is lost");
  add("A without exp", in_scan([](ScanMistake& m) { m.A = [](double A) { return -std::log(-A); }; }),
      "exp is left out");
  add("A = A_logs", in_scan([](ScanMistake& m) { m.A = [](double A) { return std::log(-A); }; }),
      "A = A_logs");
  add("the decay as 1 + delta A", in_scan([](ScanMistake& m) { m.decay = [](double x) { return 1 + x; }; }));
  add("B held exactly, not by Euler", in_scan([](ScanMistake& m) {
        m.input = [](double delta, double A) { return A == 0 ? delta : std::expm1(delta * A) / A; };
      }));
  add("B not multiplied by delta",
      in_scan([](ScanMistake& m) { m.input = [](double, double) { return 1.0; }; }),
      "not multiplied by delta");
  add("softplus left out",
      in_scan([](ScanMistake& m) { m.delta = [](double dt, double bias) { return dt + bias; }; }),
      "softplus is left out");
  add("softplus linear above 1", in_scan([](ScanMistake& m) {
        m.delta = [](double dt, double bias) { return dt + bias > 1 ? dt + bias : softplus(dt + bias); };
      }));
  add("softplus as exp",
      in_scan([](ScanMistake& m) { m.delta = [](double dt, double bias) { return std::exp(dt + bias); }; }));
  add("dt's bias left out",
      in_scan([](ScanMistake& m) { m.delta = [](double dt, double) { return softplus(dt); }; }),
      "dt_projs_bias is left out");
  add("dt's bias after softplus",
      in_scan([](ScanMistake& m) { m.delta = [](double dt, double bias) { return softplus(dt) + bias; }; }));
  add("dt's bias twice", in_scan([](ScanMistake& m) {
        m.delta = [](double dt, double bias) { return softplus(dt + 2 * bias); };
      }));
  add("D left out", in_scan([](ScanMistake& m) { m.skip = 0; }), "the skip Ds * x is left out");
  add("D 0.1 % too large", in_scan([](ScanMistake& m) { m.skip = 1.001; }));
  add("B and C swapped", in_scan([](ScanMistake& m) { m.swap_B_C = true; }));
  add("k0 and k1 swapped",
      in_scan(
          [](ScanMistake& m) {
            m.path = {1, 0, 2, 3};
          },
          true),
      "k0 and k1 are swapped");
  add("k1 and k3 swapped",
      in_scan(
          [](ScanMistake& m) {
            m.path = {0, 3, 2, 1};
          },
          true),
      "k1 and k3 are swapped");
  add("k2 and k3 swapped",
      in_scan(
          [](ScanMistake& m) {
            m.path = {0, 1, 3, 2};
          },
          true),
      "k2 and k3 are swapped");
  add("k2 not flipped", in_scan([](ScanMistake& m) { m.forward[2] = true; }, true), "k2 is not reversed");
  add("k3 not flipped", in_scan([](ScanMistake& m) { m.forward[3] = true; }, true), "k3 is not reversed");
  add("k2 not flipped back", in_scan([](ScanMistake& m) { m.unflipped[2] = true; }, true),
      "not flipped back");
  add("k3 not flipped back", in_scan([](ScanMistake& m) { m.unflipped[3] = true; }, true),
      "not flipped back");
  add("columns not transposed back", in_scan([](ScanMistake& m) { m.untransposed = true; }, true),
      "not transposed back");
  add("a direction left out of the merge", in_scan([](ScanMistake& m) { m.weight = {1, 0, 1, 1}; }));
  add("the merge as a mean", in_scan([](ScanMistake& m) { m.weight = {0.25, 0.25, 0.25, 0.25}; }));
  add("dt's ranks in reverse order", [](Mistaken& run) {
    return change(run.weights, "dt_projs_weight", [](HostTensor& t) {
      for (int64_t row = 0, R = t.dims.back(); row < t.elements() / R; ++row)
        std::reverse(t.values.begin() + row * R, t.values.begin() + (row + 1) * R);
    });
  });
  add("x_proj's parts as B, C, dt", [](Mistaken& run) {
    const int64_t N = run.config.ssm_d_state;
    return change(run.weights, "x_proj_weight", [&](HostTensor& t) {
      const int64_t rows = t.dims.size() == 3 ? t.dims[0] * t.dims[1] : t.dims[0], per = rows / 4,
                    R = per - 2 * N;
      permute_rows(t, rows, [&](int64_t row) {
        const int64_t in = row % per;
        return row - in + (in < 2 * N ? R + in : in - 2 * N);
      });
    });
  });
  add("x_proj's directions k0 and k1 swapped", swapped_directions("x_proj_weight"));
  add("dt_projs_bias of k0 and k1 swapped", swapped_directions("dt_projs_bias"));
  add("A_logs 0.1 % larger", in_weights("A_logs", [](HostTensor& t) {
        for (float& v : t.values) v *= 1.001f;
      }));
  // Weights.
  for (const char* tensor :
       {"patch_embed.0.weight", "in_proj.weight", "conv2d.weight", "x_proj_weight", "dt_projs_weight",
        "out_proj.weight", "mlp.fc1.weight", "mlp.fc2.weight", "classifier.head.weight"})
    add(fmt::format("one element of {} off by 0.1 %", tensor), one_element(tensor));
  add("the depthwise kernel flipped", in_weights(".conv2d.weight", [](HostTensor& t) {
        const int64_t k = t.dims.back() * t.dims[t.dims.size() - 2];
        for (int64_t c = 0; c < t.elements() / k; ++c)
          std::reverse(t.values.begin() + c * k, t.values.begin() + (c + 1) * k);
      }));
  add("the depthwise kernel transposed", in_weights(".conv2d.weight", [](HostTensor& t) {
        const int64_t k = t.dims.back();
        for (int64_t c = 0; c < t.elements() / (k * k); ++c)
          for (int64_t i = 0; i < k; ++i)
            for (int64_t j = 0; j < i; ++j)
              std::swap(t.values[c * k * k + i * k + j], t.values[c * k * k + j * k + i]);
      }));
  add("a square matrix transposed", in_weights("_proj.weight", [](HostTensor& t) {
        const int64_t n = t.dims[0];
        if (t.elements() != n * n) return;
        for (int64_t i = 0; i < n; ++i)
          for (int64_t j = 0; j < i; ++j) std::swap(t.values[i * n + j], t.values[j * n + i]);
      }));
  add("two matrices swapped", [](Mistaken& run) {
    auto& tensors = run.weights.tensors;
    for (auto& x : tensors)
      for (auto& y : tensors)
        if (x.first < y.first && ends(x.first, "in_proj.weight") && ends(y.first, "in_proj.weight") &&
            x.second.dims == y.second.dims) {
          std::swap(x.second, y.second);
          return true;
        }
    return false;
  });
  add("norm and norm2 swapped", [](Mistaken& run) {
    auto& tensors = run.weights.tensors;
    for (auto& x : tensors)
      for (auto& y : tensors)
        if (ends(x.first, "blocks.0.norm.weight") &&
            y.first == x.first.substr(0, x.first.size() - 11) + "norm2.weight" &&
            x.second.to_float32().values != y.second.to_float32().values) {
          std::swap(x.second, y.second);
          return true;
        }
    return false;
  });
  add("a bias of patch_embed left out", in_weights("patch_embed.0.bias", [](HostTensor& t) {
        std::fill(t.values.begin(), t.values.end(), 0.0f);
      }));
  add("fc1's bias left out",
      in_weights("fc1.bias", [](HostTensor& t) { std::fill(t.values.begin(), t.values.end(), 0.0f); }));
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    const auto name = to_string(dtype);
    add(fmt::format("weights in {}", name), in_weights("weight", [=](HostTensor& t) {
          for (float& v : t.values) v = round_to(dtype, v);
        }));
    for (const char* tap : {"blocks.0.norm", "op.in_proj", "op.conv2d", "op.x_proj", "op.scan", "op.gated",
                            "mlp.fc1", "classifier.norm"})
      add(fmt::format("{} rounded to {}", tap, name), rounded_at(tap, dtype));
  }
  add("in_proj through TF32", with_factors("layers.0.blocks.0.norm", to_tf32));
  add("fc2 through TF32", with_factors("layers.0.blocks.0.mlp.fc1", to_tf32));
  add("every product through TF32", with_factors("", to_tf32));
  // The residual stream, the head, the maps.
  add("the residual left out", at_blocks([](HostTensor& block, const HostTensor& stream) {
        for (size_t i = 0; i < block.values.size(); ++i) block.values[i] -= stream.values[i];
      }));
  add("the residual doubled", at_blocks([](HostTensor& block, const HostTensor& stream) {
        for (size_t i = 0; i < block.values.size(); ++i) block.values[i] += stream.values[i];
      }));
  add("the pool's maximum in place of its mean",
      at_tap("classifier.pool", [](HostTensor& value, const TapValues& before) {
        const HostTensor& map = before.all().back().second;
        const int64_t channels = map.dims.back(), pixels = map.elements() / channels / map.dims[0];
        for (int64_t i = 0; i < value.elements(); ++i) {
          float largest = -HUGE_VALF;
          for (int64_t p = 0; p < pixels; ++p)
            largest = std::max(largest, map.values[(i / channels * pixels + p) * channels + i % channels]);
          value.values[i] = largest;
        }
      }));
  add("the pool over one pixel too many",
      at_tap("classifier.pool", [](HostTensor& value, const TapValues& before) {
        const HostTensor& map = before.all().back().second;
        const float pixels = static_cast<float>(map.dims[1] * map.dims[2]);
        for (float& v : value.values) v *= pixels / (pixels + 1);
      }));
  add("the downsample one pixel aside", at_tap(".downsample", [](HostTensor& value, const TapValues&) {
        std::rotate(value.values.begin(), value.values.begin() + value.dims.back(), value.values.end());
      }));
  add("height and width swapped", at_tap("patch_embed", [](HostTensor& value, const TapValues&) {
        const int64_t B = value.dims[0], H = value.dims[1], W = value.dims[2], C = value.dims[3];
        if (H != W) return;
        for (int64_t b = 0; b < B; ++b)
          for (int64_t i = 0; i < H; ++i)
            for (int64_t j = 0; j < i; ++j)
              std::swap_ranges(value.values.begin() + ((b * H + i) * W + j) * C,
                               value.values.begin() + ((b * H + i) * W + j + 1) * C,
                               value.values.begin() + ((b * H + j) * W + i) * C);
      }));
  // The input.
  const std::string preprocess = "different preprocess";
  add("mean 0.5 in place of 0.485", in_input([](HostTensor& t) {
        for (int64_t i = 0, plane = t.dims[2] * t.dims[3]; i < t.elements(); ++i)
          if (i / plane % t.dims[1] == 0) t.values[i] -= 0.015f / 0.229f;
      }),
      preprocess);
  add("std 0.225 in place of 0.229", in_input([](HostTensor& t) {
        for (int64_t i = 0, plane = t.dims[2] * t.dims[3]; i < t.elements(); ++i)
          if (i / plane % t.dims[1] == 0) t.values[i] *= 0.229f / 0.225f;
      }),
      preprocess);
  add("BGR", in_input([](HostTensor& t) {
        const int64_t plane = t.dims[2] * t.dims[3];
        for (int64_t b = 0; b < t.dims[0]; ++b)
          std::swap_ranges(t.values.begin() + b * 3 * plane, t.values.begin() + (b * 3 + 1) * plane,
                           t.values.begin() + (b * 3 + 2) * plane);
      }),
      preprocess);
  add("the crop one pixel aside",
      in_input([](HostTensor& t) { std::rotate(t.values.begin(), t.values.begin() + 1, t.values.end()); }),
      preprocess);
  add("an 8-bit step in one value",
      in_input([](HostTensor& t) { t.values[t.values.size() / 2] += 1 / 255.f / 0.229f; }), preprocess);
  return all;
}

}  // namespace

float to_tf32(float value) {
  return std::bit_cast<float>((std::bit_cast<uint32_t>(value) + 0x1000u) & ~0x1fffu);
}

void mistaken_scan(const ScanMistake& m, const SelectiveScan2d& s) {
  const int64_t B = s.x.dim(0), H = s.x.dim(1), W = s.x.dim(2), D = s.x.dim(3), N = s.A.dim(2), L = H * W;
  const int K = direction_count(s.order);
  const int64_t per = s.projections.channels() / K, R = per - 2 * N;
  const bool path = s.order == ScanOrder::cross;
  std::vector<float> y(static_cast<size_t>(K * B * L * D));
  std::vector<double> h(static_cast<size_t>(N));
  for (int k = 0; k < K; ++k) {
    const size_t at_k = static_cast<size_t>(k);
    ScanDirection direction = scan_direction(s.order, path ? m.path[at_k] : k);
    if (path && m.forward[at_k]) direction.reversed = false;
    const int64_t lines = direction.per_line ? (direction.columns ? W : H) : 1, length = L / lines;
    const auto at = [&](int64_t line, int64_t i) {
      const int64_t step = line * length + i;
      return direction.columns ? step % H * W + step / H : step;
    };
    for (int64_t b = 0; b < B; ++b)
      for (int64_t line = 0; line < lines; ++line)
        for (int64_t d = 0; d < D; ++d) {
          std::fill(h.begin(), h.end(), 0.0);
          const int64_t kd = k * D + d;
          for (int64_t i = 0; i < length; ++i) {
            const int64_t from = at(line, direction.reversed ? length - 1 - i : i);
            int64_t to = direction.mirrored_output || (path && m.unflipped[at_k]) ? at(line, i) : from;
            if (path && m.untransposed && direction.columns) to = direction.reversed ? length - 1 - i : i;
            const float* p = s.projections.as<float>() + (b * L + from) * s.projections.row_stride + k * per;
            const double x = s.x.as<float>()[(b * L + from) * s.x.row_stride + d];
            double dt = s.dt_weight ? 0 : p[d / (D / R)];
            if (s.dt_weight)
              for (int64_t r = 0; r < R; ++r)
                dt += static_cast<double>(s.dt_weight.as<float>()[kd * R + r]) * p[r];
            const double delta = m.delta ? m.delta(static_cast<float>(dt), s.dt_bias.as<float>()[kd])
                                         : softplus(static_cast<float>(dt) + s.dt_bias.as<float>()[kd]);
            double sum = m.skip * s.D.as<float>()[kd] * x;
            for (int64_t n = 0; n < N; ++n) {
              const double A = m.A(s.A.as<float>()[kd * N + n]);
              const double in = p[R + (m.swap_B_C ? N : 0) + n], out = p[R + (m.swap_B_C ? 0 : N) + n];
              double& state = h[static_cast<size_t>(n)];
              state = m.decay(delta * A) * state + m.input(delta, A) * in * x;
              sum += out * state;
            }
            y[static_cast<size_t>(((k * B + b) * L + to) * D + d)] = static_cast<float>(sum);
          }
        }
  }
  const int64_t all = B * L * D;
  for (int64_t i = 0; i < all; ++i) {
    const auto of = [&](int k) {
      return static_cast<float>(m.weight[static_cast<size_t>(k)]) * y[static_cast<size_t>(k * all + i)];
    };
    s.y.as<float>()[i] = K == 2 ? of(0) + of(1) : (of(0) + of(2)) + (of(1) + of(3));
  }
  if (s.directions) std::memcpy(s.directions.data, y.data(), y.size() * sizeof(float));
}

const std::vector<Mistake>& mistakes() {
  static const std::vector<Mistake> all = catalogue();
  return all;
}

StateDict run_mistaken(const Mistaken& run) {
  std::string last_tap;
  Runner runner(run.config, run.weights, std::make_unique<MistakenKernels>(run, last_tap),
                Precision::float32);
  MistakenTaps taps(runner.kernels(), run, last_tap);
  runner.run(run.input, &taps);
  StateDict file;
  file.where = "mistaken";
  file.add("input", run.input);
  for (const auto& [name, value] : taps.values.all()) file.add(name, value);
  return file;
}

}  // namespace vmamba::testing
