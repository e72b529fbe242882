// The command line itself: version, help, usage errors.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba::testing;
using vmamba::read_file;
namespace fs = std::filesystem;

TEST_CASE("--version names the version, the build, CUDA and the libraries") {
  const CliResult result = run_cli({"--version"});
  CHECK(result.exit_code == 0);
  CHECK(result.err == "");
  CHECK(result.out.starts_with("vmamba-cli "));
  for (const char* word : {"build: ", "CUDA: ", "libraries: ", "oneDNN ", "Highway ", "libwebp "}) {
    INFO(word);
    CHECK(result.out.find(word) != std::string::npos);
  }
}

TEST_CASE("the program runs under a loader named by hand") {
  const fs::path loader = "/lib64/ld-linux-x86-64.so.2";
  if (!fs::exists(loader)) {
    MESSAGE("not on this system: ", loader);
    return;
  }
  const CliResult result = run_cli({cli(), "--version"}, {.program = loader});
  CHECK(result.exit_code == 0);
  CHECK(result.out == run_cli({"--version"}).out);
}

TEST_CASE("--help goes to stdout") {
  const CliResult result = run_cli({"--help"});
  CHECK(result.exit_code == 0);
  CHECK(result.err == "");
  CHECK(result.out.find("--log-level") != std::string::npos);
}

TEST_CASE("wrong usage is one line and exit code 2") {
  check_error(run_cli({}), 2, {"no command given", "vmamba-cli --help"});
  check_error(run_cli({"--no-such-option"}), 2, {"--no-such-option", "vmamba-cli --help"});
  check_error(run_cli({"bnech"}), 2, {"unknown command bnech", "did you mean bench?"});
  check_error(run_cli({"bench", "--device-", "cpu"}), 2,
              {"unknown option --device-", "did you mean --device?", "vmamba-cli bench --help"});
  check_error(run_cli({"devices", "cpu"}), 2, {"unexpected argument cpu", "vmamba-cli devices --help"});
  check_error(run_cli({"--log-level", "loud"}), 2, {"--log-level", "loud"});
  check_error(run_cli({""}), 2, {"an argument is empty: leave it out"});
  check_error(run_cli({"classify", ""}), 2, {"an argument is empty"});
}

TEST_CASE("an option of another command is told with that command") {
  check_error(run_cli({"classify", "x.png", "--save-features", "f.safetensors", "--at", "layers.0"}), 2,
              {"--save-features: no option of classify, but of features", "vmamba-cli features --help"});
  check_error(run_cli({"classify", "x.png", "--at=layers.0"}), 2,
              {"--at: no option of classify, but of features"});
  check_error(run_cli({"classify", "x.png", "--confusion", "c.csv"}), 2,
              {"no option of classify, but of eval"});
}

TEST_CASE("an option before its command, one given twice, and names of another format") {
  check_error(run_cli({"--device", "cpu", "classify", "x.png"}), 2,
              {"--device: stands before its command: write vmamba-cli classify --device"});
  check_error(run_cli({"-q", "--log-level", "info", "devices"}), 2, {"--quiet", "--log-level"});
  check_error(run_cli({"classify", "-", "-"}), 2, {"-: given twice"});
  check_error(run_cli({"classify", "--input-tensor", "x.safetensors", "--decode", "cpu"}), 2,
              {"--decode: is of images"});
  check_error(run_cli({"classify", "x.png", "--topk", "1", "--topk", "2"}), 2,
              {"--topk: given 2 times, wanted once"});
  const std::string config = data("models/ft_v05/config.json"),
                    weights = data("models/ft_v05/weights.safetensors");
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"classify", "x.png", "--save-logits", "l.npy"},
                                             {"classify", "x.png", "--save-input", "l.npy"},
                                             {"look", "x.png", "--save-maps", "l.npy"},
                                             {"check-equal", "--save-taps", "l.npy"},
                                             {"init-weights", "--config", config, "-o", "l.npy"},
                                             {"convert-weights", weights, "l.npy"}})
    check_error(run_cli(command), 2, {"l.npy would hold safetensors: name a .safetensors file"});
  check_error(run_cli({"eval", weights, "--device", "cpu"}), 2,
              {"weights.safetensors: is a file: give a folder"});
}

TEST_CASE("numbers are decimal, and the error says which they may be") {
  check_error(run_cli({"eval", "x", "--limit", "1.5"}), 2, {"--limit: 1.5 is not a whole number from 1;"});
  for (const char* number : {"010", "0x10", "+3", "1e3", "true", "-1", "99999999999"})
    check_error(run_cli({"classify", "x", "--topk", number}), 2,
                {std::string("--topk: ") + number + " is not a whole number from 1 to 1048576"});
  check_error(run_cli({"classify", "x", "--threads", "-0"}), 2, {"--threads: -0 is not a whole number"});
  for (const char* number : {"nan", "inf", "0x1", "-1"})
    check_error(run_cli({"bench", "--seconds", number}), 2, {"--seconds", number, "from 0 to 86400"});
  check_error(run_cli({"bench", "--seconds", "010"}), 2, {"--seconds: 010 has leading zeros"});
  check_error(run_cli({"check-equal", "--seed", "0", "--a", "threads=1", "--b", "threads=010"}), 2,
              {"--b threads=010: not a number from 0 to 4096"});
  check_error(run_cli({"bench", "--seconds", "1e-400"}), 2, {"--seconds: 1e-400 is too small"});
  check_error(run_cli({"bench", "--seconds", "1e400"}), 2, {"--seconds: 1e400 is not a finite number"});
  check_error(run_cli({"init-weights", "--config", "vmamba_tiny_s1l8", "--seed", "010", "-o", "x"}), 2,
              {"--seed 010", "without leading zeros"});
  for (const char* shard : {"01/2", "1/02", "-0/2"})
    check_error(run_cli({"classify", "x", "--shard", shard}), 2, {std::string("--shard ") + shard});
  check_error(run_cli({"info", "--image-size", "032"}), 2, {"--image-size 032", "without leading zeros"});
  check_error(run_cli({"classify", "x", "--device", "cuda:00"}), 2, {"--device cuda:00: unknown"});
  check_error(run_cli({"check-equal", "--b", "threads=1,"}), 2, {"--b threads=1,: \"\" is not KEY=VALUE"});
}

TEST_CASE("words that CLI11 takes for something else are the names that they are") {
  const TemporaryDirectory folder;
  const fs::path model = data("models/s1_ln2d");
  const std::vector<std::string> names{"[2024]", "[a,b]", "[[x]]", "bench", "eval", "\x01[y]"};
  for (const std::string& name : names) fs::copy_file(data("chelsea.png"), folder / name);
  std::vector<std::string> arguments{"classify",
                                     "--config",
                                     model / "config.json",
                                     "--weights",
                                     model / "weights.safetensors",
                                     "--device",
                                     "cpu",
                                     "--format",
                                     "json"};
  arguments.insert(arguments.end(), names.begin(), names.end());
  const CliResult result = run_cli(arguments, {.directory = folder.path()});
  REQUIRE(result.exit_code == 0);
  const auto json = nlohmann::json::parse(result.out);
  REQUIRE(json["results"].size() == names.size());
  for (size_t i = 0; i < names.size(); ++i) CHECK(json["results"][i]["file"] == names[i]);
  for (const char* option : {"--images", "--images=[none]"}) {
    std::vector<std::string> images{"check-equal", option};
    if (std::string(option) == "--images") images.push_back("[none]");
    check_error(run_cli(images, {.directory = folder.path()}), 2, {"[none]: cannot be read"});
  }
}

TEST_CASE("an empty value, as of an unset variable, is no default; a seed beyond 2^64 - 1 is none") {
  const std::vector<std::string> seed{"check-equal", "--config", data("models/s1_ln2d/config.json"),
                                      "--device",    "cpu",      "--seed"};
  for (const char* option :
       {"--reference", "--config", "--weights", "--a", "--images", "--save-taps", "--labels", "--seed"}) {
    INFO(option);
    const std::string command = option == std::string("--labels") ? "classify" : "check-equal";
    check_error(run_cli({command, option, ""}), 2, {option, "the value is empty"});
    check_error(run_cli({command, std::string(option) + "="}), 2, {option, "the value is empty"});
  }
  for (const char* wrong : {"18446744073709551616", "-1", "1e3", "0x10", "1 ", "99999999999999999999999"}) {
    INFO(wrong);
    auto arguments = seed;
    arguments.push_back(wrong);
    CHECK(run_cli(arguments).exit_code == 2);
    const TemporaryDirectory folder;
    CHECK(run_cli({"init-weights", "--config", data("models/s1_ln2d/config.json"), "--seed", wrong, "-o",
                   folder / "w"})
              .exit_code == 2);
    CHECK(fs::is_empty(folder.path()));
  }
}

TEST_CASE("standard output that is full or closed is told; what goes elsewhere does not need it") {
  const fs::path model = data("models/ft_v05");
  const std::string config = model / "config.json", tensors = model / "io.safetensors";
  const std::vector<std::string> classify{
      "classify",       "--config", config,     "--weights", model / "weights.safetensors",
      "--input-tensor", tensors,    "--device", "cpu"};
  const TemporaryDirectory folder;
  const std::string large = folder / "large.json";  // more than a buffer of stdio
  std::ofstream(large) << R"({"notes": ")" << std::string(100'000, 'x') << "\"}";
  const std::vector<std::vector<std::string>> all{
      {"devices"}, {"--help"}, {"--version"}, {"info", "--config", config}, {"migrate-config", "-q", large},
      classify};
  for (const std::vector<std::string>& arguments : all) {
    INFO(arguments[0]);
    check_error(run_cli(arguments, {.stdout_path = "/dev/full"}), 3,
                {"standard output could not be written"});
    check_error(run_cli(arguments, {.closed = {1}}), 3, {"standard output could not be written"});
    check_error(run_cli(arguments, {.closed = {0, 1}}), 3, {"standard output could not be written"});
    CHECK(run_cli(arguments, {.closed = {1, 2}}).exit_code == 3);
  }
  std::vector<std::string> to_file = classify;
  to_file.insert(to_file.end(), {"-o", folder / "out.txt"});
  CHECK(run_cli(to_file, {.closed = {1}}).exit_code == 0);
  // (/dev/stdout is a link to it; a program that is wrong here would put a file in its place.)
  to_file.back() = "/proc/self/fd/1";
  CHECK(run_cli(to_file, {.closed = {1}}).exit_code == 2);
}

TEST_CASE("closed standard input is no file") {
  // A folder in its place would be searched for images.
  for (const char* option : {"--labels", "--truth"}) {
    const std::vector<std::string> arguments{
        "eval", data("images").string(), option, "/dev/stdin", "--device", "cpu"};
    check_error(run_cli(arguments, {.closed = {0}}), 2, {"/dev/stdin", "is not a file"});
  }
  check_error(
      run_cli({"classify", "/dev/stdin", "--device", "cpu", "-q"}, {.closed = {0}, .timeout_seconds = 30}), 2,
      {"/dev/stdin", "is not a file"});
}

TEST_CASE("logs that cannot be written change no result and no exit code") {
  const TemporaryDirectory folder;
  const fs::path model = data("models/ft_v05");
  const std::vector<std::pair<std::string, CliRun>> kinds{{"open", {}},
                                                          {"closed", {.closed = {2}}},
                                                          {"input_closed_too", {.closed = {0, 2}}},
                                                          {"full", {.stderr_path = "/dev/full"}},
                                                          {"nobody_reads", {.unread = {2}}}};
  std::vector<std::string> seen;
  for (const auto& [kind, how] : kinds) {
    INFO(kind);
    const std::string answers = folder / (kind + ".json"), logits = folder / (kind + ".safetensors");
    const CliResult classified =
        run_cli({"--log-level", "trace", "classify", "--config", model / "config.json", "--weights",
                 model / "weights.safetensors", "--input-tensor", model / "io.safetensors", "--device", "cpu",
                 "--format", "json", "-o", answers, "--save-logits", logits},
                how);
    const CliResult migrated = run_cli({"migrate-config", model / "config.json"}, how);
    const CliResult wrong = run_cli({"classify", "--no-such-option"}, how);
    CHECK(classified.exit_code == 0);
    CHECK(migrated.exit_code == 0);
    CHECK(wrong.exit_code == 2);
    auto answer = nlohmann::json::parse(read_file(answers));
    answer.erase("made_by");  // the command, which names its outputs
    const std::string all = answer.dump() + read_file(logits) + migrated.out;
    seen.push_back(all);
    CHECK(all == seen[0]);
  }
}

TEST_CASE("results that nobody reads end the program, which leaves nothing behind") {
  const TemporaryDirectory folder;
  const CliResult result = run_cli(
      {"classify", data("chelsea.png"), "--save-logits", folder / "logits.safetensors"}, {.unread = {1}});
  CHECK(result.exit_code == -1);  // by SIGPIPE
  CHECK(result.err.find("standard output") == std::string::npos);
  CHECK(fs::is_empty(folder.path()));
}

TEST_CASE("devices lists the CPU first and says why a device cannot be used") {
  const CliResult result = run_cli({"devices", "--format", "json"});
  CHECK(result.exit_code == 0);
  const auto json = nlohmann::json::parse(result.out);
  REQUIRE(json["devices"].size() >= 2);
  CHECK(json["devices"][0]["device"] == "cpu");
  CHECK(json["devices"][0]["usable"] == true);
  bool any_cuda = false;
  for (const auto& device : json["devices"]) {
    if (device["usable"] == false) {
      const std::string why_not = device["why_not"];
      CHECK(why_not.size() > 10);
      CHECK_MESSAGE(why_not.find(".cpp") == std::string::npos,
                    why_not);  // a place in our source helps no user
    }
    any_cuda |= device["usable"] == true && device["device"] != "cpu";
  }
  CHECK(json["auto"] == (any_cuda ? "cuda:0" : "cpu"));
}

TEST_CASE("a device that is not there is one line and exit code 3") {
  const CliResult result = run_cli({"classify", data("chelsea.png"), "--device", "cuda:99", "-q"});
  check_error(result, 3, {"CUDA"});
  CHECK_MESSAGE(result.err.find(".cpp") == std::string::npos, result.err);
}
