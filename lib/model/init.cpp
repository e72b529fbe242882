// Initial weights, drawn in the order of the Python constructor.
#include "lib/model/init.h"

#include <sleef.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "kernels/error.h"
#include "lib/model/weights.h"
#include "lib/tensors/torch_random.h"

namespace vmamba {
namespace {

constexpr int64_t K = 4;  // scan directions

// exp, log and expm1, bit-identical to PyTorch on float32 tensors: SLEEF's four-lane functions.
template <class Lanes, class Result>
float one_lane(Result (*function)(Lanes), float x) {
  return function(Lanes{x, x, x, x})[0];
}
float tensor_exp(float x) {
  return one_lane(Sleef_expf4_u10, x);
}
float tensor_log(float x) {
  return one_lane(Sleef_logf4_u10, x);
}
float tensor_expm1(float x) {
  return one_lane(Sleef_expm1f4_u10, x);
}

int64_t product(std::span<const int64_t> dims) {
  int64_t elements = 1;
  for (const int64_t dim : dims) elements *= dim;
  return elements;
}

// Repeats the random draws of the Python constructor; without a seed, only records the steps.
class Initializer {
 public:
  Initializer(const Config& config, std::optional<uint64_t> seed) : config_(config) {
    if (seed) random_.emplace(*seed);
    for (ParameterSpec& spec : parameter_specs(config))
      order_.push_back(spec.name), specs_.emplace(spec.name, spec);
    build();
  }

  std::vector<InitStep> take_steps() { return std::move(steps_); }

  StateDict take_state_dict() {
    StateDict result;
    for (const std::string& name : order_) {
      const ParameterSpec& spec = specs_.at(name);
      auto drawn = values_.find(name);
      if (drawn ==
          values_.end()) {  // a norm (weight and running variance 1, others 0), or the bias of a Linear (0)
        const bool one =
            name.ends_with(".running_var") || (name.ends_with(".weight") && spec.dims.size() == 1);
        drawn =
            values_
                .emplace(name, std::vector<float>(static_cast<size_t>(product(spec.dims)), one ? 1.0f : 0.0f))
                .first;
      }
      result.add(name, HostTensor{spec.dims, std::move(drawn->second)});
    }
    return result;
  }

 private:
  bool has(const std::string& name) const { return specs_.contains(name); }
  const std::vector<int64_t>& dims(const std::string& name) const { return specs_.at(name).dims; }

  // Records the step. Returns the buffer to fill; empty without a seed.
  std::span<float> begin(const std::string& name, std::string fill) {
    steps_.push_back({name, dims(name), std::move(fill)});
    if (!random_) return {};
    return values_[name] = std::vector<float>(static_cast<size_t>(product(dims(name))));
  }

  void uniform(const std::string& name, double bound) {
    const std::span<float> out = begin(name, fmt::format("uniform ±{:.6g}", bound));
    if (random_) random_->uniform(out, static_cast<float>(-bound), static_cast<float>(bound));
  }
  void truncated_normal(const std::string& name) {
    const std::span<float> out = begin(name, "truncated normal, std 0.02");
    if (random_) random_->truncated_normal(out, 0.02);
  }
  void skip(const std::string& name) {
    steps_.push_back({name, dims(name), "drawn and drawn again later"});
    if (random_) random_->skip(static_cast<uint64_t>(product(dims(name))));
  }
  void constant(const std::string& name, float value) {
    std::ranges::fill(begin(name, fmt::format("{}", value)), value);
  }

  // PyTorch's default for Conv2d and Linear: weight, then bias, both U(±1/√fan_in). A Linear is drawn again at the end.
  void layer(const std::string& name) {
    const std::string weight = name + ".weight", bias = name + ".bias";
    if (!has(weight)) return;
    if (specs_.at(weight).linear) {
      skip(weight);
      if (has(bias)) skip(bias);
      return;
    }
    const auto fan_in = static_cast<double>(product(std::span(dims(weight)).subspan(1)));
    uniform(weight, kaiming_bound(fan_in));
    if (has(bias)) uniform(bias, 1.0 / std::sqrt(fan_in));
  }
  // The bound of kaiming_uniform_(a=√5) in its own arithmetic, which differs from 1/√fan_in in the last bits.
  static double kaiming_bound(double fan_in) {
    const double a = std::sqrt(5.0);
    const double gain = std::sqrt(2.0 / (1.0 + a * a));
    return std::sqrt(3.0) * (gain / std::sqrt(fan_in));
  }

  // The projection of Δ: variance-preserving weights, and biases whose softplus gives Δ log-uniform in [0.001, 0.1].
  // A = −(1..N), D = 1.
  void dt_and_a(const std::string& op) {
    const std::string weight = op + "dt_projs_weight", bias = op + "dt_projs_bias", logs = op + "A_logs";
    const int64_t D = dims(weight)[1], R = dims(weight)[2], N = dims(logs)[1];
    const double bound = std::pow(static_cast<double>(R), -0.5);
    const std::span<float> w =
        begin(weight, fmt::format("uniform ±{:.6g}, after a Linear's own draws", bound));
    const std::span<float> b = begin(bias, "inverse softplus of exp(uniform(log 0.001, log 0.1))");
    const auto range = static_cast<float>(std::log(0.1) - std::log(0.001));
    const auto low = static_cast<float>(std::log(0.001));
    for (int64_t k = 0; random_ && k < K; ++k) {
      random_->skip(static_cast<uint64_t>(D * R + D));
      random_->uniform(w.subspan(static_cast<size_t>(k * D * R), static_cast<size_t>(D * R)),
                       static_cast<float>(-bound), static_cast<float>(bound));
      const std::span<float> out = b.subspan(static_cast<size_t>(k * D), static_cast<size_t>(D));
      random_->uniform(out, 0.0f, 1.0f);
      for (float& value : out) {
        const float scaled = value * range;
        const float dt = std::max(tensor_exp(scaled + low), 1e-4f);
        value = dt + tensor_log(-tensor_expm1(-dt));
      }
    }
    const std::span<float> a = begin(logs, fmt::format("log 1..{}", N));
    for (size_t i = 0; i < a.size(); ++i)
      a[i] = tensor_log(static_cast<float>(i % static_cast<size_t>(N) + 1));
    constant(op + "Ds", 1.0f);
  }

  // ssm_init "v1" and "v2"; Mamba-2 has no projection of Δ.
  void simple_dt_and_a(const std::string& op, bool normal) {
    const auto draw = [&](const std::string& name, float scale) {
      const std::span<float> out = begin(
          name, fmt::format("{}{}", scale == 1.0f ? "" : "0.1 · ", normal ? "normal" : "uniform (0, 1)"));
      if (!random_) return;
      if (normal) random_->normal(out);
      if (!normal) random_->uniform(out, 0.0f, 1.0f);
      for (float& value : out) value *= scale;
    };
    constant(op + "Ds", 1.0f);
    if (normal) draw(op + "A_logs", 1.0f);
    if (!normal) constant(op + "A_logs", 0.0f);
    if (has(op + "dt_projs_weight")) draw(op + "dt_projs_weight", 0.1f);
    draw(op + "dt_projs_bias", 0.1f);
  }

  void ss2d(const std::string& op) {
    if (!has(op + "in_proj.weight")) return;
    for (const char* name : {"out_norm.1", "out_norm.2", "in_proj", "conv2d", "conv2d.1"}) layer(op + name);
    uniform(op + "x_proj_weight", kaiming_bound(static_cast<double>(dims(op + "x_proj_weight")[2])));
    if (config_.forward.old_block) {
      dt_and_a(op);
      layer(op + "out_proj");
      return;
    }
    layer(op + "out_proj");
    if (config_.ssm_init == SsmInit::v0) {
      if (config_.forward.core == Core::mamba2) {
        fail_input(
            "config {}: ssm_init \"v0\" initialises dt_projs_weight, which forward_type {} does not have, "
            "and "
            "PyTorch's class makes no A_logs, Ds and dt_projs_bias with it: set ssm_init to \"v1\" or \"v2\"",
            config_.name, config_.forward_type);
      }
      dt_and_a(op);
    } else {
      simple_dt_and_a(op, config_.ssm_init == SsmInit::v1);
    }
  }

  void build() {
    if (config_.posembed) truncated_normal("pos_embed");
    layer("patch_embed.0");
    layer("patch_embed.5");
    for (int i = 0; i < config_.stages(); ++i) {
      layer(downsample_name(i) + ".reduction");
      layer(downsample_name(i) + ".1");
      for (int j = 0; j < config_.depths[static_cast<size_t>(i)]; ++j) {
        const std::string block = block_name(i, j) + ".";
        ss2d(block + "op.");
        layer(block + "mlp.fc1");
        layer(block + "mlp.fc2");
      }
    }
    layer("classifier.head");
    for (const std::string& name : order_) {
      if (specs_.at(name).linear) truncated_normal(name);
    }
  }

  const Config& config_;
  std::optional<TorchRandom> random_;
  std::vector<std::string> order_;
  std::unordered_map<std::string, ParameterSpec> specs_;
  std::unordered_map<std::string, std::vector<float>> values_;
  std::vector<InitStep> steps_;
};

}  // namespace

StateDict init_weights(const Config& config, uint64_t seed) {
  StateDict result = Initializer(config, seed).take_state_dict();
  result.where = fmt::format("seed {}", seed);
  result.metadata.emplace("seed", fmt::format("{}", seed));
  return result;
}

std::vector<InitStep> init_order(const Config& config) {
  return Initializer(config, std::nullopt).take_steps();
}

std::optional<InitDivergence> first_init_divergence(const Config& a, const Config& b) {
  const std::vector<InitStep> steps_a = init_order(a), steps_b = init_order(b);
  for (size_t i = 0; i < std::max(steps_a.size(), steps_b.size()); ++i) {
    InitDivergence divergence{.step = i};
    if (i < steps_a.size()) divergence.a = steps_a[i];
    if (i < steps_b.size()) divergence.b = steps_b[i];
    if (divergence.a != divergence.b) return divergence;
  }
  return std::nullopt;
}

}  // namespace vmamba
