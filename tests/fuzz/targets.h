// Fuzz targets: one per reader of bytes from outside. A target may throw InputError; any other exception, a signal or a
// sanitizer's finding is a bug.
#pragma once
#include <initializer_list>
#include <span>
#include <string_view>

namespace vmamba::fuzz {

struct Target {
  std::string_view name;
  std::string_view seeds;                         // files of tests/data to start from: "FOLDER/*ENDING …"
  std::initializer_list<std::string_view> texts;  // further seeds
  void (*run)(std::string_view bytes);
};
std::span<const Target> targets();

// Runs the target on one input, aborting on any exception but InputError.
void run_one(const Target& target, std::string_view bytes);

}  // namespace vmamba::fuzz
