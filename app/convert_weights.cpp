// convert-weights: .pth or safetensors in, safetensors under the current names out.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <memory>

#include "app/commands.h"
#include "app/model_options.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {
namespace {

constexpr std::array<DType, 3> dtypes{DType::float32, DType::float16, DType::bfloat16};

DType parse_dtype(const std::string& text) {
  return *std::find_if(dtypes.begin(), dtypes.end(), [&](DType dtype) { return to_string(dtype) == text; });
}

}  // namespace

Command add_convert_weights(CLI::App& app) {
  struct Options {
    std::string input, output, dtype, key, prefix;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "convert-weights",
      "Turn a PyTorch checkpoint (.pth, .pt) or safetensors into safetensors with current names");
  command->add_option("INPUT", options->input, "The file to read; nothing in it is executed")->required();
  command->add_option("OUTPUT", options->output, "The safetensors file to write")->required();
  command
      ->add_option("--dtype", options->dtype, "Store floating-point tensors as this (default: as they are)")
      ->check(CLI::IsMember({"float32", "float16", "bfloat16"}).description(""))
      ->type_name("float32|float16|bfloat16");
  add_checkpoint_options(*command, options->key, options->prefix);
  return {command, [options] {
            StateDict weights = read_weights(options->input, options->key, options->prefix);
            if (!options->dtype.empty()) weights = converted(weights, parse_dtype(options->dtype));
            write_safetensors(options->output, weights);
            spdlog::info("{}: {} tensors", options->output, weights.tensors.size());
            return 0;
          }};
}

}  // namespace vmamba
