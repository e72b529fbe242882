// eval, through the real binary: its counts are those that follow from classify's answers; it resumes; bad
// folders.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "lib/images/image.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/tensors/state_dict.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

const fs::path model = data("models/s1_ln2d");

CliResult run(const std::string& command, std::vector<std::string> arguments) {
  const std::vector<std::string> with_model{
      command,    "--config", model / "config.json", "--weights", model / "weights.safetensors",
      "--device", "cpu"};
  arguments.insert(arguments.begin(), with_model.begin(), with_model.end());
  return run_cli(arguments);
}

// The images of tests/data dealt to ten folders, k0 to k9.
void deal(const TemporaryDirectory& folder) {
  int dealt = 0;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(data("images")))
    if (has_image_ending(entry.path())) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    const fs::path target = folder.path() / fmt::format("k{}", dealt++ % 10);
    fs::create_directories(target);
    fs::copy_file(file, target / file.filename());
  }
  REQUIRE(dealt > 35);
}

nlohmann::json json_of(const CliResult& result, int exit_code = 0) {
  INFO(result.err);
  REQUIRE(result.exit_code == exit_code);
  return nlohmann::json::parse(result.out);
}

}  // namespace

TEST_CASE("names that begin with a dot are neither classes nor images") {
  const TemporaryDirectory folder;
  deal(folder);
  const CliResult before = run("eval", {folder.path().string(), "--format", "json"});
  REQUIRE(before.exit_code == 0);
  fs::create_directories(folder.path() / ".ipynb_checkpoints");
  fs::copy_file(data("chelsea.png"), folder.path() / ".ipynb_checkpoints/cat.png");
  write_file(folder / "k3/._cat.png", "x");
  write_file(folder / "k3/notes.txt", "x");
  write_file(folder / "k4/notes.txt", "x");
  const CliResult after = run("eval", {folder.path().string(), "--format", "json"});
  REQUIRE(after.exit_code == 0);
  CHECK(nlohmann::json::parse(after.out)["images"] == nlohmann::json::parse(before.out)["images"]);
  CHECK(after.err.find(": 2 files are no image by their ending and left out") != std::string::npos);
}

TEST_CASE("eval counts what classify answers") {
  const TemporaryDirectory folder, out;
  deal(folder);
  const auto answers = json_of(run("classify", {folder.path().string(), "--format", "json"}));
  int images = 0, top1 = 0, top5 = 0;
  std::map<std::pair<int, int>, int> confused;
  for (const auto& result : answers["results"]) {
    const int truth = fs::path(result["file"].get<std::string>()).parent_path().filename().string()[1] - '0';
    ++images;
    for (size_t i = 0; i < 5; ++i) {
      const bool right = result["top"][i]["class"] == truth;
      top1 += right && i == 0;
      top5 += right;
    }
    ++confused[{truth, result["top"][0]["class"].get<int>()}];
  }
  const auto counts =
      json_of(run("eval", {folder.path().string(), "--format", "json", "--confusion", out / "c.csv"}));
  CHECK(counts["images"] == images);
  CHECK(counts["top1_count"] == top1);
  CHECK(counts["top5_count"] == top5);
  CHECK(counts["device"] == "cpu");
  CHECK(counts["classes"].size() == 10);
  CHECK(counts["classes"][3]["label"] == "k3");

  std::istringstream table(read_file(out / "c.csv"));
  std::string line;
  std::getline(table, line);
  CHECK(line == "true class,k0,k1,k2,k3,k4,k5,k6,k7,k8,k9");
  for (int truth = 0; truth < 10; ++truth) {
    REQUIRE(std::getline(table, line));
    std::istringstream cells(line);
    std::string cell;
    std::getline(cells, cell, ',');
    CHECK(cell == fmt::format("k{}", truth));
    for (int answer = 0; answer < 10; ++answer) {
      std::getline(cells, cell, ',');
      CHECK(std::stoi(cell) == (confused[{truth, answer}]));
    }
  }
  const Image picture = read_image(out / "c.png");
  CHECK(picture.width == 800);
  CHECK(picture.height == 800);

  const CliResult text = run("eval", {folder.path().string()});
  CHECK(text.out.find(fmt::format("{} of {}", top1, images)) != std::string::npos);
  CHECK(text.err.find('\r') == std::string::npos);  // no progress where there is no terminal
  const CliResult csv = run("eval", {folder.path().string(), "--format", "csv", "-o", out / "e.csv"});
  CHECK(csv.out == "");
  CHECK(read_file(out / "e.csv").starts_with("class,label,images,top1,top5,most_confused_with\n0,k0,"));
}

TEST_CASE("--limit takes from every class alike") {
  const TemporaryDirectory folder;
  deal(folder);
  const auto counts = json_of(run("eval", {folder.path().string(), "--format", "json", "--limit", "15"}));
  CHECK(counts["images"] == 15);
  REQUIRE(counts["classes"].size() == 10);
  for (size_t i = 0; i < 10; ++i) CHECK(counts["classes"][i]["images"] == (i < 5 ? 2 : 1));
}

TEST_CASE("a stopped evaluation goes on where it stopped") {
  const TemporaryDirectory folder, out;
  deal(folder);
  const std::vector<std::string> arguments{folder.path().string(), "--format", "json", "--results",
                                           out / "r.jsonl"};
  auto whole = json_of(run("eval", arguments));
  const std::string log = read_file(out / "r.jsonl");
  write_file(out / "r.jsonl", log.substr(0, log.size() / 2));  // in the middle of a line
  const CliResult again = run("eval", arguments);
  CHECK(again.err.find("are answered already") != std::string::npos);
  auto resumed = json_of(again);
  whole.erase("seconds");
  resumed.erase("seconds");
  CHECK(resumed == whole);
  CHECK(std::count(log.begin(), log.end(), '\n') == whole["images"].get<int>() + 1);
  const std::string log_again = read_file(out / "r.jsonl");
  CHECK(std::count(log_again.begin(), log_again.end(), '\n') == whole["images"].get<int>() + 1);

  auto other = arguments;
  other.insert(other.end(), {"--dtype", "bfloat16"});
  check_error(run("eval", other), 2, {"r.jsonl", "dtype", "float32", "bfloat16"});
  write_file(out / "r.jsonl", "something else\n");
  check_error(run("eval", arguments), 2, {"r.jsonl:1", "not a line that eval wrote"});
  CHECK(read_file(out / "r.jsonl") == "something else\n");
}

TEST_CASE("answers of two models never meet in one file of results") {
  const TemporaryDirectory folder, out;
  deal(folder);
  const auto copy = [&](const std::string& name, const std::string& bytes) { write_file(out / name, bytes); };
  const std::string config = read_file(model / "config.json");
  copy("c.json", config);
  copy("w.safetensors", read_file(model / "weights.safetensors"));
  copy("l.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n");
  const std::vector<std::string> arguments{
      "eval",      folder.path().string(), "--config", out / "c.json", "--weights", out / "w.safetensors",
      "--labels",  out / "l.txt",          "--device", "cpu",          "--limit",   "10",
      "--results", out / "r.jsonl"};
  // The folders' names are no labels: their order is the classes'.
  REQUIRE(run_cli(arguments).exit_code == 0);
  const std::string log = read_file(out / "r.jsonl");
  CHECK(run_cli(arguments).err.find("10 of 10 images are answered already") != std::string::npos);

  // The same tensors in another file are the same weights.
  StateDict weights = read_safetensors(model / "weights.safetensors");
  std::reverse(weights.tensors.begin(), weights.tensors.end());
  for (auto& [name, tensor] : weights.tensors) name = "module." + name;
  write_safetensors(out / "other_order.safetensors", weights);
  auto same = arguments;
  same[5] = out / "other_order.safetensors";
  CHECK(run_cli(same).exit_code == 0);

  const auto refused = [&](const std::vector<std::string>& words) {
    check_error(run_cli(arguments), 2, words);
    CHECK(read_file(out / "r.jsonl") == log);
  };
  // Other contents under the same name and of the same size.
  StateDict other;
  for (const auto& [name, tensor] : read_safetensors(model / "weights.safetensors").tensors) {
    HostTensor values = tensor.to_float32();
    if (name == "classifier.head.bias") values.values[3] += 1;
    other.add(name, values);
  }
  fs::remove(out / "w.safetensors");
  write_safetensors(out / "w.safetensors", other);
  refused({"r.jsonl", "weights_sha256"});
  copy("w.safetensors", read_file(model / "weights.safetensors"));
  const auto with = [&](const std::string& key, const std::string& value) {
    copy("c.json", with_member(config, "c.json", key, value));
  };
  with("mlp_act_layer", R"("silu")");
  refused({"config/mlp_act_layer", "gelu", "silu"});
  with("preprocess", R"({"mean": [0.5, 0.5, 0.5]})");
  refused({"config/preprocess/mean/0"});
  with("float32_ops", R"(["patch_embed"])");
  refused({"config/float32_ops"});
  copy("c.json", config);
  copy("l.txt", "a\nb\nc\nd\ne\nf\ng\nh\nj\ni\n");
  refused({"labels_sha256"});
  copy("l.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n");
  CHECK(run_cli(arguments).exit_code == 0);

  // A header from before the sums.
  write_file(out / "r.jsonl", R"({"eval":"x","model":"s1_ln2d","weights":"w.safetensors","weights_bytes":1})"
                              "\n");
  check_error(run_cli(arguments), 2, {"r.jsonl", "older version", "remove it"});
}

TEST_CASE("an image that cannot be read is not counted, and the exit code says so") {
  const TemporaryDirectory folder;
  deal(folder);
  write_file(folder / "k2/broken.jpg", "x");
  const CliResult result = run("eval", {folder.path().string(), "--format", "json"});
  CHECK(json_of(result, 1)["failed"] == 1);
  CHECK(result.err.find("skipped: " + (folder / "k2/broken.jpg")) != std::string::npos);
}

TEST_CASE("folders that are no data set are refused") {
  const TemporaryDirectory folder;
  check_error(run("eval", {folder / "none"}), 2, {"none: cannot be listed"});
  check_error(run("eval", {folder.path().string()}), 2, {"holds no folders"});
  fs::create_directory(folder / "a");
  check_error(run("eval", {folder.path().string()}), 2, {"1 folders, but the model has 10 classes"});
  for (const char* name : {"b", "c", "d", "e", "f", "g", "h", "i", "j"}) fs::create_directory(folder / name);
  check_error(run("eval", {folder.path().string()}), 2, {"no image files"});
  write_file(folder / "a/x.png", "x");
  const CliResult unreadable = run("eval", {folder.path().string()});
  CHECK(unreadable.exit_code == 2);
  CHECK(unreadable.out == "");
  CHECK(unreadable.err.find("a/x.png: not an image") != std::string::npos);
  CHECK(unreadable.err.find("none of its 1 images could be read") != std::string::npos);
  check_error(run("eval", {folder.path().string(), "--confusion", folder / "c.png"}), 2, {"name the CSV"});
  check_error(run("eval", {folder.path().string(), "--confusion", folder / "no/c.csv"}), 2,
              {"cannot be written"});
}
