// The C interface over lib/: arguments are checked, exceptions become codes and texts.
#include "lib/vmamba.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/error.h"
#include "kernels/parallel.h"
#include "lib/images/preprocess.h"
#include "lib/labels/labels.h"
#include "lib/model/model_files.h"
#include "lib/support/json.h"
#include "lib/support/log.h"
#include "lib/support/text.h"
#include "lib/verify/tap_store.h"

using namespace vmamba;  // NOLINT: this file only translates

struct vmamba_model {
  std::mutex in_use;
  LogSink log;
  int threads = 1;  // that decode
  Config config;
  Labels labels;
  std::unique_ptr<Runner> runner;
  std::string description;
};

namespace {

// Error texts name command-line options; here they are renamed to the fields of vmamba_options.
std::string with_fields(std::string text) {
  for (const std::string_view option :
       {"--weights", "--config", "--key", "--prefix", "--labels", "--device", "--dtype",
        "--selective-scan-backend", "--forward-core-version", "--threads"}) {
    for (size_t at = 0; (at = text.find(option, at)) != std::string::npos;) {
      const size_t end = at + option.size();
      const bool whole = (at == 0 || std::strchr(" (`", text[at - 1]) != nullptr) &&
                         (end == text.size() || std::strchr(" ,;:)`", text[end]) != nullptr);
      if (whole) {
        std::replace(text.begin() + static_cast<std::ptrdiff_t>(at),
                     text.begin() + static_cast<std::ptrdiff_t>(end), '-', '_');
        text.erase(at, 2);
      }
      ++at;
    }
  }
  return text;
}

std::string in_line(std::string_view text) {
  return printable(with_fields(one_line(std::string(text))), std::string::npos);
}

template <class Body>
vmamba_status guarded(char** error, const LogSink& log, const Body& body) noexcept {
  if (error != nullptr) *error = nullptr;
  const LogTo sink(log);
  const auto failed = [&](vmamba_status status, std::string_view text) {
    try {
      if (error != nullptr) *error = strdup(in_line(text).c_str());
    } catch (const std::bad_alloc&) {  // the status code is returned without a text
    }
    return status;
  };
  try {
    body();
    return VMAMBA_OK;
  } catch (const InputError& failure) {
    return failed(VMAMBA_INPUT_ERROR, failure.what());
  } catch (const OutOfMemory& failure) {
    return failed(VMAMBA_OUT_OF_MEMORY, failure.what());
  } catch (const MachineError& failure) {
    return failed(VMAMBA_MACHINE_ERROR, failure.what());
  } catch (const std::bad_alloc&) {
    return failed(VMAMBA_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& failure) {
    return failed(VMAMBA_MACHINE_ERROR, std::string("unexpected error, please report it: ") + failure.what());
  }
}

// The options of a caller, whose header may be an older or a newer one.
vmamba_options known_options(const vmamba_options* given) {
  vmamba_options options{};
  if (given == nullptr) return options;
  constexpr size_t first_version = offsetof(vmamba_options, log_user) + sizeof(void*);
  if (given->size < first_version)
    fail_input("options.size is {}, less than {}: set it to sizeof(vmamba_options)", given->size,
               first_version);
  const auto* bytes = reinterpret_cast<const char*>(given);
  for (size_t i = sizeof options; i < given->size; ++i)
    if (bytes[i] != 0)
      fail_input("options of a newer vmamba.h than this library, {}, are set", VMAMBA_VERSION);
  std::memcpy(&options, given, std::min(given->size, sizeof options));
  return options;
}

std::string text_of(const char* text, const char* otherwise = "") {
  return text == nullptr ? otherwise : text;
}

LogSink sink_of(const vmamba_options& options) {
  if (options.log == nullptr) return [](LogLevel, std::string_view) {};
  return [log = options.log, user = options.log_user](LogLevel level, std::string_view text) {
    log(user, level == LogLevel::info ? VMAMBA_LOG_INFO : VMAMBA_LOG_WARNING, in_line(text).c_str());
  };
}

std::unique_ptr<vmamba_model> opened(const vmamba_options& given) {
  ModelOptions options;
  options.weights = text_of(given.weights);
  options.config = text_of(given.config);
  options.key = text_of(given.key);
  options.prefix = text_of(given.prefix);
  options.labels = text_of(given.labels);
  options.selective_scan_backend = text_of(given.selective_scan_backend);
  options.forward_core_version = text_of(given.forward_core_version);
  if (given.threads < 0 || given.threads > 4096)
    fail_input("threads: wanted 0 (all that the process may use) to 4096, got {}", given.threads);

  auto model = std::make_unique<vmamba_model>();
  model->log = sink_of(given);
  InferredConfigs inferred;
  ModelFiles files = find_model(options, inferred);
  model->config = load_model_config(options, files);
  RunChoice choice;
  AutomaticDevice automatic;
  const std::string device = text_of(given.device, "auto");
  choice.device = find_device(device, &automatic);
  if (device == "auto" && !automatic.why_not.empty())
    log_remark(LogLevel::info, "running on the CPU: {}", automatic.why_not);
  choice.precision = parse_precision(text_of(given.dtype, "auto"), choice.device);
  choice.threads = given.threads;
  model->runner = std::make_unique<Runner>(model->config, read_weights(files), choice);
  if (!files.labels.empty()) model->labels = read_labels(files.labels, model->config.num_classes);
  model->threads = threads_to_use(given.threads);

  nlohmann::ordered_json json{
      {"model", model->config.name},        {"config", files.config_name()},
      {"weights", files.weights.string()},  {"num_classes", model->config.num_classes},
      {"in_chans", model->config.in_chans}, {"image_size", model->config.preprocess.crop}};
  json.update(nlohmann::ordered_json(model->runner->report()));
  model->description = dump_json(json);
  return model;
}

class CallerTaps final : public Taps {
 public:
  CallerTaps(const vmamba_taps& taps, Kernels& kernels) : taps_(taps), transfer_(kernels) {
    if (taps.at == nullptr) fail_input("taps.at is NULL");
  }
  bool wants(std::string_view name) override {
    return taps_.wants == nullptr || taps_.wants(taps_.user, std::string(name).c_str()) != 0;
  }
  void at(std::string_view name, const View& value) override {
    if (!wants(name)) return;
    const HostTensor host = transfer_.download(value);
    taps_.at(taps_.user, std::string(name).c_str(), host.values.data(), host.dims.data(), host.dims.size());
  }

 private:
  const vmamba_taps& taps_;
  Transfer transfer_;
};

// run(taps) under the model's lock; its logits go to the caller.
template <class Run>
vmamba_status classified(vmamba_model* model, const void* input, size_t count, float* logits,
                         const vmamba_taps* taps, char** error, const Run& run) noexcept {
  static const LogSink nowhere = [](LogLevel, std::string_view) {};
  return guarded(error, model != nullptr ? model->log : nowhere, [&] {
    if (model == nullptr || input == nullptr || logits == nullptr)
      fail_input("{} is NULL", model == nullptr ? "model" : input == nullptr ? "the input" : "logits");
    if (count < 1 || count > 65536) fail_input("count: wanted 1 to 65536 images, got {}", count);
    const std::lock_guard lock(model->in_use);
    std::unique_ptr<CallerTaps> watched;
    if (taps != nullptr) watched = std::make_unique<CallerTaps>(*taps, model->runner->kernels());
    const HostTensor result = run(watched.get());
    std::ranges::copy(result.values, logits);
  });
}

// Crops of all images, decoded by several threads, then one batch.
template <class Decode>
HostTensor run_images(vmamba_model& model, size_t count, Taps* taps, const Decode& decode) {
  if (model.config.in_chans != 3)
    fail_input("images have 3 channels, the config wants in_chans {}", model.config.in_chans);
  const PreprocessConfig& preprocess = model.config.preprocess;
  const auto crop = static_cast<size_t>(preprocess.crop);
  std::vector<uint8_t> pixels(count * crop * crop * 3);
  std::vector<std::exception_ptr> failures(count);
  parallel_claims(model.threads, static_cast<int64_t>(count), [&](int64_t item, int, bool) {
    const LogTo sink(model.log);
    const auto i = static_cast<size_t>(item);
    try {
      resize_and_crop(decode(i), preprocess, std::span(pixels).subspan(i * crop * crop * 3, crop * crop * 3));
    } catch (...) {
      failures[i] = std::current_exception();
    }
  });
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
  const auto side = static_cast<int64_t>(crop);
  return model.runner->run_pixels(pixels.data(), static_cast<int64_t>(count), side, side, taps);
}

Image decoded(const vmamba_encoded& image, size_t i) {
  const std::string name = text_of(image.name);
  if (image.bytes == nullptr) fail_input("image {}: bytes is NULL", i);
  return decode_image(parse_image({static_cast<const char*>(image.bytes), image.size},
                                  name.empty() ? fmt::format("image {}", i) : name));
}

Image copied(const vmamba_rgb& image, size_t i) {
  if (image.pixels == nullptr) fail_input("image {}: pixels is NULL", i);
  if (image.width < 1 || image.height < 1 || int64_t{image.width} * image.height > max_pixels)
    fail_input("image {}: {} x {} pixels, wanted 1 to {}", i, image.width, image.height, max_pixels);
  const size_t row = 3 * static_cast<size_t>(image.width), stride = image.stride == 0 ? row : image.stride;
  if (stride < row) fail_input("image {}: stride {}, less than a row of {} bytes", i, stride, row);
  Image copy{image.width, image.height, std::vector<uint8_t>(row * static_cast<size_t>(image.height))};
  for (size_t y = 0; y < static_cast<size_t>(image.height); ++y)
    std::copy_n(image.pixels + y * stride, row, copy.rgb.data() + y * row);
  return copy;
}

}  // namespace

const char* vmamba_version(void) {
  return VMAMBA_VERSION;
}

void vmamba_free(char* text) {
  std::free(text);
}

vmamba_status vmamba_open(const vmamba_options* options, vmamba_model** model, char** error) {
  LogSink log = [](LogLevel, std::string_view) {};
  return guarded(error, log, [&] {
    if (model == nullptr) fail_input("model is NULL: nowhere to put it");
    const vmamba_options known = known_options(options);
    log = sink_of(known);
    *model = opened(known).release();
  });
}

void vmamba_close(vmamba_model* model) {
  delete model;
}

const char* vmamba_describe(const vmamba_model* model) {
  return model == nullptr ? nullptr : model->description.c_str();
}

int vmamba_class_count(const vmamba_model* model) {
  return model == nullptr ? 0 : model->config.num_classes;
}

const char* vmamba_class_name(const vmamba_model* model, int class_index) {
  if (model == nullptr || class_index < 0 || static_cast<size_t>(class_index) >= model->labels.names.size())
    return nullptr;
  return model->labels.names[static_cast<size_t>(class_index)].c_str();
}

vmamba_status vmamba_classify_encoded(vmamba_model* model, const vmamba_encoded* images, size_t count,
                                      float* logits, const vmamba_taps* taps, char** error) {
  return classified(model, images, count, logits, taps, error, [&](Taps* watched) {
    return run_images(*model, count, watched, [&](size_t i) { return decoded(images[i], i); });
  });
}

vmamba_status vmamba_classify_rgb(vmamba_model* model, const vmamba_rgb* images, size_t count, float* logits,
                                  const vmamba_taps* taps, char** error) {
  return classified(model, images, count, logits, taps, error, [&](Taps* watched) {
    return run_images(*model, count, watched, [&](size_t i) { return copied(images[i], i); });
  });
}

vmamba_status vmamba_classify_tensor(vmamba_model* model, const float* values, size_t count, int height,
                                     int width, float* logits, const vmamba_taps* taps, char** error) {
  return classified(model, values, count, logits, taps, error, [&](Taps* watched) {
    // Before anything is copied: of a wrong shape the values may end earlier.
    if (height < 1 || width < 1 || height > 16384 || width > 16384)
      fail_input("input: {} x {} pixels, wanted 1 x 1 to 16384 x 16384", height, width);
    const std::vector<int64_t> dims{static_cast<int64_t>(count), model->config.in_chans, height, width};
    const size_t elements = count * static_cast<size_t>(model->config.in_chans) *
                            static_cast<size_t>(height) * static_cast<size_t>(width);
    return model->runner->run({dims, std::vector<float>(values, values + elements)}, watched);
  });
}
