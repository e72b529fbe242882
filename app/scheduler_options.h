// Options for running under a scheduler: --shard, {shard} in output names, --summary.
#pragma once
#include <CLI/CLI.hpp>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "lib/images/shard.h"
#include "lib/support/files.h"

namespace vmamba {

void add_shard_option(CLI::App& command, std::string& text);

// The shard that `text` asks for; all of the input if it is empty. In `outputs`, {shard} becomes the shard's number, padded
// to the width of the last one's; InputError where there is no --shard.
Shard choose_shard(const std::string& text, std::initializer_list<std::string*> outputs);

// Refuses all given options and arguments except `used` (long names), for a mode that reads no others.
void refuse_others(const CLI::App& command, const std::string& mode,
                   std::initializer_list<std::string_view> used);

struct Summary {
  std::string command;
  Shard shard;
  size_t images = 0;        // of this run
  size_t failed = 0;        // could not be read; of --results, in all
  size_t no_answer = 0;     // their logits (of features: values) are NaN or infinite; of --results, in all
  size_t from_earlier = 0;  // images with results of an earlier run
  double seconds = 0;
  int exit_code = 0;
  nlohmann::ordered_json ran_on = {};  // model and device, with SHA-256
};
void add_summary_option(CLI::App& command, std::string& file);
// Made before the command reads or computes anything, so that it replaces neither an input nor another output.
class SummaryFile {
 public:
  explicit SummaryFile(const std::string& file);
  void write(const Summary& summary);  // nothing without --summary

 private:
  std::optional<OutputFile> file_;
};

}  // namespace vmamba
