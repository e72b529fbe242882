// eval, through the real binary: its counts are those that follow from classify's answers; it resumes; bad
// folders.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cmath>
#include <fstream>
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

CliResult run(const std::string& command, const std::vector<std::string>& arguments) {
  return run_model(model, command, arguments);
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

// The same images in one folder, img_00 and on; returns their classes in that order, those of deal().
std::vector<int> flatten(const TemporaryDirectory& dealt, const TemporaryDirectory& flat) {
  std::vector<int> classes;
  for (int k = 0; k < 10; ++k)
    for (const auto& entry : fs::directory_iterator(dealt.path() / fmt::format("k{}", k))) {
      const std::string ending = entry.path().extension().string();
      fs::copy_file(entry.path(), flat / fmt::format("img_{:02}{}", classes.size(), ending));
      classes.push_back(k);
    }
  return classes;
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
  CHECK(read_image(out / "c.png").width > 260);

  const CliResult text = run("eval", {folder.path().string()});
  CHECK(text.out.find(fmt::format("{} of {}", top1, images)) != std::string::npos);
  CHECK(text.err.find('\r') == std::string::npos);  // no progress where there is no terminal
  const CliResult csv = run("eval", {folder.path().string(), "--format", "csv", "-o", out / "e.csv"});
  CHECK(csv.out == "");
  CHECK(read_file(out / "e.csv")
            .starts_with("class,label,images,top1,top5,most_confused_with,no_answer\n0,k0,"));
}

TEST_CASE("a flat folder with its truth counts as folders of classes do") {
  const TemporaryDirectory folder, flat, out;
  deal(folder);
  const std::vector<int> classes = flatten(folder, flat);
  const auto by_folders = json_of(run("eval", {folder.path().string(), "--format", "json"}));
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(flat.path()))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  std::string from_0, from_1, table, spaced, by_name = "name,label\n", real, labels;
  for (size_t i = 0; i < classes.size(); ++i) {
    from_0 += fmt::format("{}\n", classes[i]);
    from_1 += fmt::format("{}\n", classes[i] + 1);
    table = fmt::format("{},{}\n", names[i], classes[i]) + table;
    spaced += fmt::format("{} {}\n", names[i], classes[i]);
    by_name += fmt::format("{},kind {}\n", names[i], classes[i]);
    real += fmt::format("{}{}", i == 0 ? "[" : ", ", i < 5 ? "[]" : "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]");
  }
  for (int k = 0; k < 10; ++k) labels += fmt::format("{}{}: 'kind {}'", k == 0 ? "{" : ",\n ", k, k);
  write_file(out / "labels.txt", labels + "}");
  const auto eval = [&](const std::string& truth, std::vector<std::string> more = {}) {
    write_file(out / "truth", truth);
    more.insert(more.begin(), {flat.path().string(), "--truth", out / "truth"});
    return run("eval", more);
  };
  for (const auto& [text, form] : {std::pair(from_0, "class numbers from 0"),
                                   {from_1, "class numbers from 1"},
                                   {table, "names and classes, class numbers from 0"},
                                   {spaced, "names and classes, class numbers from 0"},
                                   {by_name, "names and classes, classes by the labels' names"}}) {
    const CliResult result = eval(text, {"--format", "json", "--labels", out / "labels.txt"});
    const auto counts = json_of(result);
    CHECK(counts["truth"] == form);
    CHECK(result.err.find(form) != std::string::npos);
    for (const char* key : {"images", "top1_count", "top5_count", "mean_class_top1", "top1_interval"})
      CHECK(counts[key] == by_folders[key]);
  }
  const CliResult text = eval(from_1);
  CHECK(text.out.find("95 % interval") != std::string::npos);
  CHECK(text.out.find("truth       class numbers from 1") != std::string::npos);

  const auto counts = json_of(eval(real + "]", {"--format", "json"}));
  CHECK(counts["images"] == classes.size() - 5);
  CHECK(counts["not_counted"] == 5);
  CHECK(counts["top1"] == 1);
  CHECK(counts["top5"].is_null());
  CHECK(counts["classes"].empty());
  CHECK(eval(real + "]").out.find("top-5       is not defined") != std::string::npos);
  check_error(eval(real + "]", {"--format", "csv"}), 2, {"truth", "several classes", "--format csv"});
  check_error(eval(real + "]", {"--confusion", out / "c.csv"}), 2, {"leave out --confusion"});

  // Answers under another truth are another file's.
  const std::vector<std::string> log{"--results", out / "r.jsonl", "--limit", "10"};
  REQUIRE(eval(from_0, log).exit_code == 0);
  CHECK(eval(from_0, log).err.find("10 of 10 images are answered already") != std::string::npos);
  check_error(eval(from_1, log), 2, {"r.jsonl", "truth_sha256"});

  check_error(eval(from_0 + "3\n"), 2, {"truth: says what", "the folder has"});
  check_error(eval(from_0 + from_0), 2, {"truth: says what"});
  check_error(eval("11\n" + from_0.substr(2)), 2, {"truth:1: class number 11"});
  check_error(eval(by_name), 2, {"truth:2: \"kind 0\"", "give --labels FILE"});
  check_error(run("eval", {folder.path().string(), "--truth", out / "no"}), 2, {"no"});
  check_error(run("eval", {flat.path().string()}), 2, {"holds no folders", "--truth FILE"});
}

TEST_CASE("the folder above the splits is no data set") {
  const TemporaryDirectory folder;
  fs::create_directories(folder / "train/cat");
  fs::create_directories(folder / "val/cat");
  check_error(run("eval", {folder.path().string()}), 2, {"train, val", ": eval " + (folder / "val")});
  fs::create_directories(folder / "devkit");
  check_error(run("eval", {folder.path().string()}), 2, {": eval " + (folder / "val")});
  fs::create_directories(folder / "labelled");
  write_file(folder / "l.txt", "train\nval\ndevkit\nlabelled\ne\nf\ng\nh\ni\nj\n");
  fs::copy_file(data("chelsea.png"), folder / "val/cat/a.png");
  CHECK(run("eval", {folder.path().string(), "--labels", folder / "l.txt"}).exit_code == 0);
}

TEST_CASE("the shipped labels know their WordNet ids") {
  std::ifstream file(*find_shipped("weights/vmamba-tiny-imagenet.labels.txt"));
  std::string line;
  std::vector<std::string> ids;
  while (std::getline(file, line)) ids.push_back(line.substr(0, line.find('\t')));
  REQUIRE(ids.size() == 200);
  CHECK(ids[0] == "n01443537");
  const TemporaryDirectory folder;
  for (const char* id : {"n01443537", "n01641577"}) {
    fs::create_directories(folder / id);
    fs::copy_file(data("chelsea.png"), folder.path() / id / "a.png");
  }
  const auto counts =
      json_of(run_cli({"eval", folder.path().string(), "--device", "cpu", "--format", "json"}));
  REQUIRE(counts["classes"].size() == 2);
  CHECK(counts["classes"][0]["label"] == "goldfish");
  CHECK(counts["classes"][1]["class"] == 2);
  CHECK(counts["classes"][1]["label"] == "bullfrog");
}

TEST_CASE("logits that are NaN are no answer, and that is said") {
  const TemporaryDirectory folder, out;
  deal(folder);
  StateDict weights;
  for (const auto& [name, tensor] : read_safetensors(model / "weights.safetensors").tensors) {
    HostTensor values = tensor.to_float32();
    if (name == "classifier.head.bias") values.values[3] = NAN;
    weights.add(name, values);
  }
  write_safetensors(out / "w.safetensors", weights);
  const auto eval = [&](const std::string& format) {
    return run_cli({"eval", folder.path().string(), "--config", model / "config.json", "--weights",
                    out / "w.safetensors", "--device", "cpu", "--format", format, "--limit", "10",
                    "--results", out / "r.jsonl"});
  };
  for (int again = 0; again < 2; ++again) {
    const CliResult result = eval("json");
    const auto counts = json_of(result);
    CHECK(counts["images"] == 10);
    CHECK(counts["no_answer"] == 10);
    for (const char* sum : {"weights_sha256", "config_sha256"})
      CHECK(counts[sum].get<std::string>().size() == 64);
    CHECK(counts["labels_sha256"].is_null());
    CHECK(counts["input_sha256"].is_null() == (again == 1));
    CHECK(counts["made_by"]["command"].get<std::string>().find("eval") != std::string::npos);
    CHECK(counts["made_by"].contains("version"));
    CHECK(counts["top1_count"] == 0);
    CHECK(counts["top5_count"] == 0);
    CHECK(counts["classes"][0]["no_answer"] == 1);
    CHECK(result.err.find(
              "10 of 10 images without an answer, as their logits are NaN or infinite: counted as wrong") !=
          std::string::npos);
  }
  CHECK(eval("text").out.find("no answer   100.00 %   10 of 10") != std::string::npos);
  CHECK(eval("csv").out.find("0,k0,1,0,0,,1\n") != std::string::npos);

  CHECK(run_cli({"eval", folder.path().string(), "--config", model / "config.json", "--weights",
                 out / "w.safetensors", "--device", "cpu", "--limit", "2", "--summary", out / "s.json"})
            .exit_code == 0);
  CHECK(nlohmann::json::parse(read_file(out / "s.json"))["no_answer"] == 2);

  // What older versions wrote of such images: class 0 first, without a probability.
  std::string log = read_file(out / "r.jsonl");
  for (size_t at = 0; (at = log.find("\"top\":[]", at)) != std::string::npos;)
    log.replace(at, 8, "\"top\":[0]");
  write_file(out / "r.jsonl", log);
  CHECK(json_of(eval("json"))["no_answer"] == 10);
}

TEST_CASE("the confusion of many classes is of those that occur") {
  const TemporaryDirectory folder, out;
  write_file(out / "c.json", with_member(read_file(model / "config.json"), "c.json", "num_classes", "5000"));
  StateDict weights;
  for (const auto& [name, tensor] : read_safetensors(model / "weights.safetensors").tensors) {
    HostTensor values = tensor.to_float32();
    if (name.starts_with("classifier.head.")) {
      values.values.assign(values.values.size() / 10 * 5000, 0.0f);
      values.dims[0] = 5000;
      if (name == "classifier.head.bias") values.values[4321] = 1;
    }
    weights.add(name, values);
  }
  write_safetensors(out / "w.safetensors", weights);
  for (const char* name : {"a.png", "b.png"}) fs::copy_file(data("chelsea.png"), folder / name);
  write_file(out / "t.csv", "a.png,7\nb.png,4321\n");
  const CliResult result = run_cli({"eval", folder.path().string(), "--truth", out / "t.csv", "--config",
                                    out / "c.json", "--weights", out / "w.safetensors", "--device", "cpu",
                                    "--confusion", out / "confusion.csv", "--batch-size", "65536"});
  REQUIRE(result.exit_code == 0);
  CHECK(read_file(out / "confusion.csv") == "true class,class 7,class 4321\nclass 7,0,1\nclass 4321,0,1\n");
}

TEST_CASE("links: folders are followed, what cannot be read is counted") {
  const TemporaryDirectory folder, elsewhere, out;
  deal(folder);
  const auto whole = json_of(run("eval", {folder.path().string(), "--format", "json"}));
  fs::rename(folder.path() / "k3", elsewhere.path() / "k3");
  fs::create_symlink(elsewhere.path() / "k3", folder.path() / "k3");
  fs::create_directory(elsewhere / "k4");
  for (const auto& entry : fs::directory_iterator(folder.path() / "k4"))
    fs::copy_file(entry.path(), elsewhere.path() / "k4" / entry.path().filename());
  fs::remove_all(folder.path() / "k4");
  fs::create_directory(folder / "k4");
  fs::create_symlink(elsewhere.path() / "k4", folder.path() / "k4/linked");
  fs::create_symlink("..", folder / "k5/up");
  fs::create_symlink(".", folder / "k6/self");
  const CliResult same = run("eval", {folder.path().string(), "--format", "json"});
  CHECK(json_of(same)["classes"] == whole["classes"]);
  CHECK(contains(same.err, "k5/up: links to a folder that it is in: not followed"));
  CHECK(contains(same.err, "k6/self: links to a folder that it is in: not followed"));

  fs::create_symlink("nowhere.png", folder / "k0/gone.png");
  REQUIRE(mkfifo((folder / "k1/pipe.png").c_str(), 0600) == 0);
  const CliResult some =
      run("eval", {folder.path().string(), "--format", "json", "--results", out / "r.jsonl"});
  const auto counts = json_of(some, 1);
  CHECK(counts["failed"] == 2);
  CHECK(counts["classes"] == whole["classes"]);
  CHECK(contains(some.err,
                 "skipped: " + (folder / "k0/gone.png") + ": cannot be read: No such file or directory"));
  CHECK(contains(some.err, "skipped: " + (folder / "k1/pipe.png") + ": cannot be read: not a regular file"));
  CHECK(contains(read_file(out / "r.jsonl"), "\"file\":\"k0/gone.png\""));
  const CliResult classified = run("classify", {folder.path().string(), "--format", "json"});
  CHECK(json_of(classified, 1)["failed"] == 2);
  CHECK(contains(classified.err, "k0/gone.png: cannot be read: No such file or directory"));
  check_error(run("check-equal", {"--images", folder.path(), "--dtype", "float32"}), 2,
              {"k1/pipe.png: cannot be read"});

  // A folder that cannot be read is not one class less.
  fs::rename(folder.path() / "k9", elsewhere.path() / "k9");
  fs::create_symlink("nowhere", folder / "k9");
  check_error(run("eval", {folder.path().string()}), 2,
              {"k9", "may be the folder of a class", "No such file or directory"});
}

TEST_CASE("--results: a line of another class than the image has now is refused") {
  const TemporaryDirectory folder, out;
  deal(folder);
  const std::vector<std::string> arguments{folder.path().string(), "--results", out / "r.jsonl"};
  REQUIRE(run("eval", arguments).exit_code == 0);
  const std::string log = read_file(out / "r.jsonl");
  fs::rename(folder.path() / "k0", folder.path() / "z0");  // no longer the first class
  check_error(run("eval", arguments), 2,
              {"r.jsonl:", "k1/", "is of class 1 there, of class 0 in this run", "give another file"});
  CHECK(read_file(out / "r.jsonl") == log);
}

TEST_CASE("names that differ in bytes that are no UTF-8 are two names") {
  const TemporaryDirectory folder, out;
  deal(folder);
  fs::copy_file(data("chelsea.png"), folder / "k0/a\xff.png");
  fs::copy_file(data("images/rgb.bmp"), folder / "k0/a\xfe.png");
  const std::vector<std::string> arguments{folder.path().string(), "--format", "json", "--results",
                                           out / "r.jsonl"};
  auto whole = json_of(run("eval", arguments));
  const std::string log = read_file(out / "r.jsonl");
  CHECK(log.find("6b302f61ff2e706e67") != std::string::npos);
  CHECK(log.find("6b302f61fe2e706e67") != std::string::npos);
  std::string one_less;  // the file without the line of one of them
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);)
    if (line.find("6b302f61ff2e706e67") == std::string::npos) one_less += line + "\n";
  write_file(out / "r.jsonl", one_less);
  const int images = whole["images"];
  const CliResult again = run("eval", arguments);
  CHECK(again.err.find(fmt::format("{} of {} images are answered already", images - 1, images)) !=
        std::string::npos);
  auto resumed = json_of(again);
  for (const char* of_a_run : {"seconds", "input_sha256"}) {
    whole.erase(of_a_run);
    resumed.erase(of_a_run);
  }
  CHECK(resumed == whole);
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
  for (const char* of_a_run : {"seconds", "input_sha256"}) {
    whole.erase(of_a_run);
    resumed.erase(of_a_run);
  }
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

TEST_CASE(
    "--results that contradict themselves, are impossible or of other images are not counted in silence") {
  const TemporaryDirectory folder, out;
  deal(folder);
  const std::vector<std::string> arguments{folder.path().string(), "--results", out / "r.jsonl", "--summary",
                                           out / "s.json"};
  const CliResult whole = run("eval", arguments);
  REQUIRE(whole.exit_code == 0);
  const std::string log = read_file(out / "r.jsonl");
  const size_t last = log.rfind('\n', log.size() - 2) + 1;
  const auto line = nlohmann::ordered_json::parse(log.substr(last));
  const auto lines = std::count(log.begin(), log.end(), '\n');
  const auto with_line = [&](const nlohmann::ordered_json& added) {
    write_file(out / "r.jsonl", log + added.dump() + "\n");
    return run("eval", arguments);
  };
  const auto with_value = [&](const char* key, const nlohmann::ordered_json& value) {
    auto changed = line;
    changed[key] = value;
    return with_line(changed);
  };
  const auto summary = [&] { return nlohmann::json::parse(read_file(out / "s.json")); };
  const auto images = summary()["images"].get<size_t>();

  const CliResult doubled = with_line(line);
  CHECK(doubled.exit_code == 0);
  CHECK(doubled.out == whole.out);
  CHECK(summary()["from_earlier"] == images);
  CHECK(summary()["no_answer"] == 0);
  auto top = line["top"];
  std::swap(top[0], top[1]);
  const int other_class = line["class"] == 0 ? 1 : 0;
  for (const CliResult& result :
       {with_value("top", top), with_value("probability", 0.5), with_value("class", other_class)})
    check_error(result, 2,
                {fmt::format("r.jsonl:{} and {}: two answers for", lines, lines + 1), line["file"]});
  for (const CliResult& result :
       {with_value("probability", 7), with_value("probability", 0), with_value("probability", "1"),
        with_value("top", {1, 1, 1, 1, 1}), with_value("top", {1}), with_value("top", {0, 1, 2, 3, 10}),
        with_value("file", 5), with_line({{"file", line["file"]}, {"top", top}}), with_line({{"x", 1}})})
    check_error(result, 2, {fmt::format("r.jsonl:{}: not a line that eval wrote", lines + 1)});
  CHECK(contains(read_file(out / "r.jsonl"), log));

  const CliResult elsewhere = with_value("file", "k0/elsewhere.png");
  CHECK(elsewhere.exit_code == 0);
  CHECK(elsewhere.out == whole.out);
  CHECK(contains(elsewhere.err, "r.jsonl: has lines of 1 image that is not in the set"));
  // What --limit leaves out is in the set.
  write_file(out / "r.jsonl", log);
  auto limited = arguments;
  limited.insert(limited.end(), {"--limit", "2"});
  CHECK_FALSE(contains(run("eval", limited).err, "not in the set"));
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

TEST_CASE("classes by the sorted order of folders are said to be so") {
  const TemporaryDirectory folder;
  deal(folder);
  const std::string form = "folders in sorted order, as their names are no labels";
  const CliResult result = run("eval", {folder.path().string(), "--format", "json"});
  CHECK(result.err.find(folder.path().string() + ": classes are its " + form) != std::string::npos);
  CHECK(json_of(result)["truth"] == form);
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
  check_error(run("eval", {folder.path().string()}), 2, {"1 folder, but the model has 10 classes"});
  for (const char* name : {"b", "c", "d", "e", "f", "g", "h", "i", "j"}) fs::create_directory(folder / name);
  check_error(run("eval", {folder.path().string()}), 2, {"no image files"});
  // In sorted order "c" would be class 2.
  write_file(folder / "labels.txt", "c\nK\nL\nM\nN\nO\nP\nQ\nR\nS\n");
  check_error(run("eval", {folder.path().string(), "--labels", folder / "labels.txt"}), 2,
              {"folder c would be class 2 (\"L\")", "the label of class 0", "--labels FILE"});
  write_file(folder / "a/x.png", "x");
  const CliResult unreadable = run("eval", {folder.path().string()});
  CHECK(unreadable.exit_code == 2);
  CHECK(unreadable.out == "");
  CHECK(unreadable.err.find("a/x.png: not an image") != std::string::npos);
  CHECK(unreadable.err.find("none of its 1 image could be read") != std::string::npos);
  check_error(run("eval", {folder.path().string(), "--confusion", folder / "no/c.csv"}), 2,
              {"cannot be written"});
}
