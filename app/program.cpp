// Name, version and command line of this program, for its reports.
#include "app/program.h"

#include <sys/utsname.h>

#include <algorithm>

#include "build_info.h"
#include "kernels/error.h"
#include "lib/support/files.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

// The command line, quoted for a shell.
std::string command_line() {
  std::string words = read_file("/proc/self/cmdline"), text;
  for (size_t begin = 0; begin < words.size();) {
    const size_t end = std::min(words.find('\0', begin), words.size());
    const std::string word = words.substr(begin, end - begin);
    begin = end + 1;
    text += (text.empty() ? "" : " ") + shell_quoted(word);
  }
  return text;
}

}  // namespace

Program this_program() {
  utsname system{};
  uname(&system);
  return {fmt::format("{} ({}; CUDA {}; {})", build_version, build_kind, build_cuda, build_libraries),
          build_commit, fmt::format("{} {} {}", system.sysname, system.release, system.machine),
          command_line()};
}

}  // namespace vmamba
