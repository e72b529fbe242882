// Test helpers: running the real binary, temporary directories, the files of tests/data.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace vmamba::testing {

struct CliResult {
  int exit_code = -1;  // −1: killed by a signal or by the timeout
  std::string out, err;
};
struct CliRun {
  std::string program;                   // program to start with the arguments; empty: vmamba-cli
  std::string input;                     // standard input
  std::vector<std::string> environment;  // "NAME=value", added to the current environment
  std::filesystem::path directory;       // working directory; empty: the current one
  std::string stdout_path;               // redirects standard output to this file instead of CliResult::out
  std::string stderr_path;               // the same for standard error
  std::vector<int> unread;               // of descriptors 1 and 2: those that are pipes without a reader
  std::vector<int> closed;               // descriptors that are closed at the start
  int timeout_seconds = 120;
};
// Runs vmamba-cli with these arguments, without a shell.
CliResult run_cli(const std::vector<std::string>& arguments, const CliRun& run = {});
// `command` with the model in this folder (config.json, weights.safetensors), on the CPU.
CliResult run_model(const std::filesystem::path& model, const std::string& command,
                    const std::vector<std::string>& arguments, const CliRun& run = {});

// Checks that the command failed as documented: this exit code, nothing on stdout, and on stderr one line
// "vmamba-cli: …" (besides log lines) that contains all of `words`. Reports failures through doctest.
void check_error(const CliResult& result, int exit_code, const std::vector<std::string>& words);

class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

bool contains(const std::string& text, std::string_view part);
size_t entries(const std::filesystem::path& folder);

std::filesystem::path data(const std::string& name);  // path in tests/data
std::string cli();                                    // path of the binary

}  // namespace vmamba::testing
