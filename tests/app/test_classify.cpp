// classify, through the real binary, on a small reference model: answers, formats, saved tensors, bad inputs.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "app/classifier.h"
#include "kernels/error.h"
#include "lib/images/image.h"
#include "lib/images/preprocess.h"
#include "lib/support/files.h"
#include "lib/support/sha256.h"
#include "lib/tensors/state_dict.h"
#include "tests/images/jpegs.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;
namespace fs = std::filesystem;

namespace {

const fs::path model = data("models/s1_ln2d");
const fs::path cat_jpeg = data("images/cat_420.jpg");
const std::string cat = data("chelsea.png").string(), coffee = data("coffee.png").string();

CliResult classify(const std::vector<std::string>& arguments, const CliRun& run = {}) {
  return run_model(model, "classify", arguments, run);
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> all;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) all.push_back(line);
  return all;
}

void check_close(const std::vector<float>& got, const std::vector<float>& wanted, double tolerance) {
  REQUIRE(got.size() == wanted.size());
  double largest = 1, difference = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(wanted[i])));
    difference = std::max(difference, std::abs(static_cast<double>(got[i]) - wanted[i]));
  }
  CHECK(difference <= tolerance * largest);
}

}  // namespace

TEST_CASE("a tensor that PyTorch normalised gets PyTorch's logits") {
  const TemporaryDirectory folder;
  const CliResult result = classify({"--input-tensor", model / "io.safetensors", "--save-logits",
                                     folder / "logits.safetensors", "--format", "jsonl", "--topk", "2"});
  INFO(result.err);
  CHECK(result.exit_code == 0);
  const StateDict reference = read_safetensors(model / "io.safetensors");
  const StateDict saved = read_safetensors(folder / "logits.safetensors");
  const HostTensor wanted = reference.at("logits").to_float32(), got = saved.at("logits").to_float32();
  CHECK(got.dims == wanted.dims);
  check_close(got.values, wanted.values, 1e-5);
  const auto answers = lines(result.out);
  REQUIRE(answers.size() == static_cast<size_t>(wanted.dims[0]));
  const size_t classes = static_cast<size_t>(wanted.dims[1]);
  for (size_t i = 0; i < answers.size(); ++i) {
    const auto begin = got.values.begin() + static_cast<ptrdiff_t>(i * classes);
    const auto line = nlohmann::json::parse(answers[i]);
    CHECK(line["top"].size() == 2);
    CHECK(line["top"][0]["class"] ==
          std::max_element(begin, begin + static_cast<ptrdiff_t>(classes)) - begin);
  }
}

TEST_CASE("logits that are NaN or infinite are no answer, in every format, and exit code 1") {
  const TemporaryDirectory folder;
  for (const float value : {NAN, INFINITY}) {
    CAPTURE(value);
    StateDict weights;
    for (const auto& [name, tensor] : read_safetensors(model / "weights.safetensors").tensors) {
      HostTensor values = tensor.to_float32();
      if (name == "classifier.head.bias") values.values[3] = value;
      weights.add(name, values);
    }
    write_safetensors(folder / "w.safetensors", weights);
    const auto answer = [&](const std::string& format) {
      const CliResult result = run_cli({"classify", cat, "--config", model / "config.json", "--weights",
                                        folder / "w.safetensors", "--device", "cpu", "--format", format});
      CHECK(result.exit_code == 1);
      CHECK(result.err.find("1 of 1 image with logits that are not finite") != std::string::npos);
      return result.out;
    };
    CHECK(answer("text") == cat + "\n  no answer: its logits are NaN or infinite\n");
    CHECK(lines(answer("csv")).at(1) == cat + ",,,,,,no answer: its logits are NaN or infinite");
    CHECK(nlohmann::json::parse(answer("jsonl")) ==
          nlohmann::json{{"file", cat}, {"top", nlohmann::json::array()}});
    const auto document = nlohmann::json::parse(answer("json"));
    CHECK(document["no_answer"] == 1);
    CHECK(document["results"][0]["top"].empty());
  }
}

TEST_CASE("a kept result says what it was made of: SHA-256, version and command; JSON lines in the summary") {
  const TemporaryDirectory folder;
  const auto made_of = [](const nlohmann::json& json) {
    CHECK(json["weights_sha256"].get<std::string>().size() == 64);
    CHECK(json["config_sha256"].get<std::string>().size() == 64);
    CHECK(json["labels_sha256"].is_null());
    return json["weights_sha256"].get<std::string>();
  };
  const CliResult result = classify({cat, "--format", "json"});
  REQUIRE(result.exit_code == 0);
  const auto document = nlohmann::json::parse(result.out);
  const std::string weights = made_of(document);
  CHECK(document["input_sha256"] == sha256(sha256(read_file(cat))));
  const auto both = nlohmann::json::parse(classify({cat, "/no/such.png", coffee, "--format", "json"}).out);
  CHECK(both["input_sha256"] == sha256(sha256(read_file(cat)) + sha256(read_file(coffee))));
  CHECK(document["made_by"]["command"].get<std::string>().find("classify") != std::string::npos);
  for (const char* key : {"version", "commit", "machine", "threads", "batch"})
    CHECK(document["made_by"].contains(key));
  const CliResult streamed = classify({cat, "--format", "jsonl", "--summary", folder / "s.json"});
  REQUIRE(streamed.exit_code == 0);
  CHECK(nlohmann::json::parse(streamed.out) == document["results"][0]);
  const auto summary = nlohmann::json::parse(read_file(folder / "s.json"));
  CHECK(made_of(summary["ran_on"]) == weights);
  CHECK(summary["program"].contains("version"));
  const CliResult features =
      run_model(model, "features", {cat, "-o", folder / "f.safetensors", "--summary", folder / "f.json"});
  REQUIRE(features.exit_code == 0);
  CHECK(nlohmann::json::parse(read_file(folder / "f.json"))["ran_on"]["b"]["weights_sha256"] == weights);
}

TEST_CASE("an input tensor of pixels is refused, and of large values remarked on") {
  const TemporaryDirectory folder;
  const std::string file = folder / "input.safetensors";
  std::vector<uint8_t> pixels(3 * 64 * 64, 128);
  StateDict input;
  input.add("input", View{pixels.data(), DType::uint8, {}, {1, 3, 64, 64}});
  write_safetensors(file, input);
  for (const char* command : {"classify", "check-equal"})
    check_error(run_model(model, command, {"--input-tensor", file}), 2,
                {file, "input is uint8", "wanted normalised floating-point values"});
  HostTensor large = read_safetensors(model / "io.safetensors").at("input").to_float32();
  large.values[7] = -255;
  input.tensors.clear();
  input.add("input", large);
  write_safetensors(file, input);
  const CliResult result = classify({"--input-tensor", file});
  CHECK(result.exit_code == 0);
  CHECK(contains(result.err, "values up to 255: it is taken as normalised already"));
}

TEST_CASE("what was saved of images is their normalised crops, and gives the same logits again") {
  const TemporaryDirectory folder;
  const CliResult first = classify({cat, coffee, "--save-input", folder / "input.safetensors",
                                    "--save-logits", folder / "a.safetensors", "--format", "json"});
  INFO(first.err);
  REQUIRE(first.exit_code == 0);
  const StateDict input = read_safetensors(folder / "input.safetensors");
  CHECK(input.metadata.at("files") == nlohmann::json({cat, coffee}).dump());
  const HostTensor saved = input.at("input").to_float32();
  CHECK(saved.dims == std::vector<int64_t>{2, 3, 64, 64});
  PreprocessConfig preprocess;
  preprocess.resize = 73;
  preprocess.crop = 64;
  std::vector<float> planes(3 * 64 * 64);
  normalize_chw(resize_and_crop(read_image(coffee), preprocess), preprocess, planes);
  CHECK(
      std::equal(planes.begin(), planes.end(), saved.values.begin() + static_cast<ptrdiff_t>(planes.size())));

  const CliResult second = classify({"--input-tensor", folder / "input.safetensors", "--save-logits",
                                     folder / "b.safetensors", "--format", "json"});
  REQUIRE(second.exit_code == 0);
  check_close(read_safetensors(folder / "b.safetensors").at("logits").to_float32().values,
              read_safetensors(folder / "a.safetensors").at("logits").to_float32().values, 1e-5);
  const auto a = nlohmann::json::parse(first.out), b = nlohmann::json::parse(second.out);
  CHECK(a["results"][1]["file"] == coffee);
  CHECK(b["results"][1]["file"] == coffee);
  CHECK(a["results"][1]["top"][0]["class"] == b["results"][1]["top"][0]["class"]);
}

TEST_CASE("a list on standard input is separated by lines, with -0 by NUL; what is no list is refused") {
  const std::string nul("\0", 1);
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"-0"}, {"-", "-0"}, {"-", "--null"}}) {
    const CliResult result = classify(arguments, {.input = cat + nul + coffee + nul});
    INFO(result.err);
    CHECK(result.exit_code == 0);
    CHECK(result.out.starts_with(cat + "\n"));
    CHECK(result.out.find("\n" + coffee + "\n") != std::string::npos);
  }
  check_error(classify({"-"}, {.input = cat + nul + coffee + nul}), 2, {"standard input", "NUL", "give -0"});
  check_error(classify({"-"}, {.input = cat + "\n" + coffee + nul + "\n"}), 2, {"NUL", "give -0"});
  check_error(classify({cat, "-0"}, {.input = coffee + nul}), 2,
              {"-0: is of the list of paths on stdin", "add it"});
  check_error(classify({"-0", "--input-tensor", model / "io.safetensors"}), 2, {"--input-tensor"});
  for (const char* name :
       {"images/rocket.jpg", "images/rgba.png", "images/rgb.bmp", "odd_images/p5_16bit.pgm"})
    for (const char* option : {"-", "-0"})
      check_error(classify({option}, {.input = read_file(data(name))}), 2,
                  {"standard input", "is a", "/dev/stdin"});
  std::string gzip = read_file(data("archives/small.zip"));
  gzip.replace(0, 2, "\x1f\x8b");
  for (const std::string& archive :
       {read_file(data("archives/small.zip")), read_file(data("archives/small.tar")), gzip})
    for (const char* option : {"-", "-0"})
      check_error(classify({option}, {.input = archive}), 2, {"standard input is an archive", "its name"});
  const CliResult marked = classify({"-"}, {.input = "\xef\xbb\xbf" + cat + "\n"});
  CHECK(marked.exit_code == 0);
  CHECK(marked.out.starts_with(cat + "\n"));
}

TEST_CASE("grey of 16 bits is clipped as Pillow does, and that is said") {
  const CliResult result =
      classify({data("odd_images/grey_16bit.png"), data("odd_images/grey_16bit_low.png"), cat});
  CHECK(result.exit_code == 0);
  CHECK(result.err.find("grey_16bit.png: grey of more than 8 bits is not scaled but clipped") !=
        std::string::npos);
  CHECK(result.err.find("grey_16bit_low.png: grey of more than 8 bits") != std::string::npos);
  CHECK(result.err.find("chelsea.png") == std::string::npos);
}

TEST_CASE(
    "of a folder, what is no image by its ending is counted, names with a leading dot are not looked at") {
  const TemporaryDirectory folder;
  fs::copy_file(cat, folder / "cat.png");
  write_file(folder / "._cat.png", "x");
  write_file(folder / "notes.txt", "x");
  const CliResult result = classify({folder.path().string(), "--format", "jsonl"});
  CHECK(result.exit_code == 0);
  CHECK(lines(result.out).size() == 1);
  CHECK(result.err.find("1 file is no image by its ending and left out") != std::string::npos);
}

TEST_CASE("an index past the end of a palette is the same colour in every run") {
  const TemporaryDirectory folder;
  for (const char* name :
       {"short_palette_8bit.bmp", "core_4bit.bmp", "short_palette.png", "short_palette.gif"}) {
    std::string first;
    for (int run = 0; run < 2; ++run) {
      // glibc fills what is allocated and not written with this byte.
      const CliResult result =
          classify({data("odd_images") / name, "--save-input", folder / "input.safetensors"},
                   {.environment = {fmt::format("MALLOC_PERTURB_={}", 85 + 85 * run)}});
      REQUIRE(result.exit_code == 0);
      const std::string saved = read_file(folder / "input.safetensors");
      if (run == 0) first = saved;
      CHECK(saved == first);
    }
  }
}

TEST_CASE("batches change no answer") {
  const TemporaryDirectory folder;
  std::vector<std::vector<float>> logits;
  for (const char* batch_size : {"1", "3", "64"}) {
    const CliResult result = classify({data("images").string(), "-q", "--batch-size", batch_size,
                                       "--save-logits", folder / "logits.safetensors"});
    CHECK(result.exit_code == 0);
    logits.push_back(read_safetensors(folder / "logits.safetensors").at("logits").to_float32().values);
  }
  check_close(logits[1], logits[0], 1e-5);
  check_close(logits[2], logits[0], 1e-5);
}

TEST_CASE("json says what ran; text says it on stderr") {
  const CliResult json = classify({cat, "--format", "json", "--topk", "20", "--dtype", "bfloat16",
                                   "--forward-core-version", "v1", "--selective-scan-backend", "torch"});
  INFO(json.err);
  REQUIRE(json.exit_code == 0);
  const auto document = nlohmann::json::parse(json.out);
  CHECK(document["device"] == "cpu");
  CHECK(document["dtype"] == "bfloat16");
  CHECK(document["selective_scan_backend"] == "torch");
  CHECK(document["forward_core"] == "v1");
  CHECK(document["images"] == 1);
  const auto& top = document["results"][0]["top"];
  REQUIRE(top.size() == 10);  // all there are
  double sum = 0;
  for (const auto& entry : top) sum += entry["probability"].get<double>();
  CHECK(sum == doctest::Approx(1).epsilon(1e-12));

  const CliResult text = classify({cat, "--topk", "2"});
  CHECK(lines(text.out).size() == 3);
  CHECK(lines(text.out)[0] == cat);
  CHECK(text.err.find("device cpu") != std::string::npos);
  CHECK(text.err.find("float32") != std::string::npos);
}

TEST_CASE("bad files are reported and skipped, the others answered in order") {
  const TemporaryDirectory folder;
  const std::string jpeg = read_file(data("images/cat_420.jpg"));
  write_file(folder / "cut.jpg", jpeg.substr(0, jpeg.size() / 2));
  const std::string list = cat + "\nmissing.png\n" + (folder / "cut.jpg") + "\n" + coffee + "\n";
  const CliResult result = classify({"-", "--format", "jsonl"}, {.input = list});
  CHECK(result.exit_code == 1);
  const auto answers = lines(result.out);
  REQUIRE(answers.size() == 4);
  const auto at = [&](size_t i) { return nlohmann::json::parse(answers[i]); };
  CHECK(at(0)["file"] == cat);
  CHECK(at(0).contains("top"));
  CHECK(at(1)["error"] == "missing.png: cannot be read: No such file or directory");
  CHECK(at(2)["error"] == (folder / "cut.jpg") + ": the JPEG file is truncated");
  CHECK(at(3)["file"] == coffee);
  CHECK(result.err.find("skipped: missing.png") != std::string::npos);
  CHECK(result.err.find("2 of 4 inputs could not be read") != std::string::npos);
}

TEST_CASE("odd file names") {
  const TemporaryDirectory folder;
  const std::string names[] = {"a,\"b\".png", "line\nbreak.png", std::string("not\xff") + "utf8.png",
                               "Ünïcode.png", "\x1b[31m.png"};
  std::vector<std::string> arguments{"--topk", "1", "-q"};
  for (const std::string& name : names) {
    fs::copy_file(data("images/rgba.png"), folder / name);
    arguments.push_back(folder / name);
  }
  auto with_format = [&](const char* format) {
    auto all = arguments;
    all.insert(all.end(), {"--format", format});
    return classify(all);
  };
  const CliResult json = with_format("json");
  REQUIRE(json.exit_code == 0);
  const auto results = nlohmann::json::parse(json.out)["results"];
  REQUIRE(results.size() == 5);
  CHECK(results[0]["file"] == folder / names[0]);
  CHECK(results[1]["file"] == folder / names[1]);
  CHECK(results[2]["file"] == folder / "not\xef\xbf\xbdutf8.png");
  CHECK(results[3]["file"] == folder / names[3]);
  CHECK(lines(with_format("jsonl").out).size() == 5);
  const std::string csv = with_format("csv").out;
  CHECK(csv.starts_with("file,rank,class,label,probability,logit,error\n\"" + folder.path().string() +
                        "/a,\"\"b\"\".png\",1,"));
  CHECK(csv.find("\n" + (folder / "line\\x0abreak.png") + ",1,") != std::string::npos);
  const std::string text = with_format("text").out;
  CHECK(lines(text).size() == 10);
  CHECK(text.find('\x1b') == std::string::npos);
}

TEST_CASE("labels name the classes") {
  const TemporaryDirectory folder;
  std::string names;
  for (int i = 0; i < 10; ++i) names += fmt::format("n0000000{} kind {}\n", i, i);
  write_file(folder / "labels.txt", names);
  const CliResult result =
      classify({cat, "--labels", folder / "labels.txt", "--format", "json", "--topk", "1"});
  REQUIRE(result.exit_code == 0);
  const auto best = nlohmann::json::parse(result.out)["results"][0]["top"][0];
  CHECK(best["label"] == fmt::format("kind {}", best["class"].get<int>()));
  CHECK(best["id"] == fmt::format("n0000000{}", best["class"].get<int>()));
  std::string dict = "{";
  for (int i = 0; i < 10; ++i) dict += fmt::format("{}: 'kind {}',\n ", i, i);
  for (const std::string& text : {dict + "}", "background\n" + names.substr(0, names.size() - 1)}) {
    write_file(folder / "labels.txt", text);
    const CliResult same =
        classify({cat, "--labels", folder / "labels.txt", "--format", "json", "--topk", "1"});
    REQUIRE(same.exit_code == 0);
    CHECK(nlohmann::json::parse(same.out)["results"][0]["top"][0]["label"] == best["label"]);
    CHECK((same.err.find("11 rows for 10 classes: the first, background, is left out") !=
           std::string::npos) == text.starts_with("background"));
  }
  write_file(folder / "labels.txt", "one\ntwo\n");
  check_error(classify({cat, "--labels", folder / "labels.txt"}), 2,
              {"labels.txt", "names 2 classes, the model has 10"});
  // Another model's config: its weights are what does not fit, whatever the labels.
  check_error(run_cli({"classify", cat, "--config", "vmamba_tiny_s1l8", "--weights",
                       model / "weights.safetensors", "--labels", folder / "labels.txt"}),
              2, {"weights.safetensors does not fit the config"});
}

TEST_CASE("inputs of which nothing can be read: exit code 2, one line") {
  const TemporaryDirectory folder;
  write_file(folder / "note.txt", "x");
  write_file(folder / "empty.png", "");
  fs::create_directory(folder / "nothing");
  std::string png = read_file(data("images/rgba.png"));
  png.replace(16, 8, std::string("\x00\x00\x75\x30\x00\x00\x75\x30", 8));
  write_file(folder / "vast.png", png);
  check_error(classify({}), 2, {"nothing to classify"});
  check_error(classify({"none.png"}), 2, {"none.png", "No such file"});
  check_error(classify({folder / "nothing"}), 2, {"nothing: no image files in this folder"});
  check_error(classify({folder / "empty.png"}), 2, {"empty.png: the file is empty"});
  check_error(classify({folder / "note.txt"}), 2, {"note.txt: not an image"});
  check_error(classify({folder / "vast.png"}), 2, {"30000 x 30000 pixels"});
  const CliResult two = classify({"none.png", "neither.png"});  // a line for each, and one for both
  CHECK(two.exit_code == 2);
  CHECK(two.out == "");
  CHECK(two.err.find("skipped: none.png: cannot be read") != std::string::npos);
  CHECK(two.err.find("skipped: neither.png: cannot be read") != std::string::npos);
  CHECK(two.err.find("none of the 2 inputs could be read") != std::string::npos);
  check_error(classify({"-"}), 2, {"standard input lists no files"});
  check_error(classify({cat, "--input-tensor", "x"}), 2, {"--input-tensor"});
  StateDict no_pixels;
  no_pixels.add("input", HostTensor{{int64_t{1} << 40, 3, 0, 0}, {}});
  write_safetensors(folder / "none.safetensors", no_pixels);
  check_error(classify({"--input-tensor", folder / "none.safetensors"}), 2,
              {"none.safetensors", "wanted (B, 3, H, W)"});
  check_error(classify({"--input-tensor", model / "weights.safetensors"}), 2,
              {"weights.safetensors", "input"});
  check_error(classify({cat, "--topk", "0"}), 2, {"--topk"});
  check_error(classify({cat, "--format", "xml"}), 2, {"--format"});
  check_error(run_cli({"classify", cat, "--config", model / "config.json"}), 2, {"no weights"});
  check_error(run_cli({"classify", cat, "--config", model / "config.json", "--weights", model}), 2,
              {"s1_ln2d"});
}

TEST_CASE("outputs appear whole or not at all") {
  const TemporaryDirectory folder;
  const auto files = [&] {
    return std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator());
  };
  write_file(folder / "out.json", "old");
  check_error(classify({"none.png", "-o", folder / "out.json", "--save-logits", folder / "l.safetensors"}), 2,
              {"none"});
  CHECK(read_file(folder / "out.json") == "old");
  CHECK(files() == 1);
  const CliResult good = classify({cat, "-o", folder / "out.json", "--format", "json"});
  CHECK(good.exit_code == 0);
  CHECK(good.out == "");
  CHECK(nlohmann::json::parse(read_file(folder / "out.json"))["images"] == 1);
  CHECK(files() == 1);
  check_error(classify({cat, "-o", folder / "no/such"}), 2, {"no/such: cannot be written"});
  check_error(classify({cat, "-o", folder.path().string()}), 2, {"it is a folder"});
  check_error(classify({cat, "--save-input", folder / "no/such"}), 2, {"no/such: cannot be written"});
  check_error(classify({cat, "-o", "/dev/full"}), 3, {"/dev/full: writing failed: No space left on device"});
}

TEST_CASE("the model that ships knows a cat and an espresso") {
  const CliResult result = run_cli({"classify", cat, coffee, "--format", "json", "--device", "cpu"});
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  const auto results = nlohmann::json::parse(result.out)["results"];
  const std::string first = results[0]["top"][0]["label"];
  CHECK((first == "Egyptian cat" || first == "tabby"));
  bool espresso = false;
  for (size_t i = 0; i < 3; ++i) espresso |= results[1]["top"][i]["label"] == "espresso";
  CHECK(espresso);
}

TEST_CASE("a batch that does not fit is halved until it does") {
  int batch_size = 12;
  std::vector<int64_t> sizes;
  const auto run = [&](int64_t begin, int64_t n) {
    sizes.push_back(n);
    if (n > 4) throw OutOfMemory("full");
    HostTensor logits{{n, 2}, {}};
    for (int64_t i = 0; i < 2 * n; ++i) logits.values.push_back(static_cast<float>(2 * begin + i));
    return logits;
  };
  const std::vector<float> logits = run_in_pieces("test", batch_size, 10, run);
  CHECK(sizes == std::vector<int64_t>{10, 5, 2, 2, 2, 2, 2});
  REQUIRE(logits.size() == 20);
  for (size_t i = 0; i < 20; ++i) CHECK(logits[i] == static_cast<float>(i));
  CHECK(batch_size == 2);
  CHECK_THROWS_AS(
      run_in_pieces("test", batch_size, 1, [](int64_t, int64_t) -> HostTensor { throw OutOfMemory("full"); }),
      OutOfMemory);
}

TEST_CASE(
    "JPEGs that are left to the device give the same logits, and what it cannot decode goes the CPU's way") {
  const TemporaryDirectory folder;
  std::vector<std::string> files;
  const auto add = [&](const std::string& name, const std::string& bytes) {
    write_file(folder / name, bytes);
    files.push_back(folder / name);
  };
  const std::string photograph = read_file(cat_jpeg);
  std::string torn = photograph, flipped = photograph;
  torn.resize(torn.size() / 2);
  flipped[flipped.size() / 2] ^= 8;  // corrupt data, which libjpeg passes over
  add("whole.jpg", photograph);
  add("torn.jpg", torn);
  add("progressive.jpg", encoded_jpeg({.width = 60, .height = 50, .progressive = true}));
  files.push_back(coffee);
  add("flipped.jpg", flipped);
  add("none.jpg", "no image");
  add("grey.jpg", encoded_jpeg({.width = 61, .height = 70, .across = 0, .down = 0}));
  const Config config = load_config((model / "config.json").string());
  const auto all = [&](int batch_size, JpegDecoding decoding) {
    Runner runner(config, read_safetensors(model / "weights.safetensors"), make_scalar_kernels(),
                  Precision::float32);
    ImageSource source(input_paths(files), config.preprocess, batch_size, 2, decoding);
    const std::unique_ptr<DeviceModel> device = device_model(runner, batch_size, false);
    ImageBatch batch;
    std::vector<float> together;
    std::vector<std::string> errors;
    while (source.next(batch)) {
      device->start(batch);
      const std::vector<float> logits = device->finish(batch);
      CHECK(logits.size() == static_cast<size_t>(batch.images * config.num_classes));
      together.insert(together.end(), logits.begin(), logits.end());
      for (const ImageBatch::Item& item : batch.items) errors.push_back(item.error);
    }
    REQUIRE(errors.size() == files.size());
    CHECK(errors[0].empty());
    CHECK(errors[1].ends_with("truncated"));
    return std::pair(together, errors);
  };
  const auto wanted = all(4, JpegDecoding::here);
  REQUIRE(wanted.first.size() == 5 * static_cast<size_t>(config.num_classes));
  for (const int batch_size : {1, 3, 7}) CHECK(all(batch_size, JpegDecoding::on_device) == wanted);
}

TEST_CASE("--decode says where JPEGs are decoded, and changes no answer") {
  const auto classify = [](const char* decode) {
    return run_cli({"-q", "classify", cat_jpeg.string(), coffee, "--decode", decode, "--format", "jsonl"});
  };
  const CliResult here = classify("cpu"), automatic = classify("auto");
  CHECK(here.exit_code == 0);
  CHECK(automatic.exit_code == 0);
  CHECK(here.out == automatic.out);
  check_error(classify("gpu"), 2, {"--decode", "gpu"});
}
