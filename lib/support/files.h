// Files: those shipped with the program, reading, and atomic writing.
#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

namespace vmamba {

// Finds a shipped file: `relative` ("configs/vmamba_tiny_s1l8.json", "weights/…") in ../share/vmamba-cli beside an
// installed binary, else in the source tree that it was built from. nullopt if it is in neither.
std::optional<std::filesystem::path> find_shipped(const std::filesystem::path& relative);

// Reads a whole file or pipe (/dev/stdin, a process substitution); a pipe without a writer reads as empty instead of
// blocking. InputError names the file and the reason: not found, a folder, a device, larger than max_bytes.
std::string read_file(const std::filesystem::path& path, size_t max_bytes = SIZE_MAX);

// An output file that appears complete or not at all: it is written to a temporary beside its path and renamed by
// commit(). Without commit() the temporary is removed, by the destructor or, on a signal that ends the program, by
// remove_unfinished(). An existing file keeps its permissions, and a symbolic link is kept. Anything but a regular
// file (/dev/stdout, a pipe) is written directly.
class OutputFile {
 public:
  explicit OutputFile(std::filesystem::path path);  // InputError if it cannot be created
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  std::ostream& stream() { return stream_; }
  void commit();  // MachineError if writing fails (disk full)

 private:
  std::filesystem::path path_, temporary_;
  std::ofstream stream_;
  void* noted_ = nullptr;  // entry for remove_unfinished()
};

// Writes to stderr: logs, progress and errors. Write errors are ignored.
void print_stderr(std::string_view text) noexcept;

// Removes all uncommitted temporaries of OutputFile. Async-signal-safe: calls only unlink.
void remove_unfinished() noexcept;

void write_file(const std::filesystem::path& path, std::string_view bytes);

}  // namespace vmamba
