// Files appear whole or not at all.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "kernels/error.h"
#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba;
using vmamba::testing::cli;
using vmamba::testing::data;
using vmamba::testing::entries;
using vmamba::testing::TemporaryDirectory;
namespace fs = std::filesystem;

namespace {
// The signal that ends `vmamba-cli classify - -o FILE`, which waits for paths on standard input, when it is
// sent `signal` while what it has written so far lies beside FILE; 0: none.
int ended_by(int signal, const TemporaryDirectory& folder) {
  const std::string model = data("models/s1_ln2d/config.json"), output = folder / "out.json";
  const std::string weights = data("models/s1_ln2d/weights.safetensors");
  std::array<int, 2> input{};
  REQUIRE(pipe2(input.data(), O_CLOEXEC) == 0);
  const std::string binary = cli();
  std::array<const char*, 12> arguments{binary.c_str(),  "classify", "-",           "-o",
                                        output.c_str(),  "--config", model.c_str(), "--weights",
                                        weights.c_str(), "--device", "cpu",         nullptr};
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    dup2(input[0], 0);
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    unsetenv("OMP_WAIT_POLICY"), unsetenv("GOMP_SPINCOUNT");  // the program restarts itself
    execv(arguments[0], const_cast<char**>(arguments.data()));
    _exit(127);
  }
  close(input[0]);
  for (int waited = 0; entries(folder.path()) == 0 && waited < 3000; ++waited)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK(entries(folder.path()) == 1);
  std::string name;
  std::getline(std::ifstream("/proc/" + std::to_string(child) + "/comm") >> std::ws, name);
  CHECK(name == "vmamba-cli");
  kill(child, signal);
  int status = 0;
  waitpid(child, &status, 0);
  close(input[1]);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}
}  // namespace

TEST_CASE("a signal that ends the program leaves nothing of its outputs") {
#ifdef __SANITIZE_ADDRESS__  // handles SIGSEGV itself
  const std::vector<int> signals{SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU, SIGALRM, SIGUSR1, SIGABRT};
#else
  const std::vector<int> signals{SIGINT,  SIGTERM, SIGHUP,  SIGQUIT, SIGXCPU,
                                 SIGALRM, SIGUSR1, SIGABRT, SIGSEGV};
#endif
  for (const int signal : signals) {
    CAPTURE(signal);
    const TemporaryDirectory folder;
    CHECK(ended_by(signal, folder) == signal);
    CHECK(entries(folder.path()) == 0);
  }
}

TEST_CASE("what was written without commit leaves nothing, and the old file as it was") {
  const TemporaryDirectory folder;
  write_file(folder / "a.txt", "old");
  {
    OutputFile file(folder / "a.txt");
    file.stream() << "new";
    CHECK_THROWS_WITH_AS(read_file(folder / "a.txt"), doctest::Contains("a.txt: is read by this command"),
                         ReplacesInput);
    CHECK_THROWS_WITH_AS(write_file(folder / "./a.txt", ""), doctest::Contains("two outputs"), InputError);
  }
  CHECK(read_file(folder / "a.txt") == "old");
  CHECK(entries(folder.path()) == 1);
  write_file(folder / "a.txt", "new");
  CHECK(read_file(folder / "a.txt") == "new");
  CHECK(entries(folder.path()) == 1);
}

TEST_CASE("a link stays a link and its target is replaced") {
  const TemporaryDirectory folder;
  write_file(folder / "target", "old");
  fs::create_symlink("target", folder / "link");
  write_file(folder / "link", "new");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(read_file(folder / "target") == "new");
}

TEST_CASE("an open descriptor is written by its name where others left off") {
  const TemporaryDirectory folder;
  const int descriptor = open((folder / "all").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  REQUIRE(descriptor >= 0);
  for (const char* text : {"head ", "", " foot"}) {
    write_all(descriptor, text, "all");
    if (*text == '\0') write_file("/dev/fd/" + std::to_string(descriptor), "body");
  }
  close(descriptor);
  CHECK(read_file(folder / "all") == "head body foot");
  const int read_only = open((folder / "all").c_str(), O_RDONLY | O_CLOEXEC);
  CHECK_THROWS_WITH_AS(write_file("/proc/self/fd/" + std::to_string(read_only), "x"),
                       doctest::Contains("cannot be written: Bad file descriptor"), InputError);
  close(read_only);
}

TEST_CASE("errors name the file") {
  const TemporaryDirectory folder;
  CHECK_THROWS_WITH_AS(read_file(folder / "none"), doctest::Contains("none: cannot be read: No such file"),
                       InputError);
  CHECK_THROWS_WITH_AS(read_file(folder.path()), doctest::Contains("is a folder"), InputError);
  CHECK_THROWS_WITH_AS(write_file(folder / "no/such", ""),
                       doctest::Contains("cannot be written: No such file"), InputError);
  CHECK_THROWS_WITH_AS(write_file("/dev/full", "x"), doctest::Contains("No space left"), MachineError);
}
