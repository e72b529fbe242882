// File lookup, reading, and atomic writing.
#include "lib/support/files.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>

#include "kernels/error.h"

namespace vmamba {
namespace fs = std::filesystem;

namespace {

// Paths of all unfinished temporary files, for a signal handler. The path stays intact until its entry is reused.
struct Unfinished {
  std::atomic<bool> taken = false, there = false;
  std::array<char, PATH_MAX> path{};
};
std::array<Unfinished, 8> unfinished;
static_assert(std::atomic<bool>::is_always_lock_free);

Unfinished* note_unfinished(const std::string& path) {
  if (path.size() >= PATH_MAX) return nullptr;  // too long to be opened
  for (Unfinished& entry : unfinished) {
    if (entry.taken.exchange(true)) continue;
    std::memcpy(entry.path.data(), path.c_str(), path.size() + 1);
    entry.there = true;
    return &entry;
  }
  return nullptr;
}

void forget(void* noted) {
  if (!noted) return;
  Unfinished& entry = *static_cast<Unfinished*>(noted);
  entry.there = false;
  entry.taken = false;
}

}  // namespace

void remove_unfinished() noexcept {
  for (Unfinished& entry : unfinished)
    if (entry.there.exchange(false)) ::unlink(entry.path.data());
}

std::optional<fs::path> find_shipped(const fs::path& relative) {
  std::error_code error;
  const fs::path executable = fs::read_symlink("/proc/self/exe", error);
  const fs::path installed = executable.parent_path().parent_path() / "share" / "vmamba-cli" / relative;
  if (!error && fs::exists(installed, error)) return installed;
  const fs::path source = fs::path(VMAMBA_SOURCE_DIR) / relative;
  if (fs::exists(source, error)) return source;
  return std::nullopt;
}

std::string read_file(const fs::path& path, size_t max_bytes) {
  const auto failed = [&] { fail_input("{}: cannot be read: {}", path.string(), std::strerror(errno)); };
  const auto too_large = [&] {
    fail_input("{}: larger than {} bytes, the most that such a file may have", path.string(), max_bytes);
  };
  struct Descriptor {
    int fd;
    ~Descriptor() {
      if (fd >= 0) close(fd);
    }
  };
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) failed();
  struct stat status {};
  if (fstat(file.fd, &status) != 0) failed();
  if (S_ISDIR(status.st_mode)) fail_input("{}: is a folder, not a file", path.string());
  const bool regular = S_ISREG(status.st_mode);
  if (!regular && !S_ISFIFO(status.st_mode)) fail_input("{}: is not a file", path.string());
  if (regular && static_cast<uint64_t>(status.st_size) > max_bytes) too_large();

  std::string bytes(regular ? static_cast<size_t>(status.st_size) + 1 : 65536, '\0');
  size_t used = 0;
  for (;;) {
    if (used == bytes.size()) bytes.resize(2 * used);
    const ssize_t got = read(file.fd, bytes.data() + used, bytes.size() - used);
    if (got == 0) break;
    if (got > 0) {
      used += static_cast<size_t>(got);
    } else if (errno == EAGAIN) {
      pollfd ready{file.fd, POLLIN, 0};
      poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      failed();
    }
    if (used > max_bytes) too_large();
  }
  bytes.resize(used);
  return bytes;
}

OutputFile::OutputFile(fs::path path) : path_(std::move(path)) {
  std::error_code error;
  const fs::file_status status = fs::status(path_, error);
  if (fs::is_directory(status)) fail_input("{}: cannot be written: it is a folder", path_.string());
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    temporary_ = path_;
  } else {
    if (fs::is_symlink(path_, error)) path_ = fs::weakly_canonical(path_, error);  // keep the link
    temporary_ = path_;
    temporary_ += ".part" + std::to_string(getpid());
    noted_ = note_unfinished(temporary_.string());
  }
  errno = 0;
  stream_.open(temporary_, std::ios::binary);
  if (stream_ && temporary_ != path_ && fs::exists(status)) {  // copy permissions before any data is written
    std::error_code refused;
    fs::permissions(temporary_, status.permissions(), refused);
    if (refused) {
      fs::remove(temporary_, error);
      stream_.setstate(std::ios::failbit);
      errno = refused.value();
    }
  }
  if (stream_) return;
  forget(noted_);
  fail_input("{}: cannot be written: {}", path_.string(), std::strerror(errno));
}

OutputFile::~OutputFile() {
  std::error_code error;
  if (stream_.is_open() && temporary_ != path_) fs::remove(temporary_, error);
  forget(noted_);
}

void OutputFile::commit() {
  errno = 0;
  stream_.flush();
  if (!stream_) fail_machine("{}: writing failed: {}", path_.string(), std::strerror(errno));
  std::error_code error;
  if (temporary_ != path_) fs::rename(temporary_, path_, error);
  if (error) fail_machine("{}: writing failed: {}", path_.string(), error.message());
  stream_.close();
}

void print_stderr(std::string_view text) noexcept {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

void write_file(const fs::path& path, std::string_view bytes) {
  OutputFile file(path);
  file.stream().write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.commit();
}

}  // namespace vmamba
