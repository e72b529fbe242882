// Names from outside that act on what shows them: a terminal, a spreadsheet, a shell, a page. Through the real binary.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/support/text.h"
#include "lib/tensors/state_dict.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

const fs::path model = data("models/s1_ln2d");
// ESC ] 0 ; BEL sets a terminal's title; CSI as C1; RIGHT-TO-LEFT OVERRIDE and ISOLATE; LINE SEPARATOR; not UTF-8.
const std::string acts =
    "\x1b]0;x\a\xc2\x9b"
    "31m\xe2\x80\xae"
    "gnp.\xe2\x81\xa7\xe2\x80\xa8\x7f\xff";

// Nothing in it acts on a terminal, and it is UTF-8.
void check_harmless(const std::string& text) {
  CHECK(printable_lines(text) == text);
}

CliResult run(std::vector<std::string> arguments, const std::string& directory = {}) {
  arguments.insert(arguments.end(), {"--config", model / "config.json", "--weights",
                                     model / "weights.safetensors", "--device", "cpu"});
  return run_cli(arguments, {.directory = directory});
}

}  // namespace

TEST_CASE("text that is shown: what is escaped, what is kept") {
  CHECK(printable("Grüße, 猫 🐈\u200d⬛") == "Grüße, 猫 🐈\u200d⬛");
  CHECK(printable("a\x1b[31m\xc2\x9b\xe2\x80\xae\xff\n") == "a\\x1b[31m\\u009b\\u202e\\xff\\x0a");
  CHECK(printable(printable(acts)) == printable(acts));
  CHECK(
      printable("\xc0\x9b\xe0\x80\x9b\xed\xa0\x80\xf4\x90\x80\x80") ==
      "\\xc0\\x9b\\xe0\\x80\\x9b\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80");  // overlong, a surrogate, beyond Unicode
  CHECK(printable_lines("a\nb\x1b\n") == "a\nb\\x1b\n");
  const nlohmann::ordered_json json = {{"a\xe2\x80\xae", "\xc2\x9b\x7f\x1b\n\"é"}};
  CHECK(dump_json(json) == R"({"a\u202e":"\u009b\u007f\u001b\n\"é"})");
  CHECK(nlohmann::ordered_json::parse(dump_json(json)) == json);
  for (const char* formula : {"=1+1", "+1", "-1", "@A1"})
    CHECK(csv_field(formula) == std::string("'") + formula);
  CHECK(csv_field("=a,b") == "\"'=a,b\"");
  CHECK(csv_field("a=b \"c\"") == "\"a=b \"\"c\"\"\"");
  CHECK(csv_field("a\r\nb") == "a\\x0d\\x0ab");
  CHECK(shell_quoted("a/b-c.pth") == "a/b-c.pth");
  CHECK(shell_quoted("$(x) 'y'") == R"('$(x) '\''y'\''')");
  CHECK(shell_quoted("") == "''");
}

TEST_CASE("names that act on a terminal are shown escaped by every command") {
  const TemporaryDirectory folder;
  const std::string good = folder / (acts + ".png"), none = folder / (acts + ".jpg"), out = folder / "out";
  fs::copy_file(data("chelsea.png"), good);
  const std::string config = folder / (acts + ".json"), weights = folder / (acts + ".safetensors");
  fs::copy_file(model / "config.json", config);
  fs::copy_file(model / "weights.safetensors", weights);
  const std::vector<std::string> own{"--config", config, "--weights", weights, "--device", "cpu"};
  const auto with = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), own.begin(), own.end());
    return arguments;
  };
  int n = 0;
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"classify", good},
           {"classify", none},
           {"classify", acts},
           {"classify", "--" + acts},
           {acts},
           with({"classify", good, none, "--format", "json"}),
           with({"classify", good, none, "--format", "jsonl"}),
           with({"classify", good, none, "--format", "csv"}),
           with({"eval", folder.path().string(), "--truth", good}),
           with({"eval", none}),
           with({"features", good, "-o", out + ".npy"}),
           with({"features", none, "--at", acts, "-o", out + ".npy"}),
           with({"nearest", good, "--among", none}),
           with({"look", good}),
           with({"look", good, "--format", "json"}),
           with({"look", good, "--at", acts}),
           with({"look", good, "--layer", acts}),
           with({"check-equal", "--images", good}),
           with({"check-equal", "--images", good, "--format", "json"}),
           with({"check-equal", "--a", acts + "=1"}),
           with({"check-equal", "--a", "dtype=" + acts}),
           with({"bench", "--seconds", "0", "--iterations", "2"}),
           with({"bench", "--seconds", "0", "--iterations", "2", "--format", "json"}),
           with({"info"}),
           with({"info", "--format", "json"}),
           {"info", "--weights", weights},
           {"info", "--config", none},
           {"migrate-config", config, "--check"},
           {"convert-weights", none, out},
           {"convert-weights", weights, none + "/out"},
           {"init-weights", "--config", config, "-o", none + "/out"}}) {
    CAPTURE(n++);
    const CliResult result = run_cli(arguments);
    CHECK(result.exit_code >= 0);
    CHECK(result.exit_code < 3);
    CHECK(result.err.find("unexpected error") == std::string::npos);
    check_harmless(result.out);
    check_harmless(result.err);
  }
  // What is kept in files.
  REQUIRE(run_cli(with({"check-equal", "--images", good, "--report", folder / "r.html"})).exit_code == 0);
  check_harmless(read_file(folder / "r.html"));
  REQUIRE(run_cli(with({"look", good, "--report", folder / "l.html"})).exit_code == 0);
  check_harmless(read_file(folder / "l.html"));
  REQUIRE(
      run_cli(with({"check-equal", "--images", good, "--save-taps", folder / "t.safetensors"})).exit_code ==
      0);
  const auto again = run_cli(with({"check-equal", "--reference", folder / "t.safetensors"}));
  CHECK(again.exit_code == 0);
  check_harmless(again.out + again.err);
}

TEST_CASE("names of tensors and labels that act on a terminal") {
  const TemporaryDirectory folder;
  StateDict weights = read_safetensors(model / "weights.safetensors");
  const std::string odd =
      "\xc2\x9b"
      "31m\xe2\x80\xae<script>alert(1)</script>";
  weights.tensors.emplace_back(odd, weights.tensors[0].second);
  write_safetensors(folder / "w.safetensors", weights);
  write_file(folder / "l.txt", "=1+1\n+a\n@b\n-c\n\x1b[31m\n\xe2\x80\xae\n<script>\n\"q\"\n,\n\xff\n");
  for (const char* format : {"text", "json"}) {
    const auto info = run_cli({"info", "--config", model / "config.json", "--weights",
                               folder / "w.safetensors", "--format", format});
    check_harmless(info.out + info.err);
    CHECK(info.out.find("31m") != std::string::npos);
  }
  for (const char* format : {"text", "json", "jsonl", "csv"}) {
    const auto result = run(
        {"classify", data("chelsea.png"), "--labels", folder / "l.txt", "--topk", "10", "--format", format});
    CHECK(result.exit_code == 0);
    check_harmless(result.out + result.err);
    if (std::string(format) == "csv") {
      for (const char* cell :
           {",'=1+1,", ",'+a,", ",'@b,", ",'-c,", ",\\x1b[31m,", ",\"\"\"q\"\"\",", ",\",\","}) {
        INFO(cell);
        CHECK(result.out.find(cell) != std::string::npos);
      }
    }
  }
}

TEST_CASE("two names that are not UTF-8 are two names in JSON") {
  const TemporaryDirectory folder;
  for (const char* name : {"a\xff.png", "a\xfe.png"}) fs::copy_file(data("chelsea.png"), folder / name);
  const auto result = run({"classify", folder.path().string(), "--format", "json"});
  const auto json = nlohmann::json::parse(result.out);
  REQUIRE(json["results"].size() == 2);
  CHECK(json["results"][0]["file"] == json["results"][1]["file"]);
  CHECK(json["results"][0]["file_bytes"] != json["results"][1]["file_bytes"]);
  CHECK(run({"classify", data("chelsea.png"), "--format", "json"}).out.find("file_bytes") ==
        std::string::npos);
}

TEST_CASE("names that are not UTF-8 stay apart in the metadata of saved rows, and for nearest") {
  const TemporaryDirectory folder;
  const fs::path small = data("models/s1_ln2d");
  const std::string one = folder / "a\xff.png", two = folder / "a\xfe.png";
  for (const std::string& name : {one, two}) fs::copy_file(data("chelsea.png"), name);
  const std::string saved = folder / "f.safetensors";
  REQUIRE(run_model(small, "features", {one, two, "-o", saved}).exit_code == 0);
  const auto bytes = nlohmann::json::parse(read_safetensors(saved).metadata.at("files_bytes"));
  CHECK(bytes.size() == 2);
  CHECK(bytes[0] != bytes[1]);
  const CliResult found = run_model(small, "nearest", {one, "--among", saved, "--format", "json"});
  REQUIRE_MESSAGE(found.exit_code == 0, found.err);
  const auto nearest = nlohmann::json::parse(found.out)["results"][0]["nearest"];
  CHECK(nearest[0]["file_bytes"] == bytes[0]);
  CHECK(nearest[1]["file_bytes"] == bytes[1]);
  // Rows with names in UTF-8 alone have no such list.
  REQUIRE(run_model(small, "features", {data("chelsea.png"), "-o", saved}).exit_code == 0);
  CHECK_FALSE(read_safetensors(saved).metadata.contains("files_bytes"));
}

TEST_CASE("paths in suggested commands are one word for the shell") {
  const TemporaryDirectory folder;
  const std::string name = "$(touch x); 'y'.json", quoted = R"('$(touch x); '\''y'\''.json')";
  write_file(folder / name, R"({"selective_scan_backend": "core", "depths": [1, 1, 1, 1], "dims": 8})");
  check_error(run_cli({"info", "--config", name}, {.directory = folder.path()}), 2,
              {"`vmamba-cli migrate-config " + quoted + "`"});
  const std::string data_set = folder / "$(x)";
  fs::create_directories(data_set + "/train/cat");
  fs::create_directories(data_set + "/val/cat");
  check_error(run({"eval", data_set}), 2, {": eval '" + data_set + "/val'"});
  CHECK_FALSE(fs::exists(folder / "x"));
}
