// check-equal --find-precision, through the real binary: on several inputs, with a factor to spare, and what it found
// tried on inputs that were held out.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"
#include "lib/verify/check_equal.h"
#include "tests/testing.h"
#include "tests/verify/report.h"

using namespace vmamba;
using namespace vmamba::testing;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

const fs::path model = data("models/s1_ln2d");

CliResult run(std::vector<std::string> more) {
  more.insert(more.begin(), {"check-equal", "--config", model / "config.json", "--weights",
                             model / "weights.safetensors", "--device", "cpu", "-q"});
  return run_cli(more);
}

json report(const CliResult& result, int exit_code) {
  CHECK_MESSAGE(result.exit_code == exit_code, result.err << result.out);
  return valid_report(result);
}

}  // namespace

TEST_CASE("the config that is written is the one that ran") {
  const TemporaryDirectory folder;
  REQUIRE(run({"--find-precision", "--dtype", "bfloat16", "--forward-core-version", "v0", "--b",
               "selective_scan_backend=mamba,forward_type=v03_noz", "--atol", "1", "-o", folder / "c.json"})
              .exit_code == 0);
  const json config = json::parse(read_file(folder / "c.json"));
  CHECK(config["forward_core_version"] == "v0");
  CHECK(config["selective_scan_backend"] == "mamba");
  CHECK(config["forward_type"] == "v03_noz");
}

TEST_CASE("a set holds on every input that was searched, with the factor to spare") {
  const TemporaryDirectory folder;
  const json search = report(run({"--find-precision", "--dtype", "bfloat16", "--atol", "1e-4", "--rtol",
                                  "4e-3", "--margin", "2", "-o", folder / "c.json", "--format", "json"}),
                             0);
  CHECK(search["input"] == "noise of seeds 0 to 3");
  CHECK(search["held_out"]["input"] == "noise of seeds 4 to 7");
  CHECK(search["held_out"]["held"] == true);
  CHECK(search["margin"] == 2);
  for (int seed = 0; seed < 8; ++seed) {
    const json one = report(run_cli({"check-equal",
                                     "--config",
                                     folder / "c.json",
                                     "--weights",
                                     model / "weights.safetensors",
                                     "--device",
                                     "cpu",
                                     "-q",
                                     "--a",
                                     "dtype=float32",
                                     "--b",
                                     "dtype=bfloat16",
                                     "--seed",
                                     std::to_string(seed),
                                     "--atol",
                                     seed < 4 ? "5e-5" : "1e-4",
                                     "--rtol",
                                     seed < 4 ? "2e-3" : "4e-3",
                                     "--format",
                                     "json"}),
                            1);  // its taps before the logits are farther off
    CHECK(one["taps"].back()["name"] == "logits without taps");
    CHECK_MESSAGE(one["taps"].back()["within"] == true, seed);
  }
}

TEST_CASE("what was held out may violate what was found: exit code 1, and no config") {
  const TemporaryDirectory folder;
  // Errors of each seed's logits, to put a tolerance between that of one and of another.
  std::vector<std::pair<double, int>> errors;
  for (int seed = 0; seed < 4; ++seed)
    errors.emplace_back(report(run({"--a", "dtype=float32", "--b", "dtype=bfloat16", "--seed",
                                    std::to_string(seed), "--atol", "1", "--rtol", "0", "--format", "json"}),
                               0)["taps"]
                            .back()["max_abs"],
                        seed);
  std::sort(errors.begin(), errors.end());
  REQUIRE(errors.back().first > 1.2 * errors.front().first);
  StateDict file;
  HostTensor rows = noise({1, 3, 64, 64}, static_cast<uint64_t>(errors.front().second));
  const HostTensor other = noise({1, 3, 64, 64}, static_cast<uint64_t>(errors.back().second));
  rows.values.insert(rows.values.end(), other.values.begin(), other.values.end());
  rows.dims[0] = 2;
  file.add("input", rows);
  write_safetensors(folder / "x.safetensors", file);
  const auto search = [&](double atol) {
    return run({"--find-precision", "--dtype", "bfloat16", "--input-tensor", folder / "x.safetensors",
                "--atol", fmt::format("{}", atol), "--rtol", "0", "--margin", "1", "-o", folder / "c.json",
                "--format", "json"});
  };
  const json violated = report(search(std::sqrt(errors.front().first * errors.back().first)), 1);
  CHECK(violated["found"] == true);
  CHECK(violated["equal"] == false);
  CHECK(violated["float32_ops"].empty());
  CHECK(violated["held_out"]["held"] == false);
  CHECK(violated["held_out"]["diff"]["max_abs"].get<double>() == errors.back().first);
  CHECK_FALSE(fs::exists(folder / "c.json"));
  const json held = report(search(1.01 * errors.back().first), 0);
  CHECK(held["held_out"]["held"] == true);
  CHECK(fs::exists(folder / "c.json"));
}

TEST_CASE("images and noise, alone and together") {
  const std::string cat = data("chelsea.png"), coffee = data("coffee.png");
  const auto inputs = [&](std::vector<std::string> more) {
    more.insert(more.begin(),
                {"--find-precision", "--dtype", "float16", "--format", "json", "--images", cat});
    const json found = report(run(more), 0);
    return std::pair(found["input"].get<std::string>(), found["held_out"]["input"].get<std::string>());
  };
  const auto one = inputs({});
  CHECK(one.first.starts_with(cat));
  CHECK(one.second == "noise of seeds 4 to 7");
  CHECK(inputs({"--batch-size", "2"}).second == "noise of seeds 2 to 3");
  const auto two = inputs({coffee});
  CHECK(two.first.starts_with("1 of 2 images"));
  CHECK(two.second == "the other 1");
  const auto both = inputs({coffee, "--seed", "7", "--batch-size", "1"});
  CHECK(both.first.ends_with(" and noise of seed 7"));
  CHECK(both.second == "the other 1 and noise of seed 8");
  check_error(run({"--find-precision", "--dtype", "float16", "--images", cat, coffee, "--batch-size", "2"}),
              2, {"--batch-size", "no noise"});
}
