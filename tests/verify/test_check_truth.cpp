// float64, and check-equal --truth as a user runs it: which side is nearer to the float64 run.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/kernels.h"
#include "lib/config/config.h"
#include "lib/model/init.h"
#include "lib/model/runner.h"
#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"
#include "lib/verify/check_equal.h"
#include "lib/verify/truth.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

CliResult check_equal(const std::string& config, const std::string& weights, std::vector<std::string> more) {
  more.insert(more.begin(), {"check-equal", "--config", config, "--device", "cpu", "-q"});
  if (!weights.empty()) more.insert(more.end(), {"--weights", weights});
  return run_cli(more);
}

json report(const CliResult& run, int exit_code) {
  REQUIRE_MESSAGE(run.exit_code == exit_code, run.err << run.out);
  return json::parse(run.out);
}

struct Model {
  fs::path folder;
  Config config;
  StateDict weights;
  HostTensor input;
};
Model model(const fs::path& folder) {
  return {folder, load_config(folder / "config.json"), read_safetensors(folder / "weights.safetensors"),
          read_safetensors(folder / "io.safetensors").at("input").to_float32()};
}

// The doubles of every tap.
class Doubles final : public Taps {
 public:
  bool wants(std::string_view) override { return true; }
  void at(std::string_view name, const View& value) override {
    REQUIRE(value.dtype == DType::float64);
    std::vector<double>& kept = values[std::string(name)];
    for (int64_t row = 0; row < value.rows(); ++row)
      for (int64_t c = 0; c < value.channels(); ++c)
        kept.push_back(value.as<double>()[row * value.row_stride + c]);
  }
  std::map<std::string, std::vector<double>> values;
};

std::map<std::string, std::vector<double>> doubles(const Model& m, int threads) {
  Runner runner(m.config, m.weights, RunChoice{.precision = Precision::float64, .threads = threads});
  Doubles taps;
  runner.run(m.input, &taps);
  return std::move(taps.values);
}

// `weights` with each value of `name` times 1 + relative.
void write_changed(const StateDict& weights, const std::string& name, float relative,
                   const std::string& file) {
  StateDict changed;
  for (const auto& [key, tensor] : weights.tensors) {
    HostTensor values = tensor.to_float32();
    if (key == name)
      for (float& value : values.values) value *= 1 + relative;
    changed.add(key, values);
  }
  write_safetensors(file, changed);
}

}  // namespace

TEST_CASE("float64: every reference model near float32, with the same doubles on any number of threads") {
  int seen = 0;
  for (const auto& entry : fs::directory_iterator(data("models"))) {
    if (!fs::exists(entry.path() / "io.safetensors")) continue;
    CAPTURE(entry.path().filename());
    const Model m = model(entry.path());
    const auto one = doubles(m, 1), two = doubles(m, 2);
    REQUIRE(one.size() > 10);
    CHECK(one == two);
    Runner runner(m.config, m.weights, RunChoice{.precision = Precision::float32, .threads = 1});
    TapStore store(runner.kernels());
    runner.run(m.input, &store);
    const TapValues single = store.take();
    REQUIRE(single.all().size() == one.size());
    bool finer = false;
    for (const auto& [name, value] : single.all()) {
      CAPTURE(name);
      const std::vector<double>& exact = one.at(name);
      REQUIRE(exact.size() == value.values.size());
      double largest = 0, error = 0;
      for (size_t i = 0; i < exact.size(); ++i) {
        largest = std::max(largest, std::abs(exact[i]));
        error = std::max(error, std::abs(exact[i] - value.values[i]));
        finer |= static_cast<double>(static_cast<float>(exact[i])) != exact[i];
      }
      CHECK(error <= 1e-5 * std::max(1.0, largest));
    }
    CHECK(finer);
    ++seen;
  }
  CHECK(seen >= 37);
}

TEST_CASE("float64 weights are used as they are, and config's float32_ops change nothing in float64") {
  Model m = model(data("models/s1_ln2d"));
  const auto plain = doubles(m, 1);
  StateDict finer = converted(m.weights, DType::float64);
  for (auto& [name, tensor] : finer.tensors) {
    if (name != "classifier.head.bias") continue;
    HostArray<double> values = tensor.to_float64();
    values.values[0] += 1e-12;
    StateDict one;
    one.add(name, values.view());
    tensor = one.tensors[0].second;
  }
  std::swap(m.weights, finer);
  const std::vector<double> logits = doubles(m, 1).at("logits");
  CHECK(logits[0] != plain.at("logits")[0]);
  CHECK(logits[0] == doctest::Approx(plain.at("logits")[0]).epsilon(1e-9));
  CHECK(logits[1] == plain.at("logits")[1]);
  std::swap(m.weights, finer);
  m.config.float32_ops = step_names(m.config);
  CHECK(doubles(m, 1) == plain);
}

TEST_CASE("the fast kernels refuse float64") {
  const std::unique_ptr<Kernels> fast = make_kernels(Device{}), scalar = make_scalar_kernels();
  std::vector<double> x(4, 0.1);
  std::vector<float> y(4);
  const View from(x.data(), DType::float64, Device{}, {1, 4}), to(y.data(), DType::float32, Device{}, {1, 4});
  CHECK_THROWS(fast->cast(from, to));
  scalar->cast(from, to);
  CHECK(y[3] == 0.1f);
}

TEST_CASE("errors are of the doubles, and ULPs those of the storage") {
  TruthTap tap{.name = "x", .max_truth = 1.5, .sum_truth_squares = 4};
  tap.a = {.max_abs = 0x1p-25, .sum_squares = 0x1p-50, .finite = 4};
  tap.b = {.max_abs = 0x1p-10, .sum_squares = 0x1p-20, .finite = 4};
  CHECK(tap.ulps(tap.a, DType::float32) == 0.25);
  CHECK(tap.ulps(tap.b, DType::float16) == 1);
  CHECK(tap.ulps(tap.b, DType::bfloat16) == 0.125);
  CHECK(tap.relative_l2(tap.b) == 0x1p-11);
  CHECK(tap.nearer() == 'a');
  tap.a.nonfinite = 1;
  CHECK(tap.nearer() == 'b');
  tap.max_truth = 0;  // below the smallest normal number steps are fixed
  CHECK(tap.ulps({.max_abs = 0x1p-24, .finite = 4}, DType::float16) == 1);
  CHECK(std::isnan(tap.ulps({}, DType::float16)));  // nothing is finite in both
  CHECK(std::isnan(tap.relative_l2({})));
}

TEST_CASE("a nearer dtype is nearer to the truth, and neither is outside what its dtype can do") {
  const fs::path folder = data("models/ft_v05");
  const json found =
      report(check_equal(folder / "config.json", folder / "weights.safetensors",
                         {"--truth", "--a", "dtype=bfloat16", "--b", "dtype=float32", "--format", "json"}),
             0);
  const json& truth = found["truth"];
  CHECK(truth["of"] == "a");
  CHECK(truth["run"]["dtype"] == "float64");
  CHECK(truth["nearer"]["a"] == 0);
  CHECK(truth["nearer"]["b"] == truth["taps"].size());
  CHECK(truth["taps"].size() == found["taps"].size() - 1);  // but for the input
  for (const json& tap : truth["taps"]) {
    CAPTURE(tap["name"]);
    CHECK(tap["b"]["relative_l2"] > 0);
    CHECK(tap["b"]["relative_l2"] < 1e-6);
    CHECK(tap["a"]["relative_l2"] > 1e-4);
    CHECK(tap["a"]["outside"] == false);
    CHECK(tap["b"]["outside"] == false);
  }
  const CliResult text = check_equal(folder / "config.json", folder / "weights.safetensors",
                                     {"--truth", "--a", "dtype=bfloat16", "--b", "dtype=float32"});
  CHECK(text.out.find("truth: b is nearer to the truth in") != std::string::npos);
  CHECK(text.out.find("truth: neither is outside what its dtype can do: a bfloat16, b float32") !=
        std::string::npos);
}

TEST_CASE("a planted error of a few ULPs and one beyond float32 are told apart") {
  const TemporaryDirectory temporary;
  const Model m = model(data("models/ft_v05"));
  const std::string config = m.folder / "config.json", right = m.folder / "weights.safetensors",
                    wrong = temporary / "wrong.safetensors";
  const auto judged = [&](float relative, int exit_code, const std::vector<std::string>& sides) {
    write_changed(m.weights, "layers.0.blocks.0.mlp.fc1.weight", relative, wrong);
    std::vector<std::string> options{"--truth", "--dtype", "float32", "--format", "json"};
    options.insert(options.end(), sides.begin(), sides.end());
    return report(check_equal(config, "", options), exit_code)["truth"];
  };
  const std::vector<std::string> sides{"--a", "weights=" + right, "--b", "weights=" + wrong};
  const json slight = judged(1e-6f, 0, sides);
  int64_t before = 0;  // the taps that are the same, before the error
  for (const json& tap : slight["taps"]) {
    if (tap["name"] == "layers.0.blocks.0.mlp.fc1") break;
    CHECK(tap["nearer"] == "same");
    ++before;
  }
  CHECK(before > 10);
  CHECK(slight["nearer"]["same"].get<int64_t>() >= before);
  CHECK(slight["nearer"]["a"].get<int64_t>() > 4 * slight["nearer"]["b"].get<int64_t>());
  CHECK(slight["verdict"].at(1) == "neither is outside what float32 can do");
  const json gross = judged(1e-2f, 1, sides);
  CHECK(gross["nearer"]["b"] == 0);
  CHECK(gross["verdict"].at(1).get<std::string>().find("b is outside what float32 can do in") == 0);
  CHECK(gross["verdict"].at(1).get<std::string>().find("first in layers.0.blocks.0.mlp.fc1; a is not") !=
        std::string::npos);
}

TEST_CASE("against a reference: the truth is of b's model, and a wrong reference is the one that is off") {
  const TemporaryDirectory temporary;
  const fs::path folder = data("models/ft_v05");
  const std::string config = folder / "config.json", weights = folder / "weights.safetensors";
  const json good = report(
      check_equal(config, weights, {"--truth", "--reference", folder / "io.safetensors", "--format", "json"}),
      0)["truth"];
  CHECK(good["of"] == "b");
  CHECK(good["taps"].size() >= 2);
  for (const json& tap : good["taps"]) CHECK(tap["a"]["relative_l2"] < 1e-6);
  StateDict off;
  for (const auto& [name, tensor] : read_safetensors(folder / "io.safetensors").tensors) {
    HostTensor values = tensor.to_float32();
    if (name == "logits")
      for (float& value : values.values) value += 1e-2f;
    off.add(name, values);
  }
  write_safetensors(temporary / "off.safetensors", off);
  const CliResult run = check_equal(
      config, weights,
      {"--truth", "--reference", temporary / "off.safetensors", "--report", temporary / "page.html"});
  CHECK(run.exit_code == 1);
  CHECK(run.out.find("truth: a is outside what float32 can do in 2 of") != std::string::npos);
  CHECK(run.out.find("first in logits; b is not") != std::string::npos);
  CHECK(read_file(temporary / "page.html").find("a is outside what float32 can do") != std::string::npos);
}

TEST_CASE("v0 and v1 in every dtype have one truth; images in batches have one figure a tap") {
  const fs::path folder = data("models/s1_ln2d");
  const std::string config = folder / "config.json", weights = folder / "weights.safetensors";
  const json cases = report(check_equal(config, weights, {"--truth", "--format", "json"}), 0)["cases"];
  REQUIRE(cases.size() == 3);
  CHECK(cases[0]["truth"]["nearer"]["same"] == cases[0]["truth"]["taps"].size());
  for (const json& each : cases) CHECK(each["truth"]["nearer"].size() == 3);
  const std::vector<std::string> images{data("images/cat_420.jpg"), data("coffee.png"), data("chelsea.png")};
  const auto in_batches = [&](const char* batch) {
    return report(check_equal(config, weights,
                              {"--truth", "--a", "dtype=float16", "--format", "json", "--batch-size", batch,
                               "--images", images[0], images[1], images[2]}),
                  0)["truth"]["taps"];
  };
  const json one = in_batches("1"), all = in_batches("3");
  REQUIRE(one.size() == all.size());
  for (size_t i = 0; i < one.size(); ++i) {
    CHECK(one[i]["a"]["max_abs"] == all[i]["a"]["max_abs"]);
    CHECK(one[i]["a"]["relative_l2"].get<double>() ==
          doctest::Approx(all[i]["a"]["relative_l2"].get<double>()));
  }
}

TEST_CASE("modes that have no truth refuse it, and so do sides that are it") {
  const fs::path folder = data("models/s1_ln2d");
  const auto refused = [&](const std::vector<std::string>& more, const std::vector<std::string>& words) {
    std::vector<std::string> options{"--truth"};
    options.insert(options.end(), more.begin(), more.end());
    check_error(check_equal(folder / "config.json", folder / "weights.safetensors", options), 2, words);
  };
  for (const std::vector<std::string>& mode : {std::vector<std::string>{"--matrix"},
                                               {"--stress"},
                                               {"--find-precision"},
                                               {"--repeat", "2"},
                                               {"--save-taps", "x.safetensors"}})
    refused(mode, {"--truth", mode[0] + " does not use it"});
  check_error(run_cli({"check-equal", "--init-order", "--truth"}), 2,
              {"--truth", "--init-order does not use it"});
  refused({"--a", "dtype=float64"}, {"--truth", "a runs in float64"});
  refused({"--dtype", "float64", "--reference", folder / "io.safetensors"}, {"--truth", "b runs in float64"});
  check_error(check_equal(folder / "config.json", folder / "weights.safetensors",
                          {"--find-precision", "--dtype", "float64"}),
              2, {"16-bit", "float16 or bfloat16"});
}

TEST_CASE("float64 is a dtype of every command that runs a model") {
  const TemporaryDirectory temporary;
  const fs::path folder = data("models/s1_ln2d");
  const std::string logits = temporary / "logits.safetensors";
  const CliResult classified =
      run_cli({"classify", "--config", folder / "config.json", "--weights", folder / "weights.safetensors",
               "--device", "cpu", "--dtype", "float64", "--threads", "2", "--input-tensor",
               folder / "io.safetensors", "--save-logits", logits});
  REQUIRE_MESSAGE(classified.exit_code == 0, classified.err);
  CHECK(classified.err.find("scalar oracle, 2 threads") != std::string::npos);
  const std::vector<float> got = read_safetensors(logits).at("logits").to_float32().values,
                           wanted =
                               read_safetensors(folder / "io.safetensors").at("logits").to_float32().values;
  REQUIRE(got.size() == wanted.size());
  for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == doctest::Approx(wanted[i]).epsilon(1e-5));
  const json found = report(check_equal(folder / "config.json", folder / "weights.safetensors",
                                        {"--a", "dtype=float64", "--b", "dtype=float32", "--format", "json"}),
                            0);
  CHECK(found["a"]["dtype"] == "float64");
  CHECK(found["a"]["device_name"].get<std::string>().find("scalar oracle") == 0);
  const auto bytes = [&](const char* dtype) {
    const CliResult run = run_cli({"-q", "info", "--config", "vmamba_tiny_s1l8", "--device", "cpu", "--dtype",
                                   dtype, "--format", "json"});
    return report(run, 0)["memory"]["weights"].get<int64_t>();
  };
  CHECK(bytes("double") == 2 * bytes("float32"));
}
