// Name, version and command line of this program, for its reports.
#include "app/program.h"

#include <sys/utsname.h>

#include "build_info.h"
#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

std::string command_line;  // quoted for a shell

}  // namespace

void note_command_line(int argc, char** argv) {
  for (int i = 0; i < argc; ++i) command_line += (i == 0 ? "" : " ") + shell_quoted(argv[i]);
}

Program this_program() {
  utsname system{};
  uname(&system);
  return {fmt::format("{} ({}; CUDA {}; {})", build_version, build_kind, build_cuda, build_libraries),
          build_commit, fmt::format("{} {} {}", system.sysname, system.release, system.machine),
          command_line};
}

}  // namespace vmamba
