// convert-weights: .pth or safetensors in, safetensors under the current names out.
#include <spdlog/spdlog.h>

#include <memory>
#include <optional>

#include "app/commands.h"
#include "app/model_options.h"
#include "app/option_values.h"
#include "kernels/error.h"
#include "lib/support/files.h"
#include "lib/support/text.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {
namespace {

// The dtypes that a model can run in.
std::string dtype_words() {
  std::vector<std::string_view> names = names_of<DType>();
  std::erase_if(names, [](std::string_view name) { return !find_name<DType>(name)->storage; });
  return alternatives(names);
}

DType parse_dtype(const std::string& text) {
  const DTypeRow* row = find_row<DType>(text);
  if (!row || !row->storage) fail_input("--dtype {}: unknown; it is {}", text, dtype_words());
  return row->value;
}

}  // namespace

Command add_convert_weights(CLI::App& app) {
  struct Options {
    std::string input, output, key, prefix;
    std::optional<DType> dtype;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "convert-weights",
      "Convert a PyTorch checkpoint (.pth, .pt) or safetensors to safetensors with current names");
  command->add_option("INPUT", options->input, "The file to read; nothing in it is executed")->required();
  command->add_option("OUTPUT", options->output, "The safetensors file to write")
      ->required()
      ->check(safetensors_name);
  command
      ->add_option_function<std::string>(
          "--dtype", [options](const std::string& text) { options->dtype = parse_dtype(text); },
          dtype_words() + " (default: as they are)")
      ->type_name("DTYPE");
  add_checkpoint_options(*command, options->key, options->prefix);
  return {command, [options] {
            OutputFile file(options->output);
            StateDict weights = read_weights(options->input, options->key, options->prefix);
            if (options->dtype) weights = converted(weights, *options->dtype);
            write_safetensors(file, weights);
            spdlog::info("{}: {} tensors", options->output, weights.tensors.size());
            return 0;
          }};
}

}  // namespace vmamba
