#include "kernels/platform.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <fstream>
#include <thread>
#if defined(__APPLE__)
#include <sys/sysctl.h>
#else
#include <link.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#endif

namespace vmamba {
namespace fs = std::filesystem;

#if defined(__APPLE__)

namespace {

constexpr int path_only = O_RDONLY;  // there is no O_PATH

size_t system_number(const char* name) {
  uint64_t value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? value : 0;
}

}  // namespace

fs::path file_of_code(const void* address) {
  Dl_info info{};
  return dladdr(address, &info) != 0 ? info.dli_fname : "";
}

void restart_program(char**) {}

int allowed_processors() {
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::string processor_name() {
  char name[256] = {};
  size_t size = sizeof name - 1;
  return sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0 ? name : "CPU";
}

size_t cache_bytes() {
  return std::max({system_number("hw.l3cachesize"), system_number("hw.l2cachesize"), size_t{1} << 20});
}

size_t available_memory() {
  return system_number("hw.memsize");  // all of it: memory is compressed and swapped
}

void want_huge_pages(void*, size_t) {}

#else

namespace {

constexpr int path_only = O_PATH;
constexpr const char* own_program = "/proc/self/exe";

// Whether /proc/self/exe is this program; under ld.so or valgrind it is not.
bool runs_by_itself() {
  const auto* program = reinterpret_cast<const char*>(getauxval(AT_EXECFN));
  struct stat started {};
  struct stat running {};
  return program && getauxval(AT_BASE) && stat(program, &started) == 0 && stat(own_program, &running) == 0 &&
         started.st_dev == running.st_dev && started.st_ino == running.st_ino;
}

}  // namespace

fs::path file_of_code(const void* address) {
  Dl_info info{};
  void* found = nullptr;
  if (dladdr1(address, &info, &found, RTLD_DL_LINKMAP) != 0) {
    const char* library = static_cast<const link_map*>(found)->l_name;
    if (library != nullptr && *library != '\0') return library;
  }
  const auto* started = reinterpret_cast<const char*>(getauxval(AT_EXECFN));
  return started && access(own_program, F_OK) != 0 ? started : own_program;  // without /proc
}

void restart_program(char** argv) {
  if (!runs_by_itself()) return;
  // By its path, so that the process keeps its name; by the link if the file was removed meanwhile.
  char path[PATH_MAX];
  const ssize_t length = readlink(own_program, path, sizeof path - 1);
  if (length > 0) {
    path[length] = '\0';
    execv(path, argv);
  }
  execv(own_program, argv);
}

int allowed_processors() {
  cpu_set_t allowed;
  return std::max(1, sched_getaffinity(0, sizeof allowed, &allowed) == 0
                         ? CPU_COUNT(&allowed)
                         : static_cast<int>(std::thread::hardware_concurrency()));
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

size_t cache_bytes() {
  return static_cast<size_t>(
      std::max({sysconf(_SC_LEVEL3_CACHE_SIZE), sysconf(_SC_LEVEL2_CACHE_SIZE), long{1} << 20}));
}

size_t available_memory() {
  std::ifstream file("/proc/meminfo");
  size_t free = 0;
  for (std::string name, unit; file >> name >> free && std::getline(file, unit);) {
    if (name == "MemAvailable:") break;
  }
  return free * 1024;
}

void want_huge_pages(void* memory, size_t bytes) {
  madvise(memory, bytes, MADV_HUGEPAGE);
}

#endif

// Reading and writing still fail as on a closed descriptor (O_PATH), and so does opening /dev/stdin (a device is no input)
// and /dev/stdout (a folder is no output).
void hold_standard_descriptors() {
  for (const int number : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fcntl(number, F_GETFD) < 0 && (number != STDIN_FILENO || open("/dev/null", path_only) < 0))
      open("/", path_only);
}

void before_ending_signals(void (*clean_up)() noexcept) {
  static std::atomic<void (*)() noexcept> cleaning;
  static_assert(decltype(cleaning)::is_always_lock_free);
  cleaning = clean_up;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGXCPU, SIGALRM, SIGVTALRM, SIGUSR1,
                           SIGUSR2, SIGABRT, SIGSEGV, SIGILL, SIGFPE}) {
    struct sigaction action {};
    if (sigaction(signal, nullptr, &action) != 0 || action.sa_handler != SIG_DFL) continue;
    action.sa_handler = [](int number) {
      pollfd results{STDOUT_FILENO, 0, 0};
      if (number == SIGPIPE && (poll(&results, 1, 0) != 1 || !(results.revents & (POLLERR | POLLHUP))))
        return;
      ::signal(number, SIG_DFL);  // restores the default action
      cleaning.load()();
      raise(number);
    };
    sigaction(signal, &action, nullptr);
  }
  // Writing beyond the file size limit then fails with an error, like a full disk.
  signal(SIGXFSZ, SIG_IGN);
}

void on_bus_errors(void (*end)(const void* address) noexcept) {
  static std::atomic<void (*)(const void*) noexcept> ending;
  ending = end;
  struct sigaction action {};
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = [](int, siginfo_t* fault, void*) { ending.load()(fault->si_addr); };
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace vmamba
