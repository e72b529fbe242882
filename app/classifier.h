// Shared by classify and eval: a model with its labels, and batches that fit into the device's memory.
#pragma once
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "app/device_team.h"
#include "app/model_options.h"
#include "lib/images/image_source.h"
#include "lib/labels/labels.h"
#include "lib/model/runner.h"
#include "lib/support/sha256.h"

namespace vmamba {

using Json = nlohmann::ordered_json;

// A model is loaded in two steps, so that images are decoded while the weights load.
struct Classifier {
  ModelFiles files;
  Config config;
  std::vector<RunChoice> choices;  // one per device; all of the same precision
  int batch_size = 0;
  std::future<StateDict> weights;  // read in the background until load_runners
  // set by load_runners
  std::vector<std::unique_ptr<Runner>> runners;  // one per usable device
  std::string weights_sum;                       // SHA-256, if the results are kept
  Labels labels;                                 // empty if there are none
};
int default_batch_size(const std::vector<RunChoice>& choices, const Config& config);
// batch_size 0: the default.
Classifier make_classifier(const ModelOptions& options, int batch_size);
// Whether results are kept in a form that says what they were made of.
enum class Kept : uint8_t { no, yes };
// Loads each device's kernels and weights on its own thread. A device that cannot be used is named in a warning if others
// can.
void load_runners(Classifier& classifier, Kept kept);
void add_batch_size_option(CLI::App& command, int& batch_size);  // --batch-size
// INPUT… and -0, of the commands that take any images.
void add_input_options(CLI::App& command, std::vector<std::string>& inputs, bool& nul);
// -0 alone reads the list on stdin. InputError where there are neither images nor a tensor (`none` says so), both, a shard
// of a tensor, or -0 without a list.
void check_inputs(std::vector<std::string>& inputs, bool nul, const std::string& input_tensor,
                  const std::string& shard, const std::string& none);
// Tensor `input`, which must be of a floating-point type; that of shape (B, in_chans, H, W); n of its entries.
HostTensor floating_input(const StateDict& file);
HostTensor input_in(const StateDict& file, int in_chans);
HostTensor entries(const HostTensor& input, int64_t begin, int64_t n);
// Metadata of saved rows: `files`, a JSON list of their names, and where one is not UTF-8, `files_bytes`, a list of its
// bytes in hexadecimal and null for the others.
std::map<std::string, std::string> files_metadata(const std::vector<std::string>& files);
// The names in this metadata; none if it is not a list of so many.
std::optional<std::vector<std::string>> files_in(const StateDict& file, size_t rows);
// --decode cpu|auto, of the commands that read images.
void add_decode_option(CLI::App& command, std::string& decode);
// Whether the devices decode JPEGs; the pixels are the same.
JpegDecoding jpeg_decoding(const Classifier& classifier, const std::string& decode);
// Number of decoder threads, which all devices share. On the CPU they share the cores with the model.
int decoding_threads(const std::vector<RunChoice>& choices);

// Runs `count` inputs through run(begin, n) in chunks of at most `batch_size` and returns all logits. If the device runs
// out of memory, the batch size is halved for this and all later calls, and a message is logged.
std::vector<float> run_in_pieces(const std::string& device, int& batch_size, int64_t count,
                                 const std::function<HostTensor(int64_t begin, int64_t n)>& run);

// A Runner as one of a team. `ahead`: the next batch (if decoded) is uploaded while the device computes the current one.
// Useful only on devices that run asynchronously.
std::unique_ptr<DeviceModel> device_model(Runner& runner, int batch_size, bool ahead);

// The batches of a source with their logits, in input order, computed by all runners of the classifier.
class ClassifiedBatches : public DeviceTeam {
 public:
  ClassifiedBatches(const Classifier& classifier, ImageSource& source);
};

// One report with the names of all devices.
RunReport run_report(const Classifier& classifier);

// Warns that `count` images have non-finite logits and suggests a remedy; silent if `count` is 0.
void warn_not_finite(const Classifier& classifier, size_t count, size_t images);

// The device, dtype and backend actually used, for the reports; of kept results also SHA-256 of weights, config and labels.
Json report_json(const Classifier& classifier);
// SHA-256 of what was read: of the hexadecimal SHA-256 of each image, in input order.
class InputSum {
 public:
  explicit InputSum(bool wanted) : wanted_(wanted) {}
  ImageSums of_images() const { return wanted_ ? ImageSums::sha256 : ImageSums::none; }
  void add(const ImageBatch::Item& item) { sum_.add(item.sha256); }
  Json json() { return wanted_ ? Json(sum_.hex()) : Json(); }

 private:
  bool wanted_;
  Sha256 sum_;
};
// The program and how it was started: what results do not depend on.
Json made_by(const Classifier& classifier);

// Escaped for a terminal, not shortened.
std::string shown(const std::string& text);

}  // namespace vmamba
