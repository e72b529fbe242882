// Files of the program: those that come with it, and those that it writes.
#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

namespace vmamba {

// `relative` ("configs/vmamba_tiny_s1l8.json", "weights/…") where this program keeps it: ../share/vmamba-cli
// beside an installed binary, else the source tree that it was built from. Empty where it is in neither.
std::optional<std::filesystem::path> find_shipped(const std::filesystem::path& relative);

// The whole file, or what comes through a pipe (/dev/stdin, a process substitution); a pipe that nobody
// writes to is empty rather than waited for. InputError names it and why it could not be read: not there, a
// folder, a device, larger than max_bytes.
std::string read_file(const std::filesystem::path& path, size_t max_bytes = SIZE_MAX);

// A file that appears whole or not at all: written beside its place and renamed by commit(); without commit()
// what was written is removed, by the destructor or, when a signal ends the program, by remove_unfinished().
// A file that was there keeps its permissions, and a symbolic link stays one. What is no regular file (/dev/stdout, a pipe) is written directly.
class OutputFile {
 public:
  explicit OutputFile(std::filesystem::path path);  // InputError where it cannot be made
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  std::ostream& stream() { return stream_; }
  void commit();  // MachineError where the bytes could not be written (a full disk)

 private:
  std::filesystem::path path_, temporary_;
  std::ofstream stream_;
  void* noted_ = nullptr;  // where remove_unfinished() looks
};

// Logs, progress and errors. What cannot be written there changes nothing.
void print_stderr(std::string_view text) noexcept;

// Removes what every OutputFile has written and not committed. For signal handlers: calls nothing but unlink.
void remove_unfinished() noexcept;

void write_file(const std::filesystem::path& path, std::string_view bytes);

}  // namespace vmamba
