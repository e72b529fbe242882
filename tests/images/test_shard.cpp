// Shards: what they take of an input, and where their number comes from.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "app/model_options.h"
#include "kernels/error.h"
#include "lib/images/image_source.h"
#include "lib/images/shard.h"
#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"
#include "tests/images/archive_files.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

// Of this process, for as long as it lives; all that name a rank are unset first.
class Variables {
 public:
  explicit Variables(const std::map<std::string, std::string>& set) {
    for (const char* name : names)
      if (const char* value = std::getenv(name)) {
        before_[name] = value;
        unsetenv(name);
      }
    for (const auto& [name, value] : set) setenv(name.c_str(), value.c_str(), 1);
  }
  ~Variables() {
    for (const char* name : names) unsetenv(name);
    for (const auto& [name, value] : before_) setenv(name.c_str(), value.c_str(), 1);
  }

 private:
  static constexpr const char* names[] = {"SLURM_ARRAY_TASK_ID",
                                          "SLURM_ARRAY_TASK_COUNT",
                                          "SLURM_ARRAY_TASK_MIN",
                                          "SLURM_ARRAY_TASK_MAX",
                                          "RANK",
                                          "WORLD_SIZE",
                                          "SLURM_PROCID",
                                          "SLURM_NTASKS",
                                          "OMPI_COMM_WORLD_RANK",
                                          "OMPI_COMM_WORLD_SIZE",
                                          "PMI_RANK",
                                          "PMI_SIZE",
                                          "LOCAL_RANK",
                                          "SLURM_LOCALID",
                                          "OMPI_COMM_WORLD_LOCAL_RANK",
                                          "MPI_LOCALRANKID"};
  std::map<std::string, std::string> before_;
};

std::string automatic(const std::map<std::string, std::string>& set) {
  const Variables variables(set);
  try {
    return to_string(parse_shard("auto"));
  } catch (const InputError& error) {
    return error.what();
  }
}
}  // namespace

TEST_CASE("a shard by its number") {
  CHECK(parse_shard("0/1") == Shard{0, 1});
  CHECK(parse_shard("7/8") == Shard{7, 8});
  for (const char* wrong : {"", "8/8", "1", "/8", "1/", "-1/8", "1/0", "0/0", "1/8/2", " 1/8", "1/8 ",
                            "0/1000001", "Auto", "0/99999999999999999999"})
    CHECK_THROWS_WITH_AS(parse_shard(wrong), doctest::Contains("wanted auto, or I/N"), InputError);
}

TEST_CASE("each scheduler's and launcher's variables") {
  CHECK(automatic({{"SLURM_ARRAY_TASK_ID", "3"}, {"SLURM_ARRAY_TASK_COUNT", "8"}}) == "3/8");
  CHECK(automatic({{"RANK", "3"}, {"WORLD_SIZE", "8"}}) == "3/8");
  CHECK(automatic({{"SLURM_PROCID", "3"}, {"SLURM_NTASKS", "8"}}) == "3/8");
  CHECK(automatic({{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "8"}}) == "3/8");
  CHECK(automatic({{"PMI_RANK", "3"}, {"PMI_SIZE", "8"}}) == "3/8");
  CHECK(automatic({{"PMI_RANK", "0"}, {"PMI_SIZE", "1"}}) == "0/1");
  CHECK(contains(automatic({}), "none of SLURM_ARRAY_TASK_ID, RANK"));
  CHECK(contains(automatic({{"RANK", ""}, {"WORLD_SIZE", ""}}), "none of"));
  CHECK(contains(automatic({{"RANK", "3"}}), "RANK is set and WORLD_SIZE is not"));
  CHECK(contains(automatic({{"SLURM_NTASKS", "3"}}), "SLURM_NTASKS is set and SLURM_PROCID is not"));
  CHECK(contains(automatic({{"RANK", "x"}, {"WORLD_SIZE", "8"}}), "RANK=x: not a number"));
  CHECK(contains(automatic({{"RANK", "8"}, {"WORLD_SIZE", "8"}}), "RANK=8 is not below WORLD_SIZE=8"));
  CHECK(contains(automatic({{"RANK", "0"}, {"WORLD_SIZE", "0"}}), "WORLD_SIZE=0"));
}

TEST_CASE(
    "variables that say the same are one, those that contradict are an error, one process says nothing") {
  CHECK(automatic({{"SLURM_ARRAY_TASK_ID", "3"},
                   {"SLURM_ARRAY_TASK_COUNT", "8"},
                   {"SLURM_PROCID", "0"},
                   {"SLURM_NTASKS", "1"}}) == "3/8");
  CHECK(automatic({{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"SLURM_PROCID", "2"}, {"SLURM_NTASKS", "4"}}) ==
        "2/4");
  CHECK(automatic({{"SLURM_PROCID", "2"}, {"SLURM_NTASKS", "4"}, {"PMI_RANK", "2"}, {"PMI_SIZE", "4"}}) ==
        "2/4");
  const std::string error = automatic({{"OMPI_COMM_WORLD_RANK", "2"},
                                       {"OMPI_COMM_WORLD_SIZE", "4"},
                                       {"SLURM_PROCID", "0"},
                                       {"SLURM_NTASKS", "4"}});
  CHECK(contains(
      error, "SLURM_PROCID and SLURM_NTASKS say 0/4, OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE say 2/4"));
}

TEST_CASE("an array counts from 0 or 1, and a part of one is no whole") {
  const auto array = [](int id, int count, int first, int last) {
    return automatic({{"SLURM_ARRAY_TASK_ID", std::to_string(id)},
                      {"SLURM_ARRAY_TASK_COUNT", std::to_string(count)},
                      {"SLURM_ARRAY_TASK_MIN", std::to_string(first)},
                      {"SLURM_ARRAY_TASK_MAX", std::to_string(last)}});
  };
  CHECK(array(7, 8, 0, 7) == "7/8");
  CHECK(array(1, 8, 1, 8) == "0/8");
  CHECK(array(8, 8, 1, 8) == "7/8");
  CHECK(contains(array(3, 2, 3, 5), "may be a part of one"));  // --array=3,5
  CHECK(contains(array(3, 3, 3, 5), "may be a part of one"));  // --array=3-5
  CHECK(contains(array(2, 4, 0, 6), "may be a part of one"));  // --array=0-6:2
  CHECK(contains(array(0, 8, 1, 8), "is not below"));
}

TEST_CASE("--device auto goes by the local rank, modulo the devices") {
  const std::vector<Device> devices{{DeviceType::cuda, 0}, {DeviceType::cuda, 2}};
  const auto chosen = [&](const std::map<std::string, std::string>& set) {
    const Variables variables(set);
    return device_of_local_rank(devices).index;
  };
  CHECK(chosen({}) == 0);
  for (const char* name : {"LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"}) {
    CHECK(chosen({{name, "0"}}) == 0);
    CHECK(chosen({{name, "1"}}) == 2);
    CHECK(chosen({{name, "6"}}) == 0);
  }
  CHECK(chosen({{"LOCAL_RANK", "1"}, {"SLURM_LOCALID", "0"}}) == 2);
  CHECK_THROWS_AS(chosen({{"LOCAL_RANK", "x"}}), InputError);
}

TEST_CASE("shards are disjoint, complete and the same each time, for any number of them") {
  const TemporaryDirectory folder;
  fs::create_directory(folder / "files");
  const std::string image = read_file(data("images/rgb.bmp"));
  for (int i = 0; i < 23; ++i) write_file(folder / fmt::format("files/{:02}.bmp", i), image);
  for (int i = 0; i < 5; ++i)
    write_archive(folder / fmt::format("d-{}.tar", i), {{"a.bmp", image, {}}, {"b.bmp", image, {}}});
  const std::vector<std::string> inputs{folder / "d-{0..2}.tar", folder / "files", folder / "none.png",
                                        folder / "d-3.tar", folder / "d-4.tar"};
  const auto read = [&](const Shard& shard) {
    std::vector<std::pair<InputPosition, std::string>> found;
    const std::atomic<bool> stop = false;
    const NextPath next = input_paths(inputs, '\n', {shard, {}});
    while (const auto path = next(stop)) found.emplace_back(path->position, path->file.string());
    return found;
  };
  const auto all = read({});
  REQUIRE(all.size() == 23 + 1 + 10);
  CHECK(std::ranges::is_sorted(all));
  for (const size_t count : {1, 2, 3, 7, 24, 100}) {
    std::vector<std::pair<InputPosition, std::string>> together;
    for (size_t index = 0; index < count; ++index) {
      const auto one = read({index, count});
      CHECK(one == read({index, count}));
      CHECK(std::ranges::is_sorted(one));
      CHECK(one.size() <= 2 * (5 / count + 1) + 24 / count + 1);  // evenly, whole archives
      together.insert(together.end(), one.begin(), one.end());
    }
    std::ranges::sort(together);
    CHECK(together == all);
  }
}

TEST_CASE("classify and check-equal --shard, and {shard} in the names of outputs") {
  const TemporaryDirectory folder;
  const fs::path model = data("models/s1_ln2d");
  const std::vector<std::string> with_model{
      "--config", model / "config.json", "--weights", model / "weights.safetensors", "--device", "cpu"};
  fs::create_directory(folder / "files");
  for (int i = 0; i < 5; ++i) fs::copy_file(data("images/rgb.bmp"), folder / fmt::format("files/{}.bmp", i));
  const auto run = [&](std::vector<std::string> arguments, const CliRun& how = {}) {
    arguments.insert(arguments.end(), with_model.begin(), with_model.end());
    CliRun there = how;
    there.directory = folder.path();
    return run_cli(arguments, there);
  };
  const std::vector<std::string> classify{
      "classify", "files",          "--format",      "jsonl",
      "-o",       "R{shard}.jsonl", "--save-logits", "L{shard}.safetensors",
      "--shard"};
  const auto with = [](std::vector<std::string> arguments, const std::string& last) {
    arguments.push_back(last);
    return arguments;
  };
  REQUIRE(run(with(classify, "1/2")).exit_code == 0);
  CHECK(std::ranges::count(read_file(folder / "R1.jsonl"), '\n') == 2);
  CHECK(read_file(folder / "R1.jsonl").starts_with(R"({"file":"files/1.bmp")"));
  REQUIRE(run(with(classify, "auto"), {.environment = {"RANK=11", "WORLD_SIZE=12"}}).exit_code == 0);
  CHECK(read_file(folder / "R11.jsonl") == "");  // more shards than files: an empty one is no failure
  CHECK(read_state_dict(folder / "L11.safetensors").at("logits").dims == std::vector<int64_t>{0, 10});
  REQUIRE(run(with(classify, "3/12")).exit_code == 0);
  CHECK(fs::exists(folder / "R03.jsonl"));
  check_error(run(with(classify, "2/2")), 2, {"--shard 2/2"});
  check_error(run({"classify", "files", "-o", "R{shard}.jsonl"}), 2, {"R{shard}.jsonl", "--shard"});
  check_error(run({"classify", "--input-tensor", "x.safetensors", "--shard", "0/2"}), 2,
              {"--shard", "--input-tensor"});

  const CliResult both =
      run({"check-equal", "--images", "files", "--shard", "1/2", "--format", "json", "--report",
           "C{shard}.html", "--a", "forward_core_version=v0", "--b", "forward_core_version=v1"});
  INFO(both.err);
  REQUIRE(both.exit_code == 0);
  CHECK(nlohmann::json::parse(both.out)["agreement"]["images"] == 2);
  CHECK(fs::exists(folder / "C1.html"));
  check_error(run({"check-equal", "--shard", "0/2"}), 2, {"--shard", "--images"});
  check_error(run({"check-equal", "--images", "files", "--shard", "7/8"}), 2, {"--shard 7/8", "fewer files"});
  check_error(run({"check-equal", "--matrix", "--images", "files", "--shard", "0/8"}), 2,
              {"--shard", "--matrix"});
}
