// check-equal as a user runs it: verdicts and exit codes, every mode's JSON against
// docs/check-equal.schema.json, what it says of float16's two policies, and its refusals.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validation_results.hpp>
#include <valijson/validator.hpp>

#include "lib/config/config.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/tensors/state_dict.h"
#include "tests/testing.h"
#include "tests/verify/report.h"

using namespace vmamba::testing;
using nlohmann::json;

namespace {

std::vector<std::string> arguments(const std::string& name, const std::vector<std::string>& more) {
  const auto folder = data("models/" + name);
  std::vector<std::string> result{"check-equal", "--config", folder / "config.json", "--device", "cpu", "-q"};
  if (std::ranges::find(more, "--weights") == more.end())
    result.insert(result.end(), {"--weights", folder / "weights.safetensors"});
  result.insert(result.end(), more.begin(), more.end());
  return result;
}

CliResult check_equal(const std::string& name, const std::vector<std::string>& more) {
  return run_cli(arguments(name, more));
}

json report(const std::string& name, std::vector<std::string> more, int exit_code) {
  more.insert(more.end(), {"--format", "json"});
  const CliResult run = check_equal(name, more);
  CHECK_MESSAGE(run.exit_code == exit_code, run.err);
  return valid_report(run);
}

}  // namespace

TEST_CASE("the schema refuses what a report is not") {
  const json right = report("ft_v05", {"--dtype", "float32"}, 0);
  for (const char* key : {"taps", "tolerance", "causes", "kind", "provenance"}) {
    json wrong = right;
    wrong.erase(key);
    valijson::Schema schema;
    const json text = json::parse(vmamba::read_file(data("../../docs/check-equal.schema.json")));
    valijson::SchemaParser(valijson::SchemaParser::kDraft7)
        .populateSchema(valijson::adapters::NlohmannJsonAdapter(text), schema);
    valijson::Validator validator;
    CHECK_FALSE(validator.validate(schema, valijson::adapters::NlohmannJsonAdapter(wrong), nullptr));
  }
}

TEST_CASE("v0 and v1 in float32 are the same function, from a seed or from weights") {
  for (const std::vector<std::string>& seed :
       {std::vector<std::string>{}, {"--seed"}, {"--seed", "0"}, {"--seed", "7"}}) {
    std::vector<std::string> options = seed;
    options.insert(options.end(), {"--dtype", "float32"});
    const json found = report("s1_ln2d", options, 0);
    CHECK(found["kind"] == "comparison");
    CHECK(contains(found["notes"].at(0), "one function by construction"));
    CHECK(found["a"]["forward_core"] == "v0");
    CHECK(found["b"]["forward_core"] == "v1");
    CHECK(found["first_differing"].is_null());
    CHECK(found["agreement"]["top1"] == 1);
    CHECK(found["taps"].size() > 80);
  }
}

TEST_CASE("weights that are named count, whatever the seed") {
  const TemporaryDirectory folder;
  const std::string config = data("models/s1_ln2d/config.json"),
                    weights = data("models/s1_ln2d/weights.safetensors");
  vmamba::StateDict zeros;
  for (const auto& [name, tensor] : vmamba::read_safetensors(weights).tensors) {
    vmamba::HostTensor values = tensor.to_float32();
    std::fill(values.values.begin(), values.values.end(), 0.0f);
    zeros.add(name, values);
  }
  const std::string zero = folder / "zero.safetensors";
  vmamba::write_safetensors(zero, zeros);
  const auto run = [&](std::vector<std::string> more) {
    const std::vector<std::string> with{"check-equal", "--config", config, "--device", "cpu", "-q"};
    more.insert(more.begin(), with.begin(), with.end());
    return run_cli(more);
  };
  const CliResult two = run({"--a", "weights=" + weights, "--b", "weights=" + zero, "--seed", "0"});
  CHECK(two.exit_code == 1);
  CHECK(contains(two.out, "cause: different weights"));
  CHECK(contains(two.out, "noise of seed 0"));

  // The seed draws the input only: the logits are those of the weights.
  const auto saved = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all{"--save-taps", folder / "taps.safetensors"};
    all.insert(all.end(), more.begin(), more.end());
    const CliResult result = run(all);
    REQUIRE_MESSAGE(result.exit_code == 0, result.err);
    const vmamba::StateDict file = vmamba::read_safetensors(folder / "taps.safetensors");
    return std::pair(file.at("input").to_float32().values, file.at("logits").to_float32().values);
  };
  const auto named = saved({"--weights", weights, "--seed", "7"}),
             b = saved({"--b", "weights=" + weights, "--seed", "7"}), drawn = saved({"--seed", "7"}),
             none = saved({"--weights", weights});
  CHECK(named == b);
  CHECK(named.first == drawn.first);
  CHECK(named.second != drawn.second);
  CHECK(named.first != none.first);

  // Against a reference the weights are those that are named too; the seed has nothing to draw.
  REQUIRE(run({"--weights", weights, "--save-taps", folder / "r.safetensors"}).exit_code == 0);
  const std::string reference = folder / "r.safetensors";
  CHECK(run({"--weights", weights, "--reference", reference}).exit_code == 0);
  CHECK(run({"--weights", zero, "--reference", reference}).exit_code == 1);
  check_error(run({"--weights", weights, "--reference", reference, "--seed", "3"}), 2,
              {"--seed 3", "nothing to draw"});
  CHECK(run({"--reference", reference, "--seed", "3"}).exit_code == 1);  // initialises the weights
  check_error(run({}), 2, {"no weights", "--seed 0"});
  check_error(run({"--a", "weights=" + weights, "--seed", "0"}), 2, {"no weights", "each of a and b"});
}

TEST_CASE("nothing compared is no verdict") {
  const TemporaryDirectory folder;
  const auto with = [&](const std::string& name, const std::vector<std::int64_t>& input) {
    vmamba::StateDict file;
    int64_t count = 1;
    for (const int64_t dim : input) count *= dim;
    file.add("input", vmamba::HostTensor{input, std::vector<float>(static_cast<size_t>(count))});
    if (!name.empty()) file.add(name, vmamba::HostTensor{{1, 10}, std::vector<float>(10)});
    vmamba::write_safetensors(folder / "r.safetensors", file);
    return check_equal("s1_ln2d", {"--reference", folder / "r.safetensors"});
  };
  check_error(with("", {1, 3, 64, 64}), 2, {"r.safetensors", "nothing to compare", "no tensor but input"});
  check_error(with("logit", {1, 3, 64, 64}), 2, {"r.safetensors", "nothing to compare", "\"logit\""});
  check_error(with("logits", {0, 3, 64, 64}), 2, {"r.safetensors", "(0, 3, 64, 64)"});
  CHECK(with("logits", {1, 3, 64, 64}).exit_code == 1);
  check_error(check_equal("s1_ln2d", {"--matrix", "--dtype", "float32", "--selective-scan-backend", "torch",
                                      "--forward-core-version", "v0"}),
              2, {"--matrix", "nothing to compare"});
}

TEST_CASE("v0 and v1 are compared in every dtype where none is given") {
  const json found = report("s1_ln2d", {"--seed"}, 0);
  CHECK(found["kind"] == "dtypes");
  REQUIRE(found["cases"].size() == 3);
  CHECK(found["cases"][0]["first_differing"].is_null());
  CHECK(found["cases"][1]["name"] == "float16");
  CHECK(found["cases"][1]["b"]["dtype"] == "float16");
  CHECK(contains(found["cases"][2]["causes"].at(0), "rounding of the scan's output"));
  const CliResult text = check_equal("s1_ln2d", {});
  CHECK(text.exit_code == 0);
  CHECK(contains(text.out, "one function by construction"));
  CHECK(contains(text.out, "equal: all 3 dtypes"));
  // The exit code is by all.
  const json strict = report("s1_ln2d", {"--atol", "1e-9", "--rtol", "0"}, 1);
  CHECK(strict["cases"][0]["equal"] == true);
  CHECK(strict["cases"][2]["equal"] == false);
  const TemporaryDirectory folder;
  CHECK(check_equal("s1_ln2d", {"--atol", "1e-9", "--rtol", "0", "--report", folder / "x.html"}).exit_code ==
        1);
  const std::string page = vmamba::read_file(folder / "x.html");
  CHECK(contains(page, "verdict no"));
  CHECK(contains(page, "<dt>bfloat16</dt>"));
}

TEST_CASE("who is right, by the schema: of two sides, of a reference, in every dtype") {
  CHECK(report("ft_v05", {"--truth", "--b", "dtype=float16"}, 0)["truth"]["of"] == "a");
  CHECK(report("ft_v05", {"--truth", "--reference", data("models/ft_v05/io.safetensors")},
               0)["truth"]["of"] == "b");
  CHECK(report("ft_v05", {"--truth"}, 0)["cases"].at(2)["truth"]["nearer"].contains("same"));
  CHECK_FALSE(report("ft_v05", {"--dtype", "float32"}, 0).contains("truth"));
}

TEST_CASE("what a result rests on stands in every report") {
  const TemporaryDirectory folder;
  const json found = report("s1_ln2d", {"--dtype", "float32", "--report", folder / "x.html"}, 0);
  const json& provenance = found["provenance"];
  CHECK(contains(provenance["command"], "check-equal --config "));
  CHECK(provenance["a"]["weights_sha256"] == provenance["b"]["weights_sha256"]);
  CHECK(provenance["a"]["config_sha256"] != provenance["b"]["config_sha256"]);
  const std::string weights = provenance["b"]["weights_sha256"], input = provenance["input_sha256"];
  const std::string page = vmamba::read_file(folder / "x.html"),
                    text = check_equal("s1_ln2d", {"--seed", "1"}).out;
  CHECK(contains(page, weights));
  CHECK(contains(page, input));
  for (const char* line :
       {"\nweights", "\nconfig", "\ninput", "\nprogram", "\nmachine", "\nrun", "\ncommand"})
    CHECK(contains(text, line));
  REQUIRE(check_equal("s1_ln2d", {"--save-taps", folder / "t.safetensors"}).exit_code == 0);
  const auto metadata = vmamba::read_safetensors(folder / "t.safetensors").metadata;
  CHECK(metadata.at("b/weights_sha256") == weights);
  CHECK(metadata.at("input_sha256") == input);
  CHECK(metadata.contains("commit"));
  // By contents: the same tensors in another order are the same weights, another seed is another input.
  vmamba::StateDict other = vmamba::read_safetensors(data("models/s1_ln2d/weights.safetensors"));
  std::reverse(other.tensors.begin(), other.tensors.end());
  vmamba::write_safetensors(folder / "w.safetensors", other);
  const json again = report("s1_ln2d", {"--a", "weights=" + (folder / "w.safetensors"), "--seed", "1"}, 0);
  CHECK(again["provenance"]["a"]["weights_sha256"] == weights);
  CHECK(again["provenance"]["input_sha256"] != input);
  CHECK(contains(run_cli({"--version"}).out, "\ncommit: "));
}

TEST_CASE("one state dict on both sides: no weights are the cause, and the tolerance that is told holds") {
  for (const std::vector<std::string>& sides :
       {std::vector<std::string>{"--a", "dtype=float32", "--b", "dtype=float16"},
        {"--a", "selective_scan_backend=torch", "--b", "selective_scan_backend=mamba"}}) {
    std::vector<std::string> tight = sides;
    tight.insert(tight.end(), {"--atol", "1e-9", "--rtol", "0"});
    const json found = report("vanilla_v0_odd_size", tight, 1);
    REQUIRE(found["causes"].size() == 2);
    CHECK(contains(found["causes"][0], sides[1] == "dtype=float32"
                                           ? "rounding: a computes in float32, b in float16"
                                           : "order of sums"));
    const std::string hint = found["causes"][1];
    const size_t at = hint.find("--atol ");
    REQUIRE(at != std::string::npos);
    const std::string tolerance = hint.substr(at + 7, 7);
    std::vector<std::string> wide = sides;
    wide.insert(wide.end(), {"--atol", tolerance, "--rtol", tolerance});
    report("vanilla_v0_odd_size", wide, 0);
    CHECK_FALSE(contains(found.dump(), "compare "));
  }
  // Another function is another config.
  const TemporaryDirectory folder;
  vmamba::write_file(folder / "c.json",
                     vmamba::with_member(vmamba::read_file(data("models/s1_ln2d/config.json")), "c",
                                         "mlp_act_layer", R"("silu")"));
  const json configs = report("s1_ln2d", {"--b", "config=" + (folder / "c.json")}, 1);
  CHECK(contains(configs["causes"].at(0), R"(different configs: mlp_act_layer is "gelu" in a, "silu" in b)"));
}

TEST_CASE("NaN in one side's weights is different weights") {
  const TemporaryDirectory folder;
  vmamba::StateDict holed;
  for (const auto& [name, tensor] :
       vmamba::read_safetensors(data("models/s1_ln2d/weights.safetensors")).tensors) {
    vmamba::HostTensor values = tensor.to_float32();
    if (name == "classifier.head.weight") values.values[7] = NAN;
    holed.add(name, values);
  }
  vmamba::write_safetensors(folder / "nan.safetensors", holed);
  const std::vector<std::string> against_nan{"--b", "weights=" + (folder / "bias.safetensors")};
  vmamba::StateDict nowhere_finite;
  for (const auto& [name, tensor] : holed.tensors) {
    vmamba::HostTensor values = tensor.to_float32();
    if (name == "classifier.norm.bias") std::fill(values.values.begin(), values.values.end(), NAN);
    nowhere_finite.add(name, values);
  }
  vmamba::write_safetensors(folder / "bias.safetensors", nowhere_finite);
  const json nowhere = report("s1_ln2d", against_nan, 1);
  for (const json& tap : nowhere["taps"]) {
    if (tap["name"] != "classifier.norm") continue;
    for (const char* figure : {"max_abs", "mean_abs", "relative_l2", "cosine", "psnr"})
      CHECK_MESSAGE(tap[figure].is_null(), figure);
    CHECK(tap["by_itself"]["max_abs"].is_null());
  }
  const std::string text = check_equal("s1_ln2d", against_nan).out;
  CHECK(contains(text, "classifier.norm              -         -         -         -            -       -"));
  CHECK_FALSE(contains(text, "most at none"));
  const json found = report("s1_ln2d", {"--b", "weights=" + (folder / "nan.safetensors")}, 1);
  CHECK(contains(found["causes"].at(0),
                 "different weights: classifier.head.weight holds 0 NaN or infinite values in a, 1 in b"));
}

TEST_CASE("stress of two identical sides: both overflow, and that is no difference") {
  const std::vector<std::string> same{"--seed",
                                      "0",
                                      "--dtype",
                                      "float16",
                                      "--stress",
                                      "--a",
                                      "forward_core_version=v0",
                                      "--b",
                                      "forward_core_version=v0"};
  const json found = report("s1_ln2d", same, 0);
  const json& last = found["cases"].back();
  CHECK(last["both_overflow"] == true);
  CHECK(contains(last["name"], "activations * "));
  const CliResult text = check_equal("s1_ln2d", same);
  CHECK(contains(text.out, "both overflow"));
  CHECK(contains(text.out, "cases; both overflow at activations * "));
  // One side's alone is the worst there is.
  const CliResult one = check_equal("s1_ln2d", {"--seed", "0", "--dtype", "float16", "--stress"});
  CHECK(one.exit_code == 1);
  CHECK(contains(one.out, " cases differ"));
  CHECK(contains(one.out, " not finite"));
}

TEST_CASE("in 16 bits v0 and v1 part at the scan's output and out_norm, nowhere else") {
  for (const std::string dtype : {"float16", "bfloat16"}) {
    CAPTURE(dtype);
    const json found = report("s1_ln2d", {"--seed", "0", "--dtype", dtype}, 0);
    CHECK(found["first_differing"] == "layers.0.blocks.0.op.scan.k0");
    std::set<std::string> kinds;
    for (const json& tap : found["taps"])
      if (tap.contains("by_itself") && !tap["by_itself"]["identical"]) {
        const std::string name = tap["name"];
        kinds.insert(name.substr(name.find(".op.") + 1));
      }
    CHECK(kinds == std::set<std::string>{"op.scan.k0", "op.scan.k1", "op.scan.k2", "op.scan.k3", "op.scan",
                                         "op.out_norm"});
    REQUIRE(found["causes"].size() == 1);
    CHECK(
        contains(found["causes"][0], "rounding of the scan's output: b rounds every direction to " + dtype));
  }
  const CliResult text = check_equal("s1_ln2d", {"--dtype", "float16"});
  CHECK(text.exit_code == 0);
  CHECK(contains(text.out, "b differs by itself, from the same input, at:\n  op.scan.k0"));
}

TEST_CASE("stress: v1 overflows in float16 and the overflow is placed") {
  const json found = report("s1_ln2d", {"--seed", "0", "--dtype", "float16", "--stress"}, 1);
  CHECK(found["kind"] == "stress");
  CHECK_FALSE(found["equal"]);
  const json& last = found["cases"].back();
  CHECK(contains(last["name"], "activations * "));
  REQUIRE(last["causes"].size() >= 1);
  CHECK(contains(last["causes"][0], "overflow above 65504 in direction k"));
  CHECK(contains(last["causes"][0], "at position ("));
  CHECK(contains(last["causes"][0], "infinite in float16 (b)"));
  for (const json& each : found["cases"]) {
    if (!contains(each["name"], "activations")) CHECK_MESSAGE(each["equal"] == true, each["name"]);
  }
  // v0 does not round there; its own overflow comes later or not at all.
  CHECK(last["taps"].size() > 80);
}

TEST_CASE("stress: what float32 cannot hold inside a norm is an overflow, not a wrong step") {
  const auto stressed = [](const char* model, const char* of_a, const char* of_b) {
    return report(model, {"--stress", "--a", of_a, "--b", of_b}, 1);
  };
  for (const char* model : {"ft_v05", "vanilla_old_names"}) {
    CAPTURE(model);
    const json found = stressed(model, "dtype=float64", "dtype=float32");
    for (const json& each : found["cases"]) {
      if (each["equal"] == true) continue;
      REQUIRE(each["causes"].size() >= 1);
      const std::string cause = each["causes"][0];
      CHECK(contains(cause, "overflow above 3.40282e+38 inside layers.0.blocks.0.op.out_norm at position ("));
      CHECK(contains(cause, "sum of squares of its norm is "));
      CHECK(contains(cause, "infinite in float32 (b)"));
    }
    CHECK(found["cases"].back()["equal"] == false);
  }
  const auto last = [&](const char* model, const char* of_a, const char* of_b) {
    return stressed(model, of_a, of_b)["cases"].back()["causes"][0].get<std::string>();
  };
  CHECK(contains(last("ft_v05", "dtype=float32", "dtype=float64"), "infinite in float32 (a)"));
  const std::string beyond_both = last("ft_v05_onnone", "dtype=float64", "dtype=float32");
  CHECK(contains(beyond_both, "overflow in layers.0.blocks.0.op.out_proj at position ("));
  CHECK(contains(beyond_both, "infinite in a, NaN in b"));
}

TEST_CASE("scans of long memory and of large delta are no wrong steps") {
  const std::vector<std::string> backends{"--a", "selective_scan_backend=torch", "--b",
                                          "selective_scan_backend=mamba"},
      dtypes{"--a", "dtype=float64", "--b", "dtype=float32"};
  for (const char* model : {"posembed_resized", "gmlp"})
    for (const std::vector<std::string>& sides : {backends, dtypes}) {
      CAPTURE(model);
      CHECK(report(model, sides, 0)["equal"] == true);
      std::vector<std::string> stressed = sides;
      stressed.push_back("--stress");
      const CliResult result = check_equal(model, stressed);
      CHECK(contains(result.out, "noise * 1000              equal"));
      CHECK_FALSE(contains(result.out, "wrongly"));
    }
}

TEST_CASE("a reference whose scan is off and whose scan's input has another shape is told by the shape") {
  const TemporaryDirectory folder;
  REQUIRE(check_equal("s1_ln2d", {"--save-taps", folder / "t.safetensors", "--all"}).exit_code == 0);
  vmamba::StateDict changed;
  for (const auto& [name, tensor] : vmamba::read_safetensors(folder / "t.safetensors").tensors) {
    vmamba::HostTensor values = tensor.to_float32();
    if (name == "layers.0.blocks.0.op.conv2d") values.dims = {2, values.elements() / 2};
    if (name == "layers.0.blocks.0.op.scan") values.dims = {values.elements()};
    if (name == "layers.0.blocks.0.op.scan.k1") values.values[7] += 1;
    changed.add(name, values);
  }
  vmamba::write_safetensors(folder / "changed.safetensors", changed);
  const json found = report("s1_ln2d", {"--reference", folder / "changed.safetensors"}, 1);
  CHECK(found["first_outside"] == "layers.0.blocks.0.op.conv2d");
}

TEST_CASE("a wrong scan of values near the largest of float32 is not explained by a bound that overflows") {
  const TemporaryDirectory folder;
  const std::string model = "ft_v05_onsigmoid_noz";
  const auto changed = [&](const std::string& from, const std::string& to, auto&& change) {
    vmamba::StateDict result;
    for (const auto& [name, tensor] : vmamba::read_safetensors(from).tensors) {
      vmamba::HostTensor values = tensor.to_float32();
      for (float& value : values.values) value = change(name, value);
      result.add(name, values);
    }
    vmamba::write_safetensors(to, result);
  };
  const std::vector<std::string> with{"--weights", folder / "w.safetensors", "--dtype", "bfloat16"};
  changed(data("models/" + model + "/weights.safetensors"), folder / "w.safetensors",
          [](const std::string& name, float x) { return name == "layers.0.blocks.0.op.Ds" ? x * 1e22f : x; });
  std::vector<std::string> dump = with, against = with;
  dump.insert(dump.end(), {"--save-taps", folder / "t.safetensors", "--all"});
  REQUIRE(check_equal(model, dump).exit_code == 0);
  changed(folder / "t.safetensors", folder / "wrong.safetensors", [](const std::string& name, float x) {
    return name == "layers.0.blocks.0.op.scan.k0" && std::fabs(x) > 2e22f ? x * 1.2f : x;
  });
  against.insert(against.end(), {"--reference", folder / "wrong.safetensors"});
  const json found = report(model, against, 1);
  CHECK(found["first_outside"] == "layers.0.blocks.0.op.scan.k0");
}

TEST_CASE("NaN at the same places of both sides is told as that") {
  const TemporaryDirectory folder;
  vmamba::StateDict holed;
  for (const auto& [name, tensor] :
       vmamba::read_safetensors(data("models/s1_ln2d/weights.safetensors")).tensors) {
    vmamba::HostTensor values = tensor.to_float32();
    if (name == "classifier.head.bias") std::fill(values.values.begin(), values.values.end(), NAN);
    holed.add(name, values);
  }
  vmamba::write_safetensors(folder / "nan.safetensors", holed);
  const std::vector<std::string> with{"--weights", folder / "nan.safetensors", "--dtype", "float32"};
  const json found = report("s1_ln2d", with, 1);
  REQUIRE(found["causes"].size() == 1);
  CHECK(contains(found["causes"][0], "both sides are NaN at the same 10 of 10 elements of logits"));
  std::vector<std::string> judged = with;
  judged.push_back("--truth");
  const std::string text = check_equal("s1_ln2d", judged).out;
  CHECK(contains(text, "relative L2 of the logits: a -, b -"));
  CHECK(contains(text, "no element is finite in 2 of"));
}

TEST_CASE("a reference of another shape, or without a finite number, is told as that") {
  const TemporaryDirectory folder;
  REQUIRE(check_equal("s1_ln2d", {"--save-taps", folder / "t.safetensors", "--all"}).exit_code == 0);
  vmamba::StateDict flat, nan;
  for (const auto& [name, tensor] : vmamba::read_safetensors(folder / "t.safetensors").tensors) {
    vmamba::HostTensor values = tensor.to_float32();
    if (name == "logits") values.dims = {values.elements()};
    flat.add(name, values);
    values = tensor.to_float32();
    if (name != "input") std::fill(values.values.begin(), values.values.end(), NAN);
    nan.add(name, values);
  }
  vmamba::write_safetensors(folder / "flat.safetensors", flat);
  const json found = report("s1_ln2d", {"--reference", folder / "flat.safetensors"}, 1);
  REQUIRE(found["causes"].size() == 1);
  CHECK(found["causes"][0] == "logits cannot be compared: shape (10) in a, (1, 10) in b");
  vmamba::write_safetensors(folder / "nan.safetensors", nan);
  CHECK_FALSE(
      contains(check_equal("s1_ln2d", {"--reference", folder / "nan.safetensors"}).out, "was saved in"));
}

TEST_CASE("one channel far above the others hides nothing") {
  const TemporaryDirectory folder;
  const vmamba::StateDict right = vmamba::read_safetensors(data("models/s1_ln2d/weights.safetensors"));
  const std::string outlier = folder / "outlier.safetensors", wrong = folder / "wrong.safetensors";
  // In one tensor, outlier's and wrong's bias have one large value; the other rows of wrong's weight have another sign.
  const auto write = [&](const std::string& layer, float large) {
    for (const std::string& to : {outlier, wrong}) {
      vmamba::StateDict changed;
      for (const auto& [name, tensor] : right.tensors) {
        vmamba::HostTensor values = tensor.to_float32();
        if (name == layer + ".bias") values.values[0] = large;
        const auto row = static_cast<size_t>(values.elements() / values.dims[0]);
        if (to == wrong && name == layer + ".weight")
          for (size_t i = row; i < values.values.size(); ++i) values.values[i] = -values.values[i];
        changed.add(name, values);
      }
      vmamba::write_safetensors(to, changed);
    }
  };
  const auto compared = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all{"check-equal",
                                 "--config",
                                 data("models/s1_ln2d/config.json"),
                                 "--device",
                                 "cpu",
                                 "-q",
                                 "--a",
                                 "weights=" + outlier,
                                 "--b",
                                 "weights=" + wrong};
    all.insert(all.end(), more.begin(), more.end());
    return run_cli(all).exit_code;
  };
  for (const auto& [layer, large] :
       {std::pair{"classifier.head", -1e9f}, {"layers.1.blocks.0.mlp.fc2", 1000.0f}}) {
    INFO(layer);
    write(layer, large);
    for (const char* dtype : {"float32", "float16", "bfloat16"}) {
      INFO(dtype);
      CHECK(compared({"--dtype", dtype}) == 1);
      CHECK(check_equal("s1_ln2d",
                        {"--weights", outlier, "--a", "dtype=float64", "--b", std::string("dtype=") + dtype})
                .exit_code == 0);
    }
  }
}

TEST_CASE("most classes far above the others hide nothing") {
  const TemporaryDirectory folder;
  const vmamba::StateDict right = vmamba::read_safetensors(data("models/s1_ln2d/weights.safetensors"));
  for (const float mask : {-1e4f, -1e6f, -1e9f}) {
    INFO(mask);
    for (const char* to : {"a", "b"}) {  // six of ten classes are masked; the others have another sign in b
      vmamba::StateDict changed;
      for (const auto& [name, tensor] : right.tensors) {
        vmamba::HostTensor values = tensor.to_float32();
        if (name == "classifier.head.bias") std::fill_n(values.values.begin(), 6, mask);
        const auto row = static_cast<size_t>(values.elements() / values.dims[0]);
        if (*to == 'b' && name == "classifier.head.weight")
          for (size_t i = 6 * row; i < values.values.size(); ++i) values.values[i] = -values.values[i];
        changed.add(name, values);
      }
      vmamba::write_safetensors(folder / to, changed);
    }
    for (const char* dtype : {"float32", "float16", "bfloat16"}) {
      INFO(dtype);
      CHECK(check_equal("s1_ln2d", {"--weights", folder / "a", "--a", "dtype=float64", "--b",
                                    std::string("dtype=") + dtype})
                .exit_code == 0);
      CHECK(
          run_cli({"check-equal", "--config", data("models/s1_ln2d/config.json"), "--device", "cpu", "-q",
                   "--dtype", dtype, "--a", "weights=" + (folder / "a"), "--b", "weights=" + (folder / "b")})
              .exit_code == 1);
    }
  }
}

TEST_CASE("weights that differ where this input does not show it are noted") {
  const TemporaryDirectory folder;
  vmamba::StateDict changed;
  for (const auto& [name, tensor] :
       vmamba::read_safetensors(data("models/s1_ln2d/weights.safetensors")).tensors) {
    vmamba::HostTensor values = tensor.to_float32();
    if (name == "patch_embed.0.weight")
      for (float& value : values.values) value = -value;
    changed.add(name, values);
  }
  vmamba::write_safetensors(folder / "w.safetensors", changed);
  vmamba::StateDict input;
  input.add("input", vmamba::HostTensor{{1, 3, 64, 64}, std::vector<float>(3 * 64 * 64)});
  vmamba::write_safetensors(folder / "zeros.safetensors", input);
  const json found = report("s1_ln2d",
                            {"--dtype", "float32", "--input-tensor", folder / "zeros.safetensors", "--b",
                             "weights=" + (folder / "w.safetensors")},
                            0);
  REQUIRE(found["notes"].size() == 1);
  CHECK(contains(found["notes"][0], "different weights: patch_embed.0.weight"));
  CHECK(contains(found["notes"][0], "nothing shows it on this input"));
}

TEST_CASE("NaN alone is nothing to compare, whatever equals NaN") {
  const TemporaryDirectory folder;
  vmamba::StateDict changed;
  for (const auto& [name, tensor] :
       vmamba::read_safetensors(data("models/s1_ln2d/weights.safetensors")).tensors) {
    vmamba::HostTensor values = tensor.to_float32();
    if (name == "patch_embed.0.weight") std::fill(values.values.begin(), values.values.end(), NAN);
    changed.add(name, values);
  }
  vmamba::write_safetensors(folder / "w.safetensors", changed);
  check_error(
      check_equal("s1_ln2d", {"--dtype", "float32", "--weights", folder / "w.safetensors", "--equal-nan"}), 2,
      {"--equal-nan: nothing to compare: every value of every tap is NaN or infinite"});
}

TEST_CASE("channels that GELU closes, where 1 + erf cancels, are no wrong step") {
  const TemporaryDirectory folder;
  for (const auto& [bias, of] : {std::pair{-2.5f, 1}, {-4.0f, 2}}) {
    INFO(bias);
    vmamba::StateDict closed;
    for (const auto& [name, tensor] :
         vmamba::read_safetensors(data("models/s1_ln2d/weights.safetensors")).tensors) {
      vmamba::HostTensor values = tensor.to_float32();
      if (name.ends_with("mlp.fc1.bias"))
        for (size_t i = 0; i < values.values.size(); i += static_cast<size_t>(of)) values.values[i] += bias;
      closed.add(name, values);
    }
    vmamba::write_safetensors(folder / "w.safetensors", closed);
    for (const char* dtype : {"float32", "float16"})
      CHECK(check_equal("s1_ln2d", {"--weights", folder / "w.safetensors", "--a", "dtype=float64", "--b",
                                    std::string("dtype=") + dtype})
                .exit_code == 0);
  }
}

TEST_CASE("an input that another preprocessing made differs, whatever the dtype") {
  const TemporaryDirectory folder;
  json config = json::parse(vmamba::read_file(data("models/s1_ln2d/config.json")));
  config["preprocess"]["std"] = {0.225, 0.224, 0.225};
  vmamba::write_file(folder / "c.json", config.dump());
  const json found = report(
      "s1_ln2d",
      {"--images", data("chelsea.png"), "--dtype", "bfloat16", "--b",
       "config=" + (folder / "c.json") + ",weights=" + data("models/s1_ln2d/weights.safetensors").string()},
      1);
  CHECK(found["taps"][0]["name"] == "input");
  CHECK(found["taps"][0]["within"] == false);
  const json noise = report(
      "s1_ln2d",
      {"--dtype", "float32", "--b",
       "config=" + (folder / "c.json") + ",weights=" + data("models/s1_ln2d/weights.safetensors").string()},
      0);
  REQUIRE(noise["notes"].size() == 1);
  CHECK(noise["notes"][0] == "the configs' preprocess differs; it is compared with --images only");
}

TEST_CASE("Mamba-2 has no forward core to choose, also by --b") {
  check_error(
      run_cli({"check-equal", "--config", data("models/ft_v04/config.json"), "--seed", "0", "-q", "--a",
               "forward_core_version=v0", "--b", "forward_type=m0_noz,forward_core_version=v1"}),
      2, {"forward_type m0_noz has one way only"});
}

TEST_CASE("backends differ by the order of sums") {
  const json found =
      report("vanilla_v0_odd_size",
             {"--a", "selective_scan_backend=torch", "--b", "selective_scan_backend=mamba"}, 0);
  CHECK(contains(found["first_differing"], ".op.scan.k"));
  REQUIRE(found["causes"].size() == 1);
  CHECK(contains(found["causes"][0], "order of sums"));
}

TEST_CASE("forward types: v2 after migration is v03, v03 is not v05_noz") {
  CHECK(
      report("ft_v2", {"--a", "forward_type=v2", "--b", "forward_type=v03"}, 0)["first_differing"].is_null());
  check_error(check_equal("ft_v2", {"--b", "forward_type=v03noz"}), 2, {"v03noz", "v03_noz"});
}

TEST_CASE("of --atol and --rtol, the one that is absent is 0, and there is no bound on the relative L2") {
  for (const std::string option : {"--atol", "--rtol"}) {
    const CliResult result =
        check_equal("s1_ln2d", {"--a", "dtype=float32", "--b", "dtype=bfloat16", option, "1e-6"});
    CHECK(result.exit_code == 1);
    CHECK(contains(result.out, option == "--atol" ? "max(1e-06, 0 * max|a|)" : "max(0, 1e-06 * max|a|)"));
    CHECK_FALSE(contains(result.out, "of inf"));
  }
}

TEST_CASE("dtypes differ by rounding, and --atol, --rtol decide") {
  const json found = report("s1_ln2d", {"--a", "dtype=float32", "--b", "dtype=bfloat16"}, 0);
  CHECK(found["first_differing"] == "patch_embed");
  CHECK(contains(found["causes"][0], "rounding: a computes in float32, b in bfloat16"));
  const json strict = report(
      "s1_ln2d", {"--a", "dtype=float32", "--b", "dtype=bfloat16", "--atol", "1e-6", "--rtol", "0"}, 1);
  CHECK(strict["first_outside"] == "patch_embed");
  CHECK(strict["tolerance"]["absolute"] == 1e-6);
  CHECK(strict["tolerance"]["relative"] == 0);
  CHECK(strict["tolerance"]["relative_l2"].is_null());
}

TEST_CASE("saved taps are a baseline") {
  const TemporaryDirectory folder;
  const std::string file = folder / "taps.safetensors";
  CHECK(check_equal("s1_ln2d", {"--save-taps", file, "--all"}).exit_code == 0);
  const vmamba::StateDict saved = vmamba::read_safetensors(file);
  CHECK(saved.find("input") != nullptr);
  CHECK(saved.find("logits") != nullptr);
  CHECK(saved.find("layers.2.blocks.1.op.scan.k3") != nullptr);
  CHECK(report("s1_ln2d", {"--reference", file}, 0)["first_differing"].is_null());
  // Fewer without --all; a reference with a tap that the model hasn't is not equal.
  CHECK(check_equal("s1_ln2d", {"--save-taps", folder / "few.safetensors"}).exit_code == 0);
  CHECK(vmamba::read_safetensors(folder / "few.safetensors").find("layers.2.blocks.1.op.scan.k3") == nullptr);
  vmamba::StateDict more = vmamba::read_safetensors(folder / "few.safetensors");
  more.add("layers.9.blocks", vmamba::HostTensor{{1}, {0}});
  vmamba::write_safetensors(folder / "more.safetensors", more);
  const json unreached = report("s1_ln2d", {"--reference", folder / "more.safetensors"}, 1);
  CHECK(unreached["only_in_a"] == json{"layers.9.blocks"});
}

TEST_CASE("repeat, matrix, precision search, initialisation order") {
  const json repeated = report("s1_ln2d", {"--repeat", "3"}, 0);
  CHECK(repeated["kind"] == "repeat");
  CHECK(repeated["runs"] == 3);

  const json matrix = report("ft_v05", {"--matrix"}, 0);
  CHECK(matrix["variants"].size() == 18);  // 3 dtypes, 3 backends, 2 cores
  CHECK(matrix["pairs"].size() == 18 * 17 / 2);
  CHECK(report("m0_noz_oact_odd", {"--matrix", "--dtype", "float32"}, 0)["variants"].size() == 3);

  const TemporaryDirectory folder;
  const std::string config = folder / "config.json";
  const json search = report("s1_ln2d",
                             {"--find-precision", "--dtype", "bfloat16", "--atol", "1e-4", "--rtol", "4e-3",
                              "--margin", "2", "-o", config},
                             0);
  REQUIRE(search["float32_ops"].size() >= 1);
  CHECK(search["before"]["within"] == false);
  CHECK(search["after"]["within"] == true);
  // The config that was written does it, and honouring it is what makes the difference.
  const vmamba::Config written = vmamba::load_config(config);
  CHECK(json(written.float32_ops) == search["float32_ops"]);
  const std::string weights = data("models/s1_ln2d/weights.safetensors");
  const std::string worst = search["after"]["name"], seed = worst.substr(worst.rfind(' ') + 1);
  const std::vector<std::string> against{
      "check-equal", "--config", config,          "--weights", weights,          "--device", "cpu",
      "-q",          "--a",      "dtype=float32", "--b",       "dtype=bfloat16", "--format", "json"};
  CHECK(valid_report(run_cli(against))["taps"].back()["max_abs"] == search["after"]["max_abs"]);
  check_error(check_equal("s1_ln2d", {"--find-precision"}), 2, {"--dtype float16 or bfloat16"});
  vmamba::write_file(folder / "typo.json",
                     R"({"depths": [1], "dims": [8], "float32_ops": ["layers.0.blocks.0.opp"]})");
  CHECK_THROWS_WITH_AS(vmamba::load_config(folder / "typo.json"),
                       doctest::Contains("did you mean \"layers.0.blocks.0.op\""), std::runtime_error);

  const auto init_order = [](std::vector<std::string> more, int exit_code) {
    more.insert(more.begin(), {"check-equal", "--config", data("models/s1_ln2d/config.json"), "--init-order",
                               "-q", "--format", "json"});
    const CliResult run = run_cli(more);
    CHECK_MESSAGE(run.exit_code == exit_code, run.err);
    return valid_report(run);
  };
  CHECK(init_order({"--b", "forward_type=v0"}, 1)["step"].is_number());
  const json divergence = init_order({"--b", "config=" + data("models/ft_v05/config.json").string()}, 1);
  CHECK(divergence["step"].get<int>() >= 1);
  CHECK(init_order({"--b", "config=" + data("models/s1_ln2d/config.json").string()}, 0)["step"].is_null());
}

TEST_CASE("the page holds what it shows and asks nothing of the network") {
  const TemporaryDirectory folder;
  const std::string page = folder / "report.html";
  CHECK(check_equal("s1_ln2d", {"--dtype", "float16", "--report", page}).exit_code == 0);
  const std::string html = vmamba::read_file(page);
  CHECK(contains(html, "layers.3.blocks.0.op.scan.k3"));
  CHECK(contains(html, "rounding of the scan's output"));
  for (const char* outside : {"src=", "href=", "@import", "url("}) CHECK_FALSE(contains(html, outside));
  const size_t begin = html.find("application/json\">") + 18, end = html.find("</script>", begin);
  const json parsed = json::parse(html.substr(begin, end - begin));
  CHECK(parsed["taps"].size() > 80);
  CHECK(parsed["start"] == "layers.0.blocks.0.op.scan.k0");
}

TEST_CASE("Mamba-2 has one core: its backends are compared, and a version is refused") {
  CHECK(report("m0_noz_oact_odd", {}, 0)["a"]["selective_scan_backend"] == "torch");
  check_error(check_equal("m0_noz_oact_odd", {"--b", "forward_core_version=v1"}), 2,
              {"forward_core_version", "m0"});
}

TEST_CASE("refusals") {
  const auto refused = [](const std::vector<std::string>& more, const std::vector<std::string>& words) {
    check_error(check_equal("s1_ln2d", more), 2, words);
  };
  const std::string config = data("models/s1_ln2d/config.json");
  check_error(
      run_cli({"check-equal", "--seed", "0", "--config", "/dev/stdin"}, {.input = vmamba::read_file(config)}),
      2, {"/dev/stdin: not a regular file", "save it to a file"});
  refused({"--a", "dtyp=float16"}, {"--a", "dtyp", "dtype"});
  refused({"--a", "dtype"}, {"KEY=VALUE"});
  refused({"--a", "dtype=float99"}, {"float99"});
  refused({"--seed", "x"}, {"--seed x"});
  refused({"--reference", "nothing.safetensors"}, {"nothing.safetensors"});
  refused({"--reference", "x", "--a", "dtype=float16"}, {"--a", "--reference does not use it"});
  refused({"--matrix", "--stress"}, {"exclude each other"});
  // No option is ignored in silence.
  const std::string image = data("images/cat_420.jpg"), reference = data("models/s1_ln2d/io.safetensors");
  refused({"--stress", "--images", image}, {"--images", "--stress does not use it"});
  refused({"--stress", "--input-tensor", reference}, {"--input-tensor", "--stress"});
  refused({"--stress", "--all"}, {"--all"});
  refused({"--all", "--format", "json"}, {"--all: is of the text report"});
  refused({"--matrix", "--a", "dtype=float16"}, {"--a", "--matrix"});
  refused({"--repeat", "2", "--atol", "1"}, {"--atol", "--repeat"});
  refused({"--save-taps", "x", "--format", "json"}, {"--format", "--save-taps"});
  refused({"--save-taps", "x", "--images", image, "--batch-size", "2"}, {"--batch-size", "one batch"});
  refused({"--reference", reference, "--batch-size", "2"}, {"--batch-size"});
  refused({"--init-order", "--b", "dtype=float16"}, {"--weights", "--init-order"});
  check_error(run_cli({"check-equal", "--init-order"}), 2, {"--init-order: compares two configs"});
  CHECK(contains(check_equal("s1_ln2d", {"--a", "dtype=float32"}).out, "note: a and b are the same"));
  refused({"--images", image, "--input-tensor", reference}, {"exclude each other"});
  refused({"-o", "x"}, {"--output", "a comparison of a and b"});
  refused({"--labels", "x"}, {"--labels"});
  refused({"--forward-core-version", "v0"}, {"--forward-core-version", "unused"});
  refused({"--dtype", "float16", "--a", "dtype=float32", "--b", "dtype=bfloat16"}, {"--dtype", "unused"});
  refused({"--repeat", "2", "--b", "weights=" + reference}, {"--weights", "unused"});
  refused({"--a", "dtype=float16,dtype=float32"}, {"dtype is given twice"});
  refused({"--a", "weights="}, {"KEY=VALUE"});
  refused({"--b", "threads=1x"}, {"threads=1x"});
  for (const char* number : {"nan", "-1", "inf", "x", "1e999"}) {
    refused({"--rtol", number}, {"--rtol", number});
    refused({"--atol", number}, {"--atol", number});
  }
  for (const char* seed : {"18446744073709551616", "-1", "0x10", " 1"}) refused({"--seed", seed}, {"--seed"});
  for (const char* option : {"--seed", "--reference", "--config", "--images", "--report"}) {
    refused({option, ""}, {option, "empty"});
    refused({std::string(option) + "="}, {option, "empty"});
  }
  refused({"--stress=false"}, {"stress"});
  CHECK(check_equal("s1_ln2d", {"--seed", "18446744073709551615", "--dtype", "float32"}).exit_code == 0);
  refused({"--matrix", "--report", "x.html"}, {"--report"});
  refused({"--atol", "-1"}, {"--atol"});
  refused({"--images", "nothing.jpg"}, {"nothing.jpg"});
  std::vector<std::string> many{"--repeat", "2", "--images"};
  many.insert(many.end(), 33, data("coffee.png"));
  refused(many, {"33 images", "at most 32"});
  refused({"--report", "/no/such/folder/x.html"}, {"/no/such/folder"});
  const auto wrong_shape = data("models/ft_v05/io.safetensors").string();
  CHECK(check_equal("s1_ln2d", {"--reference", wrong_shape}).exit_code == 1);
}
