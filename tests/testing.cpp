#include "tests/testing.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace vmamba::testing {

std::filesystem::path data(const std::string& name) {
  return std::filesystem::path(VMAMBA_TEST_DATA) / name;
}
std::string cli() {
  return VMAMBA_CLI;
}

CliResult run_cli(const std::vector<std::string>& arguments, const CliRun& run) {
  std::array<int, 2> in{}, out{}, err{};
  if (pipe2(in.data(), O_CLOEXEC) || pipe2(out.data(), O_CLOEXEC) || pipe2(err.data(), O_CLOEXEC))
    throw std::runtime_error("pipe2 failed");

  std::vector<std::string> words{run.program.empty() ? cli() : run.program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  for (const int descriptor : run.unread) close(std::exchange((descriptor == 1 ? out : err)[0], -1));

  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {
    signal(SIGPIPE, SIG_DFL);
    dup2(in[0], 0);
    dup2(out[1], 1);
    dup2(err[1], 2);
    if (!run.stdout_path.empty()) dup2(open(run.stdout_path.c_str(), O_WRONLY), 1);
    if (!run.stderr_path.empty()) dup2(open(run.stderr_path.c_str(), O_WRONLY), 2);
    for (const int descriptor : run.closed) close(descriptor);
    for (const std::string& variable : run.environment) putenv(const_cast<char*>(variable.c_str()));
    if (!run.directory.empty() && chdir(run.directory.c_str()) != 0) _exit(126);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  close(err[1]);
  signal(SIGPIPE, SIG_IGN);  // a child that does not read its input must not end the tests
  fcntl(in[1], F_SETFL, O_NONBLOCK);

  CliResult result;
  size_t written = 0;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(run.timeout_seconds);
  std::array<pollfd, 3> fds{{{in[1], POLLOUT, 0}, {out[0], POLLIN, 0}, {err[0], POLLIN, 0}}};
  const auto finish = [&](pollfd& fd) {
    close(fd.fd);
    fd.fd = -1;
  };
  if (run.input.empty()) finish(fds[0]);
  while (fds[1].fd >= 0 || fds[2].fd >= 0) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0 || poll(fds.data(), fds.size(), static_cast<int>(left.count())) == 0) {
      kill(child, SIGKILL);
      result.err += "\n[killed by the test: no end after " + std::to_string(run.timeout_seconds) + " s]\n";
      break;
    }
    if (fds[0].fd >= 0 && fds[0].revents) {
      const ssize_t n = write(fds[0].fd, run.input.data() + written, run.input.size() - written);
      if (n > 0) written += static_cast<size_t>(n);
      if (n < 0 || written == run.input.size()) finish(fds[0]);
    }
    for (const int i : {1, 2}) {
      if (fds[i].fd < 0 || !fds[i].revents) continue;
      std::array<char, 65536> buffer{};
      const ssize_t n = read(fds[i].fd, buffer.data(), buffer.size());
      if (n > 0) (i == 1 ? result.out : result.err).append(buffer.data(), static_cast<size_t>(n));
      if (n <= 0) finish(fds[i]);
    }
  }
  for (pollfd& fd : fds)
    if (fd.fd >= 0) finish(fd);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  return result;
}

CliResult run_model(const std::filesystem::path& model, const std::string& command,
                    const std::vector<std::string>& arguments, const CliRun& run) {
  std::vector<std::string> all{
      command,    "--config", model / "config.json", "--weights", model / "weights.safetensors",
      "--device", "cpu"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return run_cli(all, run);
}

void check_error(const CliResult& result, int exit_code, const std::vector<std::string>& words) {
  INFO("stderr: ", result.err);
  CHECK(result.exit_code == exit_code);
  CHECK(result.out == "");
  std::istringstream lines(result.err);
  std::string error;
  int errors = 0;
  for (std::string line; std::getline(lines, line);) {
    CHECK(line.starts_with("vmamba-cli: "));
    const std::string_view rest = std::string_view(line).substr(std::min<size_t>(line.size(), 12));
    if (rest.starts_with("info: ") || rest.starts_with("warning: ")) continue;
    error = line;
    ++errors;
  }
  CHECK(errors == 1);
  for (const std::string& word : words) {
    INFO("wanted: ", word);
    CHECK(error.find(word) != std::string::npos);
  }
}

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "vmamba-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != text.npos;
}

size_t entries(const std::filesystem::path& folder) {
  using Entries = std::filesystem::directory_iterator;
  return static_cast<size_t>(std::distance(Entries(folder), Entries()));
}

}  // namespace vmamba::testing
