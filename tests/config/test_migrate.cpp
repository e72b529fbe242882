// migrate-config: every row of the table, what must stay untouched, the Python project's YAML, and bad input.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <random>

#include "kernels/error.h"
#include "lib/config/config.h"
#include "lib/config/migrate.h"
#include "lib/model/summary.h"
#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba;
using testing::check_error;
using testing::contains;
using testing::run_cli;

namespace {

// A text with a forward_type, so that none is added.
std::string with_type(const std::string& members) {
  return R"({"forward_type": "v03", )" + members + "}";
}

// Migrates, and checks that a second time changes nothing.
Migration migrated(const std::string& text) {
  Migration migration = migrate_json(text, "a.json");
  const Migration again = migrate_json(migration.text, "a.json");
  CHECK(again.changes.empty());
  CHECK(again.text == migration.text);
  if (migration.changes.empty()) CHECK(migration.text == text);
  return migration;
}

const char* const yaml = R"(# a comment
MODEL:
  TYPE: vssm
  NAME: my_tiny
  NUM_CLASSES: 100
  DROP_PATH_RATE: 0.2
  VSSM:
    EMBED_DIM: 64
    DEPTHS: [ 2, 2, 5, 2 ]
    SSM_D_STATE: 1
    SSM_DT_RANK: "auto"
    SSM_RATIO: 2.0
    SSM_CONV: 3 # three
    SSM_CONV_BIAS: false
    SSM_FORWARDTYPE: "v3noz"
    MLP_RATIO: 4.0
    DOWNSAMPLE: "v3"
    NORM_LAYER: "ln2d"
DATA:
  IMG_SIZE: 128
  BATCH_SIZE: 64
)";

}  // namespace

TEST_CASE("core becomes oflex at any depth and in arrays, and nothing else moves") {
  const Migration one = migrated("{\r\n\t\"selective_scan_backend\" :  \"core\" , \"x\": 1.50e0}\r\n");
  CHECK(one.text == "{\r\n\t\"selective_scan_backend\" :  \"oflex\" , \"x\": 1.50e0}\r\n");
  REQUIRE(one.changes.size() == 1);
  CHECK(one.changes[0].place == "a.json:2: /selective_scan_backend");
  CHECK(one.changes[0].before == "\"core\"");
  CHECK(one.changes[0].after == "\"oflex\"");
  CHECK(one.changes[0].exact);

  const Migration deep =
      migrated(R"({"b": 1, "a": [{"backends": ["core", "mamba", ["core"]]}], "c~/backend": "core"})");
  CHECK(deep.text ==
        R"({"b": 1, "a": [{"backends": ["oflex", "mamba", ["oflex"]]}], "c~/backend": "oflex"})");
  REQUIRE(deep.changes.size() == 3);
  CHECK(deep.changes[0].place == "a.json:1: /a/0/backends/0");
  CHECK(deep.changes[1].place == "a.json:1: /a/0/backends/2/0");
  CHECK(deep.changes[2].place == "a.json:1: /c~0~1backend");
  CHECK(migrated("{\"scan_backend\": \"c\\u006fre\"}").text == "{\"scan_backend\": \"oflex\"}");
}

TEST_CASE("a string \"core\" whose key names no backend stays, with a warning that names its place") {
  const Migration migration =
      migrated("{\"forward_type\": \"v03\",\n\"name\": \"core\",\n\"x\": [\"core\", 1]}");
  CHECK(migration.changes.empty());
  REQUIRE(migration.remarks.size() == 2);
  CHECK(contains(migration.remarks[0], "a.json:2: /name: \"core\" stays"));
  CHECK(contains(migration.remarks[1], "a.json:3: /x/0: \"core\" stays"));
  CHECK(migrated(R"("core")").remarks.size() == 1);
  for (const char* text : {R"({"core": 1})", R"({"a": "core "})", "[]",
                           R"({"selective_scan_backend": "oflex", "forward_type": "v05_noz_oact"})"}) {
    CHECK(migrated(text).changes.empty());
    CHECK(migrated(text).remarks.empty());
  }
}

TEST_CASE("exact where the scan reads float32, else the exact alternative is named") {
  const auto exact = [](const std::string& members) {
    const std::string text = "{\"selective_scan_backend\": \"core\", " + members + "}";
    const MigrationChange change = migrated(text).changes.front();
    CHECK(change.place == "a.json:1: /selective_scan_backend");
    const Migration mamba = migrate_json(text, "a.json", "mamba");
    CHECK(contains(mamba.text, "\"mamba\""));
    CHECK(mamba.changes.front().exact);
    CHECK(contains(change.why, "July 2024"));
    CHECK(contains(change.why, "--backend mamba") == !change.exact);
    CHECK(contains(to_string(change), change.exact ? "(exact)" : "(not exact)"));
    return change.exact;
  };
  CHECK(exact(R"("forward_type": "v03")"));
  CHECK(exact(R"("forward_type": "v2")"));
  CHECK(exact(R"("forward_type": "v0")"));
  CHECK(exact(R"("dims": 96)"));
  CHECK_FALSE(exact(R"("forward_type": "v03_no32")"));
  CHECK_FALSE(exact(R"("forward_type": "v2_no32")"));
  CHECK_FALSE(exact(R"("forward_type": "v3noz")"));
  CHECK_FALSE(exact(R"("forward_type": "v05_noz")"));
  CHECK(exact(R"("forward_type": "v05_noz", "forward_core_version": "v0")"));
}

TEST_CASE("v2 and the absent forward_type that means it become v03") {
  const Migration migration = migrated(R"({"forward_type": "v2_noz", "selective_scan_backend": "core"})");
  CHECK(migration.text == R"({"forward_type": "v03_noz", "selective_scan_backend": "oflex"})");
  CHECK(migration.changes.size() == 2);
  CHECK(migrated(R"({"forward_type": "v2", "selective_scan_backend": "oflex"})").text ==
        R"({"forward_type": "v03", "selective_scan_backend": "oflex"})");
  CHECK(migrated(R"({"forward_types": ["v2", "v05"]})").text == R"({"forward_types": ["v03", "v05"]})");
  CHECK(migrated("{ }\n").text == "{\"forward_type\": \"v03\" }\n");
  const Migration silent = migrated("{\n  \"dims\": 96\n}\n");
  CHECK(silent.text == "{\n  \"dims\": 96,\n  \"forward_type\": \"v03\"\n}\n");
  REQUIRE(silent.changes.size() == 1);
  CHECK(to_string(silent.changes[0]).starts_with("a.json:1: /forward_type: (absent) -> \"v03\" (exact): "));
  CHECK_FALSE(migrated(R"({"forward_type": "v2_no32"})").changes[0].exact);
}

TEST_CASE("every old forward type becomes the one that is understood") {
  const std::pair<const char*, const char*> table[] = {
      {"v3noz", "v3_noz"},
      {"v05noznozact", "v05_nozact_noz"},
      {"v0_seq", "v0seq"},
      {"V05_NOZ", "v05_noz"},
      {"v05__noz", "v05_noz"},
      {"v052dcnoz", "v052dc_noz"},
      {"v1", "v03"},
      {"v1noz", "v03_noz"},
      {"v4", "v05"},
      {"v31d", "v051d"},
      {"v32dnoz", "v052d_noz"},
      {"v32dc", "v052dc"},
      {"v2dwconv3", "v03_ondwconv3"},
      {"v2none", "v03_onnone"},
      {"v2softmaxnoz", "v03_onsoftmax_noz"},
      {"v2sigmoid", "v03_onsigmoid"},
      {"v2", "v03"},
      {"forward_corev0", "v0"},
      {"forward_corev0_seq", "v0seq"},
      {"forward_corev2", "v03"},
      {"m0noz", "m0_noz"},
      {"v05_oact_noz", "v05_noz_oact"},
      {"v05oactnoz", "v05_noz_oact"},
      {"v03_no32_noz", "v03_noz_no32"},
      {"v05_noz_onnone", "v05_onnone_noz"},
      {"v05_noz_nozact", "v05_nozact_noz"},
      {"v2_oact_noz", "v03_noz_oact"},
      {"v2noznone", "v03_onnone_noz"},
      {"m0_oact_noz", "m0_noz_oact"},
      {"v05_no32_oact_noz_nozact_oncnorm", "v05_oncnorm_nozact_noz_oact_no32"}};
  for (const auto& [before, after] : table) {
    const Migration migration = migrated(fmt::format("{{\"forward_type\": \"{}\"}}", before));
    CHECK(migration.text == fmt::format("{{\"forward_type\": \"{}\"}}", after));
    REQUIRE(migration.changes.size() == 1);
    CHECK_FALSE(migration.changes[0].why.empty());
    CHECK(migration.remarks.empty());
    CHECK_NOTHROW(parse_forward_type(after, ""));
  }
}

TEST_CASE("forward_corev1 becomes v0's block with the version that users call v1") {
  CHECK(migrated("{\n  \"forward_type\": \"forward_corev1\",\n  \"dims\": 96\n}").text ==
        "{\n  \"forward_type\": \"v0\",\n  \"forward_core_version\": \"v1\",\n  \"dims\": 96\n}");
  CHECK(migrated(R"({"forward_type":"forward_corev1"})").text ==
        R"({"forward_type":"v0","forward_core_version":"v1"})");
  CHECK(migrated(R"({"forward_core_version": "v0", "forward_type": "forward_corev1"})").text ==
        R"({"forward_core_version": "v0", "forward_type": "v0"})");
  const Migration version = migrated(with_type(R"("forward_core_version": "forward_corev1")"));
  CHECK(version.text == with_type(R"("forward_core_version": "v1")"));
  CHECK_FALSE(version.changes[0].exact);
  CHECK(migrated(with_type(R"("forward_core_version": "forward_corev0")")).text ==
        with_type(R"("forward_core_version": "v0")"));
  CHECK(migrated(with_type(R"("forward_core_version": "forward_corev2")")).text ==
        with_type(R"("forward_core_version": null)"));
}

TEST_CASE("what no rule mends is remarked") {
  const Migration migration = migrated("{\n\"forward_type\": \"xv1a\"}");
  CHECK(migration.changes.empty());
  REQUIRE(migration.remarks.size() == 1);
  CHECK(contains(migration.remarks[0], "a.json:2: /forward_type"));
}

TEST_CASE("a model config parses afterwards") {
  const std::string text = read_file(find_config("vmamba_tiny_s1l8"));
  CHECK(migrated(text).changes.empty());
  for (const char* type : {"v3noz", "v1", "v32dc", "forward_corev1", "v0_seq", "v2sigmoid"}) {
    const size_t at = text.find("v05_noz");
    const std::string old = fmt::format("{{\n  \"selective_scan_backend\": \"core\",{}{}{}",
                                        text.substr(1, at - 1), type, text.substr(at + 7));
    CHECK_THROWS_AS(parse_config(old, "a.json"), InputError);
    CHECK_NOTHROW(parse_config(migrated(old).text, "a.json"));
  }
}

TEST_CASE("the Python project's YAML becomes this program's JSON") {
  const Migration migration = migrate_yaml(yaml, "a.yaml");
  const Config config = parse_config(migration.text, "a.json");
  CHECK(config.name == "my_tiny");
  CHECK(config.dims == std::vector{64, 128, 256, 512});
  CHECK(config.depths == std::vector{2, 2, 5, 2});
  CHECK(config.num_classes == 100);
  CHECK(config.ssm_d_state == 1);
  CHECK_FALSE(config.ssm_conv_bias);
  CHECK(config.forward_type == "v3_noz");
  CHECK(config.norm_layer == NormLayer::ln2d);
  CHECK(config.downsample_version == DownsampleVersion::v3);
  CHECK(config.patchembed_version ==
        PatchEmbedVersion::v2);  // the default of config.py, not the constructor's
  CHECK(config.imgsize == 128);
  CHECK(config.preprocess.resize == 146);
  CHECK(contains(to_string(migration.changes[0]),
                 "a.yaml:4: MODEL.NAME: \"my_tiny\" -> \"name\": \"my_tiny\" (exact)"));
  CHECK(migration.others.empty());
  CHECK(migrate_json(migration.text, "").changes.empty());
}

TEST_CASE("a YAML becomes the model of its age") {
  // The parameters are those of the public project's class of that day, built from the same file.
  struct Case {
    const char* block;
    int64_t parameters;
    std::vector<int64_t> others;
  };
  const Case cases[] = {
      {"EMBED_DIM: 96, DEPTHS: [2, 2, 9, 2]", 22893448, {43722376, 43760680}},
      {"EMBED_DIM: 96, DEPTHS: [2, 2, 9, 2], IN_CHANS: 3, PATCH_SIZE: 4, MLP_RATIO: 4.0, PATCH_NORM: true",
       22893448,
       {}},
      {"EMBED_DIM: 96, DEPTHS: [2, 2, 16, 2], D_STATE: 16, DT_RANK: auto, SSM_RATIO: 1.6, MLP_RATIO: 2.0",
       40028968,
       {}},
      {"EMBED_DIM: 96, DEPTHS: [2, 2, 9, 2], MLP_RATIO: 0.0, DOWNSAMPLE: v1, SHARED_SSM: false, SOFTMAX: false, D_STATE: 16",
       22893448,
       {}},
      {"EMBED_DIM: 96, DEPTHS: [2, 2, 9, 2], MLP_RATIO: 0.0, DOWNSAMPLE: v1, PATCHEMBED: v1, SSM_SOFTMAX: false, SSM_FORWARDTYPE: v2",
       22893448,
       {}},
      {"EMBED_DIM: 96, DEPTHS: [2, 2, 9, 2], SSM_SIMPLE_INIT: false, CHANNEL_FIRST: false", 43760680, {}},
      {"EMBED_DIM: 96, DEPTHS: [2, 2, 9, 2], SSM_RATIO: 2.0", 43760680, {43722376}},
  };
  const auto parameters = [](const std::string& text) {
    return summarize(parse_config(text, "a"), DType::float32, 1, 224, 224).parameters;
  };
  for (const auto& [block, count, others] : cases) {
    CAPTURE(block);
    const Migration migration = migrate_yaml(fmt::format("MODEL: {{VSSM: {{{}}}}}", block), "a.yaml");
    CHECK(parameters(migration.text) == count);
    CHECK(migrate_json(migration.text, "a.json").changes.empty());
    std::vector<int64_t> found;
    for (const OtherAge& other : migration.others) {
      found.push_back(parameters(other.text));
      // The key that is offered does choose that release.
      const Migration chosen = migrate_yaml(
          fmt::format("MODEL: {{VSSM: {{{}, {}}}}}", block, other.add.substr(0, other.add.find(" to MODEL"))),
          "a.yaml");
      CHECK(chosen.text == other.text);
      CHECK(chosen.others.empty());
    }
    CHECK(found == others);
  }
}

TEST_CASE("the switches of early 2024 are taken when off, and refused or mapped when on") {
  const auto block = [](const std::string& text) {
    return migrate_yaml("MODEL: {VSSM: {" + text + "}}", "a.yaml");
  };
  for (const char* key : {"SHARED_SSM", "SOFTMAX", "SSM_SOFTMAX"}) {
    CHECK_NOTHROW(block(fmt::format("{}: false", key)));
    CHECK_THROWS_WITH_AS(block(fmt::format("{}: true", key)), doctest::Contains(key), InputError);
    CHECK_THROWS_WITH_AS(block(fmt::format("{}: 3", key)), doctest::Contains("true or false"), InputError);
  }
  CHECK(contains(block("SSM_SIMPLE_INIT: true").text, "\"ssm_init\": \"v1\""));
  CHECK(contains(block("SSM_SIMPLE_INIT: false").text, "\"ssm_init\": \"v0\""));
  CHECK(block("CHANNEL_FIRST: true").text == block("CHANNEL_FIRST: false").text);
}

TEST_CASE("YAML is known by its name or by its MODEL") {
  CHECK(is_yaml_config("a.yaml", "{}"));
  CHECK(is_yaml_config("a.YML", ""));
  CHECK(is_yaml_config("config.json", "AMP_ENABLE: true\nMODEL:\n  TYPE: vssm\n"));
  CHECK(is_yaml_config("config", "MODEL: {}"));
  CHECK_FALSE(is_yaml_config("a.json", " {\"MODEL\": 1}"));
  CHECK_FALSE(is_yaml_config("a.json", "// comment\n{}"));
  CHECK_FALSE(is_yaml_config("a.txt", "[1]"));
}

TEST_CASE("older YAML keys, and what YAML can say that a config cannot") {
  const auto config = [](const std::string& text) {
    return parse_config(migrate_yaml(text, "a.yaml").text, "a");
  };
  CHECK(config("MODEL: {VSSM: {D_STATE: 8, DT_RANK: 3}}").ssm_d_state == 8);
  CHECK(config("MODEL: {VSSM: {DT_RANK: 3}}").dt_rank(0) == 3);
  CHECK(config("MODEL:\n  TYPE: VSSM\n  NAME: 123\n").name == "123");
  CHECK(config("MODEL: {VSSM: {EMBED_DIM: [8, 16, 32, 64]}}").dims == std::vector{8, 16, 32, 64});
  CHECK(config("MODEL: {VSSM: {SSM_RANK_RATIO: 2.0}}").ssm_ratio == 2.0);
  CHECK(config("MODEL: {}\nTEST: {CROP: False}\n").preprocess.resize == 224);
  CHECK(config("MODEL: {}\nDATA: {INTERPOLATION: bilinear}\n").preprocess.interpolation ==
        Interpolation::bilinear);
  CHECK(config("BASE: ['']\nMODEL: {}\n").imgsize == 224);
  const std::pair<const char*, const char*> refused[] = {
      {"MODEL: {VSSM: {SSM_RANK_RATIO: 1.0}}", "SSM_RANK_RATIO"},
      {"MODEL: {VSSM: {SSM_DSTATE: 1}}", "did you mean \"SSM_D_STATE\"?"},
      {"MODEL: {VSSM: {EMBED_DIM: 1, EMBED_DIM: 2}}", "stands twice"},
      {"MODEL: {VSSM: {D_STATE: 1, SSM_D_STATE: 2}}", "old name of SSM_D_STATE"},
      {"MODEL: {TYPE: swin}", "expected vssm"},
      {"BASE: ['other.yaml']\nMODEL: {}", "BASE"},
      {"MODEL:\n  VSSM:\n    EMBED_DIM: banana\n", "a.yaml:3: MODEL.VSSM.EMBED_DIM: expected an integer"},
      {"MODEL:\n VSSM:\n  SSM_FORWARDTYPE: xv1a",
       "a.yaml:3: MODEL.VSSM.SSM_FORWARDTYPE: forward_type \"xv1a\" is of the xv family"},
      {"MODEL: {VSSM: {EMBED_DIM: }}", "has no value"},
      {"MODEL: {VSSM: {DEPTHS: {a: 1}}}", "DEPTHS"},
      {"MODEL: {VSSM: [1]}", "expected a mapping"},
      {"- 1\n", "mapping"},
      {"", "MODEL"},
      {"A: 1\n", "has no MODEL"},
      {"MODEL: {}\n---\nMODEL: {}\n", "more than one"},
      {"MODEL: {VSSM: &a {EMBED_DIM: 96}}\nB: *a\n", "alias"},
      {"MODEL: [", "not YAML"},
      {"MODEL: \"\x01", "YAML"}};
  for (const auto& [text, part] : refused) {
    CHECK_THROWS_WITH_AS(migrate_yaml(text, "a.yaml"), doctest::Contains(part), InputError);
  }
}

TEST_CASE("hostile files end quickly") {
  std::string bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n";
  for (char c = 'b'; c < 'k'; ++c) {
    const std::string p = fmt::format("*{}", static_cast<char>(c - 1));
    bomb += fmt::format("{}: &{} [{}, {}, {}, {}, {}, {}, {}, {}, {}]\n", c, c, p, p, p, p, p, p, p, p, p);
  }
  CHECK_THROWS_WITH_AS(migrate_yaml(bomb, "a.yaml"), doctest::Contains("alias"), InputError);
  for (const std::string& part :
       {std::string("["), std::string("{"), std::string("- "), std::string("? "), std::string("a: ")}) {
    std::string deep;
    while (deep.size() < (1 << 18)) deep += part;
    CHECK_THROWS_AS(migrate_yaml(deep, "a.yaml"), InputError);
  }
  CHECK_THROWS_AS(migrate_json(std::string(1 << 20, '['), "a.json"), InputError);
  // Linear: each of these took long where a look-up walked the object or the text.
  const auto began = std::chrono::steady_clock::now();
  std::string types = "{\"forward_types\": [\"v3noz\"", warned = "{\"dims\": 8";
  for (int i = 0; i < 19'900; ++i) {
    types += ",\"v3noz\"";
    warned += fmt::format(",\n\"k{}\":\"core\"", i);
  }
  CHECK(migrate_json(types + "]}", "a.json").changes.size() > 19'900);
  CHECK(migrate_json(warned + "}", "a.json").remarks.size() == 101);
  CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds(5));
}

TEST_CASE("short values do not take many times the file's memory") {
  std::string values = "[0", words;
  for (int i = 0; i < 20'000; ++i) values += ",0";
  while (words.size() < 300'000) words += "(0)";
  CHECK_THROWS_WITH_AS(migrate_json(values + "]", "a.json"), "a.json: more than 20000 values", InputError);
  CHECK_THROWS_WITH_AS(migrate_yaml("MODEL: {}\nA: " + values + "]", "a.yaml"),
                       "a.yaml:2: more than 20000 keys and values", InputError);
  CHECK_THROWS_WITH_AS(migrate_python(words, "a.py"), "a.py:1: more than 100000 words and signs", InputError);
}

TEST_CASE("damaged files are refused or migrated, and never more than once") {
  const std::string text =
      "{\n \"selective_scan_backend\": \"core\", \"forward_type\": \"forward_corev1\",\n \"x\": "
      "[{\"forward_type\": \"v3noz\"}, \"core\", 1.5e-3, true, null, \"\\u00e9\\\"\"]}\n";
  const std::string pieces[] = {"\"",       "{",    "}",   "[",    "]", ",", ":", "\\",
                                "\"core\"", "null", "1e5", "\x80", "é", " ", "\n"};
  std::mt19937 random(7);
  int survived = 0, refused = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string damaged = text, damaged_yaml = yaml;
    for (std::string* file : {&damaged, &damaged_yaml}) {
      for (unsigned hits = 1 + random() % 2; hits > 0; --hits) {
        const size_t at = random() % file->size(), length = random() % 4;
        *file = fmt::format("{}{}{}", file->substr(0, at), pieces[random() % std::size(pieces)],
                            file->substr(std::min(at + length, file->size())));
      }
    }
    try {
      migrated(damaged);
      ++survived;
    } catch (const InputError& error) {
      CHECK(std::string_view(error.what()).find('\n') == std::string_view::npos);
      ++refused;
    }
    try {
      parse_config(migrate_yaml(damaged_yaml, "a.yaml").text, "a.json");
    } catch (const InputError& error) {
      CHECK(std::string_view(error.what()).find('\n') == std::string_view::npos);
    }
  }
  CHECK(survived > 100);
  CHECK(refused > 100);
}

TEST_CASE("migrate-config through the binary") {
  testing::TemporaryDirectory folder;
  const std::string old = "{\n  \"selective_scan_backend\": \"core\", \"forward_type\": \"v03\"\n}\n";
  const std::string current = "{\n  \"selective_scan_backend\": \"oflex\", \"forward_type\": \"v03\"\n}\n";
  const std::string file = folder / "c.json";
  write_file(file, old);

  auto result = run_cli({"migrate-config", file});
  CHECK(result.exit_code == 0);
  CHECK(result.out == current);
  CHECK(contains(result.err, "c.json:2: /selective_scan_backend: \"core\" -> \"oflex\" (exact): "));
  CHECK(std::ranges::count(result.err, '\n') == 1);
  CHECK(read_file(file) == old);

  result = run_cli({"migrate-config", "--check", file});
  CHECK(result.exit_code == 1);
  CHECK(result.out.empty());
  CHECK(read_file(file) == old);

  result = run_cli({"migrate-config", file, "-o", folder / "new.json"});
  CHECK(result.exit_code == 0);
  CHECK(result.out.empty());
  CHECK(read_file(folder / "new.json") == current);

  CHECK(run_cli({"migrate-config", "--in-place", file}).exit_code == 0);
  CHECK(read_file(file) == current);
  CHECK(read_file(file + ".bak") == old);
  CHECK(run_cli({"migrate-config", "--in-place", file}).exit_code == 0);
  CHECK(read_file(file + ".bak") == old);
  CHECK(run_cli({"migrate-config", "--check", file}).exit_code == 0);

  // This program runs them in any order, the Python project in one.
  write_file(file, R"({"forward_type": "v05_oact_noz"})");
  result = run_cli({"migrate-config", "--check", file});
  CHECK(result.exit_code == 1);
  CHECK(contains(result.err,
                 "c.json:1: /forward_type: \"v05_oact_noz\" -> \"v05_noz_oact\" (exact): the same in "
                 "the only order that the Python project reads"));
  write_file(folder / "c.py", "model = VSSM(forward_type='v05_oact_noz')\n");
  result = run_cli({"migrate-config", "--check", folder / "c.py"});
  CHECK(result.exit_code == 1);
  CHECK(contains(result.err, "newer releases refuse \"v05_oact_noz\"; write \"v05_noz_oact\" there"));

  write_file(folder / "c.yaml", yaml);
  CHECK(run_cli({"migrate-config", "--check", folder / "c.yaml"}).exit_code == 1);
  result = run_cli({"migrate-config", folder / "c.yaml", "-q"});
  CHECK(result.exit_code == 0);
  CHECK(result.err.empty());
  CHECK(parse_config(result.out, "").forward_type == "v3_noz");
}

TEST_CASE(
    "the files of every release, through the binary: info counts the parameters of the class of that day") {
  testing::TemporaryDirectory folder;
  const std::string output = folder / "new.json";
  const std::pair<const char*, const char*> files[] = {{"first_release.yaml", "22,893,448"},
                                                       {"first_release_dump.json", "22,893,448"},
                                                       {"before_patchembed.yaml", "40,028,968"},
                                                       {"dump_0215.yaml", "22,893,448"},
                                                       {"kwargs.json", "28,740,232"}};
  for (const auto& [name, parameters] : files) {
    CAPTURE(name);
    const std::string file = testing::data("configs") / name;
    CHECK(run_cli({"migrate-config", "--check", file}).exit_code == 1);
    CHECK(run_cli({"migrate-config", file, "-o", output}).exit_code == 0);
    CHECK(contains(run_cli({"info", "--config", output, "--device", "cpu"}).out, parameters));
    const auto again = run_cli({"migrate-config", "--check", output});
    CHECK(again.exit_code == 0);
    CHECK(contains(again.err, "nothing to change"));
  }
  const auto open =
      run_cli({"migrate-config", testing::data("configs") / "first_release.yaml", "-o", output});
  CHECK(contains(open.err,
                 "first_release.yaml: its keys do not tell its release: taken as of the first release"));
  for (const char* part : {"22893448 parameters", "43722376 parameters), add D_STATE: 16 to MODEL.VSSM",
                           "43760680 parameters), add PATCHEMBED: v2 to MODEL.VSSM"})
    CHECK(contains(open.err, part));
  CHECK(contains(
      open.err, "first_release.yaml:7: MODEL.VSSM.DEPTHS: [2, 2, 9, 2] -> \"depths\": [2, 2, 9, 2] (exact)"));
  check_error(run_cli({"migrate-config", testing::data("configs") / "xv.yaml"}), 2,
              {"xv.yaml:5: MODEL.VSSM.SSM_FORWARDTYPE: forward_type \"xv1a_act\""});
  check_error(run_cli({"migrate-config", testing::data("configs") / "xv.yaml", "--backend", "mamba"}), 2,
              {"--backend"});
}

TEST_CASE("a YAML's BASE is followed inside its folder, the last file and the YAML itself prevailing") {
  testing::TemporaryDirectory folder;
  const auto result = run_cli({"migrate-config", testing::data("configs") / "derived.yaml"});
  CHECK(result.exit_code == 0);
  const Config config = parse_config(result.out, "");
  CHECK(config.name == "derived");
  CHECK(config.dims[0] == 32);
  CHECK(config.ssm_d_state == 1);
  CHECK(config.ssm_conv == 5);
  CHECK(config.ssm_ratio == 1.0);
  CHECK(contains(result.err, "bases/second.yaml:4: MODEL.VSSM.SSM_D_STATE: 1"));

  std::filesystem::create_directory(folder.path() / "in");
  write_file(folder / "outside.yaml", "MODEL: {}\n");
  std::filesystem::create_symlink(folder / "outside.yaml", folder.path() / "in" / "link.yaml");
  write_file(folder / "in/bad.yaml", "MODEL: {VSSM: {EMBED_DIM: banana}}\n");
  const std::pair<std::string, std::string> refused[] = {
      {"../outside.yaml", "in/h.yaml:2: BASE: \"../outside.yaml\" leaves"},
      {"link.yaml", "leaves the folder"},
      {folder / "outside.yaml", "leaves the folder"},
      {"/etc/passwd", "leaves the folder"},
      {"nosuch.yaml", "h.yaml:2: BASE: \"nosuch.yaml\": no such file"},
      {".", "no such file"},
      {"h.yaml", "more than 16 files"},
      {"bad.yaml", "in/bad.yaml:1: MODEL.VSSM.EMBED_DIM"},
      {"[a]", "name of a file"}};
  for (const auto& [base, word] : refused) {
    write_file(folder / "in/h.yaml", "MODEL: {}\nBASE: [" + base + "]\n");
    check_error(run_cli({"migrate-config", folder / "in/h.yaml"}), 2, {word});
  }
}

TEST_CASE("the keywords of JSON are taken as the YAML's are") {
  const auto keywords = [](const std::string& members) {
    return migrated("{\"forward_type\": \"v03\"" + members + "}");
  };
  CHECK(keywords(R"(, "d_state": 1, "dt_rank": 2)").text ==
        R"({"forward_type": "v03", "ssm_d_state": 1, "ssm_dt_rank": 2})");
  CHECK(keywords(R"(, "attn_drop_rate": 0.1, "drop_rate": 0)").text ==
        R"({"forward_type": "v03", "ssm_drop_rate": 0.1, "mlp_drop_rate": 0})");
  CHECK(keywords(R"(, "pretrained": null, "dims": 8, "channel_first": false, "out_indices": [0])").text ==
        R"({"forward_type": "v03", "dims": 8})");
  CHECK(migrated(R"({"type": "VSSM", "out_indices": [1], "dims": 8})").text ==
        R"({"dims": 8,"forward_type": "v03"})");
  CHECK(migrated("{\n  \"d_state\": 4,\n  \"drop_rate\": 0,\n  \"shared_ssm\": false\n}").text ==
        "{\n  \"ssm_d_state\": 4,\n  \"mlp_drop_rate\": 0,\n  \"forward_type\": \"v03\"\n}");
  CHECK(keywords(R"(, "ssm_rank_ratio": 2.0)").changes[0].place == "a.json:1: /ssm_rank_ratio");
  CHECK(keywords(R"(, "ssm_simple_init": true)").text == R"({"forward_type": "v03", "ssm_init": "v1"})");
  CHECK(keywords(R"(, "pretrained": {"forward_type": "v2", "a_backend": ["core"]}, "dims": 8)").text ==
        R"({"forward_type": "v03", "dims": 8})");
  const std::pair<const char*, const char*> refused[] = {
      {R"("ssm_rank_ratio": 1.5)", "narrower"},
      {R"("ssm_rank_ratio": "x")", "narrower"},
      {R"("d_state": 1, "ssm_d_state": 2)", "keep one"},
      {R"("shared_ssm": true)", "one set of scan weights"},
      {R"("softmax_version": true)", "v03_nozact_onsoftmax"},
      {R"("channel_first": 1)", "true or false"}};
  for (const auto& [members, word] : refused)
    CHECK_THROWS_WITH_AS(keywords(std::string(", ") + members), doctest::Contains(word), InputError);
  // The class of the first release had these keywords too.
  const Migration open = migrated(R"({"dims": 96, "d_state": 16, "drop_rate": 0.0})");
  REQUIRE(open.others.size() == 1);
  CHECK(summarize(parse_config(open.others[0].text, ""), DType::float32, 1, 224, 224).parameters == 22893448);
  CHECK(migrated(R"({"dims": 96, "d_state": 16, "dt_rank": "auto"})").others.empty());
}

TEST_CASE("nothing to change is said of what runs alone") {
  CHECK(contains(migrated(with_type("\n\"other\": 1")).refused, "a.json:2: /other: unknown key"));
  const auto result =
      run_cli({"migrate-config", "--check", testing::data("configs") / "nested_backbone.json"});
  CHECK(result.exit_code == 1);
  CHECK(
      contains(result.err, "nested_backbone.json:9: /model/backbone/forward_type: \"v3noz\" -> \"v3_noz\""));
  CHECK(contains(
      result.err,
      "nested_backbone.json:4: /model/backbone: this program reads the keywords of this object alone"));
  CHECK_FALSE(contains(result.err, "nothing to change"));
  testing::TemporaryDirectory folder;
  write_file(folder / "a.json", R"({"forward_type": "v03", "dims": "wide"})");
  const auto wrong = run_cli({"migrate-config", "--check", folder / "a.json"});
  CHECK(wrong.exit_code == 1);
  CHECK(contains(wrong.err, "a.json:1: /dims"));
  CHECK_FALSE(contains(wrong.err, "nothing to change"));
}

TEST_CASE("in Python sources the literal given to selective_scan_backend changes, and nothing else") {
  const std::string file = testing::data("configs") / "model.py", text = read_file(file);
  std::string wanted = text;
  for (const std::string old : {"selective_scan_backend = \"core\"", "\"selective_scan_backend\": 'core'",
                                "selective_scan_backend=r\"core\""}) {
    REQUIRE(contains(wanted, old));
    std::string now = old;
    now.replace(now.find("core"), 4, "oflex");
    wanted.replace(wanted.find(old), old.size(), now);
  }
  auto result = run_cli({"migrate-config", file});
  CHECK(result.exit_code == 0);
  CHECK(result.out == wanted);
  CHECK(contains(result.err, "model.py:3: selective_scan_backend: \"core\" -> \"oflex\" (not exact)"));
  CHECK(contains(result.err, "model.py:4: selective_scan_backend: \"core\""));
  CHECK(contains(result.err, "model.py:3: \"core\" stays"));
  CHECK(contains(result.err, "model.py:8: \"core\" stays"));
  for (const char* line : {"9", "10"})
    CHECK(contains(result.err,
                   fmt::format("model.py:{}: selective_scan_backend: newer releases refuse \"core\"; "
                               "write \"oflex\" there: this form is not rewritten",
                               line)));
  CHECK(contains(result.err, "model.py:10: \"core\" stays"));
  CHECK(
      contains(run_cli({"migrate-config", file, "--backend", "mamba"}).err, "\"core\" -> \"mamba\" (exact)"));
  CHECK(run_cli({"migrate-config", "--check", file}).exit_code == 1);
  testing::TemporaryDirectory folder;
  write_file(folder / "new.py", result.out);
  result = run_cli({"migrate-config", "--check", folder / "new.py"});
  CHECK(result.exit_code == 1);  // lines 9 and 10 still ask for core

  result = run_cli({"migrate-config", "--check", testing::data("configs") / "backbone.py"});
  CHECK(result.exit_code == 1);
  CHECK(contains(result.err,
                 "backbone.py:4: forward_type: newer releases refuse \"v3noz\"; write \"v3_noz\" there"));
  CHECK(contains(
      result.err,
      R"(backbone.py:3: type: an mmdet or mmseg config; this program reads JSON: write {"dims":96,)"));
  for (const char* broken : {"x = \"core", "x = \"\"\"core", "x = 'a\nb'"})
    CHECK_THROWS_WITH_AS(migrate_python(broken, "a.py"),
                         doctest::Contains("a.py:1: a string that does not end"), InputError);
  for (const char* odd : {"", "(", ")", "\\", "x = \\", "type='MM_VSSM'", "dict(type='MM_VSSM'",
                          "f(type='MM_VSSM', a=-", "#", "\"\"\"\"\"\""})
    CHECK(migrate_python(odd, "a.py").text == odd);
}

TEST_CASE("Python that asks for core in a form that is not rewritten never counts as nothing to change") {
  testing::TemporaryDirectory folder;
  const std::string file = folder / "a.py";
  const auto checked = [&](const std::string& text) {
    write_file(file, text);
    const auto result = run_cli({"migrate-config", "--check", file});
    CHECK(contains(result.err, "nothing to change") == (result.err == file + ": nothing to change\n"));
    CHECK(run_cli({"migrate-config", file}).out == text);
    return result;
  };
  for (const char* text : {
           "f(selective_scan_backend=(\"core\"))",
           "f(selective_scan_backend=((\n  'core')))",
           "d[\"selective_scan_backend\"] = \"core\"",
           "d['a'].selective_scan_backend = b = (\"core\")",
           "{\"selective_scan_backend\": (\"core\")}",
           "parser.add_argument(\"--selective_scan_backend\", default=\"core\")",
           "parser.add_argument('-b', \"--selective-scan-backend\", type=str, default=(\"core\"))",
           "f(selective_scan_backend=f\"core\")",
           "f(selective_scan_backend=\"co\" \"re\")",
           "f(selective_scan_backend=(\"co\"\n\"re\"))",
           "selective_scan_backend: str = \"core\" if x else None",
           "def f(a, selective_scan_backend: Optional[str] = os.environ.get('B', 'core')): pass",
           "f(selective_scan_backend=x or \"core\")",
           "setattr(x, \"selective_scan_backend\", \"core\")",
           "run([\"train.py\", \"--selective_scan_backend\", \"core\"])",
           "run([\"train.py\", \"--selective-scan-backend=core\"])",
           "if (selective_scan_backend := 'core'): pass",
           "f(selective_scan_backend=\"co\\x72e\")",
           "f(selective_scan_backend='\\143or' 'e')",
           "f(selective_scan_backend='c\\\nore')",
           "B = 'core'\nf(selective_scan_backend=B)",
       }) {
    INFO(text);
    const auto result = checked(text);
    CHECK(result.exit_code == 1);
    CHECK(contains(result.err,
                   "selective_scan_backend: newer releases refuse \"core\"; write \"oflex\" there"));
  }
  // Each text's exit code, what is said of it, and what is said of all.
  using Told = std::initializer_list<std::pair<const char*, const char*>>;
  const auto check_told = [&](int exit_code, const char* of_all, const Told& cases) {
    for (const auto& [text, told] : cases) {
      INFO(text);
      const auto result = checked(text);
      CHECK(result.exit_code == exit_code);
      CHECK_MESSAGE(contains(result.err, told), result.err);
      CHECK(contains(result.err, of_all));
    }
  };
  check_told(
      1, "",
      {
          {"f(forward_type=(\"v2\"))", "1: forward_type: newer releases refuse \"v2\"; write \"v03\" there"},
          {"d['forward_type'] = 'v' '2'", "1: forward_type: newer releases refuse \"v2\""},
          {"f(forward_type=f'v2')", "1: forward_type: newer releases refuse \"v2\""},
          {"_C.MODEL.VSSM.SSM_FORWARDTYPE = \"v2\"",
           "1: SSM_FORWARDTYPE: newer releases refuse \"v2\"; write \"v03\" there"},
          {"_C.MODEL.VSSM.SSM_FORWARDTYPE = 'v3noz'", "SSM_FORWARDTYPE: newer releases refuse \"v3noz\""},
          {"cfg.merge_from_list(['MODEL.VSSM.SSM_FORWARDTYPE', 'v2'])",
           "SSM_FORWARDTYPE: newer releases refuse"},
          {"cfg.merge_from_list(['MODEL.VSSM.SSM_FORWARDTYPE', 'xv1a'])", "\"xv1a\" is of the xv family"},
          {"# v2\nFT = \"v2\"\n\nm = VSSM(forward_type=FT)", "2: forward_type: newer releases refuse \"v2\""},
          {"FT = 'v2'; print(FT)\nif FT in x: m = VSSM(forward_type=FT)", "1: forward_type: newer releases"},
          {"VSSM(forward_type=\"xv1a\")", "1: forward_type: forward_type \"xv1a\" is of the xv family"},
          {"VSSM(forward_type='v99')", "1: forward_type: unknown forward_type \"v99\""},
          {"f(selective_scan_backend='ofelx')", "1: selective_scan_backend \"ofelx\": expected"},
      });
  // Values that cannot be told.
  check_told(
      0, "nothing is rewritten",
      {
          {"from x import FT\nVSSM(forward_type=FT)", "2: forward_type: the value of FT cannot be told"},
          {"FT = 'v05'\nFT = 'v3'\nVSSM(forward_type=FT)", "3: forward_type: the value of FT cannot"},
          {"FT = 'v05'\nFT += 'noz'\nVSSM(forward_type=FT)", "3: forward_type: the value of FT cannot"},
          {"FT = 'v05'\ndef f(FT): VSSM(forward_type=FT)", "2: forward_type: the value of FT cannot"},
          {"def f(FT='v05'): VSSM(forward_type=FT)\nf('v2')", "1: forward_type: the value of FT cannot"},
          {"FT = 'v05'\nfor FT in x: VSSM(forward_type=FT)", "2: forward_type: the value of FT cannot"},
          {"FT = 'v05', 1\nVSSM(forward_type=FT)", "2: forward_type: the value of FT cannot"},
          {"def f(forward_type): VSSM(forward_type=forward_type)", "the value of forward_type cannot"},
          {"VSSM(forward_type=c.MODEL.VSSM.SSM_FORWARDTYPE)",
           "the value of c.MODEL.VSSM.SSM_FORWARDTYPE cannot"},
          {"VSSM(forward_type=get(x))", "1: forward_type: the value of this expression cannot be told"},
          {"VSSM(forward_type='v05' if x else 'v3')", "1: forward_type: the value of this expression cannot"},
          {"VSSM(forward_type=None)", "1: forward_type: the value of None cannot be told"},
          {"VSSM(forward_type=f'v{n}')", "1: forward_type: the value of this string cannot be told"},
          {"VSSM(forward_type='v\\u0032')", "1: forward_type: the value of this string cannot be told"},
          {"VSSM(**kwargs)",
           "1: VSSM: whether a forward_type is given cannot be told here; the default, v2,"},
          {"p = dict(forward_type='v05')\nVSSM(**p)",
           "2: VSSM: whether a forward_type is given cannot be told"},
          {"_base_ = 'a.py'\nm = dict(type='MM_VSSM')", "2: MM_VSSM: whether a forward_type is given cannot"},
          {"f(selective_scan_backend=b)", "1: selective_scan_backend: the value of b cannot be told"},
          {"selective_scan_backend = 'oflex' if selective_scan_backend == 'core' else b",
           "1: selective_scan_backend: the value of this expression cannot be told"},
          {"selective_scan_backend = 'oflex' if b in ('core', 'v') else b", "this expression cannot be told"},
      });
  // The default is refused as well.
  check_told(
      1, "add forward_type \"v03\"",
      {
          {"m = VSSM(dims=96)", "1: VSSM: no forward_type is given, and the default, v2, asks for \"core\""},
          {"x = 1\nm = models.Backbone_VSSM()", "2: Backbone_VSSM: no forward_type is given, and"},
          {"dict(type=\"MM_VSSM\", dims=96)", "1: MM_VSSM: no forward_type is given, and"},
          {"{'backbone': {'dims': 96, 'type': 'MM_VSSM'}}", "1: MM_VSSM: no forward_type is given, and"},
          {"dict(dims=96, type=MM_VSSM)", "1: MM_VSSM: no forward_type is given, and"},
          {"partial(VSSM, dims=96)", "1: VSSM: no forward_type is given, and"},
          {"VSSM(block=dict(forward_type='v05'))", "1: VSSM: no forward_type is given, and"},
      });
  // A file that has the forward types says itself what they mean.
  const auto own = checked(
      "class SS2D:\n  T = dict(v2='oflex')\n  def f(self, forward_type='v2'): g(forward_type=forward_type)\n");
  CHECK(own.exit_code == 0);
  CHECK(contains(own.err, "nothing to change"));
  // Another "core" is left alone with a warning.
  for (const char* text : {
           "f(selective_scan_backend=\"oflex\", module=\"core\")",
           "f(selective_scan_backend=\"oflex\")[\"core\"]",
           "if selective_scan_backend == \"core\": pass",
           "x = 1 if selective_scan_backend != \"core\" else 2",
           "assert selective_scan_backend in (\"core\", \"oflex\")",
           "add_argument('--selective_scan_backend', choices=['core', 'oflex'], default='oflex')",
           "add_argument('--selective_scan_backend', help='core')",
           "selective_scan_backend: Literal['core', 'oflex'] = 'oflex'",
           "selective_scan_backend = 'oflex'\nx = 'core'",
           "selective_scan_backend = 'oflex'; x = f'core'",
           "x = 'co' 're'",
       }) {
    INFO(text);
    const auto result = checked(text);
    CHECK(result.exit_code == 0);
    CHECK(contains(result.err, "\"core\" stays"));
    CHECK(contains(result.err, "nothing is rewritten"));
  }
  for (
      const char* text : {
          "f(selective_scan_backend='oflex', forward_type='v05')",
          "VSSM(selective_scan_backend=None, forward_type=('v05' '_noz'))",
          "VSSM(2 ** 3, forward_type='v0\\x35')",
          "VSSM(**dict(forward_type='v05'))",
          "FT = 'v05'\nif FT == 'v2' or x(FT): y = FT.lower()\nVSSM(forward_type=FT)",
          "class VSSM(Module):\n  def __init__(self, dims=96, forward_type: str = \"v05\"): pass\nVSSM(dims=96)",
          "from models import VSSM\nisinstance(m, VSSM)",
          "for k in x:\n  if k == 'forward_type':\n    pass",
          "if forward_type in ['v0', 'v2'] and forward_type != 'v2': pass",
      }) {
    INFO(text);
    const auto result = checked(text);
    CHECK(result.exit_code == 0);
    CHECK_MESSAGE(contains(result.err, "nothing to change"), result.err);
  }
}

TEST_CASE("--in-place keeps what is there: an older copy, the permissions and a symbolic link") {
  namespace fs = std::filesystem;
  testing::TemporaryDirectory folder;
  const std::string old = "{\"forward_type\": \"v3noz\"}", file = folder / "c.json",
                    link = folder / "link.json";
  write_file(file, old);
  write_file(link + ".bak", "mine");
  fs::permissions(file, fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("c.json", link);
  const auto result = run_cli({"migrate-config", "--in-place", link});
  CHECK(result.exit_code == 0);
  CHECK(contains(result.err, "kept as " + link + ".bak2"));
  CHECK(read_file(link + ".bak") == "mine");
  CHECK(read_file(link + ".bak2") == old);
  CHECK(fs::is_symlink(link));
  CHECK(read_file(file) == "{\"forward_type\": \"v3_noz\"}");
  for (const std::string& path : {file, link + ".bak2"})
    CHECK(fs::status(path).permissions() == (fs::perms::owner_read | fs::perms::owner_write));
}

TEST_CASE("migrate-config refuses bad input with one line and writes nothing") {
  testing::TemporaryDirectory folder;
  const std::string file = folder / "c.json", output = folder / "out.json";
  const std::pair<std::string, const char*> broken[] = {{"{// no\n}", "not JSON"},
                                                        {"{\"a\": NaN}", "not JSON"},
                                                        {"{\"a\": 1, \"a\": 2}", "stands twice"},
                                                        {std::string(70000, '['), "nested"},
                                                        {"", "empty"},
                                                        {"{\"a\": \"\xff\"}", "UTF-8"},
                                                        {std::string(3 << 20, ' '), "larger"}};
  for (const auto& [text, word] : broken) {
    write_file(file, text);
    check_error(run_cli({"migrate-config", file, "-o", output}), 2, {"c.json", word});
    check_error(run_cli({"migrate-config", file, "--in-place"}), 2, {"c.json", word});
    CHECK(read_file(file) == text);
    CHECK_FALSE(std::filesystem::exists(output));
    CHECK_FALSE(std::filesystem::exists(file + ".bak"));
  }
  check_error(run_cli({"migrate-config", folder / "none.json"}), 2, {"none.json"});
  check_error(run_cli({"migrate-config", folder.path().string()}), 2, {"folder"});
  check_error(run_cli({"migrate-config"}), 2, {"FILE is required"});
  write_file(file, "{\"selective_scan_backend\": \"core\"}");
  check_error(run_cli({"migrate-config", file, "-o", folder / "no/such/folder.json"}), 2, {"folder.json"});
  check_error(run_cli({"migrate-config", file, "--check", "--in-place"}), 2, {"--in-place"});
  write_file(folder / "c.yaml", "MODEL: {}\n");
  check_error(run_cli({"migrate-config", folder / "c.yaml", "--in-place"}), 2, {"-o FILE.json"});
}
