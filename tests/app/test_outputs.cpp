// Outputs of every command through the real binary: none replaces an input, none is left half-written, and what is wrong
// with one is told with its name and the reason.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba::testing;
using vmamba::read_file;
using vmamba::write_file;
namespace fs = std::filesystem;

namespace {

const fs::path model = data("models/s1_ln2d");

// A model and images of one's own, as files that may be named as outputs.
struct Inputs {
  TemporaryDirectory folder;
  std::string image = folder / "p.png", weights = folder / "w.safetensors", config = folder / "w.json",
              labels = folder / "w.labels.txt", images = folder / "images";

  Inputs() {
    fs::copy_file(data("chelsea.png"), image);
    fs::copy_file(model / "config.json", config);
    fs::copy_file(model / "weights.safetensors", weights);
    write_file(labels, "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n");
    for (const char* name : {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}) {
      fs::create_directories(fs::path(images) / name);
      fs::copy_file(data("chelsea.png"), fs::path(images) / name / "p.png");
    }
  }
};

}  // namespace

TEST_CASE(
    "an output that would replace an input is refused, in every command and under every name of the file") {
  const Inputs in;
  const std::string link = in.folder / "link", hard = in.folder / "hard", out = in.folder / "out";
  fs::create_symlink(in.image, link);
  fs::create_hard_link(in.image, hard);
  const std::string picture = in.images + "/c/p.png", beside = in.images + "/c/p.csv";
  const std::vector<std::string> run{"--weights", in.weights, "--device", "cpu"};
  const std::vector<std::vector<std::string>> commands{
      {"classify", in.image, "-o", in.image},
      {"classify", in.image, "-o", link},
      {"classify", in.image, "-o", hard},
      {"classify", in.image, "-o", in.weights},
      {"classify", in.image, "-o", in.config},  // found beside the weights
      {"classify", in.image, "-o", in.labels},
      {"classify", in.image, "--save-logits", in.weights},
      {"classify", in.image, "--save-input", in.image},
      {"classify", in.images, "-o", picture},
      {"classify", in.image, "--summary", in.image},
      {"classify", in.image, "--summary", in.weights},
      {"classify", in.image, "--summary", out, "-o", out},
      {"features", in.image, "-o", in.folder / "f.npy", "--summary", in.config},
      {"eval", in.images, "--summary", picture},
      {"eval", in.images, "--results", out, "--summary", out},
      {"classify", in.image, "--save-logits", out, "--save-input", out},
      {"eval", in.images, "-o", picture},
      {"eval", in.images, "-o", in.weights},
      {"eval", in.images, "--confusion", in.labels},
      {"eval", in.images, "--confusion", beside},  // its picture
      {"eval", in.images, "--results", in.weights},
      {"eval", in.images, "--results", out, "-o", out},
      {"eval", in.images, "--results", out, "-o", in.folder / "./out"},
      {"check-equal", "--save-taps", in.weights},
      {"check-equal", "--save-taps", in.image, "--images", in.image},
      {"check-equal", "--report", in.config},
      {"check-equal", "--find-precision", "-o", in.config},
      {"bench", "--seconds", "0", "-o", in.weights},
      {"migrate-config", in.config, "-o", in.config},
      {"init-weights", "--config", in.config, "-o", in.config},
      {"convert-weights", in.weights, in.weights}};
  for (std::vector<std::string> arguments : commands) {
    const std::string command = arguments[0];
    if (command != "migrate-config" && command != "init-weights" && command != "convert-weights")
      arguments.insert(arguments.end(), run.begin(), run.end());
    INFO(fmt::format("{}", fmt::join(arguments, " ")));
    const bool twice = std::ranges::find(arguments, out) != arguments.end();
    const bool read_before = arguments[2] == "--results" && !twice;  // by then the weights are read
    check_error(run_cli(arguments), 2,
                {twice         ? "two outputs"
                 : read_before ? "not a line that eval wrote"
                               : "is read by this command"});
    CHECK_FALSE(fs::exists(out));
    CHECK(read_file(in.image) == read_file(data("chelsea.png")));
    CHECK(read_file(picture) == read_file(data("chelsea.png")));
    CHECK(read_file(in.weights) == read_file(model / "weights.safetensors"));
    CHECK(read_file(in.config) == read_file(model / "config.json"));
    CHECK(entries(in.folder.path()) == 7);
  }
}

TEST_CASE("two spellings of one new file are one output") {
  const TemporaryDirectory folder;
  for (const std::string& other :
       {std::string("./s"), folder / "s", std::string("../") + folder.path().filename().string() + "/s"}) {
    for (const auto& [first, second] :
         {std::pair("--save-input", "--save-logits"), std::pair("-o", "--summary")})
      check_error(
          run_model(model, "classify", {data("chelsea.png"), "--format", "jsonl", first, "s", second, other},
                    {.directory = folder.path()}),
          2, {"two outputs of this command would be written there"});
    CHECK(entries(folder.path()) == 0);
  }
}

TEST_CASE("outputs of names of 250 bytes, through links that lead nowhere yet, beside planted links") {
  const TemporaryDirectory folder;
  const std::string name(250, 'n'), config = model / "config.json";
  const auto migrate = [&](const std::string& output) {
    return run_cli({"migrate-config", config, "-o", output}).exit_code;
  };
  CHECK(migrate(folder / name) == 0);
  CHECK(read_file(folder / name) == read_file(config));
  CHECK(run_cli({"classify", data("chelsea.png"), "--config", config, "--weights",
                 model / "weights.safetensors", "--device", "cpu", "-q", "--save-logits",
                 folder / (name + "l")})
            .exit_code == 0);
  fs::create_directory(folder / "sub");
  fs::create_symlink("sub/later", folder / "first");
  fs::create_symlink("first", folder / "second");
  CHECK(migrate(folder / "second") == 0);
  CHECK(fs::is_symlink(folder / "first"));
  CHECK(fs::is_symlink(folder / "second"));
  CHECK(read_file(folder / "sub/later") == read_file(config));
  fs::create_symlink("loop", folder / "loop");
  check_error(run_cli({"migrate-config", config, "-o", folder / "loop"}), 2, {"loop", "cannot be written"});
  CHECK(entries(folder / "sub") == 1);
}

TEST_CASE("a rewritten file keeps its permissions, a new one gets those of the umask") {
  const TemporaryDirectory folder;
  const auto mode = [](const std::string& path) { return static_cast<int>(fs::status(path).permissions()); };
  const std::string kept = folder / "kept", fresh = folder / "fresh";
  write_file(kept, "old");
  for (const int bits : {0600, 0640, 0444 | 0200}) {
    fs::permissions(kept, fs::perms(bits));
    CHECK(run_cli({"migrate-config", model / "config.json", "-o", kept}).exit_code == 0);
    CHECK(mode(kept) == bits);
  }
  const mode_t before = umask(027);
  CHECK(run_cli({"migrate-config", model / "config.json", "-o", fresh}).exit_code == 0);
  umask(before);
  CHECK(mode(fresh) == 0640);
}

TEST_CASE("a full disk is told with the file and the reason, and nothing is left") {
  const TemporaryDirectory folder;
  const auto limited =
      [&](const std::string& arguments) {  // no file above 32 KiB: writing fails as on a full disk
        return run_cli({"-c", "ulimit -f 32; exec " + cli() + " " + arguments}, {.program = "/bin/bash"});
      };
  const std::string of_model =
      fmt::format(" --config {} --weights {} --device cpu -q", (model / "config.json").string(),
                  (model / "weights.safetensors").string());
  const std::string chelsea = data("chelsea.png");
  for (const std::string& arguments :
       {fmt::format("init-weights --config {} -o {}", (model / "config.json").string(), folder / "w"),
        fmt::format("convert-weights {} {}", (model / "weights.safetensors").string(), folder / "w"),
        fmt::format("classify {} --save-input {}{}", chelsea, folder / "w", of_model),
        fmt::format("check-equal --seed --save-taps {}{}", folder / "w", of_model)}) {
    INFO(arguments);
    check_error(limited(arguments), 3, {folder / "w", "writing failed: File too large"});
    CHECK(fs::is_empty(folder.path()));
  }
  check_error(run_cli({"classify", chelsea, "--config", model / "config.json", "--weights",
                       model / "weights.safetensors", "--device", "cpu", "-q", "-o", "/dev/full"}),
              3, {"/dev/full: writing failed: No space left on device"});
}

TEST_CASE("of two runs into one file of results the second is refused, and the file is whole") {
  const Inputs in;
  const std::string results = in.folder / "r.jsonl";
  const std::vector<std::string> eval{"eval", in.images, "--weights", in.weights, "--device",
                                      "cpu",  "-q",      "--results", results};
  REQUIRE(run_cli(eval).exit_code == 0);
  const std::string whole = read_file(results);
  {
    const vmamba::Descriptor other(open(results.c_str(), O_RDWR | O_CLOEXEC));
    REQUIRE(flock(other.number, LOCK_EX) == 0);
    check_error(run_cli(eval), 2, {results, "another run is writing to it"});
    CHECK(read_file(results) == whole);
  }
  CHECK(run_cli(eval).exit_code == 0);
  CHECK(read_file(results) == whole);
  check_error(run_cli({"eval", in.images, "--weights", in.weights, "--results", "/dev/null"}), 2,
              {"/dev/null", "no regular file"});
}

TEST_CASE("an image that cannot be read is noted once, however often the run is taken up again") {
  const Inputs in;
  write_file(in.images + "/a/broken.jpg", "x");
  write_file(in.images + "/a/b\xff.jpg", "x");
  write_file(in.images + "/a/b\xfe.jpg", "x");
  const std::string results = in.folder / "r.jsonl";
  const std::vector<std::string> eval{"eval", in.images, "--weights", in.weights, "--device",
                                      "cpu",  "-q",      "--results", results};
  CHECK(run_cli(eval).exit_code == 1);
  const std::string once = read_file(results);
  CHECK(std::ranges::count(once, '\n') == 1 + 10 + 3);
  for (int again = 0; again < 3; ++again) CHECK(run_cli(eval).exit_code == 1);
  CHECK(read_file(results) == once);
  write_file(in.images + "/a/broken.jpg",
             "yy");  // another reason would be another line; mended it has an answer
  fs::copy_file(data("chelsea.png"), in.images + "/a/broken.jpg", fs::copy_options::overwrite_existing);
  CHECK(run_cli(eval).exit_code == 1);
  CHECK(std::ranges::count(read_file(results), '\n') == 1 + 10 + 3 + 1);
}
