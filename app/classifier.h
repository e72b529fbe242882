// Shared by classify and eval: a model with its labels, and batches that fit into the device's memory.
#pragma once
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "app/model_options.h"
#include "lib/images/image_source.h"
#include "lib/labels/labels.h"
#include "lib/model/runner.h"

namespace vmamba {

using Json = nlohmann::ordered_json;

// A model is loaded in two steps, so that images are decoded while the weights load.
struct Classifier {
  ModelFiles files;
  Config config;
  RunChoice choice;
  int batch_size = 0;
  // set by load_runner
  std::unique_ptr<Runner> runner;
  Labels labels;  // empty if there are none
};
// batch_size 0: chosen for the device.
Classifier make_classifier(const ModelOptions& options, int batch_size);
// If `weights_sum` is not null, it receives the SHA-256 of the weights.
void load_runner(Classifier& classifier, std::string* weights_sum = nullptr);
// Number of decoder threads. On the CPU they share the cores with the model.
int decoding_threads(const Classifier& classifier);

// Runs `count` inputs through run(begin, n) in chunks of at most the classifier's batch size and returns all
// logits. If the device runs out of memory, the batch size is halved for this and all later calls, and a
// message is logged.
std::vector<float> run_in_pieces(Classifier& classifier, int64_t count,
                                 const std::function<HostTensor(int64_t begin, int64_t n)>& run);

// The batches of a source with their logits, in order. With `ahead`, the next batch (if decoded) is uploaded
// while the device computes the current one, and is started before the current logits are returned. Useful
// only on devices that run asynchronously.
class ClassifiedBatches {
 public:
  ClassifiedBatches(Classifier& classifier, ImageSource& source, bool ahead)
      : classifier_(classifier), source_(source), ahead_(ahead) {}
  ClassifiedBatches(Classifier& classifier, ImageSource& source)
      : ClassifiedBatches(classifier, source, classifier.choice.device.type != DeviceType::cpu) {}
  // Returns false after the last batch. logits: one row per image of the batch.
  bool next(ImageBatch& batch, std::vector<float>& logits);

 private:
  bool stage(const ImageBatch& batch);
  bool start();
  std::vector<float> run(const ImageBatch& batch);

  Classifier& classifier_;
  ImageSource& source_;
  const bool ahead_;
  ImageBatch current_, following_;
  bool have_current_ = false, running_ = false;
};

// Warns that `count` images have non-finite logits and suggests a remedy; silent if `count` is 0.
void warn_not_finite(size_t count, size_t images);

// The device, dtype and backend actually used, for the reports.
Json report_json(const Classifier& classifier);

// For a terminal, in full length.
std::string shown(const std::string& text);

}  // namespace vmamba
