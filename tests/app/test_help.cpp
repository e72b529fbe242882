// help and version, manual pages, colours and progress on a terminal.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing.h"

using namespace vmamba::testing;

namespace {

std::string out(const std::vector<std::string>& arguments) {
  const CliResult result = run_cli(arguments);
  CHECK_MESSAGE(result.exit_code == 0, result.err);
  return result.out;
}

// What a terminal shows of the command: util-linux's script gives it one.
std::string on_terminal(const std::string& command, const std::vector<std::string>& environment = {}) {
  const CliResult result = run_cli({"-qec", cli() + " " + command, "/dev/null"},
                                   {.program = "/usr/bin/script", .environment = environment});
  CHECK(result.exit_code == 0);
  return result.out;
}

}  // namespace

TEST_CASE("help and version print what --help and --version print") {
  CHECK(out({"help"}) == out({"--help"}));
  for (const char* command : {"classify", "check-equal", "migrate-config", "help", "version"})
    CHECK(out({"help", command}) == out({command, "--help"}));
  CHECK(out({"version"}) == out({"--version"}));
  check_error(run_cli({"help", "clasify"}), 2, {"help clasify: unknown command", "classify, eval"});
}

TEST_CASE("the help of a command has the options of all commands, and its arguments in capitals") {
  for (const std::string command : {"classify", "eval", "features", "nearest", "look", "check-equal", "bench",
                                    "info", "devices", "migrate-config", "init-weights", "convert-weights"}) {
    CAPTURE(command);
    const std::string help = out({command, "--help"});
    for (const char* option : {"-q,--quiet", "--log-level LEVEL=info", "--no-progress"})
      CHECK_MESSAGE(help.find(option) != std::string::npos, option);
    const size_t arguments = help.find("Positionals:\n  ");
    if (arguments == std::string::npos) continue;
    const std::string first = help.substr(help.find("  ", arguments) + 2);
    for (const char c : first.substr(0, first.find(' '))) CHECK_FALSE((c >= 'a' && c <= 'z'));
  }
}

TEST_CASE("manual pages have every option, and man finds nothing wrong with them") {
  const TemporaryDirectory folder;
  for (const std::string command : {"", "classify", "check-equal"}) {
    CAPTURE(command);
    std::vector<std::string> arguments{"help", "--format", "man"};
    if (!command.empty()) arguments.push_back(command);
    const std::string page = out(arguments);
    CHECK(page.starts_with(".TH VMAMBA\\-CLI"));
    if (!std::filesystem::exists("/usr/bin/groff")) continue;
    const CliResult shown =
        run_cli({"-man", "-Tutf8", "-ww", "-Kutf8", "-P-cbou"}, {.program = "/usr/bin/groff", .input = page});
    CHECK(shown.exit_code == 0);
    CHECK(shown.err == "");
    for (const char* part : {"NAME", "SYNOPSIS", "OPTIONS", "EXIT STATUS", "--help", "NO_COLOR"})
      CHECK_MESSAGE(shown.out.find(part) != std::string::npos, part);
    CHECK((shown.out.find("--log-level LEVEL=info") != std::string::npos) == command.empty());
    CHECK((shown.out.find("--weights FILE") != std::string::npos) == !command.empty());
    CHECK((shown.out.find("migrate-config") != std::string::npos) == command.empty());
  }
}

TEST_CASE("colours on a terminal, unless NO_COLOR is set") {
  const std::string command = "info --device cpu --weights " + data("pth/checkpoint.pth").string() +
                              " --config vmamba_tiny_s1l8 2>&1 >/dev/null; true";
  CHECK(on_terminal(command, {"NO_COLOR="}).find("\x1b[") != std::string::npos);
  CHECK(on_terminal(command, {"NO_COLOR=1"}).find("\x1b[") == std::string::npos);
}

TEST_CASE("progress of eval") {
  const TemporaryDirectory folder;
  const std::string cats = folder / "n02123045", photo = data("chelsea.png").string();
  std::filesystem::create_directory(cats);
  for (int i = 0; i < 60; ++i)
    std::filesystem::create_symlink(photo, cats + "/" + std::to_string(i) + ".png");
  CHECK(on_terminal("eval --device cpu --batch-size 1 " + folder.path().string() + " >/dev/null")
            .find(" of 60 images, ") != std::string::npos);
}

TEST_CASE("progress of comparisons and measurements, on a terminal unless --no-progress is given") {
  const std::string model = data("models/s1_ln2d").string(), image = data("chelsea.png").string();
  const std::string of_model =
      " --device cpu --config " + model + "/config.json --weights " + model + "/weights.safetensors ";
  std::string images;
  for (int i = 0; i < 40; ++i) images += " " + image;
  const auto shown = [&](const std::string& command) {
    return on_terminal(command + of_model + " >/dev/null || test $? = 1");
  };
  for (const auto& [command, words] : std::vector<std::pair<std::string, std::string>>{
           {"check-equal --dtype float32 --images" + images, " of 40 images, "},
           {"check-equal --dtype float16 --min-agreement 0.1 --images" + images, " of 40 images, "},
           {"check-equal --stress --dtype float16 --batch-size 4", " of 21 cases at most, "},
           {"check-equal --find-precision --dtype bfloat16 --batch-size 48 --margin 16", " runs at most, "},
           {"check-equal --matrix --images" + images.substr(0, images.size() / 4), " runs at most, "},
           {"check-equal --repeat 25 --images" + images.substr(0, images.size() / 2), " of 25 runs, "}}) {
    const std::string text = shown(command);
    CHECK_MESSAGE(text.find(words) != std::string::npos, text);
    CHECK_MESSAGE(text.find(" a second, ") != std::string::npos, text);
  }
  const std::string bench = "bench --batch-size 1,2 --seconds 1";
  CHECK(shown(bench).find(" of 2 measurements, ") != std::string::npos);
  const std::string quiet = shown("--no-progress " + bench);
  CHECK(quiet.find(" a second, ") == std::string::npos);
  // Not on a terminal: nothing within the first minute.
  const CliResult piped = run_cli({"-c", cli() + " " + bench + of_model}, {.program = "/bin/sh"});
  CHECK(piped.exit_code == 0);
  CHECK(piped.err.find('\r') == std::string::npos);
  CHECK(piped.err.find(" a second, ") == std::string::npos);
}
