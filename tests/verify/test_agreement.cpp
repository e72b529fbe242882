// The labels of two models over a data set and in two files of results: the figures by hand, then check-equal as a user
// runs it beside what classify answers.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lib/images/image.h"
#include "lib/support/files.h"
#include "lib/tensors/state_dict.h"
#include "lib/verify/agreement.h"
#include "tests/testing.h"
#include "tests/verify/report.h"

using namespace vmamba;
using namespace vmamba::testing;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

const fs::path model = data("models/s1_ln2d");

CliResult run(const std::string& command, std::vector<std::string> more) {
  more.insert(more.begin(), {command, "--config", model / "config.json", "--device", "cpu", "-q"});
  return run_cli(more);
}

json report(const CliResult& result, int exit_code) {
  CHECK_MESSAGE(result.exit_code == exit_code, result.err);
  return valid_report(result);
}

// The images of tests/data dealt to ten folders, k0 to k9.
void deal(const TemporaryDirectory& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(data("images")))
    if (has_image_ending(entry.path())) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  REQUIRE(files.size() > 35);
  for (size_t i = 0; i < files.size(); ++i) {
    const fs::path target = folder.path() / fmt::format("k{}", i % 10);
    fs::create_directories(target);
    fs::copy_file(files[i], target / files[i].filename());
  }
}

// The model with its head's bias changed: `what` of each of its values.
template <class What>
std::string other_model(const TemporaryDirectory& folder, const std::string& name, const What& what) {
  const StateDict was = read_safetensors(model / "weights.safetensors");
  StateDict is;
  for (const auto& [tensor, stored] : was.tensors) {
    HostTensor values = stored.to_float32();
    if (tensor == "classifier.head.bias")
      for (size_t i = 0; i < values.values.size(); ++i) values.values[i] = what(i, values.values[i]);
    is.add(tensor, values);
  }
  write_safetensors(folder / name, is);
  return folder / name;
}

}  // namespace

TEST_CASE("McNemar's exact test is the binomial's two tails") {
  CHECK(mcnemar_exact(0, 0) == 1);
  CHECK(mcnemar_exact(5, 0) == doctest::Approx(2.0 / 32).epsilon(1e-12));
  CHECK(mcnemar_exact(0, 5) == mcnemar_exact(5, 0));
  CHECK(mcnemar_exact(1, 9) == doctest::Approx(2 * (1 + 10) / 1024.0).epsilon(1e-12));
  CHECK(mcnemar_exact(3, 7) == doctest::Approx(2 * (1 + 10 + 45 + 120) / 1024.0).epsilon(1e-12));
  CHECK(mcnemar_exact(10, 10) == 1);
  // Of many the normal distribution's: 2 · (1 − Φ((200 − 1) / √10000)).
  CHECK(mcnemar_exact(5100, 4900) == doctest::Approx(std::erfc(1.99 / std::sqrt(2.0))).epsilon(1e-3));
  CHECK(mcnemar_exact(600'000, 400'000) >= 0);
}

TEST_CASE("what agrees, what does not, and who is right") {
  const auto answer = [](std::initializer_list<float> logits) {
    return answer_of(std::span(logits.begin(), logits.size()));
  };
  const Answer zero = answer({3, 1, 2.5f}), one = answer({1, 3, 2}), tie = answer({2, 2});
  const Answer none = answer({1, NAN, 2}), infinite = answer({1, INFINITY});
  CHECK(zero.label == 0);
  CHECK(zero.margin == 0.5);
  CHECK(tie.label == 0);
  CHECK(tie.margin == 0);
  CHECK(none.label == -1);
  CHECK(infinite.label == -1);
  CHECK(answer({1, -INFINITY}).label == 0);
  CHECK_FALSE(answer({7}).margin);

  LabelAgreement labels;
  labels.add("same", zero, zero, {0});
  labels.add("lost", zero, one, {0});
  labels.add("won", zero, one, {1});
  labels.add("nothing", none, none, {2});
  labels.add("unknown", one, one, {});
  labels.add("several", zero, one, {0, 1});
  CHECK(labels.images == 6);
  CHECK(labels.agreeing == 2);
  CHECK(labels.no_answer_a == 1);
  CHECK(labels.flips.size() == 4);
  CHECK(labels.margins() == std::vector<double>{0.5, 0.5, 0.5});
  CHECK(labels.right.images == 5);
  CHECK(labels.right.a == 3);
  CHECK(labels.right.b == 3);
  CHECK(labels.right.a_alone == 1);
  CHECK(labels.right.b_alone == 1);
  REQUIRE(labels.worse_classes().size() == 1);
  CHECK(labels.worse_classes()[0].first == 0);

  // 2 of 6: Wilson's interval is 0.0968 to 0.7000.
  CHECK(labels.interval().low == doctest::Approx(0.0968).epsilon(1e-3));
  CHECK(labels.interval().high == doctest::Approx(0.7000).epsilon(1e-3));
  CHECK(labels.holds());
  const auto verdict = [&](double minimum) {
    labels.minimum = minimum;
    return std::pair(labels.holds(), labels.conclusive());
  };
  CHECK(verdict(0.09) == std::pair(true, true));
  CHECK(verdict(1.0 / 3) == std::pair(true, false));
  CHECK(verdict(0.5) == std::pair(false, false));
  CHECK(verdict(0.8) == std::pair(false, true));
}

TEST_CASE("a verdict over a data set is what classify answers for both sides") {
  const TemporaryDirectory folder, out;
  deal(folder);
  const std::string weights = model / "weights.safetensors", images = folder.path();
  const auto classify = [&](const std::string& of) {
    const CliResult result = run("classify", {images, "--weights", of, "--topk", "2", "--format", "jsonl"});
    REQUIRE(result.exit_code == 0);
    std::vector<json> lines;
    std::istringstream text(result.out);
    for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
    return lines;
  };
  // A bias that is larger by the median margin for the class that most images lie in: many labels flip, not all.
  const std::vector<json> a = classify(weights);
  const auto margin = [](const json& line) {
    return line["top"][0]["logit"].get<double>() - line["top"][1]["logit"].get<double>();
  };
  std::vector<double> margins;
  for (const json& line : a) margins.push_back(margin(line));
  std::sort(margins.begin(), margins.end());
  const size_t second = a[0]["top"][1]["class"];
  const auto shift = static_cast<float>(margins[margins.size() / 2]);
  const std::string other = other_model(
      out, "other.safetensors", [&](size_t i, float value) { return i == second ? value + shift : value; });
  const std::vector<json> b = classify(other);
  REQUIRE(a.size() == b.size());
  json flips = json::array();
  int right_a = 0, right_b = 0, a_alone = 0, b_alone = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const int one = a[i]["top"][0]["class"], two = b[i]["top"][0]["class"];
    if (one != two)
      flips.push_back({{"file", a[i]["file"]}, {"a", one}, {"b", two}, {"margin", margin(a[i])}});
    const int truth = fs::path(a[i]["file"].get<std::string>()).parent_path().filename().string()[1] - '0';
    right_a += one == truth;
    right_b += two == truth;
    a_alone += one == truth && two != truth;
    b_alone += two == truth && one != truth;
  }
  REQUIRE(flips.size() > 2);
  REQUIRE(flips.size() < a.size());
  const std::vector<std::string> sides{
      "--a", "weights=" + weights, "--b", "weights=" + other, "--images", images, "--dtype", "float32"};
  const auto check = [&](std::vector<std::string> more) {
    more.insert(more.begin(), sides.begin(), sides.end());
    return run("check-equal", more);
  };

  for (const char* batch : {"1", "4"}) {
    const json found =
        report(check({"--min-agreement", "0.999", "--batch-size", batch, "--format", "json"}), 1);
    const json& labels = found["data_set"];
    CHECK(labels["images"] == a.size());
    CHECK(labels["agreeing"] == a.size() - flips.size());
    CHECK(labels["flips"] == flips);
    CHECK(labels["holds"] == false);
    CHECK(labels["accuracy"]["images"] == a.size());
    CHECK(labels["accuracy"]["a"].get<double>() * double(a.size()) == doctest::Approx(right_a));
    CHECK(labels["accuracy"]["b"].get<double>() * double(a.size()) == doctest::Approx(right_b));
    CHECK(labels["accuracy"]["a_alone"] == a_alone);
    CHECK(labels["accuracy"]["b_alone"] == b_alone);
    CHECK(labels["accuracy"]["p"].get<double>() ==
          doctest::Approx(mcnemar_exact(a_alone, b_alone)).epsilon(1e-12));
    CHECK(found["agreement"]["images"] == std::stoi(batch));  // taps: of the first batch
  }
  // The verdict is by the labels, whatever the taps do; without a minimum by the taps of all images.
  const std::string low = fmt::format("{}", 0.5 * double(a.size() - flips.size()) / double(a.size()));
  const json holds = report(check({"--min-agreement", low, "--batch-size", "4", "--format", "json"}), 0);
  CHECK(holds["equal"] == true);
  CHECK(holds["first_outside"] == "logits");
  const json by_taps = report(check({"--batch-size", "8", "--format", "json"}), 1);
  CHECK(by_taps["agreement"]["images"] == a.size());
  CHECK(by_taps["data_set"]["holds"].is_null());
  CHECK(by_taps["data_set"]["flips"] == flips);

  const CliResult text = check({"--min-agreement", "0.999"});
  CHECK(text.exit_code == 1);
  for (const std::string& words :
       {std::string("is below --min-agreement 0.999"), fmt::format("flips: {}", flips.size()),
        std::string("McNemar"), flips[0]["file"].get<std::string>(), std::string("class")})
    CHECK_MESSAGE(text.out.find(words) != std::string::npos, text.out);

  // The same from files, of which classify's know the margins and eval's the classes.
  const auto save = [&](const std::string& command, const std::string& of, const std::string& to) {
    const std::vector<std::string> how =
        command == "eval" ? std::vector<std::string>{images, "--results", to}
                          : std::vector<std::string>{images, "--format", "jsonl", "-o", to};
    std::vector<std::string> all = how;
    all.insert(all.end(), {"--weights", of});
    REQUIRE(run(command, all).exit_code == 0);
    return to;
  };
  const auto results = [&](const std::string& one, const std::string& two, std::vector<std::string> more) {
    more.insert(more.begin(), {"check-equal", "--results", one, two, "-q", "--format", "json"});
    return run_cli(more);
  };
  const std::string classify_a = save("classify", weights, out / "ca.jsonl"),
                    classify_b = save("classify", other, out / "cb.jsonl"),
                    eval_a = save("eval", weights, out / "ea.jsonl"),
                    eval_b = save("eval", other, out / "eb.jsonl");
  const json by_classify = report(results(classify_a, classify_b, {}), 1);
  CHECK(by_classify["kind"] == "results");
  CHECK(by_classify["data_set"]["flips"] == flips);
  CHECK(by_classify["data_set"]["accuracy"].is_null());
  CHECK(by_classify["a"]["header"].is_null());
  const json by_eval = report(results(eval_a, eval_b, {}), 1);
  CHECK(by_eval["data_set"]["agreeing"] == a.size() - flips.size());
  CHECK(by_eval["data_set"]["margins"].is_null());
  CHECK(by_eval["data_set"]["accuracy"] == by_taps["data_set"]["accuracy"]);
  CHECK(by_eval["a"]["header"]["dtype"] == "float32");
  CHECK(by_eval["a"]["header"]["weights_sha256"] != by_eval["b"]["header"]["weights_sha256"]);
  CHECK(report(results(eval_a, eval_b, {"--min-agreement", low}), 0)["equal"] == true);
  CHECK(report(results(eval_a, eval_a, {}), 0)["data_set"]["flips"].empty());
  check_error(results(eval_a, classify_b, {}), 2, {"nothing to compare", "no image in common"});

  // Of classify --results, which notes the model, once they are finished.
  REQUIRE(run("classify", {images, "--weights", weights, "--results", out / "ra.jsonl"}).exit_code == 0);
  const json by_position = report(results(out / "ra.jsonl", classify_b, {}), 1);
  CHECK(by_position["data_set"]["flips"] == flips);
  CHECK(by_position["a"]["header"]["weights_sha256"] == by_eval["a"]["header"]["weights_sha256"]);
  CHECK(run_cli({"check-equal", "-q", "--results", out / "ra.jsonl", out / "ra.jsonl"})
            .out.find("ra.jsonl, SHA-256") != std::string::npos);
  const std::string positioned = read_file(out / "ra.jsonl");
  const size_t end = positioned.rfind("{\"end\"");
  for (const std::string& unfinished : {positioned.substr(0, end), positioned.substr(0, end - 5)}) {
    write_file(out / "cut.jsonl", unfinished);
    check_error(results(out / "cut.jsonl", classify_a, {}), 2, {"cut.jsonl", "is not finished"});
  }
  write_file(out / "cut.jsonl", positioned.substr(positioned.find('\n') + 1));
  check_error(results(out / "cut.jsonl", classify_a, {}), 2, {"cut.jsonl:1", "first line is missing"});
  write_file(out / "cut.jsonl", positioned + positioned.substr(end));
  check_error(results(out / "cut.jsonl", classify_a, {}), 2, {"cut.jsonl:", "not a line of"});

  // Keys: what one file lacks, and what one has twice.
  const std::string all = read_file(classify_b), first = all.substr(0, all.find('\n') + 1);
  write_file(out / "less.jsonl", all.substr(first.size()));
  write_file(out / "more.jsonl", all + first);
  const json less = report(results(classify_b, out / "less.jsonl", {}), 1);
  CHECK(less["b"]["missing"] == json::array({b[0]["file"]}));
  CHECK(less["a"]["missing"].empty());
  CHECK(less["data_set"]["share"] == 1);
  const json twice = report(results(out / "more.jsonl", classify_b, {}), 1);
  CHECK(twice["a"]["doubled"] == json::array({b[0]["file"]}));
  CHECK(twice["data_set"]["images"] == a.size() - 1);
}

TEST_CASE("images that do not say what they show; models with NaN; a file that is no image") {
  const TemporaryDirectory folder, out;
  const std::string weights = model / "weights.safetensors", cat = data("chelsea.png"),
                    coffee = data("coffee.png");
  const std::vector<std::string> two{"--weights", weights, "--images", cat, coffee, "--dtype", "float32"};
  const auto check = [&](std::vector<std::string> more) {
    more.insert(more.begin(), two.begin(), two.end());
    return run("check-equal", more);
  };
  const json alone = report(check({"--min-agreement", "1", "--format", "json"}), 0);
  CHECK(alone["data_set"]["accuracy"].is_null());
  CHECK(alone["data_set"]["truth"].get<std::string>().find("folder for each class") != std::string::npos);
  CHECK(check({"--min-agreement", "1"}).out.find("on these images") != std::string::npos);

  const std::string broken =
      other_model(out, "nan.safetensors", [](size_t i, float value) { return i == 3 ? NAN : value; });
  const json none = report(run("check-equal", {"--weights", broken, "--images", cat, coffee, "--dtype",
                                               "float32", "--min-agreement", "0.5", "--format", "json"}),
                           1);
  CHECK(none["data_set"]["agreeing"] == 0);
  CHECK(none["data_set"]["no_answer"]["b"] == 2);
  CHECK(none["data_set"]["flips"][0]["a"].is_null());

  fs::create_directories(folder.path() / "k0");
  fs::copy_file(cat, folder.path() / "k0/a.png");
  write_file(folder / "k0/b.png", "no image");
  check_error(run("check-equal", {"--weights", weights, "--images", folder.path(), "--dtype", "float32",
                                  "--min-agreement", "0.9"}),
              2, {"b.png"});
  // Folders that are no classes of this model: no accuracies, and why.
  fs::remove(folder.path() / "k0/b.png");
  const json folders = report(run("check-equal", {"--weights", weights, "--images", folder.path(), "--dtype",
                                                  "float32", "--min-agreement", "0.9", "--format", "json"}),
                              0);
  CHECK(folders["data_set"]["truth"].get<std::string>().find("10 classes") != std::string::npos);
}

TEST_CASE("files of results that are none, and options that make no sense with them") {
  const TemporaryDirectory out;
  const std::string good = R"({"file": "x", "top": [1, 2], "probability": 0.5})"
                           "\n";
  write_file(out / "good.jsonl", good);
  const auto compared = [&](const std::string& text, std::vector<std::string> more = {}) {
    write_file(out / "other.jsonl", text);
    more.insert(more.begin(), {"check-equal", "-q", "--results", out / "good.jsonl", out / "other.jsonl"});
    return run_cli(more);
  };
  CHECK(compared(good).exit_code == 0);
  CHECK(compared(R"({"file": "x", "top": [1], "probability": 0.5})").exit_code == 0);
  CHECK(compared(R"({"file": "x", "top": [2], "probability": 0.5})").exit_code == 1);
  // NaN gives no answer; what was tried again counts once.
  CHECK(compared(R"({"file": "x", "top": [1], "probability": null})").exit_code == 1);
  CHECK(compared(R"({"file": "x", "error": "x: cut off"})"
                 "\n" +
                 good)
            .exit_code == 0);
  // An image that one file does not name is missing there, read or not.
  const std::string unread = R"({"file": "y", "error": "y: cut off"})"
                             "\n";
  const CliResult one_lacks = compared(good + unread);
  CHECK(one_lacks.exit_code == 1);
  CHECK(contains(one_lacks.out, "missing in a: 1\n  y\n"));
  write_file(out / "both.jsonl", good + unread);
  CHECK(run_cli({"check-equal", "-q", "--results", out / "both.jsonl", out / "other.jsonl"}).exit_code == 0);
  CHECK(compared(R"({"classify": ["x"], "shard": "0/1"})"
                 "\n" +
                 good + R"({"end": {"inputs": 1}})")
            .exit_code == 2);  // an incomplete last line
  CHECK(compared(R"({"classify": ["x"], "shard": "0/1"})"
                 "\n" +
                 good + R"({"end": {"inputs": 1}})" + "\n")
            .exit_code == 0);
  CHECK(compared(good + R"({"file": "y", "top": [1], "probability": 0.5})").exit_code == 1);
  check_error(compared(R"({"file": "x", "error": "x: cut off"})"), 2,
              {"nothing to compare: no image could be read in both"});
  check_error(compared(""), 2, {"nothing to compare"});
  check_error(compared(R"({"file": "x", "top": [1]})"), 2, {"other.jsonl:1: not a line of eval --results"});
  for (const std::string& line :
       {std::string("x"), std::string("[]"), std::string("{}"), std::string(R"({"file": 1, "top": [1]})"),
        std::string(R"({"file": "x"})"), std::string(R"({"file": "x", "top": 1})"),
        std::string(R"({"file": "x", "top": [-1], "probability": 1})"),
        std::string(R"({"file": "x", "top": [1.5], "probability": 1})"),
        std::string(R"({"file": "x", "top": [99999999999], "probability": 1})"),
        std::string(R"({"file": "x", "top": [1], "probability": "a"})"),
        std::string(R"({"file": "x", "class": [], "top": [1], "probability": 1})"),
        std::string(R"({"file": "x", "top": [{"class": "a", "probability": 1}]})"),
        std::string(R"({"file": "x", "to)"),
        std::string(R"({"file": "x", "top": )") + std::string(100'000, '[') + std::string(100'000, ']') +
            "}"})
    check_error(compared(good + line), 2, {"other.jsonl:2", "not a line of eval --results"});
  check_error(compared(R"({"eval": "x", "shard": "0/2"})"), 2, {"other.jsonl: holds one shard", "--merge"});
  const auto of_images = [&](const std::string& made_by) {
    return compared(R"({"eval": "x", "made_by": {)" + made_by + "}}\n" + good);
  };
  CHECK(of_images(R"("images": 1)").exit_code == 0);
  check_error(of_images(R"("images": 2)"), 2,
              {"other.jsonl: is not finished: it has 1 of 2 images: run eval --results"});
  check_error(of_images(""), 2, {"other.jsonl: does not say how many images it is of", "older version"});
  write_file(out / "good.jsonl", R"({"file": "x", "class": 1, "top": [1], "probability": 0.5})");
  check_error(compared(R"({"file": "x", "class": 2, "top": [1], "probability": 0.5})"), 2,
              {"of class 1", "of class 2"});
  check_error(compared(R"({"file": "x", "class": [1, 3], "top": [1], "probability": 0.5})"), 2,
              {"of class 1 in", "of class 1 or 3 in"});
  const auto named = [](const char* label) {
    return fmt::format(R"({{"file": "x", "top": [{{"class": 1, "label": "{}", "probability": 0.5}}]}})",
                       label);
  };
  write_file(out / "good.jsonl", named("ant"));
  CHECK(compared(named("ant")).exit_code == 0);
  check_error(compared(named("bird")), 2,
              {"\"x\": class 1 is \"ant\" in", "\"bird\" in", "of other class lists"});
  check_error(run_cli({"check-equal", "--results", out / "good.jsonl"}), 2, {"--results"});
  check_error(run_cli({"check-equal", "--results", out / "good.jsonl", "nothing.jsonl"}), 2,
              {"nothing.jsonl"});

  const std::string weights = model / "weights.safetensors", image = data("chelsea.png");
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"--weights", weights},
                                             {"--config", model / "config.json"},
                                             {"--device", "cpu"},
                                             {"--threads", "1"},
                                             {"--a", "dtype=float16"},
                                             {"--b", "dtype=float16"},
                                             {"--atol", "1"},
                                             {"--rtol", "1"},
                                             {"--equal-nan"},
                                             {"--seed", "1"},
                                             {"--images", image},
                                             {"--batch-size", "2"},
                                             {"--all"},
                                             {"--report", "x.html"},
                                             {"--truth"},
                                             {"--margin", "2"},
                                             {"-o", "x"},
                                             {"--input-tensor", "x"}})
    check_error(compared(good, more), 2, {"--results does not use it"});
  check_error(compared(good, {"--matrix"}), 2, {"exclude each other"});
  const auto refused = [&](std::vector<std::string> more, const std::vector<std::string>& words) {
    more.insert(more.end(), {"--weights", weights});
    check_error(run("check-equal", more), 2, words);
  };
  refused({"--min-agreement", "0.9"}, {"--min-agreement", "--images"});
  for (const char* mode : {"--matrix", "--stress", "--find-precision"})
    refused({mode, "--min-agreement", "0.9"}, {"--min-agreement", mode});
  refused({"--repeat", "2", "--min-agreement", "0.9"}, {"--min-agreement", "--repeat"});
  refused({"--reference", "x", "--min-agreement", "0.9"}, {"--min-agreement", "--reference"});
  for (const char* share : {"0", "-1", "1.1", "99.9", "nan", "x"})
    refused({"--images", image, "--min-agreement", share}, {"--min-agreement", share});
  refused({"--margin", "2"}, {"--margin", "does not use it"});
  refused({"--find-precision", "--margin", "0.5"}, {"--margin", "0.5"});
  refused({"--images", image, "--min-agreement", "0.9", "--b",
           "config=" + data("models/vanilla_v0_odd_size/config.json").string()},
          {"vanilla_v0_odd_size"});
}
