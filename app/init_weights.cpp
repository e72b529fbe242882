// init-weights: the state dict that PyTorch builds from a config and a seed.
#include <spdlog/spdlog.h>

#include <memory>

#include "app/commands.h"
#include "lib/config/config.h"
#include "lib/model/init.h"
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
  command->add_option("--seed", options->seed, "PyTorch's seed; its lowest 32 bits count, as there")
      ->check([](const std::string& text) -> std::string {
        const bool is_number = text.find_first_not_of("0123456789") == std::string::npos;
        return is_number ? "" : text + " is not a seed (0 to 2^64 - 1)";
      })
      ->capture_default_str()
      ->type_name("SEED");
  command->add_option("-o,--output", options->output, "The safetensors file to write")
      ->required()
      ->type_name("FILE");
  return {command, [options] {
            const StateDict weights = init_weights(load_config(options->config), options->seed);
            write_safetensors(options->output, weights);
            int64_t values = 0;
            for (const auto& [name, tensor] : weights.tensors) values += tensor.elements();
            spdlog::info("{}: {} tensors, {} values, from seed {}", options->output, weights.tensors.size(),
                         values, options->seed);
            return 0;
          }};
}

}  // namespace vmamba
