// Name, version and command line of this program, for its reports.
#include "app/program.h"

#include <sys/utsname.h>

#include <algorithm>

#include "build_info.h"
#include "kernels/error.h"
#include "lib/support/files.h"

namespace vmamba {
namespace {

// The command line, quoted for a shell.
std::string command_line() {
  std::string words = read_file("/proc/self/cmdline"), text;
  for (size_t begin = 0; begin < words.size();) {
    const size_t end = std::min(words.find('\0', begin), words.size());
    const std::string word = words.substr(begin, end - begin);
    begin = end + 1;
    const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](unsigned char c) {
      return std::isalnum(c) || c >= 0x80 || std::string_view("-_./=,:+@%").find(c) != std::string_view::npos;
    });
    std::string quoted = plain ? word : "'";
    if (!plain) {
      for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
      quoted += '\'';
    }
    text += (text.empty() ? "" : " ") + quoted;
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
