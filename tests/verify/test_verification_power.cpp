// Measures the detection power and the false alarms of check-equal. A subset runs with every test run;
// scripts/verification_power.sh runs everything and prints the tables of docs/verification.md.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <thread>

#include "kernels/error.h"
#include "lib/config/names.h"
#include "lib/model/init.h"
#include "lib/verify/check_equal.h"
#include "lib/verify/check_report.h"
#include "tests/testing.h"
#include "tests/verify/mistakes.h"

using namespace vmamba;
using namespace vmamba::testing;

namespace {

struct Model {
  std::string name;
  Config config;
  std::shared_ptr<const StateDict> weights;
  HostTensor input;
};

HostTensor noise_for(const Config& config, int64_t batch, uint64_t seed) {
  return noise({batch, config.in_chans, config.imgsize, config.imgsize}, seed);
}

// Random numbers that are the same everywhere.
class Draw {
 public:
  explicit Draw(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 7) {
    for (int i = 0; i < 8; ++i) next();
  }
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ >> 8;
  }
  template <class T>
  T of(std::initializer_list<T> choices) {
    return choices.begin()[next() % choices.size()];
  }
  float normal() {  // nearly
    float sum = 0;
    for (int i = 0; i < 12; ++i) sum += static_cast<float>(next() % 65536) / 65536.0f;
    return sum - 6;
  }

 private:
  uint64_t state_;
};

// Weights as training leaves them, of another spread in every tensor, with a few channels that stand out.
std::shared_ptr<const StateDict> trained_like(const StateDict& initial, uint64_t seed) {
  auto result = std::make_shared<StateDict>();
  Draw draw(seed);
  for (const auto& [name, tensor] : initial.tensors) {
    HostTensor values = tensor.to_float32();
    const bool is_norm = name.find("norm") != std::string::npos || values.dims.size() == 1;
    const float gain = std::exp(0.3f * draw.normal());
    const int64_t row = values.dims.empty() ? 1 : values.elements() / values.dims[0];
    float of_row = 1;
    for (int64_t i = 0; i < values.elements(); ++i) {
      if (i % std::max<int64_t>(row, 1) == 0)
        of_row = draw.next() % 16 == 0 ? 4 : std::exp(0.2f * draw.normal());
      float& v = values.values[static_cast<size_t>(i)];
      if (name.ends_with("num_batches_tracked")) continue;
      if (name.ends_with("running_var"))
        v = 0.05f + std::abs(draw.normal());
      else if (name.ends_with("A_logs"))
        v += 0.2f * draw.normal();
      else if (name.ends_with("dt_projs_bias"))
        v += 0.3f * draw.normal();
      else if (name.ends_with("Ds") || (is_norm && name.ends_with("weight")))
        v *= std::exp(0.3f * draw.normal());
      else if (name.ends_with("bias") || name.ends_with("running_mean"))
        v += 0.1f * draw.normal();
      else
        v *= gain * of_row;
    }
    result->add(name, values);
  }
  return result;
}

Config random_config(uint64_t seed) {
  Draw draw(seed);
  const int stages = draw.of({1, 2, 2, 3});
  std::vector<std::string> depths, dims;
  int width = draw.of({8, 12, 16, 24, 32});
  for (int i = 0; i < stages; ++i, width *= 2) {
    depths.push_back(fmt::format("{}", draw.of({1, 1, 2})));
    dims.push_back(fmt::format("{}", width));
  }
  const std::string base = draw.of<const char*>(
      {"v0", "v01", "v02", "v03", "v04", "v05", "v051d", "v052d", "v052dc", "v2", "v3", "m0"});
  std::string type = base;
  if (base != "v0") {
    type += draw.of<const char*>({"", "_noz", "_noz", "_nozact"});
    type += draw.of<const char*>({"", "", "_oact"});
    type +=
        draw.of<const char*>({"", "", "", "_onnone", "_ondwconv3", "_oncnorm", "_onsigmoid", "_onsoftmax"});
  }
  return parse_config(
      fmt::format(R"({{"num_classes": {}, "depths": [{}], "dims": [{}], "imgsize": {}, "ssm_d_state": {},
        "ssm_ratio": {}, "ssm_dt_rank": {}, "ssm_conv": {}, "ssm_conv_bias": {}, "ssm_act_layer": "{}",
        "forward_type": "{}", "mlp_ratio": {}, "mlp_act_layer": "{}", "gmlp": {}, "patch_norm": {}, "norm_layer": "{}",
        "downsample_version": "{}", "patchembed_version": "{}", "posembed": {}}})",
                  draw.of({2, 10, 50}), fmt::join(depths, ", "), fmt::join(dims, ", "),
                  draw.of({32, 36, 44, 48, 64}), draw.of({1, 1, 4, 8, 16}), draw.of({1, 2, 2}),
                  base == "m0" ? "4" : draw.of<const char*>({"\"auto\"", "\"auto\"", "3", "5"}),
                  draw.of({1, 3, 3, 5}), draw.of<const char*>({"true", "false"}),
                  draw.of<const char*>({"silu", "silu", "gelu"}), type, draw.of({0, 2, 4, 4}),
                  draw.of<const char*>({"gelu", "gelu", "silu", "relu"}),
                  draw.of<const char*>({"false", "false", "false", "true"}),
                  draw.of<const char*>({"true", "true", "false"}), draw.of<const char*>({"ln", "ln2d", "bn"}),
                  draw.of<const char*>({"v1", "v2", "v3"}), draw.of<const char*>({"v1", "v2"}),
                  draw.of<const char*>({"false", "false", "true"})),
      fmt::format("random config {}", seed));
}

std::vector<Model> kinds_of_model(int seed) {
  std::vector<Model> models;
  for (const char* name : {"vanilla_v0_odd_size", "ft_v05", "ft_v2", "ft_v3_noz", "m0_noz_oact_odd",
                           "ft_v052dc_noz", "batchnorm", "s1_ln2d", "gmlp"}) {
    const auto folder = data(fmt::format("models/{}", name));
    Config config = load_config((folder / "config.json").string());
    if (std::string(name) == "ft_v2") config.forward_core_version = ForwardCoreVersion::v1;
    const HostTensor input = noise_for(config, 2, static_cast<uint64_t>(seed) + 50);
    auto initial = std::make_shared<StateDict>(init_weights(config, static_cast<uint64_t>(seed)));
    models.push_back({fmt::format("{}, initial", name), config, initial, input});
    auto random = std::make_shared<StateDict>(read_safetensors(folder / "weights.safetensors"));
    models.push_back({fmt::format("{}, random", name), config, random, input});
    models.push_back({fmt::format("{}, trained-like", name), config,
                      trained_like(*initial, static_cast<uint64_t>(seed)), input});
  }
  return models;
}

// VMAMBA_POWER_DEVICE=cuda runs b on the first GPU.
Device tested_device() {
  const char* name = std::getenv("VMAMBA_POWER_DEVICE");
  return name && std::string_view(name) == "cuda" ? Device{DeviceType::cuda} : Device{};
}

Side side_of(const Model& model, Precision precision = Precision::float32, int threads = 1,
             Device device = tested_device()) {
  return {"", model.config, model.weights, {device, precision, threads}};
}

// An environment variable.
int number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

// Calls work(0) … work(count − 1) from VMAMBA_POWER_JOBS threads (default: one per processor).
void in_parallel(size_t count, const std::function<void(size_t)>& work) {
  std::atomic<size_t> next = 0;
  std::exception_ptr failed;
  std::mutex mutex;
  std::vector<std::jthread> threads(static_cast<size_t>(
      std::max(1, number("VMAMBA_POWER_JOBS", static_cast<int>(std::thread::hardware_concurrency())))));
  for (std::jthread& thread : threads)
    thread = std::jthread([&] {
      try {
        for (size_t i; (i = next++) < count;) work(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        failed = std::current_exception();
        next = count;
      }
    });
  threads.clear();  // joins
  if (failed) std::rethrow_exception(failed);
}

CheckResult judged(const Model& model, const StateDict& reference, const Side& b,
                   const CheckOptions& options = {}) {
  CheckInput input;
  input.a = reference.at("input").to_float32();
  input.b = model.input;
  return check_reference(reference, b, input, options);
}

// --- Detection.

struct Power {
  int tried = 0, caught = 0, step = 0, cause = 0;
  std::vector<std::string> missed;
  void add(const Power& other) {
    tried += other.tried, caught += other.caught, step += other.step, cause += other.cause;
    missed.insert(missed.end(), other.missed.begin(), other.missed.end());
  }
};

// The first tap that the mistake moves by more than rounding could hide; empty: none, there is nothing to see.
std::string first_moved(const StateDict& right, const StateDict& wrong) {
  for (const auto& [name, tensor] : right.tensors) {
    const std::vector<float> a = tensor.to_float32().values, b = wrong.at(name).to_float32().values;
    float largest = 0, moved = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      largest = std::max(largest, std::abs(a[i]));
      if (const float distance = std::abs(a[i] - b[i]); !(distance <= moved)) moved = distance;
    }
    if (!(moved <= 0x1p-21f * largest)) return name;
  }
  return {};
}

void try_mistake(const Model& model, const StateDict& right, const Mistake& mistake, Power& power,
                 Precision precision = Precision::float32) {
  Mistaken run{.config = model.config, .weights = *model.weights, .input = model.input};
  if (!mistake.make(run)) return;
  const StateDict wrong = run_mistaken(run);
  const std::string truth = first_moved(right, wrong);
  if (truth.empty()) return;
  const CheckResult result = judged(model, wrong, side_of(model, precision));
  ++power.tried;
  const Diff* first = result.first_outside();
  const auto whole_scan = [](std::string_view tap) {
    return direction_of(tap).empty() ? std::string(tap) : std::string(tap.substr(0, tap.rfind(".k")));
  };
  const bool step = first && whole_scan(first->name) == whole_scan(truth);
  const std::string words = mistake.cause.empty() ? whole_scan(truth) : mistake.cause;
  const bool cause = std::any_of(result.causes.begin(), result.causes.end(), [&](const std::string& each) {
    return each.find(words) != std::string::npos;
  });
  power.caught += !result.equal();
  power.step += !result.equal() && step;
  power.cause += !result.equal() && step && cause;
  if (result.equal() || !step || !cause)
    power.missed.push_back(
        fmt::format("{}: {} at {}, said {}{}", model.name, result.equal() ? "missed" : "misnamed", truth,
                    first ? first->name : "nothing", result.causes.empty() ? "" : ": " + result.causes[0]));
}

// --- False alarms.

// How far right runs are off, in deviations of the derived error: largest of an element, and of the norm.
struct Figures {
  std::map<std::string, std::vector<std::pair<double, double>>> by_kind;
  int comparisons = 0;
  std::vector<std::string> alarms;
  void merge(const Figures& other) {
    for (const auto& [kind, values] : other.by_kind)
      by_kind[kind].insert(by_kind[kind].end(), values.begin(), values.end());
    comparisons += other.comparisons;
    alarms.insert(alarms.end(), other.alarms.begin(), other.alarms.end());
  }
  void add(const std::string& what, const CheckResult& result, const std::string& label = {}) {
    ++comparisons;
    if (!result.equal()) {
      const Diff* first = result.first_outside();
      alarms.push_back(fmt::format(
          "{}: {}", what, first ? fmt::format("{} {} of its bound", first->name, first->share()) : "taps"));
    }
    const auto note = [&](const std::string& prefix, const std::vector<Diff>& diffs, Deviations deviations) {
      for (const Diff& diff : diffs) {
        if (diff.sum_allowed <= 0 || diff.identical() || !diff.problem.empty()) continue;
        const std::string kind =
            direction_of(diff.name).empty() ? std::string(kind_of(diff.name)) : "op.scan.k";
        by_kind[prefix + (in_block(diff.name) && in_block(diff.name)->rest.empty() ? "block" : kind)]
            .emplace_back(diff.nearest / diff.bound * deviations.element,
                          std::sqrt(diff.sum_squares / diff.sum_allowed) * deviations.norm);
      }
    };
    const std::string dtype =
        label + result.report_b.dtype + (result.report_a.dtype.empty() ? "" : "/" + result.report_a.dtype);
    note(dtype + " own   ", result.own, own_deviations);
    note(dtype + " drift ", result.taps, drift_deviations);
  }
  void print() const {
    fmt::print("{:<44} {:>6}  {:>8} {:>8} {:>8}  {:>8} {:>8} {:>8}\n", "in standard deviations", "taps",
               "elem p50", "p99", "max", "norm p50", "p99", "max");
    for (const auto& [kind, values] : by_kind) {
      std::vector<double> element, norm;
      for (const auto& [e, n] : values) element.push_back(e), norm.push_back(n);
      std::sort(element.begin(), element.end());
      std::sort(norm.begin(), norm.end());
      const auto at = [](const std::vector<double>& sorted, double p) {
        return sorted[static_cast<size_t>(p * static_cast<double>(sorted.size() - 1))];
      };
      fmt::print("{:<44} {:>6}  {:>8.3f} {:>8.3f} {:>8.3f}  {:>8.3f} {:>8.3f} {:>8.3f}\n", kind,
                 values.size(), at(element, 0.5), at(element, 0.99), element.back(), at(norm, 0.5),
                 at(norm, 0.99), norm.back());
    }
    for (const std::string& alarm : alarms) fmt::print("false alarm: {}\n", alarm);
    fmt::print("{} right comparisons, {} false alarms\n", comparisons, alarms.size());
  }
};

void compare_runs(const Model& model, const Side& a, const Side& b, Figures& figures) {
  const CheckInput input{"", {}, model.input, model.input};
  figures.add(
      fmt::format("{} ({} {} {} against {} {} {})", model.name, to_string(a.choice.precision),
                  to_string(a.config.selective_scan_backend), to_string(a.config.forward_core_version),
                  to_string(b.choice.precision), to_string(b.config.selective_scan_backend),
                  to_string(b.config.forward_core_version)),
      check_sides(a, b, input, {.batch_size = 4}));
}

// One model against itself, computed in another way each time.
void right_runs(const Model& model, uint64_t seed, int pairs, Figures& figures) {
  Draw draw(seed + 1000);
  const auto any_side = [&] {
    const Precision precision =
        draw.of({Precision::float32, Precision::float32, Precision::float16, Precision::bfloat16});
    Side side = side_of(model, precision, draw.of({1, 2}));
    if (side.choice.device.type == DeviceType::cuda) {  // against itself and against the CPU
      side.choice.device = draw.of({tested_device(), tested_device(), Device{}});
      if (side.choice.device.type == DeviceType::cuda && precision == Precision::float32)
        side.choice.precision = draw.of({Precision::float32, Precision::tf32});
    }
    side.config.selective_scan_backend =
        draw.of({ScanBackend::torch, ScanBackend::mamba, ScanBackend::oflex});
    if (side.config.forward.core != Core::mamba2)
      side.config.forward_core_version =
          draw.of({ForwardCoreVersion::unset, ForwardCoreVersion::v0, ForwardCoreVersion::v1});
    return side;
  };
  for (int pair = 0; pair < pairs; ++pair) compare_runs(model, any_side(), any_side(), figures);
  // A run through TF32, which a CPU does not have.
  figures.add(
      model.name + " (TF32)",
      judged(
          model,
          run_mistaken(
              {.config = model.config, .weights = *model.weights, .input = model.input, .factors = to_tf32}),
          side_of(model), {.reference = Precision::tf32}),
      "tf32 ");
  // The oracle, whose sums are in double, is somebody else's implementation.
  figures.add(
      model.name + " (oracle)",
      judged(model, run_mistaken({.config = model.config, .weights = *model.weights, .input = model.input}),
             side_of(model, draw.of({Precision::float32, Precision::float16, Precision::bfloat16}))));
}

void pytorch_dump(const std::filesystem::path& folder, Figures& figures) {
  const StateDict io = read_safetensors(folder / "io.safetensors");
  Model model{"PyTorch's " + folder.filename().string(), load_config((folder / "config.json").string()),
              std::make_shared<StateDict>(read_safetensors(folder / "weights.safetensors")),
              io.at("input").to_float32()};
  std::vector<Precision> precisions{Precision::float32, Precision::float16, Precision::bfloat16};
  if (tested_device().type == DeviceType::cuda) precisions.push_back(Precision::tf32);
  for (const Precision precision : precisions)
    for (const ScanBackend backend : {ScanBackend::torch, ScanBackend::mamba, ScanBackend::oflex}) {
      Side b = side_of(model, precision);
      b.config.selective_scan_backend = backend;
      figures.add(fmt::format("{} {}", model.name, to_string(precision)), judged(model, io, b));
    }
}

std::optional<Model> random_model(uint64_t seed, bool trained) {
  try {
    Model model;
    model.config = random_config(seed);
    auto weights = std::make_shared<StateDict>(init_weights(model.config, seed));
    model.weights = trained ? trained_like(*weights, seed) : weights;
    model.input = noise_for(model.config, seed % 3 == 0 ? 3 : 1, seed);
    model.name = fmt::format("random config {}{}: {}", seed, trained ? ", trained-like" : "",
                             model.config.forward_type);
    stage_sizes(model.config, model.config.imgsize, model.config.imgsize);
    return model;
  } catch (const InputError&) {
    return {};
  }
}

}  // namespace

TEST_CASE("mistakes are seen and right runs are not accused: a part of the whole") {
  Figures figures;
  for (uint64_t seed = 0; seed < 8; ++seed)
    if (const auto model = random_model(seed, seed % 2)) right_runs(*model, seed, 1, figures);
  CHECK_MESSAGE(figures.alarms.empty(), fmt::format("{}", fmt::join(figures.alarms, "\n")));
  CHECK(figures.comparisons > 12);

  Power all;
  for (const Model& model : kinds_of_model(1)) {
    if (model.name != "ft_v05, random" && model.name != "m0_noz_oact_odd, initial" &&
        model.name != "gmlp, trained-like")
      continue;
    const StateDict right =
        run_mistaken({.config = model.config, .weights = *model.weights, .input = model.input});
    for (size_t i = 0; i < mistakes().size(); i += 2) try_mistake(model, right, mistakes()[i], all);
  }
  const std::string missed = fmt::format("{}", fmt::join(all.missed, "\n"));
  CHECK(all.tried > 100);
  CHECK_MESSAGE(all.caught >= 0.99 * all.tried, missed);
  CHECK_MESSAGE(all.cause >= 0.9 * all.tried, missed);
}

TEST_CASE("GELU by tanh on weights that nobody trained: its step is named") {
  const TemporaryDirectory folder;
  Config config = load_config((data("models/ft_v05") / "config.json").string());
  const StateDict weights = init_weights(config, 3);
  write_safetensors(folder / "weights.safetensors", weights);
  Mistaken run{.config = config, .weights = weights, .input = noise_for(config, 1, 3)};
  mistakes().front().make(run);
  write_safetensors(folder / "io.safetensors", run_mistaken(run));
  const auto told = run_cli({"check-equal", "--config", (data("models/ft_v05") / "config.json").string(),
                             "--weights", folder / "weights.safetensors", "--reference",
                             folder / "io.safetensors", "--device", "cpu", "-q"});
  CHECK_MESSAGE(told.exit_code == 1, told.out << told.err);
  CHECK_MESSAGE(told.out.find("first outside its tolerance: patch_embed") != std::string::npos, told.out);
  CHECK_MESSAGE(told.out.find("mlp.fc1 (2 times)") != std::string::npos, told.out);
  CHECK(told.out.find("order of sums") == std::string::npos);
}

TEST_CASE("verification power: every mistake" * doctest::skip()) {
  const int seeds = number("VMAMBA_POWER_SEEDS", 5);
  // Of b; whoever made the mistake computed in float32.
  const char* dtype = std::getenv("VMAMBA_POWER_DTYPE");
  const Precision precision = dtype ? find_name<Precision>(dtype)->value : Precision::float32;
  std::map<std::string, Power> powers;
  Power all;
  std::vector<Model> models;
  for (int seed = 0; seed < seeds; ++seed)
    for (Model& model : kinds_of_model(seed)) models.push_back(std::move(model));
  std::mutex mutex;
  in_parallel(models.size(), [&](size_t i) {
    const Model& model = models[i];
    const StateDict right =
        run_mistaken({.config = model.config, .weights = *model.weights, .input = model.input});
    for (const Mistake& mistake : mistakes()) {
      Power power;
      try_mistake(model, right, mistake, power, precision);
      const std::lock_guard lock(mutex);
      powers[mistake.name].add(power);
    }
  });
  fmt::print("{:<48} {:>6} {:>8} {:>8} {:>8}\n", "mistake", "tried", "caught", "step", "cause");
  const auto row = [](const std::string& name, const Power& power) {
    const auto share = [&](int count) {
      return power.tried == 0 ? std::string("-") : fmt::format("{:.1f}%", 100.0 * count / power.tried);
    };
    fmt::print("{:<48} {:>6} {:>8} {:>8} {:>8}\n", name, power.tried, share(power.caught), share(power.step),
               share(power.cause));
  };
  for (const Mistake& mistake : mistakes()) {
    const Power& power = powers[mistake.name];
    row(mistake.name, power);
    all.add(power);
    if (std::getenv("VMAMBA_POWER_VERBOSE"))
      for (const std::string& missed : power.missed) fmt::print("    {}\n", missed);
  }
  row("all", all);
  if (precision == Precision::float32) CHECK(all.caught >= 0.99 * all.tried);
}

TEST_CASE("verification power: right runs" * doctest::skip()) {
  Figures figures;
  const auto count = static_cast<size_t>(number("VMAMBA_POWER_CONFIGS", 250));
  const char* reference = std::getenv("VMAMBA_POWER_REFERENCE");
  std::vector<std::filesystem::path> dumps;
  for (const auto& entry :
       std::filesystem::directory_iterator(reference ? std::filesystem::path(reference) : data("models")))
    if (std::filesystem::exists(entry.path() / "io.safetensors")) dumps.push_back(entry.path());
  std::mutex mutex;
  in_parallel(2 * count + dumps.size(), [&](size_t i) {
    Figures own;
    if (i >= 2 * count)
      pytorch_dump(dumps[i - 2 * count], own);
    else if (const auto model = random_model(i / 2, i % 2 == 1))
      right_runs(*model, i / 2, 2, own);
    const std::lock_guard lock(mutex);
    figures.merge(own);
  });
  figures.print();
  CHECK(figures.alarms.empty());
}
