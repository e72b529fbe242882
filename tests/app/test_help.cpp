// help and version, manual pages, colours and progress on a terminal.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
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

TEST_CASE("progress on a terminal, unless --no-progress is given") {
  const TemporaryDirectory folder;
  const std::string cats = folder / "n02123045", photo = data("chelsea.png").string();
  std::filesystem::create_directory(cats);
  for (int i = 0; i < 150; ++i)
    std::filesystem::create_symlink(photo, cats + "/" + std::to_string(i) + ".png");
  const std::string command = "eval --device cpu " + folder.path().string() + " >/dev/null";
  CHECK(on_terminal(command).find(" of 150 images, ") != std::string::npos);
  const std::string quiet = on_terminal("--no-progress " + command);
  CHECK(quiet.find("device cpu") != std::string::npos);  // the log remains
  CHECK(quiet.find(" of 150 images, ") == std::string::npos);
}

TEST_CASE("progress of comparisons and measurements") {
  const std::string model = data("models/s1_ln2d").string(), image = data("chelsea.png").string();
  const std::string of_model =
      " --device cpu --config " + model + "/config.json --weights " + model + "/weights.safetensors ";
  std::string images;
  for (int i = 0; i < 40; ++i) images += " " + image;
  const auto check_shown = [&](const std::string& command, const std::string& words) {
    CAPTURE(command);
    const std::string shown = on_terminal(command + of_model + " >/dev/null || test $? = 1");
    CHECK_MESSAGE(shown.find(words) != std::string::npos, shown);
    CHECK(shown.find(" a second, ") != std::string::npos);
    const std::string quiet =
        on_terminal("--no-progress " + command + of_model + " >/dev/null || test $? = 1");
    CHECK(quiet.find(" a second, ") == std::string::npos);
    // Not on a terminal: nothing within the first minute.
    const CliResult piped = run_cli({"-c", cli() + " " + command + of_model}, {.program = "/bin/sh"});
    CHECK(piped.exit_code <= 1);
    CHECK(piped.err.find('\r') == std::string::npos);
    CHECK(piped.err.find(" a second, ") == std::string::npos);
  };
  check_shown("check-equal --dtype float32 --images" + images + images + images, " of 120 images, ");
  check_shown("check-equal --dtype float16 --min-agreement 0.1 --images" + images + images + images + images,
              " of 160 images, ");
  check_shown("check-equal --stress --dtype float16 --batch-size 4", " of 21 cases at most, ");
  check_shown("check-equal --find-precision --dtype bfloat16 --batch-size 96 --margin 16", " runs at most, ");
  check_shown("check-equal --matrix --images" + images.substr(0, images.size() / 2), " runs at most, ");
  check_shown("check-equal --repeat 50 --images" + images.substr(0, images.size() / 2), " of 50 runs, ");
  check_shown("bench --batch-size 1,2 --seconds 1", " of 2 measurements, ");
}
