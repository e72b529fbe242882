// The forward against PyTorch's own answer, through the real binary: every case of tests/data/models, every
// scan backend, 1 and 2 threads, and the same bits from run to run. The vectors were made by running the
// public PyTorch VMamba in float32; each case's name says what it exercises. Then in every other dtype, on
// every device that is here.
#include <doctest/doctest.h>
#include <sched.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/kernels.h"
#include "lib/support/files.h"
#include "lib/verify/compare.h"
#include "tests/testing.h"

using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

std::vector<fs::path> cases() {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(data("models"))) found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

CliResult check(const fs::path& model, const std::vector<std::string>& options) {
  std::vector<std::string> arguments{"check-equal",
                                     "--config",
                                     model / "config.json",
                                     "--weights",
                                     model / "weights.safetensors",
                                     "--reference",
                                     model / "io.safetensors",
                                     "--format",
                                     "json",
                                     "-q"};
  arguments.insert(arguments.end(), options.begin(), options.end());
  return run_cli(arguments);
}

CliResult check(const fs::path& model, const std::string& backend, int threads) {
  return check(model, {"--device", "cpu", "--dtype", "float32", "--selective-scan-backend", backend,
                       "--threads", std::to_string(threads)});
}

// Tighter than the program's own table: these models are small, and few roundings follow each other.
struct Limits {
  double largest, relative_l2;  // of max|reference|, of the reference's norm
};
Limits limits(vmamba::DeviceType device, vmamba::Precision precision) {
  switch (precision) {
    case vmamba::Precision::tf32:
      return {5e-3, 2e-3};
    case vmamba::Precision::float16:
      return {1e-2, 3e-3};
    case vmamba::Precision::bfloat16:
      return {8e-2, 2e-2};
    default: {
      const vmamba::Tolerance row = vmamba::tolerance_of(device, precision);
      return {row.relative, row.relative_l2};
    }
  }
}

}  // namespace

TEST_CASE("every reference model, every backend, 1 and 2 threads, float32") {
  REQUIRE(cases().size() >= 37);
  for (const fs::path& model : cases())
    for (const vmamba::ScanBackendRow& row : vmamba::table_of<vmamba::ScanBackend>) {
      if (vmamba::resolved(row.value) != row.value) continue;
      const std::string backend(row.name);
      for (const int threads : {1, 2}) {
        CAPTURE(model.filename());
        CAPTURE(backend);
        CAPTURE(threads);
        const CliResult run = check(model, backend, threads);
        REQUIRE_MESSAGE(run.exit_code == 0, run.err << run.out);
        const auto report = nlohmann::json::parse(run.out);
        CHECK(report["tolerance"]["absolute"] == 1e-5);
        CHECK(report["tolerance"]["relative"] == 1e-5);
        CHECK(report["b"]["selective_scan_backend"] == backend);
        CHECK(report["only_in_a"].empty());
        // Not only within the tolerance that the program chose: within 1e-5 · max(1, max|reference|).
        REQUIRE(report["taps"].size() >= 2);
        for (const auto& tap : report["taps"]) {
          CAPTURE(tap["name"]);
          CHECK(tap["within"] == true);
          CHECK(tap["max_abs"].get<double>() <= 1e-5 * std::max(1.0, tap["max_reference"].get<double>()));
        }
        if (threads == 2) CHECK(run.out == check(model, backend, threads).out);
      }
    }
}

// Fewer threads than asked for, and what batch systems set.
TEST_CASE("the same logits to the bit wherever OpenMP gives fewer threads, and the true number is told") {
  const TemporaryDirectory folder;
  std::vector<std::vector<std::string>> inputs{
      {data("chelsea.png"), data("coffee.png")}};  // the shipped model
  for (const fs::path& model : cases())
    inputs.push_back({"--config", model / "config.json", "--weights", model / "weights.safetensors",
                      "--input-tensor", model / "io.safetensors"});
  const auto logits = [&](std::vector<std::string> arguments, const std::string& variable,
                          const std::string& other = "A=") {
    const std::string file = folder / "logits.safetensors";
    arguments.insert(arguments.begin(),
                     {"classify", "--device", "cpu", "--save-logits", file, "--threads", "2"});
    const CliResult run = run_cli(arguments, {.environment = {variable, other}});
    REQUIRE_MESSAGE(run.exit_code == 0, run.err);
    const bool one = variable == "OMP_THREAD_LIMIT=1" || variable == "OMP_MAX_ACTIVE_LEVELS=0";
    CHECK(run.err.find(one ? ", 1 thread," : ", 2 threads,") != std::string::npos);
    return vmamba::read_file(file);
  };
  for (const std::vector<std::string>& input : inputs) {
    CAPTURE(input[1]);
    const std::string wanted = logits(input, "OMP_DYNAMIC=false");
    for (const std::string variable : {"OMP_THREAD_LIMIT=1", "OMP_DYNAMIC=true", "OMP_MAX_ACTIVE_LEVELS=0",
                                       "OMP_WAIT_POLICY=PASSIVE"}) {  // small forwards on one thread
      CAPTURE(variable);
      CHECK(logits(input, variable) == wanted);
    }
    const std::string avx2 = "ONEDNN_MAX_CPU_ISA=AVX2";  // its bits depend on the threads
    CHECK(logits(input, "OMP_WAIT_POLICY=PASSIVE", avx2) == logits(input, "OMP_DYNAMIC=false", avx2));
    cpu_set_t all, first;
    REQUIRE(sched_getaffinity(0, sizeof all, &all) == 0);
    CPU_ZERO(&first);
    for (size_t i = 0; i < CPU_SETSIZE && CPU_COUNT(&first) == 0; ++i)
      if (CPU_ISSET(i, &all)) CPU_SET(i, &first);
    REQUIRE(sched_setaffinity(0, sizeof first, &first) == 0);
    const std::string on_one = logits(input, "OMP_DYNAMIC=true");
    REQUIRE(sched_setaffinity(0, sizeof all, &all) == 0);
    CHECK(on_one == wanted);
  }
}

TEST_CASE("every reference model in every dtype, on every device") {
  using namespace vmamba;
  struct Case {
    std::string device, dtype;
    Limits limits;
  };
  std::vector<Case> wanted;
  for (const DeviceReport& report : list_devices()) {
    const DeviceType device = report.device.type;
    if (!report.usable || report.device.index > 0) continue;
    for (const auto& [precision, name, aliases, storage, tf32, only_on] : table_of<Precision>)
      if (runs_on(device, precision))
        wanted.push_back({to_string(report.device), std::string(name), limits(device, precision)});
  }
  for (const fs::path& model : cases())
    for (const Case& c : wanted) {
      CAPTURE(model.filename());
      CAPTURE(c.device);
      CAPTURE(c.dtype);
      const CliResult run = check(model, {"--device", c.device, "--dtype", c.dtype});
      REQUIRE_MESSAGE(run.exit_code == 0, run.err << run.out);
      const auto report = nlohmann::json::parse(run.out);
      for (const auto& tap : report["taps"]) {
        CAPTURE(tap["name"]);
        CHECK(tap["max_abs"].get<double>() <= c.limits.largest * tap["max_reference"].get<double>());
        CHECK(tap["relative_l2"].get<double>() <= c.limits.relative_l2);
      }
    }
}

TEST_CASE("a reference that is off is told apart") {
  const fs::path model = data("models/ft_v05");
  const CliResult other = run_cli({"check-equal", "--config", model / "config.json", "--weights",
                                   data("models/ft_v05_oact/weights.safetensors"), "--reference",
                                   model / "io.safetensors", "--device", "cpu"});
  CHECK(other.exit_code == 1);
  CHECK(other.out.find("first outside its tolerance: patch_embed") != std::string::npos);
}
