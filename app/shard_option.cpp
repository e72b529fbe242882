#include "app/shard_option.h"

#include <spdlog/spdlog.h>

#include "kernels/error.h"

namespace vmamba {

void add_shard_option(CLI::App& command, std::string& text) {
  command
      .add_option(
          "--shard", text,
          "Only part I of N, from 0: of the files each N-th, and of the archives; auto: by the variables of Slurm, "
          "torchrun or mpirun. {shard} in the names of outputs is I")
      ->type_name("I/N|auto");
}

Shard choose_shard(const std::string& text, std::initializer_list<std::string*> outputs) {
  constexpr std::string_view word = "{shard}";
  const Shard shard = text.empty() ? Shard{} : parse_shard(text);
  if (text == "auto") spdlog::info("shard {}", to_string(shard));
  const size_t width = std::to_string(shard.count - 1).size();
  for (std::string* output : outputs)
    for (size_t at = 0; (at = output->find(word, at)) != output->npos;) {
      if (text.empty()) fail_input("{}: {} is of --shard I/N, which is not given", *output, word);
      output->replace(at, word.size(), fmt::format("{:0{}}", shard.index, width));
    }
  return shard;
}

}  // namespace vmamba
