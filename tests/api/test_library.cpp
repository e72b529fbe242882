// libvmamba.so through its C interface: the same logits as the code beneath, taps, errors, threads.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "lib/images/image_source.h"
#include "lib/images/preprocess.h"
#include "lib/model/model_files.h"
#include "lib/support/files.h"
#include "lib/vmamba.h"
#include "tests/testing.h"

using vmamba::testing::data;

namespace {

using Model = std::unique_ptr<vmamba_model, decltype(&vmamba_close)>;

// The text of an error, and its code.
struct Failure {
  vmamba_status status = VMAMBA_OK;
  std::string text;
};

template <class Call>
Failure call(const Call& function) {
  char* error = nullptr;
  const vmamba_status status = function(&error);
  CHECK((status == VMAMBA_OK) == (error == nullptr));
  Failure failure{status, error == nullptr ? "" : error};
  vmamba_free(error);
  return failure;
}

struct Opened {
  Model model{nullptr, vmamba_close};
  Failure failure;
};

Opened open_model(vmamba_options options) {
  options.size = sizeof options;
  if (options.device == nullptr) options.device = "cpu";
  vmamba_model* model = nullptr;
  Opened opened;
  opened.failure = call([&](char** error) { return vmamba_open(&options, &model, error); });
  opened.model.reset(model);
  return opened;
}

Model shipped() {
  Opened opened = open_model({});
  REQUIRE_MESSAGE(opened.failure.status == VMAMBA_OK, opened.failure.text);
  return std::move(opened.model);
}

std::vector<float> no_logits(const vmamba_model& model, size_t count) {
  return std::vector<float>(count * static_cast<size_t>(vmamba_class_count(&model)), -1.0f);
}

void check_fails(const Failure& failure, vmamba_status status, const std::vector<std::string>& words) {
  INFO(failure.text);
  CHECK(failure.status == status);
  CHECK(failure.text.find('\n') == std::string::npos);
  CHECK(failure.text.find("--") == std::string::npos);
  for (const std::string& word : words) CHECK_MESSAGE(failure.text.find(word) != std::string::npos, word);
}

}  // namespace

TEST_CASE("files, pixels and tensors give the logits of the code beneath, bit for bit") {
  const Model model = shipped();
  vmamba::InferredConfigs inferred;
  vmamba::ModelFiles files = vmamba::find_model({}, inferred);
  const vmamba::Config config = vmamba::load_model_config({}, files);
  vmamba::Runner runner(config, vmamba::read_weights(files), vmamba::RunChoice{});
  const std::vector<std::string> names{data("chelsea.png").string(), data("coffee.png").string()};
  const vmamba::HostTensor input =
      vmamba::preprocessed({{.file = names[0]}, {.file = names[1]}}, config.preprocess);
  REQUIRE(vmamba_class_count(model.get()) == 200);
  CHECK(vmamba_class_name(model.get(), 200) == nullptr);

  std::vector<std::string> bytes;
  std::vector<vmamba_encoded> encoded;
  std::vector<vmamba::Image> images;
  std::vector<std::vector<uint8_t>> padded;
  std::vector<vmamba_rgb> rgb;
  for (const std::string& name : names) {
    bytes.push_back(vmamba::read_file(name));
    images.push_back(vmamba::read_image(name));
  }
  for (size_t i = 0; i < names.size(); ++i) {
    encoded.push_back({bytes[i].data(), bytes[i].size(), nullptr});
    const size_t row = 3 * static_cast<size_t>(images[i].width), stride = row + 5 * i;
    auto& pixels = padded.emplace_back(stride * static_cast<size_t>(images[i].height));
    for (size_t y = 0; y < static_cast<size_t>(images[i].height); ++y)
      std::copy_n(&images[i].rgb[y * row], row, &pixels[y * stride]);
    rgb.push_back({pixels.data(), images[i].width, images[i].height, i == 0 ? 0 : stride});
  }
  std::vector<float> logits = no_logits(*model, 2);
  const auto check_same = [&](const Failure& done, const std::vector<float>& expected) {
    REQUIRE_MESSAGE(done.status == VMAMBA_OK, done.text);
    CHECK(logits == expected);
    logits = no_logits(*model, 2);
  };
  std::vector<uint8_t> crops;
  for (const vmamba::Image& image : images) {
    const vmamba::Image crop = vmamba::resize_and_crop(image, config.preprocess);
    crops.insert(crops.end(), crop.rgb.begin(), crop.rgb.end());
  }
  const int crop = config.preprocess.crop;
  const std::vector<float> expected = runner.run_pixels(crops.data(), 2, crop, crop).values;
  check_same(call([&](char** error) {
               return vmamba_classify_encoded(model.get(), encoded.data(), 2, logits.data(), nullptr, error);
             }),
             expected);
  check_same(call([&](char** error) {
               return vmamba_classify_rgb(model.get(), rgb.data(), 2, logits.data(), nullptr, error);
             }),
             expected);
  check_same(call([&](char** error) {
               return vmamba_classify_tensor(model.get(), input.values.data(), 2, crop, crop, logits.data(),
                                             nullptr, error);
             }),
             runner.run(input).values);
  const auto best = std::max_element(expected.begin(), expected.begin() + 200) - expected.begin();
  CHECK(vmamba_class_name(model.get(), static_cast<int>(best)) == std::string("tabby"));
}

TEST_CASE("taps are those that are wanted; the logits do not depend on them") {
  const Model model = shipped();
  struct Seen {
    std::map<std::string, std::vector<int64_t>> dims;
    std::vector<float> logits;
  } seen;
  vmamba_taps taps{};
  taps.user = &seen;
  taps.wants = [](void*, const char* name) -> int {
    return std::strcmp(name, "classifier.pool") == 0 || std::strcmp(name, "logits") == 0;
  };
  taps.at = [](void* user, const char* name, const float* values, const int64_t* dims, size_t rank) {
    auto& into = *static_cast<Seen*>(user);
    into.dims[name].assign(dims, dims + rank);
    if (std::strcmp(name, "logits") == 0) into.logits.assign(values, values + dims[0] * dims[1]);
  };
  const std::vector<float> input(2 * 3 * 64 * 64, 0.5f);
  std::vector<float> logits = no_logits(*model, 2), plain = no_logits(*model, 2);
  REQUIRE(vmamba_classify_tensor(model.get(), input.data(), 2, 64, 64, logits.data(), &taps, nullptr) ==
          VMAMBA_OK);
  REQUIRE(vmamba_classify_tensor(model.get(), input.data(), 2, 64, 64, plain.data(), nullptr, nullptr) ==
          VMAMBA_OK);
  CHECK(logits == plain);
  CHECK(seen.logits == logits);
  REQUIRE(seen.dims.size() == 2);
  CHECK(seen.dims["logits"] == std::vector<int64_t>{2, 200});
  CHECK(seen.dims["classifier.pool"].front() == 2);
  CHECK(seen.dims["classifier.pool"].size() >= 2);
}

TEST_CASE("the description is JSON with what runs") {
  const Model model = shipped();
  const auto json = nlohmann::json::parse(vmamba_describe(model.get()));
  CHECK(json["model"] == "vmamba-tiny-imagenet");
  CHECK(json["num_classes"] == 200);
  CHECK(json["device"] == "cpu");
  CHECK(json["dtype"] == "float32");
  CHECK(json["image_size"] == 64);
}

TEST_CASE("what is wrong is told in the program's words, with the fields' names") {
  check_fails(open_model({.weights = "/nowhere.pth"}).failure, VMAMBA_INPUT_ERROR,
              {"/nowhere.pth: no such weights file"});
  check_fails(open_model({.config = "vmamba_small"}).failure, VMAMBA_INPUT_ERROR,
              {"\"vmamba_small\"", "published: "});
  check_fails(open_model({.config = "vmamba_tiny_s1l8"}).failure, VMAMBA_INPUT_ERROR, {"give weights FILE"});
  check_fails(open_model({.prefix = "module"}).failure, VMAMBA_INPUT_ERROR,
              {"prefix goes with weights FILE"});
  check_fails(open_model({.device = "tpu"}).failure, VMAMBA_INPUT_ERROR,
              {"device tpu: unknown; it is auto, cpu, cuda"});
  check_fails(open_model({.dtype = "float8"}).failure, VMAMBA_INPUT_ERROR, {"dtype float8: unknown"});
  check_fails(open_model({.selective_scan_backend = "core"}).failure, VMAMBA_INPUT_ERROR, {"core", "oflex"});
  check_fails(open_model({.threads = -1}).failure, VMAMBA_INPUT_ERROR, {"threads", "got -1"});
  const std::string config = data("models/batchnorm/config.json").string(),
                    weights = data("models/s1_ln2d/weights.safetensors").string();
  check_fails(open_model({.weights = weights.c_str(), .config = config.c_str()}).failure, VMAMBA_INPUT_ERROR,
              {"does not fit the config"});
  check_fails(open_model({.config = weights.c_str()}).failure, VMAMBA_INPUT_ERROR, {"given with weights"});

  const Model model = shipped();
  std::vector<float> logits = no_logits(*model, 2);
  const vmamba_encoded images[] = {{"", 0, nullptr}, {"GIF89a", 6, "cut.gif"}};
  const auto classify = [&](const vmamba_encoded* given, size_t count) {
    return call([&](char** error) {
      return vmamba_classify_encoded(model.get(), given, count, logits.data(), nullptr, error);
    });
  };
  check_fails(classify(images, 1), VMAMBA_INPUT_ERROR, {"image 0: the file is empty"});
  check_fails(classify(images + 1, 1), VMAMBA_INPUT_ERROR, {"cut.gif"});
  check_fails(classify(images, 0), VMAMBA_INPUT_ERROR, {"count"});
  check_fails(classify(nullptr, 1), VMAMBA_INPUT_ERROR, {"NULL"});
  const uint8_t pixel[3] = {};
  for (const vmamba_rgb wrong : {vmamba_rgb{pixel, 0, 1, 0},
                                 {pixel, 1, -1, 0},
                                 {pixel, 1, 1, 2},
                                 {nullptr, 1, 1, 0},
                                 {pixel, 1 << 20, 1 << 20, 0}})
    check_fails(call([&](char** error) {
                  return vmamba_classify_rgb(model.get(), &wrong, 1, logits.data(), nullptr, error);
                }),
                VMAMBA_INPUT_ERROR, {"image 0"});
  for (const int side : {0, -1, 1, 1 << 20})
    check_fails(call([&](char** error) {
                  return vmamba_classify_tensor(model.get(), logits.data(), 1, side, side, logits.data(),
                                                nullptr, error);
                }),
                VMAMBA_INPUT_ERROR, {});
  CHECK(logits == no_logits(*model, 2));  // left as they were
  CHECK(vmamba_classify_encoded(nullptr, images, 1, logits.data(), nullptr, nullptr) == VMAMBA_INPUT_ERROR);
  CHECK(vmamba_open(nullptr, nullptr, nullptr) == VMAMBA_INPUT_ERROR);
  vmamba_close(nullptr);
  vmamba_free(nullptr);
}

TEST_CASE("options of another version of the header") {
  struct {
    vmamba_options options;
    const char* later;
  } newer{};
  newer.options.size = sizeof newer;
  newer.options.device = "cpu";
  vmamba_model* model = nullptr;
  CHECK(vmamba_open(&newer.options, &model, nullptr) == VMAMBA_OK);
  vmamba_close(std::exchange(model, nullptr));
  newer.later = "set";
  check_fails(call([&](char** error) { return vmamba_open(&newer.options, &model, error); }),
              VMAMBA_INPUT_ERROR, {"newer vmamba.h"});
  newer.options.size = 0;
  check_fails(call([&](char** error) { return vmamba_open(&newer.options, &model, error); }),
              VMAMBA_INPUT_ERROR, {"sizeof(vmamba_options)"});
  CHECK(model == nullptr);
}

TEST_CASE("remarks go to the caller, and each opening reads the files anew") {
  const vmamba::testing::TemporaryDirectory folder;
  const std::string weights = folder / "mine.safetensors";
  std::vector<std::string> lines;
  vmamba_options options{};
  options.weights = weights.c_str();
  options.log = [](void* user, vmamba_log_level, const char* text) {
    static_cast<std::vector<std::string>*>(user)->push_back(text);
  };
  options.log_user = &lines;
  std::filesystem::copy_file(data("models/s1_ln2d/weights.safetensors"), weights);
  const Opened first = open_model(options);
  CHECK_MESSAGE(first.failure.status == VMAMBA_OK, first.failure.text);
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].find("read off the tensors") != std::string::npos);
  CHECK(lines[0].find("(config says otherwise)") != std::string::npos);
  std::ofstream(weights) << "no weights any more";
  CHECK(open_model(options).failure.status == VMAMBA_INPUT_ERROR);
}

TEST_CASE("threads share a model, and models run side by side") {
  const Model shared = shipped();
  const std::vector<float> input(3 * 64 * 64, 0.25f);
  std::vector<float> expected = no_logits(*shared, 1);
  REQUIRE(vmamba_classify_tensor(shared.get(), input.data(), 1, 64, 64, expected.data(), nullptr, nullptr) ==
          VMAMBA_OK);
  std::vector<std::vector<float>> results(4, no_logits(*shared, 1));
  std::vector<std::thread> threads;
  for (size_t i = 0; i < results.size(); ++i)
    threads.emplace_back([&, i] {
      const Model own = i % 2 == 1 ? shipped() : Model(nullptr, vmamba_close);
      vmamba_model* model = own ? own.get() : shared.get();
      for (int round = 0; round < 3; ++round)
        vmamba_classify_tensor(model, input.data(), 1, 64, 64, results[i].data(), nullptr, nullptr);
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<float>& result : results) CHECK(result == expected);
}
