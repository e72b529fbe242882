// What the machine may do to the program: no threads, no memory, files that shrink while they are mapped, folders that
// cannot be listed, a pipe that nobody writes to. One line and exit code 3, or a result; never a crash, never "different".
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba::testing;
using vmamba::read_file;
using vmamba::write_file;
namespace fs = std::filesystem;

namespace {

const fs::path model = data("models/s1_ln2d");

std::vector<std::string> of_model(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--config", model / "config.json", "--weights",
                                     model / "weights.safetensors", "--device", "cpu"});
  return arguments;
}

// Folders within each other until the path is longer than any may be.
void nest(const fs::path& folder) {
  const vmamba::Descriptor before(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  REQUIRE(chdir(folder.c_str()) == 0);
  const std::string name(250, 'd');
  for (int i = 0; i < 20; ++i) {
    REQUIRE(mkdir(name.c_str(), 0755) == 0);
    REQUIRE(chdir(name.c_str()) == 0);
  }
  REQUIRE(fchdir(before.number) == 0);
}

}  // namespace

TEST_CASE("threads that cannot be made are the machine's fault, not a difference") {
  const TemporaryDirectory folder;
  const std::string out = folder / "out.json";
  for (const char* command : {"classify", "check-equal"}) {
    INFO(command);
    std::vector<std::string> arguments =
        command == std::string("classify")
            ? std::vector<std::string>{"classify", data("chelsea.png"), "-o", out}
            : std::vector<std::string>{"check-equal", "--seed"};
    arguments.push_back("--threads");
    arguments.push_back("2");
    const CliResult result = run_cli(of_model(arguments), {.environment = {"OMP_STACKSIZE=100000G"}});
    CHECK(result.exit_code == 3);
    CHECK(result.out == "");
    CHECK(result.err.find("vmamba-cli: OpenMP or another library ended the program: a thread could not be "
                          "started") != std::string::npos);
    CHECK(fs::is_empty(folder.path()));
  }
}

#ifndef __SANITIZE_ADDRESS__  // whose runtime has threads of its own
TEST_CASE("a limit on processes is the machine's fault, or enough") {
  // The limit does not hold for root, and it counts all processes of the user.
  std::vector<std::string> limited{"--reuid=54321", "--regid=54321", "--clear-groups", "--", "prlimit"};
  const std::string as_another = "/usr/bin/setpriv";
  limited.push_back("true");
  if (run_cli(limited, {.program = as_another}).exit_code != 0) {
    MESSAGE("skipped: setpriv cannot change the user, or prlimit is missing");
    return;
  }
  for (const char* command : {"classify", "check-equal", "bench"}) {
    int failed = 0, done = 0;
    for (int processes = 1; processes <= 8; ++processes) {
      CAPTURE(command);
      CAPTURE(processes);
      limited.back() = "--nproc=" + std::to_string(processes);
      std::vector<std::string> arguments = limited;
      arguments.insert(arguments.end(), {"--", cli(), command, "-q", "--threads", "2"});
      if (command == std::string("classify")) arguments.push_back(data("chelsea.png"));
      if (command == std::string("check-equal")) arguments.push_back("--seed");
      if (command == std::string("bench"))
        arguments.insert(arguments.end(), {"--iterations", "1", "--streams", "2"});
      const CliResult result = run_cli(of_model(arguments), {.program = as_another});
      INFO(result.err);
      if (result.exit_code == 0) {
        ++done;
        continue;
      }
      ++failed;
      CHECK(result.exit_code == 3);
      CHECK(result.out == "");
      const bool told =
          contains(result.err, "a thread could not be started") || contains(result.err, "no thread for");
      CHECK(told);
    }
    CHECK(done > 0);
    CHECK(failed > 0);
  }
}
#endif

#ifndef __SANITIZE_ADDRESS__  // whose shadow memory does not fit into any of these limits
TEST_CASE("with too little memory there is one line and exit code 3, or the result") {
  std::string whole;
  int failed = 0;
  for (int megabytes = 100; whole.empty() && megabytes < 16'000; megabytes += megabytes / 10) {
    CAPTURE(megabytes);
    const CliResult result =
        run_cli({"-c", "ulimit -c 0; ulimit -v $((" + std::to_string(megabytes) + " * 1024)); exec " + cli() +
                           " classify -q --device cpu " + data("chelsea.png").string()},
                {.program = "/bin/bash"});
    const bool loads = result.err.find("error while loading shared libraries") == std::string::npos;
    if (result.exit_code == 0) {
      whole = result.out;
    } else if (loads) {
      ++failed;
      CHECK(result.exit_code == 3);
      CHECK(result.err.find("vmamba-cli: ") != std::string::npos);
    }
  }
  CHECK(!whole.empty());
  CHECK(whole == run_cli({"classify", "-q", "--device", "cpu", data("chelsea.png")}).out);
  CHECK(failed > 0);
}
#endif

TEST_CASE("weights that are cut off while they are mapped end the program with one line") {
  const TemporaryDirectory folder;
  const std::string weights = folder / "w\x1b.safetensors", image = folder / "image", out = folder / "out";
  fs::copy_file(model / "weights.safetensors", weights);
  REQUIRE(mkfifo(image.c_str(), 0600) == 0);
  CliResult result;
  std::thread child;
  {
    const vmamba::Descriptor pipe(open(image.c_str(), O_RDWR | O_CLOEXEC));
    child = std::thread([&] {
      result = run_cli({"check-equal", "--save-taps", out, "--images", image, "--config",
                        model / "config.json", "--weights", weights, "--device", "cpu", "-q"});
    });
    // More than a pipe holds: when it is written the program reads, and has mapped its weights before.
    vmamba::write_all(pipe.number, read_file(data("chelsea.png")), image);
    CHECK(truncate(weights.c_str(), 0) == 0);
    // The program has all when nothing is left in the pipe.
    for (int left = 1; left > 0; std::this_thread::sleep_for(std::chrono::milliseconds(1)))
      REQUIRE(ioctl(pipe.number, FIONREAD, &left) == 0);
  }
  child.join();
  check_error(result, 3, {folder.path().string(), "/w\\x1b.safetensors: was cut off while it was in use"});
  CHECK(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()) == 2);
}

#ifndef __SANITIZE_ADDRESS__  // which needs /proc
TEST_CASE("without /proc the command line is known, and the shipped model is found") {
  const auto without_proc = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(),
                     {"unshare", "-m", "sh", "-c", "umount -l /proc && exec \"$0\" \"$@\"", cli()});
    return run_cli(arguments, {.program = "/usr/bin/env"});
  };
  if (without_proc({"version"}).exit_code != 0) {
    MESSAGE("not run: /proc cannot be unmounted here");
    return;
  }
  const CliResult result =
      without_proc({"classify", data("chelsea.png"), "--format", "json", "--device", "cpu"});
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  const auto json = nlohmann::json::parse(result.out);
  CHECK(contains(json["made_by"]["command"].get<std::string>(), "classify "));
  CHECK(contains(json["weights"].get<std::string>(), "vmamba-tiny-imagenet.safetensors"));
}
#endif

TEST_CASE("a program without its shipped files says in which folders it looked") {
  const TemporaryDirectory folder;
  fs::copy_file(cli(), folder / "vmamba-cli");
  check_error(run_cli({"classify", data("chelsea.png")}, {.program = folder / "vmamba-cli"}), 2,
              {"no model given, and weights/vmamba-tiny-imagenet.safetensors is not in " +
                   fs::canonical(folder.path()).string() + "/share/vmamba-cli, ",
               " or /", "--weights FILE"});
}

TEST_CASE("oneDNN's own log stays out of the results, and its kernels out of the working directory") {
  const TemporaryDirectory folder;
  for (const char* name : {"ONEDNN_VERBOSE", "DNNL_VERBOSE", "ONEDNN_JIT_DUMP", "DNNL_JIT_DUMP"})
    for (const char* value : {"1", "2", "all"}) {
      INFO(name, "=", value);
      const CliResult result =
          run_cli(of_model({"classify", data("chelsea.png"), "--format", "json", "--batch-size", "1"}),
                  {.environment = {std::string(name) + "=" + value}, .directory = folder.path()});
      CHECK(result.exit_code == 0);
      CHECK(nlohmann::json::parse(result.out)["images"] == 1);
      CHECK(entries(folder.path()) == 0);
      CHECK(contains(result.err, std::string(name) + "=" + value + ": is ignored"));
    }
}

TEST_CASE("a pipe that nobody writes to does not keep a failed command waiting") {
  const TemporaryDirectory folder;
  const std::string pipe = folder / "pipe";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  const vmamba::Descriptor writer(open(pipe.c_str(), O_RDWR | O_CLOEXEC));
  for (const char* misfit : {"models/ft_v05/weights.safetensors", "chelsea.png"})
    check_error(run_cli({"classify", pipe, "--config", model / "config.json", "--weights", data(misfit),
                         "--device", "cpu", "-q"},
                        {.timeout_seconds = 20}),
                2, {});
}

TEST_CASE("a folder that cannot be listed is told, and the rest of the tree is worked on") {
  const TemporaryDirectory folder;
  for (const char* name : {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}) {
    fs::create_directories(folder.path() / name);
    fs::copy_file(data("chelsea.png"), folder.path() / name / "p.png");
  }
  nest(folder.path() / "c");
  const CliResult classified = run_cli(of_model({"classify", folder.path().string(), "--format", "csv"}));
  CHECK(classified.exit_code == 1);
  CHECK(classified.err.find("cannot be listed: File name too long") != std::string::npos);
  CHECK(classified.out.find("/j/p.png,1,") != std::string::npos);
  const CliResult evaluated = run_cli(of_model({"eval", folder.path().string(), "--format", "json"}));
  CHECK(evaluated.exit_code == 1);
  CHECK(evaluated.err.find("cannot be listed: File name too long") != std::string::npos);
  CHECK(evaluated.out.find("\"images\": 10") != std::string::npos);
  check_error(run_cli(of_model({"check-equal", "--images", folder.path().string()})), 2,
              {"cannot be listed"});
}
