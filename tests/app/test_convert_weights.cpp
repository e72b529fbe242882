// convert-weights through the real binary.
#include <doctest/doctest.h>

#include <filesystem>

#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"
#include "tests/testing.h"

namespace vmamba {
namespace {

namespace fs = std::filesystem;
using testing::check_error;
using testing::data;
using testing::run_cli;
using testing::TemporaryDirectory;

TEST_CASE("convert-weights: a checkpoint becomes safetensors; --key chooses, --dtype converts") {
  const TemporaryDirectory folder;
  const std::string checkpoint = data("pth/checkpoint.pth").string(), out = folder / "out.safetensors";
  const StateDict model = read_safetensors(data("pth/checkpoint.safetensors"));
  const StateDict ema = read_safetensors(data("pth/checkpoint.ema.safetensors"));
  const auto values = [&](const StateDict& weights) {
    return weights.at("classifier.head.weight").to_float32().values;
  };

  const auto done = run_cli({"convert-weights", checkpoint, out});
  CHECK(done.exit_code == 0);
  CHECK(done.out.empty());
  CHECK(done.err.find("model_ema") != std::string::npos);  // says which of two was taken
  CHECK(values(read_safetensors(out)) == values(ema));

  CHECK(run_cli({"convert-weights", checkpoint, out, "--key", "model"}).exit_code == 0);
  CHECK(values(read_safetensors(out)) == values(model));
  const std::string first = read_file(out);
  CHECK(run_cli({"convert-weights", out, folder / "again.safetensors"}).exit_code == 0);
  CHECK(read_file(folder / "again.safetensors") == first);

  for (const char* dtype : {"float16", "bfloat16", "float32"}) {
    CAPTURE(dtype);
    CHECK(run_cli({"convert-weights", checkpoint, out, "--dtype", dtype, "--key", "model"}).exit_code == 0);
    const StateDict got = read_safetensors(out);
    REQUIRE(got.tensors.size() == model.tensors.size());
    for (const auto& [name, tensor] : got.tensors) {
      CHECK(to_string(tensor.dtype) == dtype);
      CHECK(tensor.to_float32().values == converted(model, tensor.dtype).at(name).to_float32().values);
    }
  }
}

TEST_CASE("convert-weights: old names are brought up to date") {
  const TemporaryDirectory folder;
  const std::string out = folder / "out.safetensors";
  CHECK(run_cli({"convert-weights", data("models/vanilla_old_names/weights.safetensors").string(), out})
            .exit_code == 0);
  const StateDict got = read_safetensors(out);
  CHECK(got.find("patch_embed.0.weight") != nullptr);
  CHECK(got.find("layers.1.blocks.0.op.in_proj.weight") != nullptr);
  CHECK(got.find("classifier.head.bias") != nullptr);
  CHECK(got.find("head.bias") == nullptr);
}

TEST_CASE("convert-weights: refusals leave no file") {
  const TemporaryDirectory folder;
  const std::string out = folder / "out.safetensors";
  const auto refuse = [&](const std::vector<std::string>& arguments, const std::vector<std::string>& words) {
    std::vector<std::string> all{"convert-weights"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    check_error(run_cli(all), 2, words);
    CHECK(fs::is_empty(folder.path()));
  };
  refuse({data("pth/broken_not_a_dict.pth").string(), out}, {"bare pickle"});
  refuse({data("pth").string(), out}, {"is a folder"});
  refuse({folder / "nothing.pth", out}, {"No such file"});
  refuse({data("pth/plain.pth").string(), out, "--key", "model"}, {"\"model\""});
  refuse({data("pth/plain.safetensors").string(), out, "--key", "model"}, {"safetensors"});
  refuse({data("pth/plain.pth").string(), out, "--dtype", "int8"}, {"--dtype"});
  refuse({data("pth/plain.pth").string(), folder / "no/such/out"}, {"cannot be written"});
  refuse({data("pth/plain.pth").string()}, {"OUTPUT"});
}

}  // namespace
}  // namespace vmamba
