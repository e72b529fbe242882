// Loading of a model with its labels, batch sizes, and batched inference.
#include "app/classifier.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <thread>

#include "kernels/error.h"
#include "lib/support/text.h"
#include "lib/verify/provenance.h"

namespace vmamba {

namespace {

// 8 images of 224² pixels saturate a CPU, 64 a GPU. Smaller images allow larger batches.
int default_batch_size(const Classifier& classifier) {
  const int at_224 = classifier.choice.device.type == DeviceType::cpu ? 8 : 64;
  const double smaller = 224.0 / classifier.config.preprocess.crop;
  return static_cast<int>(std::clamp(at_224 * smaller * smaller, 1.0 * at_224, 4.0 * at_224));
}

}  // namespace

Classifier make_classifier(const ModelOptions& options, int batch_size) {
  Classifier classifier;
  classifier.files = find_model(options);
  classifier.config = load_model_config(options, classifier.files);
  classifier.choice = choose_run(options);
  classifier.batch_size = batch_size > 0 ? batch_size : default_batch_size(classifier);
  return classifier;
}

void load_runner(Classifier& classifier, std::string* weights_sum) {
  const StateDict weights = read_weights(classifier.files);
  if (weights_sum) *weights_sum = weights_sha256(classifier.config, weights);
  classifier.runner = std::make_unique<Runner>(classifier.config, weights, classifier.choice);
  // After the weights: if the config belongs to another model, the mismatch with the weights is the better error.
  if (!classifier.files.labels.empty())
    classifier.labels = read_labels(classifier.files.labels, classifier.config.num_classes);
  spdlog::info("{}", to_string(classifier.runner->report()));
}

int decoding_threads(const Classifier& classifier) {
  const int processors = static_cast<int>(std::max(std::thread::hardware_concurrency(), 1u));
  return classifier.choice.device.type == DeviceType::cpu ? std::max(processors / 2, 1)
                                                          : std::min(processors, 64);
}

std::vector<float> run_in_pieces(Classifier& classifier, int64_t count,
                                 const std::function<HostTensor(int64_t, int64_t)>& run) {
  std::vector<float> logits;
  logits.reserve(static_cast<size_t>(count) * classifier.config.num_classes);
  for (int64_t done = 0; done < count;) {
    const int64_t n = std::min<int64_t>(count - done, classifier.batch_size);
    try {
      const HostTensor piece = run(done, n);
      logits.insert(logits.end(), piece.values.begin(), piece.values.end());
      done += n;
    } catch (const OutOfMemory& error) {
      if (n == 1) throw;
      classifier.batch_size = static_cast<int>(n / 2);
      spdlog::warn("{}: a batch of {} does not fit ({}); going on with {}",
                   to_string(classifier.choice.device), n, error.what(), classifier.batch_size);
    }
  }
  return logits;
}

// If memory does not suffice, returns false: run() splits the batch later.
bool ClassifiedBatches::stage(const ImageBatch& batch) {
  const int64_t crop = classifier_.config.preprocess.crop;
  if (batch.images == 0 || batch.images > classifier_.batch_size) return false;
  try {
    classifier_.runner->stage_pixels(batch.pixels.data(), batch.images, crop, crop);
    return true;
  } catch (const OutOfMemory&) {
    return false;
  }
}

bool ClassifiedBatches::start() {
  try {
    classifier_.runner->start_staged();
    return true;
  } catch (const OutOfMemory&) {
    return false;
  }
}

std::vector<float> ClassifiedBatches::run(const ImageBatch& batch) {
  const int64_t crop = classifier_.config.preprocess.crop;
  return run_in_pieces(classifier_, batch.images, [&](int64_t begin, int64_t n) {
    return classifier_.runner->run_pixels(batch.pixels.data() + begin * crop * crop * 3, n, crop, crop);
  });
}

bool ClassifiedBatches::next(ImageBatch& batch, std::vector<float>& logits) {
  if (!have_current_) {
    if (!source_.next(current_)) return false;
    running_ = stage(current_) && start();
  }
  have_current_ = ahead_ && source_.next_if_ready(following_);
  const bool staged = have_current_ && running_ && stage(following_);
  logits = running_ ? classifier_.runner->finish().values : run(current_);
  std::swap(batch, current_);
  std::swap(current_, following_);
  if (have_current_) running_ = (staged || stage(current_)) && start();
  return true;
}

void warn_not_finite(size_t count, size_t images) {
  if (count > 0)
    spdlog::warn(
        "{} of {} images have logits that are not finite; {} overflows above {}: try --dtype {} or {}, or "
        "--forward-core-version v0",
        count, images, to_string(DType::float16), row_of(DType::float16).largest, to_string(DType::bfloat16),
        to_string(DType::float32));
}

Json report_json(const Classifier& classifier) {
  Json json{{"model", classifier.config.name}, {"weights", classifier.files.weights.string()}};
  json.update(Json(classifier.runner->report()));
  return json;
}

std::string shown(const std::string& text) {
  return printable(text, std::string::npos);
}

}  // namespace vmamba
