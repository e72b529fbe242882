// --shard, and {shard} in the names of outputs.
#pragma once
#include <CLI/CLI.hpp>
#include <initializer_list>
#include <string>

#include "lib/images/shard.h"

namespace vmamba {

void add_shard_option(CLI::App& command, std::string& text);

// The shard that `text` asks for; all of the input if it is empty. In `outputs`, {shard} becomes the shard's number, padded
// to the width of the last one's; InputError where there is no --shard.
Shard choose_shard(const std::string& text, std::initializer_list<std::string*> outputs);

}  // namespace vmamba
