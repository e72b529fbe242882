// look, through the real binary: contributions sum to the scan's output, the class map to the logit; pages and errors.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

const std::string cat = data("chelsea.png").string();

CliResult run(const std::string& model, const std::string& command,
              const std::vector<std::string>& arguments) {
  return run_model(data("models/" + model), command, arguments);
}

double mean_of_pixel(const HostTensor& map, int64_t row, int64_t column) {
  const auto channels = map.dims.back(), begin = (row * map.dims[2] + column) * channels;
  double sum = 0;
  for (int64_t c = 0; c < channels; ++c) sum += map.values[static_cast<size_t>(begin + c)];
  return sum / static_cast<double>(channels);
}

}  // namespace

TEST_CASE(
    "the contributions of all pixels are the scan's output, direction by direction, in every scan order") {
  for (const std::string model :
       {"s1_ln2d", "vanilla_v0_odd_size", "ft_v051d_noz", "ft_v052d_noz", "m0_noz_oact_odd"}) {
    CAPTURE(model);
    const TemporaryDirectory folder;
    const CliResult taps_run =
        run(model, "check-equal", {"--images", cat, "--save-taps", folder / "taps.safetensors", "--all"});
    REQUIRE_MESSAGE(taps_run.exit_code == 0, taps_run.err);
    const StateDict taps = read_safetensors(folder / "taps.safetensors");
    for (const std::string layer : {"layers.0.blocks.0", "layers.1.blocks.0"}) {
      CAPTURE(layer);
      const CliResult result = run(model, "look",
                                   {cat, "--layer", layer, "--at", "(20, 13)", "--format", "json",
                                    "--save-maps", folder / "maps.safetensors"});
      REQUIRE_MESSAGE(result.exit_code == 0, result.err);
      const auto json = nlohmann::json::parse(result.out);
      const int64_t row = json["pixel"][0], column = json["pixel"][1];
      const StateDict maps = read_safetensors(folder / "maps.safetensors");
      const HostTensor contribution = maps.at("contribution").to_float32(),
                       magnitude = maps.at("magnitude").to_float32();
      const int64_t pixels = contribution.dims[1] * contribution.dims[2];
      REQUIRE(contribution.dims[0] == 5);
      for (int64_t k = 0; k < 5; ++k) {
        CAPTURE(k);
        double sum = 0, all = 0;
        for (int64_t j = 0; j < pixels; ++j) {
          sum += contribution.values[static_cast<size_t>(k * pixels + j)];
          all += magnitude.values[static_cast<size_t>(k * pixels + j)];
        }
        const std::string tap = layer + ".op.scan" + (k < 4 ? ".k" + std::to_string(k) : "");
        const double wanted = mean_of_pixel(taps.at(tap).to_float32(), row, column);
        CHECK(std::abs(sum - wanted) <= 1e-5 * all);
        CHECK(all > 0);
      }
      const HostTensor cam = maps.at("class_map").to_float32();
      double sum = 0;
      for (const float value : cam.values) sum += value;
      const double logit = json["class_map"]["logit"], bias = json["class_map"]["bias"];
      CHECK(sum / static_cast<double>(cam.elements()) + bias == doctest::Approx(logit).epsilon(1e-4));
    }
  }
}

TEST_CASE("the class map is of the answer that classify gives, or of --class") {
  const auto json_of = [](const CliResult& result) {
    REQUIRE_MESSAGE(result.exit_code == 0, result.err);
    return nlohmann::json::parse(result.out);
  };
  const auto wanted =
      json_of(run_cli({"classify", cat, "--device", "cpu", "--format", "json"}))["results"][0]["top"];
  const auto answer = json_of(run_cli({"look", cat, "--device", "cpu", "--format", "json"}));
  CHECK(answer["class_map"]["label"] == wanted[0]["label"]);
  CHECK(answer["class_map"]["logit"].get<double>() ==
        doctest::Approx(wanted[0]["logit"].get<double>()).epsilon(1e-5));
  const auto other = json_of(run_cli({"look", cat, "--device", "cpu", "--format", "json", "--class",
                                      std::to_string(wanted[1]["class"].get<int>())}));
  CHECK(other["class_map"]["label"] == wanted[1]["label"]);
  CHECK(answer["layer"].get<std::string>().starts_with("layers.1.blocks.1, map 16 x 16"));
  CHECK(answer["directions"].size() == 4);
}

TEST_CASE("the page is one file that names everything escaped, the picture a PNG") {
  const TemporaryDirectory folder;
  const std::string image = folder / "<b>&.png", page = folder / "p.html", png = folder / "p.png";
  write_file(image, read_file(cat));
  const CliResult result =
      run_cli({"look", image, "--device", "cpu", "--report", page, "--png", png, "-o", folder / "t.txt"});
  REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  CHECK(result.out.empty());
  const std::string html = read_file(page);
  CHECK(contains(html, "&lt;b&gt;&amp;.png"));
  CHECK(!contains(html, "<b>&"));
  for (const char* outside : {"https://", "src=", "href=", "@import", "url("})
    CHECK_MESSAGE(!contains(html, outside), outside);
  CHECK(html.size() < 200'000);
  CHECK(read_file(png).starts_with("\x89PNG"));
  CHECK(contains(read_file(folder / "t.txt"), "k3: columns, bottom to top"));
}

TEST_CASE("a backbone has scan maps and no class map") {
  const fs::path files = data("backbones/mmdet");
  const std::vector<std::string> look{
      "look",     cat,  "--config", files / "config.json", "--weights", files / "checkpoint.pth",
      "--device", "cpu"};
  const CliResult result = run_cli(look);
  CHECK_MESSAGE(result.exit_code == 0, result.err);
  CHECK(!contains(result.out, "answer"));
  std::vector<std::string> with_class = look;
  with_class.insert(with_class.end(), {"--class", "1"});
  check_error(run_cli(with_class), 2, {"--class 1", "backbone"});
}

TEST_CASE("what look refuses") {
  const TemporaryDirectory folder;
  const auto refused = [&](const std::string& model, std::vector<std::string> arguments,
                           const std::vector<std::string>& words) {
    arguments.insert(arguments.end(), {"--report", folder / "p.html"});
    check_error(run(model, "look", std::move(arguments)), 2, words);
    CHECK(entries(folder.path()) == 0);
  };
  for (const char* at : {"64,0", "0,-1", "3", "a,b", "(1,2", "1,2,3"})
    refused("s1_ln2d", {cat, "--at", at}, {"--at", "ROW,COLUMN", "0 to 63"});
  refused("s1_ln2d", {cat, "--layer", "layers.0.block.0"}, {"did you mean layers.0.blocks.0?"});
  refused("s1_ln2d", {cat, "--layer", "layers.9"}, {"no block of this model", "layers.0.blocks.0 to"});
  refused("s1_ln2d", {cat, "--class", "1000000"}, {"--class 1000000", "classes"});
  refused("ft_v052dc_noz", {cat}, {"v052dc_noz", "lines"});
  refused("no_ssm_branch", {cat}, {"no scan"});
  refused("s1_ln2d", {folder / "none.png"}, {"none.png"});
}

TEST_CASE("values that are not finite: of the scan they are refused, of the classifier they are told") {
  const TemporaryDirectory folder;
  const fs::path files = data("models/s1_ln2d");
  const auto with = [&](const std::string& name, float value) {
    StateDict weights = read_safetensors(files / "weights.safetensors");
    StateDict changed;
    for (const auto& [each, tensor] : weights.tensors) {
      HostTensor values = tensor.to_float32();
      if (each == name) std::fill(values.values.begin(), values.values.end(), value);
      changed.add(each, values);
    }
    write_safetensors(folder / "w.safetensors", changed);
    return run_cli({"look", cat, "--config", files / "config.json", "--weights", folder / "w.safetensors",
                    "--device", "cpu", "--layer", "layers.0.blocks.0", "--report", folder / "p.html", "--png",
                    folder / "p.png"});
  };
  check_error(with("layers.0.blocks.0.norm.weight", 3e38f), 2,
              {"layers.0.blocks.0", "not finite in float32"});
  CHECK(entries(folder.path()) == 1);
  const CliResult no_answer = with("classifier.norm.weight", std::nanf(""));
  CHECK(no_answer.exit_code == 0);
  CHECK(no_answer.out.find("answer     none: the logits are NaN or infinite") != std::string::npos);
  CHECK(with("layers.0.blocks.0.op.A_logs", 1000).exit_code == 0);
  CHECK(with("layers.0.blocks.0.op.dt_projs_bias", -1e30f).exit_code == 0);
}
