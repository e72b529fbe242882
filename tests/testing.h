// What tests share: the real binary run as a user runs it, a folder that goes away, the files of tests/data.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace vmamba::testing {

struct CliResult {
  int exit_code = -1;  // −1: killed by a signal or by the timeout
  std::string out, err;
};
struct CliRun {
  std::string program;                   // that is started instead, with the arguments; empty: vmamba-cli
  std::string input;                     // standard input
  std::vector<std::string> environment;  // "NAME=value", added to this process's own
  std::filesystem::path directory;       // where it runs; empty: here
  std::string stdout_path;               // standard output goes there instead of into CliResult::out
  std::string stderr_path;               // the same
  std::vector<int> unread;               // of 1 and 2: those that are pipes which nobody reads
  std::vector<int> closed;               // descriptors that it starts without
  int timeout_seconds = 120;
};
// vmamba-cli with these arguments (no shell in between).
CliResult run_cli(const std::vector<std::string>& arguments, const CliRun& run = {});

// Whether `result` is a failure as promised: this exit code, nothing on stdout, and on stderr one line
// "vmamba-cli: …" (log lines aside) that contains every one of `words`. Reports through doctest what is not
// so.
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

std::filesystem::path data(const std::string& name);  // of tests/data
std::string cli();                                    // the binary's path

}  // namespace vmamba::testing
