// What a run can choose: every row of the tables is understood, listed and documented; aliases are told by their
// real name.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "lib/config/config.h"
#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;

namespace {

nlohmann::json info(const std::string& option, const std::string& value) {
  const CliResult result = run_cli(
      {"-q", "info", "--config", "vmamba_tiny_s1l8", "--format", "json", "--device", "cpu", option, value});
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  return nlohmann::json::parse(result.out);
}

template <class E>
void check_listed(const std::string& text, std::string_view before, std::string_view after) {
  for (const std::string_view name : names_of<E>()) {
    const std::string word = std::string(before).append(name).append(after);
    CHECK_MESSAGE(text.find(word) != std::string::npos, word);
  }
}

}  // namespace

TEST_CASE("every name and alias is one value's") {
  const auto check = []<class E>(E) {
    std::vector<std::string_view> all = names_of<E>();
    for (const auto& row : table_of<E>)
      for (const std::string_view alias : row.aliases)
        if (!alias.empty()) all.push_back(alias);
    std::ranges::sort(all);
    CHECK(std::ranges::adjacent_find(all) == all.end());
    for (const auto& row : table_of<E>) CHECK(find_row<E>(row.name) == &row);
    CHECK(find_row<E>("") == nullptr);
  };
  check(DType{}), check(Precision{}), check(DeviceType{}), check(ScanBackend{}), check(Activation{});
}

TEST_CASE("every dtype and backend runs by name and alias, and is reported by its name") {
  for (const auto& row : table_of<Precision>) {
    std::vector<std::string_view> words{row.name};
    words.insert(words.end(), row.aliases.begin(), row.aliases.end());
    for (const std::string_view word : words)
      if (!word.empty() && runs_on(DeviceType::cpu, row.value))
        CHECK(info("--dtype", std::string(word))["dtype"] == row.name);
  }
  for (const auto& row : table_of<ScanBackend>) {
    const nlohmann::json said =
        info("--selective-scan-backend", std::string(row.name))["selective_scan_backend"];
    if (row.value == ScanBackend::automatic)
      CHECK(said.is_null());
    else
      CHECK(said == row.name);
  }
  // An alias of a device: the device is not there, or it runs; the alias is no unknown word.
  const CliResult gpu = run_cli({"-q", "info", "--device", "gpu", "--format", "json"});
  CHECK(gpu.exit_code == 0);
  CHECK(nlohmann::json::parse(gpu.out)["device"] == "cuda:0");
  CHECK(nlohmann::json::parse(
            run_cli({"-q", "info", "--device", "gpu:1", "--format", "json"}).out)["device"] == "cuda:1");
}

TEST_CASE("an unknown name is told with those that exist") {
  check_error(run_cli({"info", "--dtype", "float8"}), 2,
              {"float8", "auto, float64, float32, tf32, float16 or bfloat16"});
  check_error(run_cli({"info", "--dtype", "float64", "--device", "cuda"}), 2, {"float64", "cpu", "float16"});
  check_error(run_cli({"info", "--dtype", "tf32", "--device", "cpu"}), 2, {"tf32", "cuda", "float32"});
  check_error(run_cli({"info", "--device", "tpu"}), 2, {"tpu", "auto, cpu, cuda or cuda:N"});
  check_error(run_cli({"info", "--selective-scan-backend", "triton"}), 2,
              {"triton", "torch, mamba, oflex or null"});
  check_error(run_cli({"convert-weights", "a", "b", "--dtype", "int8"}), 2,
              {"int8", "float32, float16, bfloat16 or float64"});
}

TEST_CASE("every choice stands in the help and in the documents") {
  const std::string help = run_cli({"info", "--help"}).out;
  check_listed<Precision>(help, "", "");
  check_listed<DeviceType>(help, "", "");
  check_listed<ScanBackend>(help, "", "");
  check_listed<ForwardCoreVersion>(help, "", "");
  const std::string config = read_file(data("../../docs/config.md"));
  for (const std::string_view name : names_of<ScanBackend>())
    if (name != to_string(ScanBackend::automatic))
      CHECK_MESSAGE(config.find("\"" + std::string(name) + "\"") != std::string::npos, name);
  for (const std::string_view name : names_of<Activation>())
    if (name != to_string(Activation::none))
      CHECK_MESSAGE(config.find("\"" + std::string(name) + "\"") != std::string::npos, name);
  check_listed<NormLayer>(config, "\"", "\"");
  check_listed<Interpolation>(config, "\"", "\"");
  check_listed<Precision>(read_file(data("../../docs/architecture.md")), "", "");
}
