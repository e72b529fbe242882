// Name, version and command line of this program, for its reports.
#include "app/program.h"

#include <sys/utsname.h>

#include "build_info.h"
#include "kernels/error.h"
#include "kernels/platform.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

// The command line, quoted for a shell.
std::string command_line() {
  std::string text;
  for (const std::string& word : command_words()) text += (text.empty() ? "" : " ") + shell_quoted(word);
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
