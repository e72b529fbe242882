// What classify and eval share: a model with its labels, and batches that fit the device.
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

// A model in two steps, so that images are decoded while the weights load.
struct Classifier {
  ModelFiles files;
  Config config;
  RunChoice choice;
  int batch_size = 0;
  // load_runner makes these.
  std::unique_ptr<Runner> runner;
  Labels labels;  // empty: there are none
};
// batch_size 0: what suits the device.
Classifier make_classifier(const ModelOptions& options, int batch_size);
// `weights_sum`: takes their SHA-256.
void load_runner(Classifier& classifier, std::string* weights_sum = nullptr);
// Threads that decode ahead of the model: on the CPU they share the cores with it.
int decoding_threads(const Classifier& classifier);

// Runs `count` inputs through run(begin, n) in pieces of at most the classifier's batch size; returns all
// logits. Where the device's memory does not suffice the batch size is halved, from then on, and that is
// logged.
std::vector<float> run_in_pieces(Classifier& classifier, int64_t count,
                                 const std::function<HostTensor(int64_t begin, int64_t n)>& run);

// The batches of a source with their logits, in order. With `ahead` the next one, where it is decoded,
// travels to the device while that works on one, and is started before the logits of that one are returned:
// for devices that work beside the caller.
class ClassifiedBatches {
 public:
  ClassifiedBatches(Classifier& classifier, ImageSource& source, bool ahead)
      : classifier_(classifier), source_(source), ahead_(ahead) {}
  ClassifiedBatches(Classifier& classifier, ImageSource& source)
      : ClassifiedBatches(classifier, source, classifier.choice.device.type != DeviceType::cpu) {}
  // False: there is no more. logits: a row for each image of the batch.
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

// Says that `count` of the images have logits that are not finite, and what may help; nothing where none has.
void warn_not_finite(size_t count, size_t images);

// What really ran, for the reports.
Json report_json(const Classifier& classifier);

// File names and labels may hold any bytes: broken UTF-8 becomes U+FFFD.
std::string dump_json(const Json& json, int indent = -1);
// Safe to print on a terminal: control characters escaped.
std::string shown(const std::string& text);

}  // namespace vmamba
