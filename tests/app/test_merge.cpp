// Results of shards: put together they are those of one run, byte for byte; what is missing, doubled or of another run is
// told; a run that was killed anywhere goes on.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "app/progress.h"
#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"
#include "tests/images/archive_files.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

const fs::path model = data("models/s1_ln2d");

struct Shards {
  TemporaryDirectory folder;
  std::vector<std::string> names;

  Shards() {
    int dealt = 0;
    std::vector<std::vector<ArchivedFile>> tars(5);
    for (int round = 0; round < 3; ++round)
      for (const char* name : {"rgb.bmp", "420_restart.jpg", "lossy.webp", "palette.gif", "interlaced.png"}) {
        const std::string bytes = dealt == 6 ? "no image" : read_file(data("images") / name);
        const fs::path file = folder.path() / fmt::format("set/k{}/{:02}{}", dealt % 10, dealt,
                                                          fs::path(name).extension().string());
        fs::create_directories(file.parent_path());
        write_file(file, bytes);
        tars[static_cast<size_t>(dealt) / 3].push_back(
            {fmt::format("k{}/{:02}{}", dealt % 10, dealt, fs::path(name).extension().string()), bytes, {}});
        ++dealt;
      }
    for (size_t i = 0; i < tars.size(); ++i) write_archive(folder / fmt::format("d-{}.tar", i), tars[i]);
    std::string labels;
    for (int i = 0; i < 10; ++i) labels += fmt::format("k{}\n", i);
    write_file(folder / "labels.txt", labels);
  }
  CliResult run(std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(),
                     {"--config", model / "config.json", "--weights", model / "weights.safetensors",
                      "--labels", "labels.txt", "--device", "cpu", "--batch-size", "2"});
    return run_cli(arguments, {.directory = folder.path()});
  }
  CliResult merge(std::vector<std::string> arguments) const {
    return run_cli(arguments, {.directory = folder.path()});
  }
};

// The model's weights with a NaN in the bias of its head.
void write_nan_weights(const std::string& path) {
  StateDict weights;
  for (const auto& [name, tensor] : read_safetensors(model / "weights.safetensors").tensors) {
    HostTensor values = tensor.to_float32();
    if (name == "classifier.head.bias") values.values[0] = NAN;
    weights.add(name, values);
  }
  write_safetensors(path, weights);
}

std::string without_first_line(const std::string& text) {
  return text.substr(text.find('\n') + 1);
}

}  // namespace

TEST_CASE("files that no run wrote are refused, however deep or odd") {
  const Shards shards;
  const std::string deep = std::string(400'000, '[') + std::string(400'000, ']');
  for (const std::string command : {"eval", "classify"}) {
    CAPTURE(command);
    const std::string begins = fmt::format(R"({{"{}": )", command);
    write_file(shards.folder / "deep.jsonl", begins + deep + "}\n");
    check_error(shards.merge({command, "--merge", "deep.jsonl"}), 2, {"deep.jsonl"});
    check_error(shards.run({command, "d-0.tar", "--results", "deep.jsonl"}), 2, {"deep.jsonl"});
    for (const std::string shard :
         {R"("auto")", R"("0/1", "config": {})", R"("0/1", "config": 1, "made_by": {})"}) {
      write_file(shards.folder / "odd.jsonl", begins + R"("x", "shard": )" + shard + "}\n");
      check_error(shards.merge({command, "--merge", "odd.jsonl"}), 2, {"odd.jsonl"});
    }
  }
  // Crops larger than the resized image, which the page of pictures cannot be made by.
  REQUIRE(shards.run({"eval", "d-0.tar", "--shard", "0/1", "--results", "r.jsonl"}).exit_code == 0);
  std::string text = read_file(shards.folder / "r.jsonl");
  auto header = nlohmann::ordered_json::parse(text.substr(0, text.find('\n')));
  header["config"]["preprocess"]["resize"] = 1;
  header["config"]["preprocess"]["crop"] = 16384;
  write_file(shards.folder / "r.jsonl", header.dump() + text.substr(text.find('\n')));
  CHECK(shards.merge({"eval", "--merge", "r.jsonl", "--report", "r.html"}).exit_code == 0);
}

TEST_CASE("classes by folders in archives are those of all archives, whatever a shard has") {
  const Shards shards;
  const std::string bytes = read_file(data("images/rgb.bmp"));
  for (int i = 0; i < 10; ++i)
    write_archive(shards.folder / fmt::format("p-{}.tar", i),
                  {{fmt::format("k{}/images/{}.bmp", i, i), bytes, {}}});
  REQUIRE(shards.run({"eval", "p-{0..9}.tar", "--results", "W.jsonl"}).exit_code == 0);
  for (int i = 0; i < 3; ++i)
    REQUIRE(
        shards.run({"eval", "p-{0..9}.tar", "--results", "R{shard}.jsonl", "--shard", fmt::format("{}/3", i)})
            .exit_code == 0);
  REQUIRE(shards.merge({"eval", "--merge", "R0.jsonl", "R1.jsonl", "R2.jsonl", "--results", "M.jsonl"})
              .exit_code == 0);
  CHECK(without_first_line(read_file(shards.folder / "M.jsonl")) ==
        without_first_line(read_file(shards.folder / "W.jsonl")));
}

TEST_CASE("eval --merge: the shards' results are one run's") {
  const Shards shards;
  for (const std::string set : {"set", "d-{0..4}.tar"}) {
    const CliResult whole = shards.run({"eval", set, "--results", "W.jsonl", "--confusion", "W.csv"});
    CHECK(whole.exit_code == 1);  // one image is none
    std::vector<std::string> parts;
    for (int i = 0; i < 4; ++i) {
      parts.push_back(fmt::format("R{}.jsonl", i));
      const CliResult part =
          shards.run({"eval", set, "--results", "R{shard}.jsonl", "--shard", fmt::format("{}/4", i)});
      INFO(part.err);
      REQUIRE(part.exit_code <= 1);
    }
    std::vector<std::string> merge{"eval", "--merge"};
    merge.insert(merge.end(), parts.rbegin(), parts.rend());
    merge.insert(merge.end(), {"--results", "M.jsonl", "--confusion", "M.csv"});
    const CliResult merged = shards.merge(merge);
    INFO(merged.err);
    CHECK(merged.exit_code == 1);
    CHECK(merged.out == whole.out);
    CHECK(read_file(shards.folder / "M.csv") == read_file(shards.folder / "W.csv"));
    CHECK(read_file(shards.folder / "M.png") == read_file(shards.folder / "W.png"));
    CHECK(without_first_line(read_file(shards.folder / "M.jsonl")) ==
          without_first_line(read_file(shards.folder / "W.jsonl")));
    auto header = nlohmann::ordered_json::parse(
        read_file(shards.folder / "M.jsonl").substr(0, read_file(shards.folder / "M.jsonl").find('\n')));
    auto whole_header = nlohmann::ordered_json::parse(
        read_file(shards.folder / "W.jsonl").substr(0, read_file(shards.folder / "W.jsonl").find('\n')));
    header.erase("made_by");
    whole_header.erase("made_by");
    CHECK(header == whole_header);
    const CliResult csv = shards.run({"eval", set, "--format", "csv"});
    CHECK(shards.merge({"eval", "--merge", "R0.jsonl", "R1.jsonl", "R2.jsonl", "R3.jsonl", "--format", "csv"})
              .out == csv.out);
    for (const std::string& name : parts) fs::remove(shards.folder / name);
    fs::remove(shards.folder / "W.jsonl");
  }
}

TEST_CASE("eval --merge refuses what is not one whole run") {
  const Shards shards;
  for (int i = 0; i < 3; ++i)
    REQUIRE(shards.run({"eval", "set", "--results", "R{shard}.jsonl", "--shard", fmt::format("{}/3", i)})
                .exit_code <= 1);
  const CliResult missing = shards.merge({"eval", "--merge", "R0.jsonl", "R2.jsonl"});
  CHECK(missing.exit_code == 1);
  CHECK(missing.out == "");
  CHECK(missing.err.find("shard 1/3: missing: no file of it is given") != std::string::npos);
  const CliResult twice = shards.merge({"eval", "--merge", "R0.jsonl", "R1.jsonl", "R2.jsonl", "R1.jsonl"});
  CHECK(twice.exit_code == 1);
  CHECK(twice.err.find("shard 1/3: given twice: R1.jsonl and R1.jsonl") != std::string::npos);
  CHECK(twice.err.find("5 doubled: k0/10.bmp") != std::string::npos);

  const std::string all = read_file(shards.folder / "R1.jsonl");
  write_file(shards.folder / "R1.jsonl", all.substr(0, all.rfind("{\"file\"") + 20));
  const CliResult unfinished = shards.merge({"eval", "--merge", "R0.jsonl", "R1.jsonl", "R2.jsonl"});
  CHECK(unfinished.exit_code == 1);
  CHECK(unfinished.err.find("shard 1/3: R1.jsonl: 1 missing: k8/08.gif") != std::string::npos);
  const std::string last = all.substr(all.rfind("{\"file\""));
  write_file(shards.folder / "R1.jsonl", all + last);
  const CliResult doubled = shards.merge({"eval", "--merge", "R0.jsonl", "R1.jsonl", "R2.jsonl"});
  CHECK(doubled.exit_code == 1);
  CHECK(doubled.err.find("shard 1/3: R1.jsonl: 1 doubled: k8/08.gif") != std::string::npos);
  write_file(shards.folder / "R1.jsonl", all.substr(0, all.find('\n') + 1));
  const CliResult no_list = shards.merge({"eval", "--merge", "R0.jsonl", "R1.jsonl", "R2.jsonl"});
  CHECK(no_list.exit_code == 1);
  CHECK(no_list.out == "");
  CHECK(no_list.err.find("shard 1/3: R1.jsonl ends before its list of images") != std::string::npos);
  write_file(shards.folder / "R1.jsonl", all);

  REQUIRE(
      shards.run({"eval", "set", "--results", "V0.jsonl", "--shard", "1/3", "--forward-core-version", "v0"})
          .exit_code <= 1);
  check_error(shards.merge({"eval", "--merge", "R0.jsonl", "V0.jsonl"}), 2,
              {"R0.jsonl and V0.jsonl are not of one run", "forward_core_version"});
  REQUIRE(shards.run({"eval", "set", "--results", "F.jsonl", "--shard", "1/4"}).exit_code <= 1);
  check_error(shards.merge({"eval", "--merge", "R0.jsonl", "F.jsonl"}), 2, {"0/3 and 1/4"});
  REQUIRE(shards.run({"eval", "set", "--results", "W.jsonl"}).exit_code <= 1);
  check_error(shards.merge({"eval", "--merge", "W.jsonl"}), 2, {"W.jsonl", "without --shard"});
  check_error(shards.merge({"eval", "--merge", "labels.txt"}), 2, {"labels.txt:1"});
  check_error(shards.merge({"eval", "--merge", "none.jsonl"}), 2, {"none.jsonl", "No such file"});
  check_error(shards.merge({"eval", "--merge", "R0.jsonl", "--limit", "2"}), 2,
              {"--limit", "--merge does not use it"});
  check_error(shards.merge({"eval"}), 2, {"nothing to evaluate"});

  // The list changed between two shards, or between a run and its restart.
  fs::copy_file(data("images/rgb.bmp"), shards.folder / "set/k0/new.bmp");
  fs::remove(shards.folder / "R1.jsonl");
  REQUIRE(shards.run({"eval", "set", "--results", "R1.jsonl", "--shard", "1/3"}).exit_code <= 1);
  check_error(shards.merge({"eval", "--merge", "R0.jsonl", "R1.jsonl", "R2.jsonl"}), 2, {"inputs_sha256"});
  check_error(shards.run({"eval", "set", "--results", "R2.jsonl", "--shard", "2/3"}), 2, {"inputs_sha256"});
  check_error(shards.run({"eval", "set", "--results", "R2.jsonl", "--shard", "1/3"}), 2,
              {"R2.jsonl", "shard"});
}

TEST_CASE("eval --results of a shard goes on wherever it was cut off") {
  const Shards shards;
  REQUIRE(shards.run({"eval", "d-{0..4}.tar", "--results", "R.jsonl", "--shard", "1/2"}).exit_code == 0);
  const std::string done = read_file(shards.folder / "R.jsonl");
  const size_t header = done.find('\n') + 1, list = done.find('\n', header) + 1,
               last = done.rfind("{\"file\"");
  for (const size_t cut : {size_t{0}, size_t{5}, header - 1, header, header + 20, list, list + 9, last,
                           done.size() - 1, done.size()}) {
    INFO("cut off at ", cut);
    write_file(shards.folder / "R.jsonl", done.substr(0, cut));
    CHECK(shards.run({"eval", "d-{0..4}.tar", "--results", "R.jsonl", "--shard", "1/2"}).exit_code == 0);
    CHECK(without_first_line(read_file(shards.folder / "R.jsonl")) == without_first_line(done));
  }
}

TEST_CASE("classify --results: cut off anywhere it goes on, and merged it is one run's JSON lines") {
  const Shards shards;
  const std::vector<std::string> inputs{"set", "d-{0..4}.tar", "none.png"};
  const auto with = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin() + 1, inputs.begin(), inputs.end());
    return arguments;
  };
  const CliResult whole = shards.run(with({"classify", "--format", "jsonl"}));
  CHECK(whole.exit_code == 1);
  std::vector<std::string> merge{"classify", "--merge"};
  for (int i = 0; i < 4; ++i) {
    const std::string name = fmt::format("R{}.jsonl", i);
    merge.push_back(name);
    const CliResult part =
        shards.run(with({"classify", "--results", "R{shard}.jsonl", "--shard", fmt::format("{}/4", i)}));
    CHECK(part.exit_code <= 1);
    CHECK(part.out == "");
  }
  const CliResult merged = shards.merge(merge);
  INFO(merged.err);
  CHECK(merged.exit_code == 1);  // as the run of all
  CHECK(merged.out == whole.out);

  const std::string done = read_file(shards.folder / "R1.jsonl");
  const size_t first = done.find('\n') + 1;
  std::vector<size_t> cuts{0, 10, first - 1, first, first + 1, done.size() - 1, done.size()};
  for (size_t line = first; line < done.size(); line = done.find('\n', line) + 1)
    cuts.insert(cuts.end(), {line, line + 30});
  for (const size_t cut : cuts) {
    INFO("cut off at ", cut);
    write_file(shards.folder / "R1.jsonl", done.substr(0, cut));
    CHECK(shards.run(with({"classify", "--results", "R1.jsonl", "--shard", "1/4"})).exit_code <= 1);
    // The first line holds the command, which may differ.
    CHECK(without_first_line(read_file(shards.folder / "R1.jsonl")) == without_first_line(done));
  }
  write_file(shards.folder / "R1.jsonl", done.substr(0, done.size() - 5));
  const CliResult unfinished = shards.merge(merge);
  CHECK(unfinished.exit_code == 1);
  CHECK(unfinished.out == "");
  CHECK(unfinished.err.find("shard 1/4: R1.jsonl is not finished: run it again") != std::string::npos);
  merge.back() = "R0.jsonl";
  const CliResult twice = shards.merge(merge);
  CHECK(twice.exit_code == 1);
  CHECK(twice.out == "");
  CHECK(twice.err.find("shard 0/4: given twice: R0.jsonl and R0.jsonl") != std::string::npos);
  CHECK(twice.err.find("shard 3/4: missing: no file of it is given") != std::string::npos);
  check_error(shards.run(with({"classify", "--results", "R1.jsonl", "--shard", "2/4"})), 2,
              {"R1.jsonl", "shard"});
  check_error(shards.run({"classify", "set", "--results", "R1.jsonl", "--shard", "1/4"}), 2,
              {"R1.jsonl", "classify"});
  check_error(shards.run({"classify", "set", "--results", "x.jsonl", "--format", "csv"}), 2,
              {"--results", "--format"});
  write_file(shards.folder / "other.jsonl", "not ours\n");
  check_error(shards.run({"classify", "set", "--results", "other.jsonl"}), 2,
              {"other.jsonl", "give another"});
  CHECK(read_file(shards.folder / "other.jsonl") == "not ours\n");
}

TEST_CASE("classify --results goes on with the same inputs only") {
  const Shards shards;
  fs::create_directory(shards.folder / "in");
  for (const char* name : {"a.bmp", "b.bmp", "d.bmp"})
    fs::copy_file(data("images/rgb.bmp"), shards.folder.path() / "in" / name);
  const auto classify = [&](const std::string& input, const std::string& results,
                            const std::string& shard = "0/1") {
    return shards.run({"classify", input, "--results", results, "--shard", shard});
  };
  REQUIRE(classify("in", "R.jsonl").exit_code == 0);
  const std::string done = read_file(shards.folder / "R.jsonl");
  const auto lines = [&](int count) {
    size_t end = 0;
    for (int i = 0; i < count; ++i) end = done.find('\n', end) + 1;
    return done.substr(0, end);
  };
  const auto refused = [&](const std::string& begun, const std::vector<std::string>& words) {
    write_file(shards.folder / "R.jsonl", begun);
    check_error(classify("in", "R.jsonl"), 2, words);
    CHECK(read_file(shards.folder / "R.jsonl") == begun);
  };
  const std::string old_end = "{\"end\":{\"inputs\":3}}\n";
  CHECK(classify("in", "R.jsonl").exit_code == 0);
  write_file(shards.folder / "R.jsonl", lines(4) + old_end);
  CHECK(classify("in", "R.jsonl").exit_code == 0);

  fs::copy_file(data("images/rgb.bmp"), shards.folder / "in/0.bmp");
  for (const std::string& begun : {lines(3), lines(2), done, lines(4) + old_end})
    refused(begun, {"R.jsonl:2: has \"in/a.bmp\" as input 0, this run has \"in/0.bmp\" as input 0",
                    "give another results file"});
  fs::remove(shards.folder / "in/0.bmp");
  fs::remove(shards.folder / "in/a.bmp");
  refused(lines(2), {"R.jsonl:2: has \"in/a.bmp\" as input 0, this run has \"in/b.bmp\" as input 0"});
  fs::copy_file(data("images/rgb.bmp"), shards.folder / "in/a.bmp");
  fs::remove(shards.folder / "in/d.bmp");
  refused(lines(4), {"R.jsonl:4: has \"in/d.bmp\" as input 2, which this run does not have"});
  refused(done, {"R.jsonl:4: has \"in/d.bmp\" as input 2, which this run does not have"});
  fs::copy_file(data("images/rgb.bmp"), shards.folder / "in/d.bmp");
  fs::copy_file(data("images/rgb.bmp"), shards.folder / "in/e.bmp");
  refused(done, {"R.jsonl: is done, and this run also has \"in/e.bmp\""});
  write_file(shards.folder / "R.jsonl", lines(3));
  CHECK(classify("in", "R.jsonl").exit_code == 0);  // it was to be classified anyway
  CHECK(contains(read_file(shards.folder / "R.jsonl"), "in/e.bmp"));

  // Members of the archive at which a run stopped; an archive that is done, by its name.
  const std::string bytes = read_file(data("images/rgb.bmp"));
  write_archive(shards.folder / "t-0.tar", {{"a.bmp", bytes, {}}, {"b.bmp", bytes, {}}});
  write_archive(shards.folder / "t-1.tar", {{"c.bmp", bytes, {}}, {"d.bmp", bytes, {}}});
  REQUIRE(classify("t-{0..1}.tar", "T.jsonl").exit_code == 0);
  const std::string all = read_file(shards.folder / "T.jsonl");
  write_archive(shards.folder / "t-1.tar", {{"0.bmp", bytes, {}}, {"c.bmp", bytes, {}}});
  check_error(classify("t-{0..1}.tar", "T.jsonl"), 2,
              {"T.jsonl:4: has \"t-1.tar:c.bmp\" as input 1, this run has \"t-1.tar:0.bmp\" as input 1"});
  write_archive(shards.folder / "t-1.tar",
                {{"c.bmp", bytes, {}}, {"d.bmp", bytes, {}}, {"e.bmp", bytes, {}}});
  check_error(classify("t-{0..1}.tar", "T.jsonl"), 2,
              {"T.jsonl: is done, and this run also has \"t-1.tar:e.bmp\""});
  CHECK(read_file(shards.folder / "T.jsonl") == all);
  // An archive that could not be read is answered, too.
  write_file(shards.folder / "t-1.tar", "no archive");
  fs::remove(shards.folder / "T.jsonl");
  for (int again = 0; again < 2; ++again) {
    CHECK(classify("t-{0..1}.tar", "T.jsonl").exit_code == 1);
    const std::string text = read_file(shards.folder / "T.jsonl");
    CHECK(std::ranges::count(text, '\n') == 5);
    write_file(shards.folder / "T.jsonl", text.substr(0, text.find("{\"end\"")));
  }
}

TEST_CASE("classify --merge: shards of different inputs are refused") {
  const Shards shards;
  for (const char* name : {"a.bmp", "b.bmp", "c.bmp"})
    fs::copy_file(data("images/rgb.bmp"), shards.folder / name);
  const auto classify = [&](const std::string& list, const std::string& shard) {
    return run_cli({"classify", "-", "--shard", shard, "--results", "S{shard}.jsonl", "--config",
                    model / "config.json", "--weights", model / "weights.safetensors", "--device", "cpu"},
                   {.input = list, .directory = shards.folder.path()});
  };
  REQUIRE(classify("a.bmp\nb.bmp\n", "0/2").exit_code == 0);
  REQUIRE(classify("c.bmp\na.bmp\n", "1/2").exit_code == 0);
  const std::vector<std::string> merge{"classify", "--merge", "S0.jsonl", "S1.jsonl"};
  check_error(shards.merge(merge), 2, {"S0.jsonl and S1.jsonl are of different inputs"});
  // The shard's own images are the same, the others' are not.
  check_error(classify("b.bmp\na.bmp\n", "1/2"), 2, {"S1.jsonl: inputs_sha256"});
  fs::remove(shards.folder / "S1.jsonl");
  REQUIRE(classify("a.bmp\nb.bmp\n", "1/2").exit_code == 0);
  CHECK(shards.merge(merge).exit_code == 0);
  const std::string text = read_file(shards.folder / "S1.jsonl");
  write_file(shards.folder / "S1.jsonl", text.substr(0, text.rfind(",\"inputs_sha256\"")) + "}}\n");
  check_error(shards.merge(merge), 2, {"S1.jsonl: is of an older version"});
}

TEST_CASE("classify --results: the exit code and the summary are of all lines, in every run and merged") {
  const Shards shards;
  write_nan_weights(shards.folder / "nan.safetensors");
  const auto check_counts = [&](const std::string& weights, size_t no_answer) {
    const std::vector<std::string> inputs{"set/k0/00.bmp", "set/k1/01.jpg", "none.png"};
    const auto run = [&](size_t from, size_t to) {
      std::vector<std::string> arguments{
          "classify",  "--config", model / "config.json", "--weights", weights, "--device", "cpu",
          "--results", "R.jsonl",  "--summary",           "S.json"};
      arguments.insert(arguments.end(), inputs.begin() + static_cast<ptrdiff_t>(from),
                       inputs.begin() + static_cast<ptrdiff_t>(to));
      return run_cli(arguments, {.directory = shards.folder.path()});
    };
    for (const size_t failed : {size_t{0}, size_t{1}}) {
      const int exit_code = failed + no_answer > 0 ? 1 : 0;
      fs::remove(shards.folder / "R.jsonl");
      for (const size_t from_earlier : {size_t{0}, size_t{2}, size_t{1}, size_t{2}}) {
        INFO(weights, ": ", failed, " failed, ", from_earlier, " from earlier");
        if (from_earlier == 1) {  // killed behind the first image
          const std::string all = read_file(shards.folder / "R.jsonl");
          write_file(shards.folder / "R.jsonl", all.substr(0, all.find('\n', all.find("{\"at\"")) + 1));
        }
        const CliResult result = run(0, 2 + failed);
        CHECK(result.exit_code == exit_code);
        CHECK(contains(result.err, "1 of 3 inputs could not be read") == (failed == 1));
        CHECK(contains(result.err, "2 of 2 images without an answer") == (no_answer == 2));
        const auto summary = nlohmann::json::parse(read_file(shards.folder / "S.json"));
        CHECK(summary["images"] == 2 - from_earlier);
        CHECK(summary["failed"] == failed);
        CHECK(summary["no_answer"] == no_answer);
        CHECK(summary["from_earlier"] == from_earlier);
        CHECK(summary["exit_code"] == exit_code);
      }
      const CliResult merged = shards.merge({"classify", "--merge", "R.jsonl"});
      CHECK(merged.exit_code == exit_code);
      CHECK(std::ranges::count(merged.out, '\n') == 2 + static_cast<int>(failed));
      CHECK(contains(merged.err, "1 of 3 inputs could not be read") == (failed == 1));
      CHECK(contains(merged.err, "2 of 2 images without an answer") == (no_answer == 2));
    }
  };
  check_counts(model / "weights.safetensors", 0);
  check_counts("nan.safetensors", 2);

  // Of what only fails, each run says so.
  for (int again = 0; again < 2; ++again)
    check_error(shards.run({"classify", "none.png", "--results", "N.jsonl"}), 2, {"none"});
  const std::string all = read_file(shards.folder / "R.jsonl");
  write_file(shards.folder / "R.jsonl", all + "{\"at\":[9,0],\"file\":\"x\",\"top\":[]}\n");
  check_error(
      run_cli({"classify", "set/k0/00.bmp", "set/k1/01.jpg", "none.png", "--config", model / "config.json",
               "--weights", "nan.safetensors", "--device", "cpu", "--results", "R.jsonl"},
              {.directory = shards.folder.path()}),
      2, {"R.jsonl:6: not a line that classify wrote there"});
}

TEST_CASE("--summary says what a run did") {
  const Shards shards;
  REQUIRE(shards.run({"eval", "set", "--shard", "1/3", "--summary", "S{shard}.json"}).exit_code == 0);
  auto summary = nlohmann::json::parse(read_file(shards.folder / "S1.json"));
  CHECK(summary["command"] == "eval");
  CHECK(summary["shard"] == "1/3");
  CHECK(summary["images"] == 5);
  CHECK(summary["failed"] == 0);
  CHECK(summary["no_answer"] == 0);
  CHECK(summary["exit_code"] == 0);
  REQUIRE(shards.run({"classify", "set", "--format", "csv", "--summary", "S.json"}).exit_code == 1);
  summary = nlohmann::json::parse(read_file(shards.folder / "S.json"));
  CHECK(summary["images"] == 14);
  CHECK(summary["failed"] == 1);
  CHECK(summary["exit_code"] == 1);
}

TEST_CASE("progress: rate and time left, of this run's images") {
  CHECK(progress_text(0, 500, 1000, 20) ==
        "[==========          ] 500 of 1000 images, 25.0 a second, 0:00:20 left");
  CHECK(progress_text(400, 500, 1000, 20) ==
        "[==========          ] 500 of 1000 images, 5.0 a second, 0:01:40 left");
  CHECK(progress_text(0, 1000, 1000, 0) ==
        "[====================] 1000 of 1000 images, 0.0 a second, 0:00:00 left");
  CHECK(progress_text(0, 7, 0, 2) == "7 images, 3.5 a second");
  CHECK(progress_text(0, 5, 20, 10, "cases at most") ==
        "[=====               ] 5 of 20 cases at most, 0.5 a second, 0:00:30 left");
  CHECK(progress_text(0, 0, 36000, 1).find("[                    ] 0 of 36000") == 0);
}

TEST_CASE("a read that fails is tried once more, then skipped") {
  const Shards shards;
  const CliResult result = shards.run({"classify", "set/k0/00.bmp", "/proc/self/mem", "--format", "jsonl"});
  CHECK(result.exit_code == 1);
  CHECK(result.err.find("/proc/self/mem: cannot be read: Input/output error; trying once more") !=
        std::string::npos);
  CHECK(result.err.find("skipped: /proc/self/mem: cannot be read: Input/output error") != std::string::npos);
}
