// Mistakes that ports of VMamba make, each made here on purpose: check-equal must name the first tap that is
// wrong and, where the figures tell it, the mistake. The mistaken runs stand for somebody's PyTorch dump
// (--reference).
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lib/images/image_source.h"
#include "lib/model/weights.h"
#include "lib/verify/check_equal.h"
#include "tests/testing.h"
#include "tests/verify/mistakes.h"

using namespace vmamba;
using namespace vmamba::testing;

namespace {

struct Model {
  std::string config_path, weights_path;
  Config config;
  StateDict weights;
  HostTensor input;
};

Model model(const std::string& name) {
  const auto folder = data("models/" + name);
  Model result{folder / "config.json",
               folder / "weights.safetensors",
               load_config(folder / "config.json"),
               read_safetensors(folder / "weights.safetensors"),
               {}};
  result.input = read_safetensors(folder / "io.safetensors").at("input").to_float32();
  return result;
}

// Taps, input and logits of a run that goes astray in `scan` (none: nowhere), as a PyTorch dump holds them.
using Scan = std::function<void(const SelectiveScan2d&)>;
std::string dump(const Model& m, const std::string& path, Scan scan = {}) {
  write_safetensors(
      path,
      run_mistaken({.config = m.config, .weights = m.weights, .input = m.input, .scan = std::move(scan)}));
  return path;
}

std::string checked(const Model& m, const std::string& reference, const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments{"check-equal", "--config", m.config_path, "--weights", m.weights_path,
                                     "--reference", reference,  "--device",    "cpu",       "-q"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const auto run = run_cli(arguments);
  CHECK_MESSAGE(run.exit_code == 1, run.out << run.err);
  return run.out;
}

void check_says(const std::string& report, const std::string& words) {
  CHECK_MESSAGE(report.find(words) != std::string::npos, "wanted \"" << words << "\" in\n" << report);
}

// The weights with element `index` of one tensor changed.
StateDict changed(const StateDict& weights, const std::string& name, int64_t index, float factor) {
  StateDict result;
  for (const auto& [each, tensor] : weights.tensors) {
    HostTensor values = tensor.to_float32();
    if (each == name) values.values[static_cast<size_t>(index)] *= factor;
    result.add(each, values);
  }
  return result;
}

// The index of the largest element: 1 % of it shows above the tolerance.
int64_t largest(const StateDict& weights, const std::string& name) {
  const std::vector<float> values = weights.at(name).to_float32().values;
  const auto less = [](float a, float b) { return std::abs(a) < std::abs(b); };
  return std::max_element(values.begin(), values.end(), less) - values.begin();
}

Scan led_astray(const ScanMistake& mistake) {
  return [=](const SelectiveScan2d& s) { mistaken_scan(mistake, s); };
}

std::string report_of(const std::string& name, Scan scan) {
  const TemporaryDirectory folder;
  const Model m = model(name);
  return checked(m, dump(m, folder / "io.safetensors", std::move(scan)));
}

}  // namespace

TEST_CASE("without a mistake the same dump is equal") {
  const TemporaryDirectory folder;
  const Model m = model("ft_v05");
  const std::string reference = dump(m, folder / "io.safetensors", led_astray({}));
  const auto run = run_cli({"check-equal", "--config", m.config_path, "--weights", m.weights_path,
                            "--reference", reference, "--device", "cpu", "-q"});
  CHECK_MESSAGE(run.exit_code == 0, run.out);
}

TEST_CASE("one weight off by 1 %: the tap of its step, the tensor and the element") {
  struct Case {
    const char *tensor, *tap;
    bool element;
  };
  for (const Case& c : {Case{"layers.0.blocks.0.op.in_proj.weight", "layers.0.blocks.0.op.in_proj", true},
                        Case{"layers.0.blocks.0.op.x_proj_weight", "layers.0.blocks.0.op.x_proj", true},
                        Case{"layers.1.blocks.0.mlp.fc2.weight", "layers.1.blocks.0.mlp.fc2", true},
                        Case{"layers.1.blocks.0.op.conv2d.weight", "layers.1.blocks.0.op.conv2d", false},
                        Case{"layers.1.blocks.0.op.Ds", "layers.1.blocks.0.op.scan.k", false},
                        Case{"layers.0.blocks.0.norm2.weight", "layers.0.blocks.0.norm2", false},
                        Case{"patch_embed.0.weight", "patch_embed", false},
                        Case{"classifier.head.weight", "logits", false}}) {
    CAPTURE(c.tensor);
    const TemporaryDirectory folder;
    Model m = model("ft_v05");
    const StateDict right = m.weights;
    const int64_t index = largest(right, c.tensor);
    m.weights = changed(right, c.tensor, index, 1.01f);
    const std::string report = checked(m, dump(m, folder / "io.safetensors"));
    check_says(report, fmt::format("first outside its tolerance: {}", c.tap));
    check_says(report, c.tensor);
    if (c.element) {
      const StoredTensor& tensor = right.at(c.tensor);
      const int64_t columns = tensor.dims.back() == 1 ? tensor.dims[1] : tensor.dims.back();
      check_says(report, fmt::format("{}[{}, {}] is ", c.tensor, index / columns, index % columns));
    }
    // As two weight files the tensor is named outright.
    write_safetensors(folder / "off.safetensors", m.weights);
    const auto files = run_cli({"check-equal", "--config", m.config_path, "--weights", m.weights_path, "--b",
                                "weights=" + (folder / "off.safetensors"), "--device", "cpu", "-q"});
    CHECK(files.exit_code == 1);
    check_says(files.out, fmt::format("different weights: {} differs by up to", c.tensor));
    check_says(files.out, "the only tensor");
  }
}

TEST_CASE("two directions swapped") {
  const std::string report = report_of("ft_v05", led_astray({.path = {0, 3, 2, 1}}));
  check_says(report, "first outside its tolerance: layers.0.blocks.0.op.scan.k1");
  check_says(report, "layers.0.blocks.0 gives when directions k1 and k3 are swapped");
}

TEST_CASE("a flip forgotten") {
  const std::string report = report_of("ft_v05", led_astray({.unflipped = {false, false, true, false}}));
  check_says(report, "first outside its tolerance: layers.0.blocks.0.op.scan.k2");
  check_says(report, "direction k2 is not flipped back");
}

TEST_CASE("directions merged wrongly, each being right") {
  // As a dump of the public class shows a forgotten flip: its directions are flipped by the dump, its sum is
  // not.
  const std::string report = report_of("ft_v05", [](const SelectiveScan2d& s) {
    SelectiveScan2d wrong = s;
    std::vector<float> unseen(static_cast<size_t>(4 * s.x.elements()));
    wrong.directions =
        View(unseen.data(), DType::float32, Device{}, {4, s.x.dim(0), s.x.dim(1), s.x.dim(2), s.x.dim(3)});
    mistaken_scan({.unflipped = {false, false, true, false}}, wrong);
    if (!s.directions) return;
    std::vector<float> sum(static_cast<size_t>(s.x.elements()));
    SelectiveScan2d right = s;
    right.y.data = sum.data();
    mistaken_scan({}, right);
  });
  check_says(report, "first outside its tolerance: layers.0.blocks.0.op.scan,");
  check_says(report, "direction k2 is not flipped back");
  check_says(report, "b leaves its tolerance by itself, from the same input, at:\n  op.scan (2 times)");
}

TEST_CASE("A's sign") {
  const std::string report = report_of("ft_v05", led_astray({.A = [](double A) { return -A; }}));
  check_says(report, "first outside its tolerance: layers.0.blocks.0.op.scan.k0");
  check_says(report, "A = +exp(A_logs): its sign is lost");
}

TEST_CASE("softplus left out") {
  const Scan scan = led_astray({.delta = [](double dt, double bias) { return dt + bias; }});
  const std::string report = report_of("ft_v05", scan);
  check_says(report, "first outside its tolerance: layers.0.blocks.0.op.scan.k0");
  check_says(report, "softplus is left out");
  check_says(report_of("s1_ln2d", scan), "softplus is left out");
}

TEST_CASE("another mean or another filter: the input is the first to differ, and which it was") {
  const TemporaryDirectory folder;
  Model m = model("s1_ln2d");
  const std::string image = data("images/cat_420.jpg");
  const auto with = [&](const PreprocessConfig& preprocess) {
    Model other = m;
    other.input = preprocessed({{.file = image}}, preprocess);
    std::string report = checked(m, dump(other, folder / "io.safetensors"), {"--images", image});
    check_says(report, "first to differ: input");
    check_says(report, "first outside its tolerance: input");
    return report;
  };
  PreprocessConfig mean = m.config.preprocess;
  mean.mean[0] = 0.48f;
  check_says(with(mean), "a was normalised with mean[0] 0.48 instead of 0.485");
  PreprocessConfig filter = m.config.preprocess;
  REQUIRE(filter.interpolation == Interpolation::bicubic);
  filter.interpolation = Interpolation::bilinear;
  check_says(with(filter), "a was resized with bilinear interpolation instead of bicubic");
}
