// init-weights: the state dict that PyTorch builds from a config and a seed.
#include <spdlog/spdlog.h>

#include <memory>

#include "app/commands.h"
#include "app/model_options.h"
#include "app/option_values.h"
#include "lib/config/config.h"
#include "lib/model/init.h"
#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"

namespace vmamba {

Command add_init_weights(CLI::App& app) {
  struct Options {
    std::string config, output;
    uint64_t seed = 0;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "init-weights",
      "Write initial weights: the state dict of torch.manual_seed(SEED); VSSM(**config) on a CPU");
  command->add_option("--config", options->config, "The model: a config file, or the name of a published one")
      ->required()
      ->type_name("FILE|NAME");
  command
      ->add_option_function<std::string>(
          "--seed", [options](const std::string& text) { options->seed = parse_seed(text); },
          "PyTorch's seed; its lowest 32 bits count, as there")
      ->default_str("0")
      ->type_name("SEED");
  command->add_option("-o,--output", options->output, "The safetensors file to write")
      ->required()
      ->check(safetensors_name)
      ->type_name("FILE");
  return {command, [options] {
            OutputFile file(options->output);
            const StateDict weights = init_weights(load_config(options->config), options->seed);
            write_safetensors(file, weights);
            int64_t values = 0;
            for (const auto& [name, tensor] : weights.tensors) values += tensor.elements();
            spdlog::info("{}: {} tensors, {} values, from seed {}", options->output, weights.tensors.size(),
                         values, options->seed);
            return 0;
          }};
}

}  // namespace vmamba
