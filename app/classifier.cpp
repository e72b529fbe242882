// Loading of a model with its labels onto its devices, and batches that are halved where memory does not suffice.
#include "app/classifier.h"

#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <thread>
#include <utility>

#include "app/option_values.h"
#include "app/program.h"
#include "kernels/error.h"
#include "lib/model/model_weights.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/support/sha256.h"
#include "lib/support/text.h"
#include "lib/verify/provenance.h"

namespace vmamba {

namespace {

// For --log-level debug: when a step of a cold start was done.
void log_step(const std::string& what) {
  static const auto first = std::chrono::steady_clock::now();
  const std::chrono::duration<double, std::milli> since = std::chrono::steady_clock::now() - first;
  spdlog::debug("{:.0f} ms: {}", since.count(), what);
}

bool is_cpu(const RunChoice& choice) {
  return choice.device.type == DeviceType::cpu;
}

}  // namespace

// 8 images of 224² pixels saturate a CPU, 64 a GPU. Smaller images allow larger batches.
int default_batch_size(const std::vector<RunChoice>& choices, const Config& config) {
  const int at_224 = std::ranges::all_of(choices, is_cpu) ? 8 : 64;
  const double smaller = 224.0 / config.preprocess.crop;
  return static_cast<int>(std::clamp(at_224 * smaller * smaller, 1.0 * at_224, 4.0 * at_224));
}

namespace {

// The images of a batch that are left to the device.
std::vector<DecodeJpegs::Packed> packed_images(const ImageBatch& batch) {
  std::vector<DecodeJpegs::Packed> packed;
  int64_t place = 0;
  for (const ImageBatch::Item& item : batch.items) {
    if (!item.packed.empty()) packed.push_back({place, item.packed});
    place += item.error.empty();
  }
  return packed;
}

class RunnerModel final : public DeviceModel {
 public:
  RunnerModel(Runner& runner, int batch_size, bool ahead)
      : runner_(runner),
        name_(to_string(runner.kernels().device())),
        batch_size_(batch_size),
        ahead_(ahead) {}

  std::string name() const override { return name_; }
  bool works_ahead() const override { return ahead_; }

  bool start(ImageBatch& batch) override {
    if (!queued_.empty() && !queued_.back()) return false;
    queued_.push_back(queue_batch(batch));
    return true;
  }

  std::vector<float> finish(ImageBatch& batch) override {
    const bool queued = queued_.front();
    queued_.pop_front();
    std::vector<float> logits = queued ? runner_.finish().values : run(batch);
    if (!std::exchange(told_, true)) log_step(name_ + ": first batch computed");
    return logits;
  }

 private:
  // False if there is nothing to compute, or if memory does not suffice: then finish() splits the batch.
  bool queue_batch(ImageBatch& batch) {
    if (batch.images > batch_size_) return false;
    const PreprocessConfig& preprocess = runner_.config().preprocess;
    try {
      while (batch.images > 0) {
        const std::vector<int64_t> unfit = runner_.stage_images(
            batch.pixels.data(), packed_images(batch), batch.images, preprocess.crop, preprocess.crop);
        if (unfit.empty()) {
          runner_.start_staged();
          return true;
        }
        decode_packed(batch, unfit, preprocess);
      }
    } catch (const OutOfMemory&) {
    }
    return false;
  }

  std::vector<float> run(ImageBatch& batch) {
    std::vector<int64_t> packed;
    for (const DecodeJpegs::Packed& image : packed_images(batch)) packed.push_back(image.place);
    decode_packed(batch, packed, runner_.config().preprocess);
    const int64_t crop = runner_.config().preprocess.crop;
    return run_in_pieces(name_, batch_size_, batch.images, [&](int64_t begin, int64_t n) {
      return runner_.run_pixels(batch.pixels.data() + begin * crop * crop * 3, n, crop, crop);
    });
  }

  Runner& runner_;
  const std::string name_;
  int batch_size_;
  const bool ahead_;
  std::deque<bool> queued_;  // of each started batch: otherwise finish() computes it
  bool told_ = false;
};

// Those of the last stage, and the head's.
void expect_products(Kernels& kernels, const Classifier& classifier) {
  const Config& config = classifier.config;
  const DType storage = storage_dtype(classifier.choices[0].precision);
  kernels.expect_products(storage, int64_t{49} * classifier.batch_size, config.dims.back(),
                          config.dims.back());
  kernels.expect_products(computed_in(storage), classifier.batch_size, config.dims.back(),
                          config.num_classes);
}

}  // namespace

Classifier make_classifier(const ModelOptions& options, int batch_size) {
  Classifier classifier;
  log_step("command line read");
  classifier.files = find_model(options);
  classifier.config = load_model_config(options, classifier.files);
  // Meanwhile --device auto may create a context on a GPU.
  classifier.weights =
      std::async(std::launch::async, [files = classifier.files]() mutable { return read_weights(files); });
  classifier.files.read.reset();
  classifier.choices = choose_runs(options);
  log_step("devices chosen");
  classifier.batch_size =
      batch_size > 0 ? batch_size : default_batch_size(classifier.choices, classifier.config);
  return classifier;
}

void load_runners(Classifier& classifier, Kept kept) {
  const std::vector<RunChoice>& choices = classifier.choices;
  const std::shared_future<StateDict> weights = classifier.weights.share();
  // Converted while the GPUs' contexts are created.
  std::shared_future<PreparedWeights> converted;
  if (!std::ranges::all_of(choices, is_cpu))
    converted = std::async(std::launch::async, [&classifier, weights] {
                  return convert_weights(classifier.config, weights.get(),
                                         storage_dtype(classifier.choices[0].precision));
                }).share();
  std::vector<std::future<std::unique_ptr<Runner>>> loading;
  for (const RunChoice& choice : choices)
    loading.push_back(std::async(std::launch::async, [&classifier, &choice, weights, converted] {
      std::unique_ptr<Kernels> kernels = kernels_for(choice);
      log_step(to_string(choice.device) + ": kernels ready");
      if (is_cpu(choice))
        return std::make_unique<Runner>(classifier.config, weights.get(), std::move(kernels),
                                        choice.precision);
      if (classifier.batch_size > 1) expect_products(*kernels, classifier);
      converted.wait();
      log_step("weights converted");
      return std::make_unique<Runner>(classifier.config, converted.get(), std::move(kernels),
                                      choice.precision);
    }));
  if (kept == Kept::yes) classifier.weights_sum = weights_sha256(classifier.config, weights.get());
  std::string failures;
  for (size_t i = 0; i < choices.size(); ++i) try {
      classifier.runners.push_back(loading[i].get());
    } catch (const MachineError& error) {
      if (choices.size() == 1) throw;
      spdlog::warn("{} is not used, the other devices compute its batches: {}", to_string(choices[i].device),
                   error.what());
      failures += (failures.empty() ? "" : "; ") + std::string(error.what());
    }
  if (classifier.runners.empty()) fail_machine("no device is left: {}", failures);
  // After the weights: if the config belongs to another model, the mismatch with the weights is the better error.
  if (!classifier.files.labels.empty())
    classifier.labels = read_labels(classifier.files.labels, classifier.config.num_classes);
  const auto name = [](const auto& runner) { return runner->report().device_name; };
  const std::string first = name(classifier.runners[0]);
  if (std::ranges::any_of(classifier.runners, [&](const auto& runner) { return name(runner) != first; }))
    spdlog::warn(
        "the devices are of different kinds: an image's logits depend, by rounding, on the one that computes them");
  log_step("weights on the devices");
  spdlog::info("{}", to_string(run_report(classifier)));
}

RunReport run_report(const Classifier& classifier) {
  RunReport report = classifier.runners[0]->report();
  std::vector<std::string> names{report.device_name};
  for (size_t i = 1; i < classifier.runners.size(); ++i) {
    const RunReport other = classifier.runners[i]->report();
    report.device += "," + other.device;
    if (std::ranges::find(names, other.device_name) == names.end()) names.push_back(other.device_name);
  }
  report.device_name = fmt::format("{}", fmt::join(names, "; "));
  return report;
}

void add_batch_size_option(CLI::App& command, int& batch_size) {
  command
      .add_option("--batch-size", batch_size,
                  "Images per batch (default: 8 to 32 on the CPU, 64 to 256 on CUDA, by image size)")
      ->check(whole_number(1, 1 << 16))
      ->type_name("N");
}

void add_input_options(CLI::App& command, std::vector<std::string>& inputs, bool& nul) {
  command.add_option(
      "INPUT", inputs,
      "Image files, folders (searched recursively), archives (tar, zip), - for paths on stdin");
  command.add_flag("-0,--null", nul, "The list of paths on stdin is separated by NUL (find -print0)");
}

void check_inputs(std::vector<std::string>& inputs, bool nul, const std::string& input_tensor,
                  const std::string& shard, const std::string& none) {
  if (nul && inputs.empty()) inputs.emplace_back("-");
  if (nul && std::ranges::find(inputs, "-") == inputs.end())
    fail_input("-0: is of the list of paths on stdin, but no input is -: add it, or leave -0 out");
  if (inputs.empty() && input_tensor.empty())
    fail_input("{}: name image files, folders, archives, - (paths on stdin), or --input-tensor FILE", none);
  if (!inputs.empty() && !input_tensor.empty())
    fail_input("--input-tensor stands for images: leave out one of the two");
  if (!shard.empty() && !input_tensor.empty()) fail_input("--shard: shares out images, not --input-tensor");
}

HostTensor floating_input(const StateDict& file) {
  const StoredTensor& input = file.at("input");
  if (!is_floating(input.dtype))
    fail_input("{}: tensor input is {}, wanted normalised floating-point values, as --save-input writes them",
               file.where, to_string(input.dtype));
  return input.to_float32();
}

HostTensor input_in(const StateDict& file, int in_chans) {
  HostTensor input = floating_input(file);
  if (input.dims.size() != 4 || input.elements() == 0 || input.dims[1] != in_chans)
    fail_input("{}: tensor input is {}, wanted (B, {}, H, W)", file.where, shape_string(input.dims),
               in_chans);
  float largest = 0;
  for (const float value : input.values) largest = std::max(largest, std::abs(value));
  if (largest > 16)
    spdlog::warn("{}: tensor input has values up to {}: it is taken as normalised already", file.where,
                 largest);
  return input;
}

HostTensor entries(const HostTensor& input, int64_t begin, int64_t n) {
  const size_t entry = input.values.size() / static_cast<size_t>(input.dims[0]);
  HostTensor part{{n, input.dims[1], input.dims[2], input.dims[3]}, {}};
  const float* values = input.values.data() + static_cast<size_t>(begin) * entry;
  part.values.assign(values, values + static_cast<size_t>(n) * entry);
  return part;
}

std::optional<std::vector<std::string>> files_in(const StateDict& file, size_t rows) {
  const auto noted = file.metadata.find("files");
  const Json list = noted == file.metadata.end() ? Json() : Json::parse(noted->second, nullptr, false);
  if (!list.is_array() || list.size() != rows ||
      !std::ranges::all_of(list, [](const Json& name) { return name.is_string(); }))
    return std::nullopt;
  auto names = list.get<std::vector<std::string>>();
  const auto bytes = file.metadata.find("files_bytes");
  if (bytes == file.metadata.end()) return names;
  const Json hex = Json::parse(bytes->second, nullptr, false);
  if (!hex.is_array() || hex.size() != rows) return std::nullopt;
  for (size_t i = 0; i < rows; ++i)
    if (hex[i].is_string()) names[i] = bytes_of_hex(hex[i].get<std::string>());
  return names;
}

std::map<std::string, std::string> files_metadata(const std::vector<std::string>& files) {
  Json names = Json::array(), bytes = Json::array();
  bool any = false;
  for (const std::string& file : files) {
    const Json name = named("file", file);
    names.push_back(name["file"]);
    bytes.push_back(name.value("file_bytes", Json()));
    any = any || bytes.back().is_string();
  }
  std::map<std::string, std::string> metadata{{"files", dump_json(names)}};
  if (any) metadata["files_bytes"] = dump_json(bytes);
  return metadata;
}

void add_decode_option(CLI::App& command, std::string& decode) {
  command
      .add_option("--decode", decode, "cpu, or auto (JPEGs on the GPU if the model runs there; same pixels)")
      ->check(CLI::IsMember({std::string("auto"), std::string(to_string(DeviceType::cpu))}).description(""))
      ->type_name("WHERE")
      ->capture_default_str();
}

JpegDecoding jpeg_decoding(const Classifier& classifier, const std::string& decode) {
  const bool on_device = decode == "auto" && std::ranges::none_of(classifier.choices, is_cpu);
  return on_device ? JpegDecoding::on_device : JpegDecoding::here;
}

int decoding_threads(const std::vector<RunChoice>& choices) {
  const int processors = static_cast<int>(std::max(std::thread::hardware_concurrency(), 1u));
  return std::ranges::any_of(choices, is_cpu) ? std::max(processors / 2, 1) : std::min(processors, 64);
}

std::vector<float> run_in_pieces(const std::string& device, int& batch_size, int64_t count,
                                 const std::function<HostTensor(int64_t, int64_t)>& run) {
  std::vector<float> logits;
  for (int64_t done = 0; done < count;) {
    const int64_t n = std::min<int64_t>(count - done, batch_size);
    try {
      const HostTensor piece = run(done, n);
      logits.insert(logits.end(), piece.values.begin(), piece.values.end());
      done += n;
    } catch (const OutOfMemory& error) {
      if (n == 1) throw;
      batch_size = static_cast<int>(n / 2);
      spdlog::warn("{}: a batch of {} does not fit ({}); going on with {}", device, n, error.what(),
                   batch_size);
    }
  }
  return logits;
}

std::unique_ptr<DeviceModel> device_model(Runner& runner, int batch_size, bool ahead) {
  return std::make_unique<RunnerModel>(runner, batch_size, ahead);
}

namespace {

std::vector<std::unique_ptr<DeviceModel>> device_models(const Classifier& classifier) {
  std::vector<std::unique_ptr<DeviceModel>> models;
  for (const auto& runner : classifier.runners)
    models.push_back(
        device_model(*runner, classifier.batch_size, runner->kernels().device().type != DeviceType::cpu));
  return models;
}

}  // namespace

ClassifiedBatches::ClassifiedBatches(const Classifier& classifier, ImageSource& source)
    : DeviceTeam(device_models(classifier), source) {}

void warn_not_finite(const Classifier& classifier, size_t count, size_t images) {
  if (count == 0) return;
  std::string advice;
  if (storage_dtype(classifier.choices[0].precision) == DType::float16)
    advice = fmt::format("; {} overflows above {}: try --dtype {} or {}, or --forward-core-version v0",
                         to_string(DType::float16), row_of(DType::float16).largest,
                         to_string(DType::bfloat16), to_string(DType::float32));
  spdlog::warn("{} of {} with logits that are not finite{}", count, counted(images, "image"), advice);
}

Json report_json(const Classifier& classifier) {
  Json json{{"model", classifier.config.name}, {"weights", classifier.files.weights.string()}};
  json.update(Json(run_report(classifier)));
  if (classifier.weights_sum.empty()) return json;
  const std::filesystem::path& labels = classifier.files.labels;
  json["weights_sha256"] = classifier.weights_sum;
  json["config_sha256"] = config_sha256(classifier.config);
  json["labels_sha256"] = labels.empty() ? Json() : Json(sha256(read_file(labels)));
  return json;
}

Json made_by(const Classifier& classifier) {
  Json json = to_json(this_program());
  json["threads"] = classifier.choices[0].threads;
  json["batch"] = classifier.batch_size;
  return json;
}

std::string shown(const std::string& text) {
  return printable(text, std::string::npos);
}

}  // namespace vmamba
