// Configs: defaults, the published models, and one line for everything that is wrong.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>

#include "kernels/error.h"
#include "lib/config/config.h"
#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba;
using testing::contains;

namespace {

std::string error_of(const std::string& text) {
  try {
    parse_config(text, "a.json");
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

// One line that holds every one of `parts`.
void check_refused(const std::string& json, std::initializer_list<std::string_view> parts) {
  const std::string error = error_of(json);
  INFO(json.substr(0, 100), " → ", error);
  for (const std::string_view part : parts) CHECK(contains(error, part));
  CHECK(error != "");
  CHECK(error.find('\n') == std::string::npos);
  CHECK(error.size() < 1200);
}

}  // namespace

TEST_CASE("an empty object is the constructor's defaults") {
  const Config config = parse_config("{}", "a.json");
  CHECK(config.patch_size == 4);
  CHECK(config.depths == std::vector{2, 2, 9, 2});
  CHECK(config.dims == std::vector{96, 192, 384, 768});
  CHECK(config.ssm_d_state == 16);
  CHECK(config.ssm_ratio == 2.0);
  CHECK(config.dt_rank(0) == 6);
  CHECK(config.d_inner(3) == 1536);
  CHECK(config.mlp_hidden(0) == 384);
  CHECK(config.forward.base == "v2");
  CHECK(config.norm_layer == NormLayer::ln);
  CHECK(config.downsample_version == DownsampleVersion::v2);
  CHECK(config.patchembed_version == PatchEmbedVersion::v1);
  CHECK(config.selective_scan_backend == ScanBackend::automatic);
  CHECK(config.forward_core_version == ForwardCoreVersion::unset);
  CHECK(config.preprocess.resize == 256);
  CHECK(config.preprocess.crop == 224);
}

TEST_CASE("values reach the config") {
  const Config config = parse_config(R"({"name": "mine", "dims": 32, "depths": [1, 3], "norm_layer": "LN2D",
    "ssm_dt_rank": 3, "forward_type": "v05_oact_noz", "selective_scan_backend": null,
    "forward_core_version": "v1", "float32_ops": ["layers.0.blocks.0.op"], "imgsize": 64,
    "preprocess": {"crop": 48, "interpolation": "bilinear", "std": [1, 1, 0.5], "crop_mode": "center"},
    "drop_path_rate": 0.2, "ssm_drop_rate": 0.0, "mlp_drop_rate": 0, "use_checkpoint": true})",
                                     "a.json");
  CHECK(config.name == "mine");
  CHECK(config.dims == std::vector{32, 64});
  CHECK(config.norm_layer == NormLayer::ln2d);
  CHECK(config.dt_rank(1) == 3);
  CHECK_FALSE(config.forward.gated);
  CHECK(config.forward_core_version == ForwardCoreVersion::v1);
  CHECK(config.float32_ops == std::vector<std::string>{"layers.0.blocks.0.op"});
  CHECK(config.preprocess.resize == 73);
  CHECK(config.preprocess.crop == 48);
  CHECK(config.preprocess.interpolation == Interpolation::bilinear);
  CHECK(config.preprocess.std[2] == 0.5f);
}

TEST_CASE("dims may be one int or a list of the length of depths") {
  CHECK(parse_config(R"({"depths": [1, 1, 1], "dims": 8})", "").dims == std::vector{8, 16, 32});
  CHECK(parse_config(R"({"depths": [1], "dims": [5]})", "").dims == std::vector{5});
  check_refused(R"({"depths": [1, 1], "dims": [8]})", {"/dims", "1 entries", "2 in depths"});
  check_refused(R"({"depths": [1, 1]})", {"/depths", "dims must be given"});
  check_refused(R"({"dims": 4000})", {"/dims", "last stage"});
  check_refused(R"({"dims": 2147483648})", {"/dims", "expected an integer"});
  check_refused(R"({"dims": []})", {"/dims"});
  check_refused(R"({"dims": [96, 192, 384, null]})", {"/dims/3", "got null"});
}

TEST_CASE("unknown keys name the nearest known one") {
  check_refused(R"({"mlp_ration": 4})",
                {"a.json:1: /mlp_ration: unknown key, did you mean \"mlp_ratio\"?", "known:"});
  check_refused("{\n\n \"depth\": [1]}", {"a.json:3: /depth", "did you mean \"depths\"?"});
  check_refused(R"({"preprocess": {"resise": 1}})", {"/preprocess/resise", "did you mean \"resize\"?"});
  check_refused(R"({"a/b~c": 1})", {"/a~1b~0c"});
}

TEST_CASE("wrong types and impossible values say what was expected and what was got") {
  check_refused(R"({"patch_size": "4"})", {"/patch_size", "expected an integer from 1 to 256", "got \"4\""});
  check_refused(R"({"patch_size": 4.0})", {"/patch_size", "got 4.0"});
  check_refused(R"({"patch_size": 0})", {"/patch_size"});
  check_refused(R"({"patch_size": true})", {"/patch_size", "got true"});
  check_refused(R"({"patch_norm": 1})", {"/patch_norm", "expected true or false"});
  check_refused(R"({"num_classes": 99999999999999999999})", {"/num_classes"});
  check_refused(R"({"ssm_ratio": {}})", {"/ssm_ratio", "got an object"});
  check_refused(R"({"ssm_ratio": 1e300})", {"/ssm_ratio"});
  check_refused(R"({"ssm_ratio": 0.001})", {"/ssm_ratio", "at least 1"});
  check_refused(R"({"mlp_ratio": 0.001})", {"/mlp_ratio", "at least 1"});
  check_refused(R"({"ssm_dt_rank": "automatic"})", {"/ssm_dt_rank", "\"auto\" or an integer"});
  check_refused(R"({"ssm_act_layer": "swish"})", {"/ssm_act_layer", "silu", "gelu", "relu", "sigmoid"});
  check_refused(R"({"norm_layer": "gn"})", {"/norm_layer", "ln2d"});
  check_refused(R"({"downsample_version": "v4"})", {"/downsample_version", "v3"});
  check_refused(R"({"ssm_conv": 4})", {"/ssm_conv", "odd"});
  check_refused(R"({"patchembed_version": "v2", "patch_size": 1})", {"/patch_size", "at least 2"});
  check_refused(R"({"forward_core_version": "v2"})", {"/forward_core_version", "null, \"v0\" or \"v1\""});
  check_refused(R"({"forward_type": "v3noz"})", {"/forward_type", "did you mean \"v3_noz\"?"});
  check_refused(R"({"forward_type": null})", {"/forward_type", "got null"});
  check_refused(R"({"name": "a\nb"})", {"/name", "control characters"});
  check_refused(R"({"preprocess": {"std": [1, 1, 0]}})", {"/preprocess/std/2"});
  for (const char* key : {"mean", "std"})
    check_refused(fmt::format(R"({{"preprocess": {{"{}": [0.5, 1, 58.395]}}}})", key),
                  {fmt::format("/preprocess/{}/2", key), "58.395", "by 255"});
  check_refused(R"({"preprocess": {"mean": [-2, 0, 0]}})", {"/preprocess/mean/0"});
  check_refused(R"({"preprocess": {"mean": [1, 1]}})", {"/preprocess/mean", "3 numbers"});
  check_refused(R"({"preprocess": {"crop": 300}})", {"/preprocess/crop", "256"});
  check_refused(R"({"preprocess": []})", {"/preprocess", "an object"});
  check_refused(R"({"float32_ops": "all"})", {"/float32_ops"});
  check_refused(R"({"dims": [16384, 16384, 16384, 16384], "depths": [512, 512, 512, 512]})",
                {"/dims", "parameters"});
}

TEST_CASE("what Mamba-2 asks for") {
  const std::string good = R"({"forward_type": "m0_noz", "dims": 32, "depths": [1, 1], "ssm_ratio": 1)";
  CHECK(error_of(good + "}") == "");
  check_refused(good + R"(, "norm_layer": "ln2d"})", {"/norm_layer", "\"ln\" only"});
  check_refused(good + R"(, "ssm_dt_rank": 5})", {"/ssm_dt_rank", "do not divide"});
  check_refused(good + R"(, "forward_core_version": "v1"})", {"/forward_core_version", "remove the key"});
}

TEST_CASE("core is refused in one line with the way to mend it") {
  check_refused(
      "{\n\"selective_scan_backend\": \"core\"}",
      {"a.json:2: /selective_scan_backend", "removed", "July 2024", "`vmamba-cli migrate-config a.json`"});
  CHECK_THROWS_WITH_AS(parse_scan_backend("core"), doctest::Contains("migrate-config"), InputError);
  CHECK_THROWS_WITH_AS(parse_scan_backend("cuda"), doctest::Contains("torch, mamba, oflex or null"),
                       InputError);
  CHECK_THROWS_AS(parse_forward_core_version("v2"), InputError);
}

TEST_CASE("broken JSON is refused with its line") {
  check_refused("", {"empty"});
  check_refused(" \n", {"empty"});
  check_refused("[]", {"expected a JSON object"});
  check_refused("{\n// a comment\n}", {"a.json:2: not JSON"});
  check_refused("{\"mlp_ratio\": NaN}", {"a.json:1: not JSON"});
  check_refused("{\"mlp_ratio\": 1e999}", {"not JSON", "overflow"});
  check_refused("{\"depths\": [2, 2, 9, 2],}", {"not JSON"});
  check_refused("{} {}", {"not JSON"});
  check_refused("{\"name\": \"\xff\"}", {"not JSON", "UTF-8"});
  check_refused("\xEF\xBB\xBF{}", {"byte order mark"});
  check_refused("{\"dims\": 96,\n\"dims\": 128}", {"a.json:2", "\"dims\" stands twice"});
  check_refused(std::string(100000, '['), {"nested deeper"});
  check_refused("{\"a\":" + std::string(50000, '[') + std::string(50000, ']') + "}", {"nested deeper"});
  check_refused("{\"name\": \"" + std::string(2 << 20, 'x') + "\"}", {"larger than"});
  check_refused("{\"" + std::string(1 << 19, 'x') + "\": 1}", {"unknown key"});
  check_refused(std::string("{\"name\": \"a\0b\"}", 15), {"not JSON"});
}

TEST_CASE("every prefix of a config is refused") {
  const std::string text = read_file(find_config("vmamba_tiny_s1l8"));
  const size_t end = text.rfind('}');
  for (size_t length = 0; length < end; ++length) CHECK(error_of(text.substr(0, length)) != "");
}

TEST_CASE("the published models parse, under their own names") {
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*find_shipped("configs"))) {
    const Config config = load_config(entry.path().stem().string());
    CHECK(config.name == entry.path().stem().string());
    CHECK(config.imgsize == 224);
    CHECK(config.preprocess.resize == 256);
    CHECK(config.num_classes == 1000);
    ++found;
  }
  CHECK(found == 12);
  CHECK(load_config("vmamba_base_s2l15.json").dims == std::vector{128, 256, 512, 1024});
}

TEST_CASE("the public project's names of the published models are understood") {
  const std::pair<const char*, const char*> names[] = {
      {"vmambav0_tiny_224", "vanilla_vmamba_tiny"}, {"vssm_tiny", "vanilla_vmamba_tiny"},
      {"vssm_base", "vanilla_vmamba_base"},         {"vmambav2_tiny_224.yaml", "vmamba_tiny_s2l5"},
      {"vssm1_tiny_0230", "vmamba_tiny_s2l5"},      {"vssm1_tiny_0230s", "vmamba_tiny_s1l8"},
      {"vmambav2v_tiny_224", "vmamba_tiny_s1l8"},   {"vssm_small_0229", "vmamba_small_s2l15"},
      {"vmambav2v_base_224", "vmamba_base_s1l20"},  {"VMamba-S[s1l20]", "vmamba_small_s1l20"},
      {"Vanilla-VMamba-S", "vanilla_vmamba_small"}};
  for (const auto& [theirs, ours] : names) CHECK(load_config(theirs).name == ours);
  for (const char* none : {"", ".yaml", "vssm", "vssm_tiny_224"})
    CHECK_THROWS_AS(load_config(none), InputError);
}

TEST_CASE("configs are found by path and by name, and what is none is refused") {
  testing::TemporaryDirectory folder;
  write_file(folder / "mine.json", "{}");
  CHECK(load_config(folder / "mine.json").patch_size == 4);
  CHECK_THROWS_WITH_AS(load_config("nosuch"), doctest::Contains("vmamba_tiny_s1l8"), InputError);
  CHECK_THROWS_WITH_AS(load_config(folder.path().string()), doctest::Contains("folder"), InputError);
  CHECK_THROWS_WITH_AS(load_config("/dev/zero"), doctest::Contains("is not a file"), InputError);
  CHECK_THROWS_AS(load_config("../configs/vmamba_tiny_s1l8"), InputError);
  write_file(folder / "a.yaml", "MODEL: {}");
  CHECK_THROWS_WITH_AS(load_config(folder / "a.yaml"), doctest::Contains("migrate-config"), InputError);
}
