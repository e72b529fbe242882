#include "app/scheduler_options.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "app/classifier.h"
#include "app/program.h"
#include "kernels/error.h"
#include "lib/support/files.h"
#include "lib/verify/provenance.h"

namespace vmamba {

void add_shard_option(CLI::App& command, std::string& text) {
  command
      .add_option("--shard", text,
                  "Process only shard I of N (from 0): every N-th file, and every N-th archive; auto: from "
                  "the variables of Slurm, torchrun or mpirun. {shard} in output names becomes I")
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

void refuse_others(const CLI::App& command, const std::string& mode,
                   std::initializer_list<std::string_view> used) {
  for (const CLI::Option* option : command.get_options())
    if (option->count() > 0 && option->get_name() != "--help" &&
        std::ranges::find(used, option->get_name()) == used.end())
      fail_input("{}: {} does not use it", option->get_name(), mode);
}

void add_summary_option(CLI::App& command, std::string& file) {
  command
      .add_option("--summary", file, "Write image counts, failures, time and exit code as JSON at the end")
      ->type_name("FILE");
}

SummaryFile::SummaryFile(const std::string& file) {
  if (!file.empty()) file_.emplace(file);
}

void SummaryFile::write(const Summary& summary) {
  if (!file_) return;
  Json json{
      {"command", summary.command},
      {"shard", to_string(summary.shard)},
      {"images", summary.images},
      {"failed", summary.failed},
      {"no_answer", summary.no_answer},
      {"from_earlier", summary.from_earlier},
      {"seconds", summary.seconds},
      {"images_per_second", summary.seconds > 0 ? static_cast<double>(summary.images) / summary.seconds : 0},
      {"exit_code", summary.exit_code},
      {"ran_on", summary.ran_on},
      {"program", to_json(this_program())}};
  file_->stream() << dump_json(json, 2) << '\n';
  file_->commit();
}

}  // namespace vmamba
