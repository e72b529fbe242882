// Files: those shipped with the program, reading, and atomic writing.
#pragma once
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <ostream>
#include <streambuf>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/error.h"

namespace vmamba {

// Finds a shipped file: `relative` ("configs/vmamba_tiny_s1l8.json", "weights/…") in share/vmamba-cli of the folder that
// the program or library is in, or of one of the two folders above it. nullopt if there is none.
std::optional<std::filesystem::path> find_shipped(const std::filesystem::path& relative);
std::vector<std::filesystem::path> shipped_folders();  // those in which it looks

// An input is the file that the command is about to replace. Ends the command; never skipped like a bad image.
struct ReplacesInput : InputError {
  using InputError::InputError;
};

// Marks a path as an output: while this object lives, check_not_replaced() refuses to read the file there, and no other
// output may have the same path. Commands open their outputs before they read their inputs.
class OutputClaim {
 public:
  // InputError if another output of the command has this path.
  explicit OutputClaim(const std::filesystem::path& path);
  ~OutputClaim();
  OutputClaim(const OutputClaim&) = delete;
  OutputClaim& operator=(const OutputClaim&) = delete;
};
// Called for every file that is opened for reading: ReplacesInput if it is claimed as an output.
void check_not_replaced(const std::filesystem::path& path, const struct stat& status);

// Opening or reading a file failed, with errno.
struct ReadError : InputError {
  ReadError(const std::filesystem::path& path, int reason);
  int number;
};

// Whether an error of a read may be gone at the next attempt: a shared file system may fail for a moment.
bool is_transient(int error_number);

struct Descriptor {
  int number = -1;

  explicit Descriptor(int of) : number(of) {}
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
};

// Reads a whole file or pipe (/dev/stdin, a process substitution); a pipe without a writer reads as empty instead of
// blocking, and waiting for a writer ends when `stop` is set. InputError names the file and the reason: not found, a
// folder, a device, larger than max_bytes.
std::string read_file(const std::filesystem::path& path, size_t max_bytes = SIZE_MAX,
                      const std::atomic<bool>* stop = nullptr);
// The same from the current position of an open file.
std::string read_open_file(int descriptor, const std::filesystem::path& path, size_t max_bytes = SIZE_MAX,
                           const std::atomic<bool>* stop = nullptr);

// Writes all bytes; MachineError with the path and the reason.
void write_all(int descriptor, std::string_view bytes, const std::filesystem::path& path);

// Creates a new file with a short random name that begins with a dot in `folder` (O_EXCL, O_NOFOLLOW). Returns the
// descriptor, or −1 with errno; `path` is set to its name.
int create_temporary(const std::filesystem::path& folder, mode_t mode, std::string& path);

// An output file that appears complete or not at all: it is written to a temporary beside its path and renamed by
// commit(). Without commit() the temporary is removed, by the destructor or, on a signal that ends the program, by
// remove_unfinished(). An existing file keeps its owner and permissions, and a symbolic link is kept, also one that
// leads to a file not yet there. Anything but a regular file (a pipe), and an open descriptor by its name (/dev/stdout,
// /dev/fd/3), is written directly.
class OutputFile {
 public:
  explicit OutputFile(std::filesystem::path path);  // InputError if it cannot be created
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Where writing fails (disk full), the stream throws a MachineError with the path and the reason.
  std::ostream& stream() { return stream_; }
  const std::filesystem::path& path() const { return path_; }
  void commit();  // MachineError if writing fails

 private:
  class Buffer : public std::streambuf {
   public:
    explicit Buffer(const OutputFile& file) : file_(file), bytes_(size_t{1} << 16) { reset(); }
    int overflow(int c) override;
    int sync() override;

   private:
    void reset() { setp(bytes_.data(), bytes_.data() + bytes_.size()); }
    const OutputFile& file_;
    std::vector<char> bytes_;
  };

  void discard() noexcept;

  std::filesystem::path path_;    // as given
  std::filesystem::path target_;  // with links followed
  std::string temporary_;         // empty: target_ is written directly
  OutputClaim claim_;
  int descriptor_ = -1;
  void* noted_ = nullptr;  // entry for remove_unfinished()
  Buffer buffer_;
  std::ostream stream_;
};

// Writes to stderr: logs, progress and errors. Write errors are ignored.
void print_stderr(std::string_view text) noexcept;

// Removes all uncommitted temporaries of OutputFile. Async-signal-safe: calls only unlink.
void remove_unfinished() noexcept;

void write_file(const std::filesystem::path& path, std::string_view bytes);

}  // namespace vmamba
