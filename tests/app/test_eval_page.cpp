// eval --report and check-equal's flips, through the real binary: what the pages show and that they load nothing.
#include <doctest/doctest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "lib/images/image.h"
#include "lib/labels/accuracy.h"
#include "lib/report/confusion.h"
#include "lib/report/eval_page.h"
#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

const fs::path model = data("models/s1_ln2d");

CliResult run(const std::string& command, const std::vector<std::string>& arguments) {
  return run_model(model, command, arguments);
}

// Ten classes of three images each.
void deal(const TemporaryDirectory& folder) {
  const std::vector<std::string> images{"chelsea.png",           "coffee.png",          "images/rocket.jpg",
                                        "images/retina.jpg",     "images/cat_gray.png", "images/s224.png",
                                        "images/tall_37x800.png"};
  for (size_t i = 0; i < 30; ++i) {
    const fs::path file = data(images[i % images.size()]);
    const fs::path to = folder / ("k" + std::to_string(i % 10));
    fs::create_directories(to);
    fs::copy_file(file, to / (std::to_string(i) + file.extension().string()));
  }
}

nlohmann::json data_of(const std::string& html) {
  const size_t begin = html.find("application/json\">") + 18, end = html.find("</script>", begin);
  return nlohmann::json::parse(html.substr(begin, end - begin));
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// Everything that a page refers to is in it.
void check_self_contained(const std::string& html) {
  CHECK(count(html, "src=\"") == count(html, "src=\"data:image/jpeg;base64,"));
  for (const char* outside : {"https://", "href=", "@import", "url("})
    CHECK_MESSAGE(!contains(html, outside), outside);
}

}  // namespace

TEST_CASE("eval's page has the figures of its JSON, every wrong image, and thumbnails") {
  const TemporaryDirectory folder, out;
  deal(folder);
  const CliResult result = run("eval", {folder.path().string(), "--format", "json", "--report",
                                        out / "p.html", "--results", out / "r.jsonl"});
  REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  const auto json = nlohmann::json::parse(result.out);
  const std::string html = read_file(out / "p.html");
  check_self_contained(html);
  CHECK(contains(html, fmt::format("top-1, {} of 30", json["top1_count"].get<int>())));
  const auto page = data_of(html);
  REQUIRE(page["classes"].size() == 10);
  for (size_t i = 0; i < 10; ++i) {
    CHECK(page["classes"][i]["top1"] == json["classes"][i]["top1"]);
    const Interval interval = wilson_interval(std::lround(3 * page["classes"][i]["top1"].get<double>()), 3);
    CHECK(page["classes"][i]["low"].get<double>() == doctest::Approx(interval.low));
    CHECK(page["classes"][i]["high"].get<double>() == doctest::Approx(interval.high));
  }
  int images = 0, right = 0, wrong = 0;
  for (const auto& bin : page["bins"]) images += bin[0].get<int>(), right += bin[1].get<int>();
  for (const auto& pair : page["pairs"]) wrong += pair[2].get<int>();
  CHECK(images == 30);
  CHECK(right == json["top1_count"].get<int>());
  CHECK(wrong == 30 - right);
  CHECK(count(html, "<li>") == 24 + std::min(24, wrong));
  CHECK(count(html, "not readable") == 0);

  // Resumed from its results, the page is of the same answers.
  REQUIRE(run("eval", {folder.path().string(), "--report", out / "q.html", "--results", out / "r.jsonl"})
              .exit_code == 0);
  CHECK(data_of(read_file(out / "q.html")) == page);
  CHECK(count(read_file(out / "q.html"), "data:image/jpeg") == count(html, "data:image/jpeg"));
}

TEST_CASE("the page of merged shards is that of one run; images that are gone are named") {
  const TemporaryDirectory folder, out;
  deal(folder);
  const std::string set = folder.path().string();
  for (const std::string shard : {"0/2", "1/2"})
    REQUIRE(run("eval", {set, "--shard", shard, "--results", out / "r{shard}.jsonl"}).exit_code == 0);
  const std::vector<std::string> shards{out / "r0.jsonl", out / "r1.jsonl"};
  REQUIRE(run("eval", {set, "--report", out / "whole.html"}).exit_code == 0);
  REQUIRE(run_cli({"eval", "--merge", shards[0], shards[1], "--report", out / "merged.html"}).exit_code == 0);
  const std::string merged = read_file(out / "merged.html");
  CHECK(data_of(merged) == data_of(read_file(out / "whole.html")));
  CHECK(count(merged, "not readable") == 0);
  fs::remove_all(folder.path() / "k3");
  REQUIRE(run_cli({"eval", "--merge", shards[0], shards[1], "--report", out / "gone.html"}).exit_code == 0);
  CHECK(count(read_file(out / "gone.html"), "not readable") > 0);
}

TEST_CASE("images with several correct classes have no page by class") {
  const TemporaryDirectory folder, out;
  fs::copy_file(data("chelsea.png"), folder / "a.png");
  fs::copy_file(data("coffee.png"), folder / "b.png");
  write_file(out / "real.json", "[[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [2]]");
  const CliResult result =
      run("eval", {folder.path().string(), "--truth", out / "real.json", "--report", out / "p.html"});
  REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  const std::string html = read_file(out / "p.html");
  CHECK(!contains(html, "id=\"rows\""));
  CHECK(contains(html, "Calibration"));
}

TEST_CASE("names on the pages are escaped") {
  const TemporaryDirectory folder, out;
  const std::string bad = "<img src=x>\"&";
  for (int i = 0; i < 10; ++i) {
    const fs::path to = folder / (bad + std::to_string(i));
    fs::create_directories(to);
    fs::copy_file(data("chelsea.png"), to / (bad + ".png"));
  }
  REQUIRE(run("eval", {folder.path().string(), "--report", out / "p.html", "--confusion", out / "c.csv"})
              .exit_code == 0);
  const std::string html = read_file(out / "p.html");
  CHECK(!contains(html, "<img src=x>"));
  CHECK(contains(html, "&lt;img src=x&gt;&quot;&amp;"));
  CHECK(data_of(html)["classes"][0]["name"] == bad + "0");
  CHECK(fs::exists(out / "c.png"));

  REQUIRE(run("eval", {folder.path().string(), "--confusion", out / "alone.png"}).exit_code == 0);
  CHECK(read_file(out / "alone.png") == read_file(out / "c.png"));
  CHECK(!fs::exists(out / "alone.csv"));
}

TEST_CASE("check-equal's page shows the images whose label flips") {
  const TemporaryDirectory folder, out;
  deal(folder);
  REQUIRE(
      run_cli({"init-weights", "--config", model / "config.json", "--seed", "5", "-o", out / "b.safetensors"})
          .exit_code == 0);
  const CliResult result =
      run_cli({"check-equal", "--a", "weights=" + (model / "weights.safetensors").string(), "--b",
               "weights=" + (out / "b.safetensors"), "--config", model / "config.json", "--device", "cpu",
               "--images", folder.path().string(), "--format", "json", "--report", out / "p.html"});
  REQUIRE_MESSAGE(result.exit_code == 1, result.err);
  const size_t flips = nlohmann::json::parse(result.out)["data_set"]["flips"].size();
  REQUIRE(flips > 0);
  const std::string html = read_file(out / "p.html");
  check_self_contained(html);
  CHECK(count(html, "<li><img") == flips);
  CHECK(contains(html, fmt::format("{} of 30", flips)));
}

TEST_CASE("confused pairs come by count, and the classes of a pair stand together") {
  Accuracy accuracy(6);
  const auto add = [&](int truth, int answer, int times) {
    for (int i = 0; i < times; ++i) accuracy.add(truth, {answer});
  };
  add(0, 0, 5), add(0, 3, 2), add(1, 4, 7), add(4, 1, 1), add(2, 2, 4), add(5, 0, 3);
  const std::vector<ConfusedPair> pairs = confused_pairs(accuracy);
  REQUIRE(pairs.size() == 4);
  CHECK(pairs[0].truth == 1);
  CHECK(pairs[0].answer == 4);
  CHECK(pairs[0].count == 7);
  CHECK(pairs[1].images == 3);
  CHECK(most_confused(pairs, 4) == std::vector<int>{1, 4, 5, 0});
  CHECK(most_confused(pairs, 6) == std::vector<int>{1, 4, 5, 0, 3});
  for (const int classes : {6, 40, 5000}) {
    Accuracy many(classes);
    std::vector<std::string> names;
    for (int i = 0; i < classes; ++i) {
      many.add(i, {i % 3 == 0 ? (i + 1) % classes : i});
      names.push_back(i % 2 ? "näme" : std::string(300, 'w'));
    }
    const std::string png = confusion_picture(many, names);
    CHECK(png.starts_with("\x89PNG"));
    CHECK(decode_image(parse_image(png, "c.png")).width < 5000);
  }
  CHECK(confusion_picture(Accuracy(3), {"a", "b", "c"}).starts_with("\x89PNG"));
}

TEST_CASE("calibration counts by probability; the lists keep the extremes") {
  AnswersToShow answers;
  for (int i = 0; i < 100; ++i) answers.add({std::to_string(i), {i % 4 == 0 ? 1 : 0}, 0, i / 100.0, {}});
  REQUIRE(answers.confidently_wrong.size() == AnswersToShow::most);
  CHECK(answers.confidently_wrong[0].file == "96");
  CHECK(answers.confidently_wrong[1].file == "92");
  CHECK(answers.least_certain[0].file == "0");
  CHECK(answers.least_certain.back().file == "23");
  int64_t images = 0;
  for (const auto& bin : answers.bins) images += bin.images;
  CHECK(images == 100);
  AnswersToShow sure;
  for (int i = 0; i < 10; ++i) sure.add({"x", {0}, i < 8 ? 0 : 1, 1.0, {}});
  CHECK(sure.calibration_error() == doctest::Approx(0.2));
}
