// Several devices at once: results in input order with the bytes of one device, and what becomes of a batch whose device
// fails. The team is tested with CPU runners and failures made here, the options through the real binary.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <thread>

#include "app/classifier.h"
#include "kernels/devices.h"
#include "kernels/error.h"
#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

const fs::path model = data("models/s1_ln2d");
const std::string cat = data("chelsea.png").string(), coffee = data("coffee.png").string();

// Files that are read, and some that are not: one batch of three has none that is.
std::vector<std::string> some_files(const TemporaryDirectory& folder) {
  std::ofstream(folder / "broken.png") << "no image";
  std::vector<std::string> files;
  for (int i = 0; i < 8; ++i) files.insert(files.end(), {cat, coffee, folder / "broken.png"});
  files.insert(files.end(), 3, folder / "broken.png");
  files.push_back(cat);
  return files;
}

// A CPU runner that takes as long as `pause` for a batch and fails at its batch number `fails_at`.
class TestModel final : public DeviceModel {
 public:
  TestModel(const Config& config, bool ahead, int fails_at, std::atomic<int>& failed,
            std::chrono::milliseconds pause = {}, int batch_size = 3)
      : runner_(config, read_safetensors(model / "weights.safetensors"), RunChoice{.threads = 1}),
        inner_(device_model(runner_, batch_size, ahead)),
        fails_at_(fails_at),
        failed_(failed),
        pause_(pause) {}

  std::string name() const override { return "test"; }
  bool works_ahead() const override { return inner_->works_ahead(); }
  bool start(ImageBatch& batch) override { return inner_->start(batch); }
  std::vector<float> finish(ImageBatch& batch) override {
    std::this_thread::sleep_for(pause_);
    if (fails_at_ >= 0 && finished_++ == fails_at_) {
      ++failed_;
      fail_machine("the test lost it");
    }
    return inner_->finish(batch);
  }

 private:
  Runner runner_;
  std::unique_ptr<DeviceModel> inner_;
  const int fails_at_;
  int finished_ = 0;
  std::atomic<int>& failed_;
  const std::chrono::milliseconds pause_;
};

struct TestDevice {
  bool ahead = false;
  int fails_at = -1;  // never
  int pause_ms = 0;
  int batch_size = 3;  // smaller: batches are split
};

// All logits of the files, computed by these devices; the items must come in order.
std::vector<float> logits_of(const std::vector<std::string>& files, const std::vector<TestDevice>& devices,
                             int* failures = nullptr) {
  const Config config = load_config((model / "config.json").string());
  ImageSource source(input_paths(files), config.preprocess, 3, 2);
  std::atomic<int> failed = 0;
  std::vector<std::unique_ptr<DeviceModel>> models;
  for (const TestDevice& device : devices)
    models.push_back(std::make_unique<TestModel>(config, device.ahead, device.fails_at, failed,
                                                 std::chrono::milliseconds(device.pause_ms),
                                                 device.batch_size));
  DeviceTeam team(std::move(models), source);
  ImageBatch batch;
  std::vector<float> logits, together;
  size_t items = 0;
  while (team.next(batch, logits)) {
    for (const ImageBatch::Item& item : batch.items) CHECK(item.index == items++);
    CHECK(logits.size() == static_cast<size_t>(batch.images * config.num_classes));
    together.insert(together.end(), logits.begin(), logits.end());
  }
  CHECK(items == files.size());
  if (failures) *failures = failed;
  return together;
}

CliResult classify(const std::string& devices, const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"classify",     cat,
                                     coffee,         cat,
                                     "--config",     model / "config.json",
                                     "--weights",    model / "weights.safetensors",
                                     "--batch-size", "1",
                                     "--format",     "jsonl",
                                     "--device",     devices};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_cli(arguments);
}

}  // namespace

TEST_CASE("batches that are started ahead get the logits that they get one by one") {
  const TemporaryDirectory folder;
  const std::vector<std::string> files = some_files(folder);
  const std::vector<float> one_by_one = logits_of(files, {{}});
  CHECK(one_by_one.size() % 17 == 0);  // 8 · 2 + 1 images
  CHECK(!one_by_one.empty());
  CHECK(logits_of(files, {{.ahead = true, .pause_ms = 20}}) == one_by_one);
  CHECK(logits_of(files, {{.ahead = true, .pause_ms = 20, .batch_size = 2}}) == one_by_one);
}

TEST_CASE("several devices give the bytes of one, in order, whichever is faster") {
  const TemporaryDirectory folder;
  const std::vector<std::string> files = some_files(folder);
  const std::vector<float> one = logits_of(files, {{}});
  CHECK(logits_of(files, {{}, {}}) == one);
  CHECK(logits_of(files, {{.pause_ms = 30}, {.ahead = true}}) == one);
  CHECK(logits_of(files, {{.ahead = true}, {.ahead = true, .pause_ms = 10}, {.pause_ms = 30}}) == one);
}

TEST_CASE("a device that fails hands its batches to the others") {
  const TemporaryDirectory folder;
  const std::vector<std::string> files = some_files(folder);
  const std::vector<float> one = logits_of(files, {{}});
  for (const bool ahead : {false, true})
    for (const int at : {0, 1, 2}) {
      CAPTURE(ahead);
      CAPTURE(at);
      int failures = 0;
      // The other one is slower, so that the failing one gets its batches.
      CHECK(logits_of(files, {{ahead, at, 1}, {.pause_ms = 20}}, &failures) == one);
      CHECK(failures == 1);
    }
  int failures = 0;
  CHECK(logits_of(files, {{false, 0, 1}, {true, 1, 1}, {.pause_ms = 20}}, &failures) == one);
  CHECK(failures == 2);
}

TEST_CASE("when no device is left, that is the error; of one alone it is its own") {
  const TemporaryDirectory folder;
  const std::vector<std::string> files = some_files(folder);
  CHECK_THROWS_WITH_AS(logits_of(files, {{false, 1}, {true, 1}}),
                       "no device is left: the test lost it; the test lost it", MachineError);
  CHECK_THROWS_WITH_AS(logits_of(files, {{false, 1}}), "the test lost it", MachineError);
}

TEST_CASE("a team that is not wanted any more ends, also while its inputs are waited for") {
  const Config config = load_config((model / "config.json").string());
  std::atomic<bool> asked = false;
  const NextPath never = [&](const std::atomic<bool>& stop) -> std::optional<InputPath> {
    asked = true;
    while (!stop) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return std::nullopt;
  };
  ImageSource source(never, config.preprocess, 3, 2);
  std::atomic<int> failed = 0;
  std::vector<std::unique_ptr<DeviceModel>> models;
  for (int i = 0; i < 2; ++i) models.push_back(std::make_unique<TestModel>(config, false, -1, failed));
  { const DeviceTeam team(std::move(models), source); }
  CHECK(failed == 0);
}

TEST_CASE("a device of the list that cannot be used is named, and the others do its work") {
  const CliResult alone = classify("cpu", {});
  const CliResult both = classify("cpu,cuda:99", {"--dtype", "float32"});
  INFO(both.err);
  CHECK(both.exit_code == 0);
  CHECK(both.out == alone.out);
  CHECK(both.err.find("warning: cuda:99 is not used") != std::string::npos);
  check_error(classify("cuda:98,cuda:99", {}), 3, {"no device is left", "CUDA", "; "});
}

TEST_CASE("a list that makes no sense is told") {
  check_error(classify("cpu,cpu", {}), 2, {"--device cpu,cpu", "cpu is named twice"});
  check_error(classify("cuda:1,cuda:1", {}), 2, {"cuda:1 is named twice"});
  check_error(classify("cuda:1,cuda:01", {}), 2, {"--device cuda:01: unknown"});
  check_error(classify("cpu,", {}), 2, {"--device cpu,", "empty"});
  check_error(classify("cpu,auto", {}), 2, {"--device cpu,auto", "alone"});
  check_error(classify("cpu:all", {}), 2, {"--device cpu:all"});
  check_error(classify("cpu,cuda:99", {}), 2, {"--device cpu,cuda:99", "--dtype"});
  check_error(classify("cpu,tpu", {"--dtype", "float32"}), 2, {"--device tpu", "unknown"});
  check_error(
      run_cli({"classify", "--input-tensor", model / "io.safetensors", "--config", model / "config.json",
               "--weights", model / "weights.safetensors", "--device", "cpu,cuda:99", "--dtype", "float32"}),
      2, {"--input-tensor", "one device"});
  for (const char* list : {"cpu,cuda:0", "cuda:all"}) {
    check_error(run_cli({"info", "--device", list}), 2, {list, "one device"});
    check_error(run_cli({"check-equal", "--seed", "0", "--device", list}), 2, {list, "one device"});
    check_error(run_cli({"check-equal", "--seed", "0", "--a", "device=cuda:all"}), 2,
                {"cuda:all", "one device"});
  }
}

TEST_CASE("cuda: two GPUs give the bytes of one") {
  if (devices_of(DeviceType::cuda).size() < 2) {
    MESSAGE("skipped: fewer than two CUDA devices");
    return;
  }
  const CliResult one = classify("cuda:0", {}), both = classify("cuda:0,cuda:1", {}),
                  all = classify("cuda:all", {});
  INFO(both.err);
  CHECK(one.exit_code == 0);
  CHECK(both.exit_code == 0);
  CHECK(both.out == one.out);
  CHECK(all.out == one.out);
}
