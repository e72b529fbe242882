// File lookup, reading, and atomic writing.
#include "lib/support/files.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include "kernels/platform.h"

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

std::vector<fs::path> shipped_folders() {
  std::error_code error;
  fs::path folder =
      fs::canonical(file_of_code(reinterpret_cast<const void*>(&remove_unfinished)), error).parent_path();
  std::vector<fs::path> folders;
  // bin/ of an installation, a folder of libraries or one of its architecture, or the build's own folder.
  for (int up = 0; !error && up < 3; ++up, folder = folder.parent_path())
    folders.push_back(folder / "share" / "vmamba-cli");
  return folders;
}

std::optional<fs::path> find_shipped(const fs::path& relative) {
  for (const fs::path& folder : shipped_folders()) {
    std::error_code absent;
    const fs::path shipped = fs::canonical(folder, absent);
    if (!absent && fs::exists(shipped / relative, absent)) return shipped / relative;
  }
  return std::nullopt;
}

ReadError::ReadError(const fs::path& path, int reason)
    : InputError(fmt::format("{}: cannot be read: {}", path.string(), std::strerror(reason))),
      number(reason) {}

bool is_transient(int error_number) {
  return error_number == EIO || error_number == ESTALE;
}

std::string read_file(const fs::path& path, size_t max_bytes, const std::atomic<bool>* stop) {
  const auto failed = [&] { throw ReadError(path, errno); };
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.number < 0) failed();
  struct stat status {};
  if (fstat(file.number, &status) != 0) failed();
  if (S_ISDIR(status.st_mode)) fail_input("{}: is a folder, not a file", path.string());
  if (!S_ISREG(status.st_mode) && !S_ISFIFO(status.st_mode)) fail_input("{}: is not a file", path.string());
  check_not_replaced(path, status);
  return read_open_file(file.number, path, max_bytes, stop);
}

std::string read_open_file(int descriptor, const fs::path& path, size_t max_bytes,
                           const std::atomic<bool>* stop) {
  struct stat status {};
  const bool regular = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
  const auto too_large = [&] {
    fail_input("{}: larger than {} bytes, the most that such a file may have", path.string(), max_bytes);
  };
  if (regular && static_cast<uint64_t>(status.st_size) > max_bytes) too_large();

  std::string bytes(regular ? static_cast<size_t>(status.st_size) + 1 : 65536, '\0');
  size_t used = 0;
  for (;;) {
    if (used == bytes.size()) bytes.resize(2 * used);
    const ssize_t got = read(descriptor, bytes.data() + used, bytes.size() - used);
    if (got == 0) break;
    if (got > 0) {
      used += static_cast<size_t>(got);
    } else if (errno == EAGAIN) {
      pollfd ready{descriptor, POLLIN, 0};
      poll(&ready, 1, stop ? 100 : -1);  // milliseconds between checks of `stop`
      if (stop && *stop) fail_input("{}: was not read to its end", path.string());
    } else if (errno != EINTR) {
      throw ReadError(path, errno);
    }
    if (used > max_bytes) too_large();
  }
  bytes.resize(used);
  return bytes;
}

namespace {

// Open outputs: the existing file and the path that will be written.
struct Claimed {
  const OutputClaim* owner;
  fs::path path;
  bool there;
  dev_t device;
  ino_t inode;
};
std::mutex claims_mutex;
std::vector<Claimed> claims;

bool is_file(const Claimed& claim, const struct stat& status) {
  return claim.there && claim.device == status.st_dev && claim.inode == status.st_ino;
}

// The path that a chain of symbolic links ends at, whether or not it exists.
fs::path followed(fs::path path) {
  constexpr int most_links = 40;  // the kernel's limit
  std::error_code error;
  for (int links = 0; fs::is_symlink(fs::symlink_status(path, error)); ++links) {
    if (links == most_links) fail_input("{}: cannot be written: too many symbolic links", path.string());
    path = path.parent_path() / fs::read_symlink(path, error);  // an absolute target replaces all
  }
  return path;
}

// The number N of /dev/stdout, /dev/fd/N and the like.
std::optional<int> descriptor_named(const fs::path& path) {
  if (path == "/dev/stdout") return STDOUT_FILENO;
  if (path == "/dev/stderr") return STDERR_FILENO;
  const std::string name = path.filename().string();
  int number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  const bool is_number = error == std::errc() && end == name.data() + name.size() && number >= 0;
  if (!is_number || (path.parent_path() != "/dev/fd" && path.parent_path() != "/proc/self/fd")) return {};
  return number;
}

// As open() of this name, but writes go on where others through the same descriptor ended.
int another_descriptor(int number) {
  const int flags = fcntl(number, F_GETFL);
  if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY) return fcntl(number, F_DUPFD_CLOEXEC, 3);
  errno = EBADF;
  return -1;
}

}  // namespace

OutputClaim::OutputClaim(const fs::path& path) {
  struct stat status {};
  const bool there = ::stat(path.c_str(), &status) == 0;
  if (there && !S_ISREG(status.st_mode)) return;  // not replaced
  std::error_code ignored;
  fs::path full = fs::weakly_canonical(fs::absolute(followed(path), ignored), ignored);
  if (full.empty()) full = path;
  const std::lock_guard lock(claims_mutex);
  for (const Claimed& other : claims)
    if (other.path == full || (there && is_file(other, status)))
      fail_input("{}: two outputs of this command would be written there: name two files", path.string());
  claims.push_back({this, full, there, status.st_dev, status.st_ino});
}

OutputClaim::~OutputClaim() {
  const std::lock_guard lock(claims_mutex);
  std::erase_if(claims, [&](const Claimed& claim) { return claim.owner == this; });
}

void check_not_replaced(const fs::path& path, const struct stat& status) {
  const std::lock_guard lock(claims_mutex);
  for (const Claimed& claim : claims)
    if (is_file(claim, status))
      throw ReplacesInput(fmt::format(
          "{}: is read by this command, which would also write there: name another file for its output",
          path.string()));
}

int create_temporary(const fs::path& folder, mode_t mode, std::string& path) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    uint64_t random = 0;
    if (getentropy(&random, sizeof random) != 0) return -1;
    path = (folder / fmt::format(".vmamba-{:016x}.part", random)).string();
    const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (descriptor >= 0 || errno != EEXIST) return descriptor;
  }
  return -1;
}

void write_all(int descriptor, std::string_view bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t wrote = write(descriptor, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) fail_machine("{}: writing failed: {}", path.string(), std::strerror(errno));
    bytes.remove_prefix(static_cast<size_t>(wrote));
  }
}

int OutputFile::Buffer::overflow(int c) {
  sync();
  if (c != traits_type::eof()) sputc(static_cast<char>(c));
  return 0;
}

int OutputFile::Buffer::sync() {
  const std::string_view bytes(pbase(), static_cast<size_t>(pptr() - pbase()));
  reset();  // failed data is not retried
  write_all(file_.descriptor_, bytes, file_.path_);
  return 0;
}

OutputFile::OutputFile(fs::path path)
    : path_(std::move(path)), target_(path_), claim_(path_), buffer_(*this), stream_(&buffer_) {
  const auto failed = [&](int reason) {
    fail_input("{}: cannot be written: {}", path_.string(), std::strerror(reason));
  };
  struct stat status {};
  const bool there = stat(path_.c_str(), &status) == 0;
  if (there && S_ISDIR(status.st_mode)) fail_input("{}: cannot be written: it is a folder", path_.string());
  const std::optional<int> descriptor = descriptor_named(path_);
  if (there && (descriptor || !S_ISREG(status.st_mode))) {
    descriptor_ = descriptor ? another_descriptor(*descriptor) : open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor_ < 0) failed(errno);
  } else {
    if (there && access(path_.c_str(), W_OK) != 0) failed(errno);
    target_ = followed(path_);
    const fs::path folder = target_.has_parent_path() ? target_.parent_path() : fs::path(".");
    {
      // A signal comes before the file is there, or after remove_unfinished() knows it.
      sigset_t all, before;
      sigfillset(&all);
      pthread_sigmask(SIG_BLOCK, &all, &before);
      descriptor_ = create_temporary(folder, there ? 0600 : 0666, temporary_);
      if (descriptor_ >= 0) noted_ = note_unfinished(temporary_);
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }
    if (descriptor_ < 0) failed(errno);
    // Before any data is written. If the group cannot be kept, the new group gets no permissions.
    if (there) {
      const bool same_group = fchown(descriptor_, status.st_uid, status.st_gid) == 0 ||
                              fchown(descriptor_, static_cast<uid_t>(-1), status.st_gid) == 0;
      const mode_t kept = status.st_mode & (same_group ? 0777 : 0707);
      if (fchmod(descriptor_, kept) != 0) {
        const int reason = errno;
        discard();
        failed(reason);
      }
    }
  }
  stream_.exceptions(std::ios::badbit);
}

OutputFile::~OutputFile() {
  discard();
}

// Without commit(): closes and removes the temporary.
void OutputFile::discard() noexcept {
  if (descriptor_ < 0) return;
  close(std::exchange(descriptor_, -1));
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  forget(std::exchange(noted_, nullptr));
}

void OutputFile::commit() {
  stream_.flush();
  const bool closed =
      close(std::exchange(descriptor_, -1)) == 0;  // network file systems may report a full disk here
  const bool renamed = closed && (temporary_.empty() || rename(temporary_.c_str(), target_.c_str()) == 0);
  const int reason = errno;
  if (!renamed && !temporary_.empty()) ::unlink(temporary_.c_str());
  forget(std::exchange(noted_, nullptr));
  if (!renamed) fail_machine("{}: writing failed: {}", path_.string(), std::strerror(reason));
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
