// classify: the most likely classes of images, or of tensors that were preprocessed elsewhere.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <iostream>

#include "app/classifier.h"
#include "app/commands.h"
#include "app/input_tally.h"
#include "app/option_values.h"
#include "app/progress.h"
#include "app/result_lines.h"
#include "app/scheduler_options.h"
#include "kernels/error.h"
#include "lib/images/archives.h"
#include "lib/images/preprocess.h"
#include "lib/labels/predictions.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/support/text.h"
#include "lib/tensors/row_spool.h"
#include "lib/verify/provenance.h"

namespace vmamba {
namespace {

struct Options {
  ModelOptions model;
  std::vector<std::string> inputs;
  std::string input_tensor, format = "text", output, save_logits, save_input, shard_text, log, summary;
  std::string decode = "auto";
  std::vector<std::string> merge;
  const CLI::App* parser = nullptr;
  Shard shard;
  bool nul = false;  // paths of a list end with NUL instead of a newline
  int top_k = 5, batch_size = 0;

  Kept kept() const { return format == "json" || !summary.empty() ? Kept::yes : Kept::no; }
};

constexpr std::string_view no_answer = "no answer: its logits are NaN or infinite";

struct Result {
  std::string file;
  std::string error;            // empty on success
  std::vector<Prediction> top;  // empty on success: no answer
  InputPosition position;
};

// Writes each result as it arrives, except for JSON, which is one document written at the end.
class Results {
 public:
  // With `log` results go there instead, as JSON lines.
  Results(const Options& options, const Classifier& classifier, std::ostream& out,
          std::unique_ptr<PositionedResults> log = nullptr)
      : format_(options.format), classifier_(classifier), out_(out), log_(std::move(log)) {
    if (format_ == "csv") out_ << "file,rank,class,label,probability,logit,error\n";
  }

  void add(const Result& result) {
    if (log_)
      log_->add(result.position, to_json(result));
    else if (format_ == "json")
      results_.push_back(to_json(result));
    else if (format_ == "jsonl")
      out_ << dump_json(to_json(result)) << '\n';
    else if (format_ == "csv")
      add_csv(result);
    else if (result.error.empty())
      add_text(result);
  }

  // Flushes all results so far to the output.
  void flush() {
    if (log_) log_->flush();
    if (!out_.flush()) fail_machine("the results could not be written");  // to stdout: a file says so itself
  }

  void finish(const InputTally& tally, size_t without_answer, const InputsAtEnd& inputs,
              const Json& input_sum) {
    if (log_) {
      log_->finish(inputs);
    } else if (format_ == "json") {
      Json document = report_json(classifier_);
      document["input_sha256"] = input_sum;
      document["made_by"] = made_by(classifier_);
      document["images"] = tally.images;
      document["failed"] = tally.failed;
      document["no_answer"] = without_answer;
      document["results"] = std::move(results_);
      out_ << dump_json(document, 2) << '\n';
    }
    flush();
  }

 private:
  Json label(int index) const {
    return classifier_.labels.empty() ? Json() : Json(classifier_.labels.names[index]);
  }

  Json to_json(const Result& result) const {
    Json line = named("file", result.file);
    if (!result.error.empty()) {
      line["error"] = result.error;
      return line;
    }
    Json top = Json::array();  // empty: no answer
    for (const Prediction& prediction : result.top) {
      Json entry{{"class", prediction.index}, {"label", label(prediction.index)}};
      if (!classifier_.labels.ids.empty()) entry["id"] = classifier_.labels.ids[prediction.index];
      entry["probability"] = prediction.probability;
      entry["logit"] = prediction.logit;
      top.push_back(std::move(entry));
    }
    line["top"] = std::move(top);
    return line;
  }

  void add_csv(const Result& result) {
    const std::string file = csv_field(result.file);
    if (result.top.empty())
      out_ << file << ",,,,,," << csv_field(result.error.empty() ? no_answer : result.error) << '\n';
    for (size_t i = 0; i < result.top.size(); ++i) {
      const Prediction& prediction = result.top[i];
      const std::string name =
          classifier_.labels.empty() ? "" : csv_field(classifier_.labels.names[prediction.index]);
      out_ << fmt::format("{},{},{},{},{},{},\n", file, i + 1, prediction.index, name, prediction.probability,
                          prediction.logit);
    }
  }

  void add_text(const Result& result) {
    out_ << shown(result.file) << '\n';
    if (result.top.empty()) out_ << "  " << no_answer << '\n';
    for (const Prediction& prediction : result.top) {
      const std::string name = classifier_.labels.empty() ? fmt::format("class {}", prediction.index)
                                                          : shown(classifier_.labels.names[prediction.index]);
      out_ << fmt::format("{:7.2f} %  {}\n", 100 * prediction.probability, name);
    }
  }

  std::string format_;
  const Classifier& classifier_;
  std::ostream& out_;
  std::unique_ptr<PositionedResults> log_;
  Json results_ = Json::array();
};

// All outputs of the run, and its counters.
struct Outputs {
  std::optional<OutputFile> file;
  std::optional<RowSpool> logits, input;
  std::optional<Results> results;
  std::vector<int64_t> input_dims;  // of one input: channels, height, width
  std::vector<std::string> files;   // the classified images, for the metadata of saved tensors
  InputTally tally;
  size_t not_finite = 0, without_answer = 0;  // of this run
  Json input_sum;                             // of JSON, SHA-256 of what was classified
  InputsAtEnd inputs;
  ResultCounts earlier;  // of the run that --results goes on from
};

// Called before anything is read, so that an unwritable path fails at once, and so does one that is an input.
void open_outputs(const Options& options, Outputs& outputs) {
  if (!options.output.empty()) outputs.file.emplace(options.output);
  if (!options.save_logits.empty()) outputs.logits.emplace(options.save_logits);
  if (!options.save_input.empty()) outputs.input.emplace(options.save_input);
}

void add_failed(Outputs& outputs, const std::string& file, const std::string& error,
                const InputPosition& position) {
  outputs.tally.add_failed(error);
  outputs.results->add({file, error, {}, position});
}

void add_classified(Outputs& outputs, const std::string& file, std::span<const float> logits, int k,
                    const InputPosition& position = {}) {
  outputs.tally.add_image();
  outputs.not_finite += !all_finite(logits);
  if (outputs.logits) outputs.logits->add(logits);
  if (outputs.logits || outputs.input) outputs.files.push_back(file);
  const bool answered = have_answer(logits);
  outputs.without_answer += !answered;
  outputs.results->add({file, {}, answered ? top_k(logits, k) : std::vector<Prediction>(), position});
}

std::unique_ptr<PositionedResults> open_log(const Options& options, Classifier& classifier) {
  load_runners(classifier, Kept::yes);
  Json subject;
  subject["classify"] = Json::parse(dump_json(Json(options.inputs)));
  subject["topk"] = options.top_k;
  subject["shard"] = to_string(options.shard);
  return std::make_unique<PositionedResults>(options.log, result_header(std::move(subject), classifier));
}

// Of results that are done: whether the input still is theirs.
void compare_done(const Options& options, const PositionedResults& log, const NextPath& next_path,
                  const InputPart& part) {
  const std::atomic<bool> stop = false;
  if (const std::optional<InputPath> path = next_path(stop))
    fail_input("{}: is done, and this run also has {}: the inputs have changed: give another results file",
               options.log, in_quotes(path->file.string()));
  log.compare_end(inputs_at_end(*part.seen));
  spdlog::info("{}: is done", options.log);
}

void classify_images(const Options& options, Classifier& classifier, Outputs& outputs, std::ostream& out) {
  const Config& config = classifier.config;
  if (config.in_chans != 3)
    fail_input("images have 3 channels, the config's in_chans is {}: give --input-tensor FILE",
               config.in_chans);
  std::error_code ignored;
  const bool one_file = options.inputs.size() == 1 && options.inputs[0] != "-" &&
                        !std::filesystem::is_directory(options.inputs[0], ignored) &&
                        !has_archive_ending(options.inputs[0]);
  if (one_file) classifier.batch_size = 1;
  InputPart part{options.shard, {}};
  std::unique_ptr<PositionedResults> log;
  if (!options.log.empty()) {
    log = open_log(options, classifier);
    outputs.earlier = log->earlier();
    outputs.tally.earlier_images = outputs.earlier.images;
    outputs.tally.earlier_failed = outputs.earlier.failed;
    part.after = log->last();
    part.skipped = [&earlier = *log](const SkippedInput& input) { earlier.compare(input); };
    part.seen->names.emplace();
    if (log->is_done()) {
      compare_done(options, *log, input_paths(options.inputs, options.nul ? '\0' : '\n', part), part);
      return;
    }
    if (part.after) spdlog::info("{}: goes on behind input {}", options.log, part.after->input);
  }
  InputSum sum(options.format == "json");
  ImageSource source(
      input_paths(options.inputs, options.nul ? '\0' : '\n', part), config.preprocess, classifier.batch_size,
      one_file ? 1 : decoding_threads(classifier.choices),
      outputs.input || one_file ? JpegDecoding::here : jpeg_decoding(classifier, options.decode),
      sum.of_images());
  if (!log) load_runners(classifier, options.kept());
  outputs.results.emplace(options, classifier, out, std::move(log));
  Progress progress(0, 0);
  size_t done = 0;
  const size_t classes = static_cast<size_t>(config.num_classes);
  const size_t image_bytes = size_t{3} * config.preprocess.crop * config.preprocess.crop;
  outputs.input_dims = {3, config.preprocess.crop, config.preprocess.crop};
  std::vector<float> normalized(outputs.input ? image_bytes : 0);
  ClassifiedBatches batches(classifier, source);
  ImageBatch batch;
  std::vector<float> logits;
  while (batches.next(batch, logits)) {
    size_t place = 0;
    for (const ImageBatch::Item& item : batch.items) {
      if (!item.error.empty()) {
        add_failed(outputs, item.file.string(), item.error, item.position);
        continue;
      }
      if (outputs.input) {
        normalize_chw(std::span(batch.pixels).subspan(place * image_bytes, image_bytes), config.preprocess,
                      normalized);
        outputs.input->add(normalized);
      }
      sum.add(item);
      add_classified(outputs, item.file.string(), std::span(logits).subspan(place * classes, classes),
                     options.top_k, item.position);
      ++place;
    }
    outputs.results->flush();
    done += batch.items.size();
    progress.show(done);
  }
  outputs.inputs = inputs_at_end(*part.seen);
  outputs.input_sum = sum.json();
}

// One name per entry: the one that --save-* recorded in the file, else the file name and the entry's index.
std::vector<std::string> names_of_entries(const StateDict& file, int64_t count) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < count; ++i) names.push_back(fmt::format("{}#{}", file.where, i));
  return files_in(file, static_cast<size_t>(count)).value_or(names);
}

void classify_tensor(const Options& options, Classifier& classifier, Outputs& outputs, std::ostream& out) {
  const StateDict file = read_state_dict(options.input_tensor);
  if (classifier.choices.size() > 1)
    fail_input("--device {}: --input-tensor runs on one device: name one", options.model.device);
  const HostTensor input = input_in(file, classifier.config.in_chans);
  classifier.batch_size = static_cast<int>(std::min<int64_t>(classifier.batch_size, input.dims[0]));
  load_runners(classifier, options.kept());
  Runner& runner = *classifier.runners[0];
  outputs.results.emplace(options, classifier, out);
  const std::vector<std::string> names = names_of_entries(file, input.dims[0]);
  const size_t classes = static_cast<size_t>(classifier.config.num_classes);
  for (int64_t begin = 0, count = 0; begin < input.dims[0]; begin += count) {
    count = std::min<int64_t>(classifier.batch_size, input.dims[0] - begin);  // which memory may have halved
    const std::vector<float> logits =
        run_in_pieces(to_string(runner.kernels().device()), classifier.batch_size, count,
                      [&](int64_t piece, int64_t n) { return runner.run(entries(input, begin + piece, n)); });
    for (int64_t i = 0; i < count; ++i)
      add_classified(outputs, names[static_cast<size_t>(begin + i)],
                     std::span(logits).subspan(static_cast<size_t>(i) * classes, classes), options.top_k);
    outputs.results->flush();
  }
  outputs.input_dims = {input.dims[1], input.dims[2], input.dims[3]};
  outputs.input_sum = input_sha256(input);
  if (outputs.input) outputs.input->add(input.values);
}

int merge_results(const Options& options) {
  refuse_others(*options.parser, "--merge", {"--merge", "--output"});
  std::optional<OutputFile> file;
  if (!options.output.empty()) file.emplace(options.output);
  std::ostream& out = file ? file->stream() : std::cout;
  const auto counts = merge_positioned(options.merge, out);
  if (!counts) return 1;
  if (!out.flush()) fail_machine("the results could not be written");
  if (file) file->commit();
  if (counts->failed > 0)
    spdlog::warn("{} of {} could not be read", counts->failed,
                 counted(counts->failed + counts->images, "input"));
  counts->warn_no_answer();
  return counts->failed + counts->no_answer > 0 ? 1 : 0;
}

int run_classify(Options& options) {
  if (!options.merge.empty()) return merge_results(options);
  options.shard = choose_shard(options.shard_text, {&options.output, &options.save_logits,
                                                    &options.save_input, &options.log, &options.summary});
  if (!options.log.empty())
    for (const char* other : {"--output", "--format", "--save-logits", "--save-input", "--input-tensor"})
      if (options.parser->get_option(other)->count() > 0)
        fail_input("--results: the results go there, as JSON lines: leave out {}", other);
  check_inputs(options.inputs, options.nul, options.input_tensor, options.shard_text, "nothing to classify");
  if (!options.input_tensor.empty() && options.parser->get_option("--decode")->count() > 0)
    fail_input("--decode: is of images, not of --input-tensor");
  SummaryFile summary(options.summary);
  Outputs outputs;
  open_outputs(options, outputs);
  Classifier classifier = make_classifier(options.model, options.batch_size);
  std::ostream& out = outputs.file ? outputs.file->stream() : std::cout;
  const auto start = std::chrono::steady_clock::now();
  if (options.input_tensor.empty())
    classify_images(options, classifier, outputs, out);
  else
    classify_tensor(options, classifier, outputs, out);

  InputTally& tally = outputs.tally;
  if (options.shard.is_all()) tally.require_images();  // a shard may be empty
  tally.report_skipped();
  if (outputs.results)
    outputs.results->finish(tally, outputs.without_answer, outputs.inputs, outputs.input_sum);
  const std::map<std::string, std::string> metadata = files_metadata(outputs.files);
  if (outputs.logits) outputs.logits->write({{"logits", {classifier.config.num_classes}}}, metadata);
  if (outputs.input) outputs.input->write({{"input", outputs.input_dims}}, metadata);
  if (outputs.file) outputs.file->commit();

  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (tally.images > 1)
    spdlog::info("{} in {:.2f} s, loading included", counted(tally.images, "image"), seconds.count());
  warn_not_finite(classifier, outputs.not_finite, tally.images);
  const ResultCounts all{tally.images + tally.earlier_images,
                         outputs.without_answer + outputs.earlier.no_answer, tally.all_failed()};
  all.warn_no_answer();
  const int exit_code = std::max(tally.exit_code(), all.no_answer > 0 ? 1 : 0);
  summary.write({"classify", options.shard, tally.images, all.failed, all.no_answer, outputs.earlier.images,
                 seconds.count(), exit_code, report_json(classifier)});
  return exit_code;
}

}  // namespace

Command add_classify(CLI::App& app) {
  CLI::App* parser = app.add_subcommand("classify", "Name the most likely classes of images");
  auto options = std::make_shared<Options>();
  add_input_options(*parser, options->inputs, options->nul);
  parser->add_option("--topk", options->top_k, "Number of classes per image")
      ->check(whole_number(1, 1 << 20))
      ->type_name("K")
      ->capture_default_str();
  add_batch_size_option(*parser, options->batch_size);
  add_decode_option(*parser, options->decode);
  parser->add_option("--format", options->format, "text, json, jsonl (written as results come) or csv")
      ->check(CLI::IsMember({"text", "json", "jsonl", "csv"}).description(""))
      ->type_name("FORMAT")
      ->capture_default_str();
  parser->add_option("-o,--output", options->output, "File for the results, instead of stdout")
      ->type_name("FILE");
  parser->add_option("--save-logits", options->save_logits, "Write tensor logits (n, classes), float32")
      ->check(safetensors_name)
      ->type_name("F.safetensors");
  parser
      ->add_option("--save-input", options->save_input,
                   "Write tensor input (n, 3, H, W), float32, normalised")
      ->check(safetensors_name)
      ->type_name("F.safetensors");
  parser
      ->add_option("--input-tensor", options->input_tensor,
                   "Instead of images: tensor input (B, 3, H, W), already normalised")
      ->type_name("F.safetensors");
  parser
      ->add_option(
          "--results", options->log,
          "Append JSON lines to F instead of stdout; a later run of the same model and input resumes from it")
      ->type_name("F.jsonl");
  parser
      ->add_option("--merge", options->merge,
                   "Instead of classifying: merge the --results of all shards into JSON lines in input order")
      ->type_name("F.jsonl …");
  add_shard_option(*parser, options->shard_text);
  add_summary_option(*parser, options->summary);
  options->parser = parser;
  add_model_options(*parser, options->model, {.labels = true, .devices = true});
  return {parser, [options] { return run_classify(*options); }};
}

}  // namespace vmamba
