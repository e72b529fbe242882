// eval: top-1 and top-5 accuracy on a folder with one subfolder per class, or on one folder and a ground-truth file.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <unordered_map>
#include <utility>

#include "app/classifier.h"
#include "app/commands.h"
#include "app/data_set.h"
#include "app/option_values.h"
#include "app/program.h"
#include "app/progress.h"
#include "app/result_lines.h"
#include "app/scheduler_options.h"
#include "kernels/error.h"
#include "lib/images/archives.h"
#include "lib/labels/accuracy.h"
#include "lib/labels/predictions.h"
#include "lib/report/confusion.h"
#include "lib/report/eval_page.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/support/sha256.h"
#include "lib/support/text.h"
#include "lib/verify/provenance.h"

namespace vmamba {
namespace {
namespace fs = std::filesystem;

struct Options {
  ModelOptions model;
  std::string directory, truth, format = "text", output, confusion, report, results, shard_text, summary;
  std::string decode = "auto";
  std::vector<std::string> merge;
  const CLI::App* parser = nullptr;
  Shard shard;
  int batch_size = 0;
  size_t limit = 0;
};

// The indices of `limit` pictures spread over the classes: the first of each class, then the second of each, …
// In archives they keep their order.
std::vector<size_t> spread(const DataSet& data, size_t limit) {
  std::vector<std::pair<size_t, size_t>> order;  // (index within its class, index of the picture)
  std::unordered_map<int, size_t> seen;
  for (size_t i = 0; i < data.pictures.size(); ++i) {
    const std::span<const int> classes = data.classes_of(data.pictures[i]);
    order.emplace_back(seen[classes.empty() ? -1 : classes[0]]++, i);
  }
  const auto end = order.begin() + static_cast<ptrdiff_t>(std::min(limit, order.size()));
  std::partial_sort(order.begin(), end, order.end());
  order.erase(end, order.end());
  if (data.archives) std::ranges::sort(order, {}, &std::pair<size_t, size_t>::second);
  std::vector<size_t> chosen;
  for (const auto& [in_class, place] : order) chosen.push_back(place);
  return chosen;
}

std::string key(const Json& line) {
  return key_of_named(line, "file");
}

struct Answer {
  std::vector<int> top;
  double probability = 0;  // of top[0]

  bool operator==(const Answer&) const = default;
};

// A line with an answer; nullopt: it is not a line that eval wrote. A null probability came from NaN
// logits: it does not count as an answer, though older versions wrote one.
std::optional<Answer> answer_in(const Json& line, int num_classes) {
  Answer answer;
  if (!line.value("file", Json()).is_string() || !line.contains("probability") ||
      !line.value("top", Json()).is_array())
    return std::nullopt;
  const Json &probability = line["probability"], &list = line["top"];
  if (probability.is_null()) return answer;
  if (!probability.is_number() || list.size() != static_cast<size_t>(std::min(5, num_classes)))
    return std::nullopt;
  answer.probability = probability.get<double>();
  if (!(answer.probability > 0 && answer.probability <= 1)) return std::nullopt;
  for (const Json& number : list) {
    if (!number.is_number_integer() || number < 0 || number >= num_classes) return std::nullopt;
    const int index = number.get<int>();
    if (std::ranges::find(answer.top, index) != answer.top.end()) return std::nullopt;
    answer.top.push_back(index);
  }
  return answer;
}

// --results: JSON Lines, a header that identifies the model, then one line per image. A later run of the same
// model resumes where this one stopped.
class ResultLog {
 public:
  // `list`: the images of a shard, as a line behind the header; null without.
  ResultLog(const std::string& path, const Json& header, const Json& list, int num_classes)
      : num_classes_(num_classes), file_(path) {
    read(header, list.is_null() ? 1 : 2);
    file_.go_on_at(complete_);
    if (complete_ == 0) {
      add(header);
      if (!list.is_null()) add(list);
    }
    flush();
  }

  // Returns the answer of an earlier run, or nullptr if it has none for this file. InputError if it was of another class.
  const Answer* find(const std::string& file, const Json& truth) const {
    const auto found = answers_.find(key(named("file", file)));
    if (found == answers_.end()) return nullptr;
    const Known& known = found->second;
    if (known.truth != truth)
      fail_input(
          "{}:{}: {} is of class {} there, of class {} in this run: the classes have changed: give another file",
          file_.path(), known.line, in_quotes(file), printable(dump_json(known.truth), 200),
          printable(dump_json(truth), 200));
    return &known.answer;
  }
  bool has(const std::string& file) const {
    const std::string name = key(named("file", file));
    return answers_.contains(name) || errors_.contains(name);
  }
  size_t images_at_start() const { return images_at_start_; }  // with an answer or an error

  void add(const Json& line) { unwritten_ += dump_json(line) + "\n"; }
  // An image that cannot be read is tried again in every run, and noted once.
  void add_error(const Json& line) {
    const std::string error = Json::parse(dump_json(line))["error"];
    if (std::exchange(errors_[key(line)], error) != error) add(line);
  }
  void flush() { file_.append(std::exchange(unwritten_, {})); }

 private:
  void read(const Json& header, int first_lines) {
    const std::string& path = file_.path();
    const std::string text = read_open_file(file_.descriptor(), path);
    size_t begin = 0;
    int lines = 0;
    for (int number = 1;; ++number) {
      const size_t end = text.find('\n', begin);
      if (end == std::string::npos) break;  // an incomplete last line: the earlier run was interrupted
      lines = number;
      Json line = parse_shallow(std::string_view(text).substr(begin, end - begin));
      if (!line.is_object()) fail_input("{}:{}: not a line that eval wrote: give another file", path, number);
      if (number == 1)
        check_header(line, header);
      else if (line.contains("top"))
        take(line, number);
      else if (line.value("file", Json()).is_string() && line.value("error", Json()).is_string())
        errors_[key(line)] = line["error"];
      else if (number > first_lines)
        fail_input("{}:{}: not a line that eval wrote: give another file", path, number);
      begin = end + 1;
    }
    images_at_start_ = answers_.size();
    for (const auto& [name, error] : errors_) images_at_start_ += !answers_.contains(name);
    complete_ = lines < first_lines ? 0 : begin;  // killed before it began: from the start
    constexpr std::string_view begins = "{\"eval\":";
    if (lines == 0 && !text.starts_with(begins) && !begins.starts_with(text))
      fail_input("{}: not a file that eval wrote: give another", path);
  }

  void check_header(const Json& was, const Json& is) const {
    if (was.contains("eval") && !was.contains("weights_sha256"))
      fail_input(
          "{}: was begun by an older version, which did not note the contents of weights, config and labels: "
          "whether they are this run's cannot be told: remove it or give another file",
          file_.path());
    if (const std::string difference = header_difference(was, is, false); !difference.empty())
      fail_input("{}: was made with {}: remove it or give another file", file_.path(), difference);
  }

  void take(Json& line, int number) {
    std::optional<Answer> answer = answer_in(line, num_classes_);
    if (!answer) fail_input("{}:{}: not a line that eval wrote: give another file", file_.path(), number);
    const auto [known, added] = answers_.try_emplace(key(line), Known{*answer, line["class"], number});
    if (!added && (known->second.answer != *answer || known->second.truth != line["class"]))
      fail_input("{}:{} and {}: two answers for {}: remove one of the lines, or give another file",
                 file_.path(), known->second.line, number, in_quotes(line["file"].get<std::string>()));
  }

  struct Known {
    Answer answer;
    Json truth;
    int line = 0;
  };

  int num_classes_;
  ResultFile file_;
  std::string unwritten_;
  size_t complete_ = 0;  // bytes of complete lines
  size_t images_at_start_ = 0;
  std::unordered_map<std::string, Known> answers_;
  std::unordered_map<std::string, std::string> errors_;  // of images that could not be read
};

std::vector<std::string> class_names(const Classifier& classifier, const DataSet& data) {
  if (!classifier.labels.empty()) return classifier.labels.names;
  std::vector<std::string> names;
  for (int i = 0; i < classifier.config.num_classes; ++i) names.push_back(fmt::format("class {}", i));
  for (size_t i = 0; i < data.folders.size(); ++i)
    names[static_cast<size_t>(data.classes[i])] = data.folders[i];
  return names;
}

struct Outcome {
  Accuracy accuracy;
  AnswersToShow answers = {};
  size_t failed = 0, from_earlier = 0, not_finite = 0;
  double seconds = 0;   // for the images of this run only
  Json input_sum = {};  // null: not wanted, or some were answered by an earlier run
};

void write_text(std::ostream& out, const Outcome& outcome, const DataSet& data,
                const std::vector<std::string>& names) {
  const ClassCounts& total = outcome.accuracy.total();
  const auto& classes = outcome.accuracy.classes();
  const auto with_images =
      std::count_if(classes.begin(), classes.end(), [](const auto& c) { return c.images > 0; });
  const auto line = [&](const char* what, int64_t count) {
    const Interval interval = wilson_interval(count, total.images);
    out << fmt::format("{:<12}{:6.2f} %   {} of {}, 95 % interval {:.2f} to {:.2f} %\n", what,
                       100 * share(count, total.images), count, total.images, 100 * interval.low,
                       100 * interval.high);
  };
  line("top-1", total.top1);
  if (data.several)
    out << "top-5       is not defined where several classes are right\n";
  else
    line("top-5", total.top5);
  if (total.no_answer > 0)
    out << fmt::format("no answer   {:6.2f} %   {} of {}, whose logits are NaN or infinite\n",
                       100 * share(total.no_answer, total.images), total.no_answer, total.images);
  if (!data.truth_form.empty()) out << fmt::format("truth       {}\n", data.truth_form);
  if (data.not_counted > 0)
    out << fmt::format("not counted {} without a class\n", counted(data.not_counted, "image"));
  if (data.several) return;
  out << fmt::format("{:<12}{:6.2f} %   over {}\n", "class mean", 100 * outcome.accuracy.mean_class_top1(),
                     counted(static_cast<size_t>(with_images), "class", "classes"));
  std::vector<size_t> hardest;
  for (size_t i = 0; i < classes.size(); ++i)
    if (classes[i].images > 0 && classes[i].top1 < classes[i].images) hardest.push_back(i);
  std::stable_sort(hardest.begin(), hardest.end(), [&](size_t a, size_t b) {
    return share(classes[a].top1, classes[a].images) < share(classes[b].top1, classes[b].images);
  });
  if (hardest.size() > 5) hardest.resize(5);
  if (!hardest.empty()) out << "hardest classes\n";
  for (const size_t i : hardest) {
    out << fmt::format("{:18.2f} %   {}", 100 * share(classes[i].top1, classes[i].images), shown(names[i]));
    if (const int mistake = outcome.accuracy.usual_mistake(static_cast<int>(i)); mistake >= 0)
      out << fmt::format(", {} of {} taken for {}", outcome.accuracy.answers(static_cast<int>(i)).at(mistake),
                         classes[i].images, shown(names[static_cast<size_t>(mistake)]));
    out << '\n';
  }
}

Json to_json(const Interval& interval) {
  return {interval.low, interval.high};
}

void write_json(std::ostream& out, const Outcome& outcome, const Json& report, const Json& made_by,
                const DataSet& data, const std::vector<std::string>& names) {
  const ClassCounts& total = outcome.accuracy.total();
  Json document = report;
  document["input_sha256"] = outcome.input_sum;
  document["made_by"] = made_by;
  document["images"] = total.images;
  document["failed"] = outcome.failed;
  if (!data.unread.empty()) document["folders_not_listed"] = data.unread;
  document["no_answer"] = total.no_answer;
  if (!data.truth_form.empty()) {
    document["truth"] = data.truth_form;
    document["not_counted"] = data.not_counted;
  }
  document["top1"] = share(total.top1, total.images);
  document["top5"] = data.several ? Json() : Json(share(total.top5, total.images));
  document["top1_interval"] = to_json(wilson_interval(total.top1, total.images));
  document["top5_interval"] = data.several ? Json() : to_json(wilson_interval(total.top5, total.images));
  document["top1_count"] = total.top1;
  document["top5_count"] = data.several ? Json() : Json(total.top5);
  document["mean_class_top1"] = data.several ? Json() : Json(outcome.accuracy.mean_class_top1());
  document["seconds"] = outcome.seconds;
  document["classes"] = Json::array();
  for (size_t i = 0; i < outcome.accuracy.classes().size(); ++i) {
    const ClassCounts& counts = outcome.accuracy.classes()[i];
    if (counts.images == 0) continue;
    Json entry{{"class", i},
               {"label", names[i]},
               {"images", counts.images},
               {"top1", share(counts.top1, counts.images)},
               {"top5", share(counts.top5, counts.images)},
               {"no_answer", counts.no_answer}};
    const int mistake = outcome.accuracy.usual_mistake(static_cast<int>(i));
    entry["most_confused_with"] = mistake < 0 ? Json() : Json(mistake);
    document["classes"].push_back(std::move(entry));
  }
  out << dump_json(document, 2) << '\n';
}

void write_csv(std::ostream& out, const Outcome& outcome, const std::vector<std::string>& names) {
  out << "class,label,images,top1,top5,most_confused_with,no_answer\n";
  for (size_t i = 0; i < outcome.accuracy.classes().size(); ++i) {
    const ClassCounts& counts = outcome.accuracy.classes()[i];
    if (counts.images == 0) continue;
    const int mistake = outcome.accuracy.usual_mistake(static_cast<int>(i));
    out << fmt::format("{},{},{},{},{},{},{}\n", i, csv_field(names[i]), counts.images,
                       share(counts.top1, counts.images), share(counts.top5, counts.images),
                       mistake < 0 ? "" : std::to_string(mistake), counts.no_answer);
  }
}

// `images`: how many it will have a line of. Of a shard also all that a merged report is made of, and what the partition
// depends on.
Json log_header(const Options& options, const Classifier& classifier, const DataSet& data, size_t images,
                const std::string& inputs_sum) {
  std::error_code error;
  Json header = named("eval", fs::weakly_canonical(options.directory, error).string());
  if (!data.truth_sum.empty()) header["truth_sha256"] = data.truth_sum;
  header = result_header(std::move(header), classifier);
  header["made_by"]["images"] = images;
  if (options.shard_text.empty()) return header;
  header["shard"] = to_string(options.shard);
  header["inputs_sha256"] = inputs_sum;
  header["truth"] = data.truth_form;
  header["several"] = data.several;
  header["not_counted"] = data.not_counted;
  header["names"] = class_names(classifier, data);
  header["made_by"]["report"] = report_json(classifier);
  return Json::parse(dump_json(header));
}

// A picture, and the position that decides its shard: that of its archive, or its own among all that are chosen.
struct Chosen {
  const Picture* picture = nullptr;
  size_t position = 0;
};

std::vector<Chosen> choose(const DataSet& data, size_t limit) {
  std::vector<Chosen> chosen;
  const auto add = [&](const Picture& picture) {
    chosen.push_back({&picture, data.archives ? picture.archive : chosen.size()});
  };
  if (limit > 0) {
    for (const size_t i : spread(data, limit)) add(data.pictures[i]);
  } else {
    chosen.reserve(data.pictures.size());
    for (const Picture& picture : data.pictures) add(picture);
  }
  return chosen;
}

// All files in their order, or all archives.
std::string inputs_sha256(const DataSet& data, const std::vector<Chosen>& chosen) {
  Sha256 sum;
  const auto add = [&](const std::string& name) {
    sum.add(static_cast<int64_t>(name.size()));
    sum.add(name);
  };
  if (data.archives)
    for (const std::string& name : data.archive_names) add(name);
  else
    for (const auto& [picture, position] : chosen) add(data.file_of(*picture));
  return sum.hex();
}

Json list_of(const DataSet& data, const std::vector<Chosen>& chosen) {
  Json files = Json::array(), positions = Json::array();
  for (const auto& [picture, position] : chosen) {
    Json name = named("file", data.file_of(*picture));
    files.push_back(name.size() == 1 ? Json(name["file"]) : std::move(name));
    positions.push_back(position);
  }
  return {{"files", std::move(files)}, {"positions", std::move(positions)}};
}

void add_answer(Outcome& outcome, bool several, const std::string& file, const std::vector<int>& right,
                const Answer& answer, const ImageRef& image) {
  if (several)
    outcome.accuracy.add_any(right, answer.top);
  else
    outcome.accuracy.add(right[0], answer.top);
  if (!answer.top.empty() && std::isfinite(answer.probability))
    outcome.answers.add({file, right, answer.top[0], answer.probability, image});
}

// Lines of images that the data set does not have.
void warn_of_others(const ResultLog& log, const std::string& path, const DataSet& data) {
  const auto known = std::ranges::count_if(
      data.pictures, [&](const Picture& picture) { return log.has(data.file_of(picture)); });
  if (const size_t others = log.images_at_start() - static_cast<size_t>(known); others > 0)
    spdlog::warn("{}: has lines of {} that {} not in the set: they do not count", path,
                 counted(others, "image"), others == 1 ? "is" : "are");
}

// As the lines have it; null: none.
Json truth_of(const DataSet& data, const Picture& picture) {
  const std::span<const int> right = data.classes_of(picture);
  if (right.empty()) return {};
  return data.several ? Json(std::vector(right.begin(), right.end())) : Json(right[0]);
}

Outcome evaluate(const Options& options, Classifier& classifier, const DataSet& data) {
  const size_t classes = static_cast<size_t>(classifier.config.num_classes);
  std::vector<Chosen> chosen = choose(data, options.limit);
  const std::string inputs_sum = options.shard_text.empty() ? "" : inputs_sha256(data, chosen);
  std::erase_if(chosen, [&](const Chosen& one) { return !options.shard.has(one.position); });
  std::optional<ResultLog> log;
  if (!options.results.empty())
    log.emplace(options.results, log_header(options, classifier, data, chosen.size(), inputs_sum),
                options.shard_text.empty() ? Json() : list_of(data, chosen), classifier.config.num_classes);

  Outcome outcome{Accuracy(classifier.config.num_classes)};
  const auto count = [&](const Picture& picture, const Answer& answer) {
    const std::span<const int> right = data.classes_of(picture);
    add_answer(outcome, data.several, data.file_of(picture), {right.begin(), right.end()}, answer,
               data.image_of(picture));
  };
  std::vector<const Picture*> left;
  for (const auto& [picture, position] : chosen) {
    const bool known = log && picture->error.empty();
    const Answer* answer = known ? log->find(data.file_of(*picture), truth_of(data, *picture)) : nullptr;
    if (answer != nullptr)
      count(*picture, *answer);
    else
      left.push_back(picture);
  }
  outcome.from_earlier = chosen.size() - left.size();
  if (log) warn_of_others(*log, options.results, data);
  if (outcome.from_earlier > 0)
    spdlog::info("{}: {} of {} images are answered already", options.results, outcome.from_earlier,
                 chosen.size());

  const auto start = std::chrono::steady_clock::now();
  auto next_image = [&, next = size_t{0}]() mutable -> std::optional<ImageRef> {
    if (next == left.size()) return std::nullopt;
    return data.image_of(*left[next++]);
  };
  InputSum sum((options.format == "json" || !options.report.empty()) && outcome.from_earlier == 0);
  ImageSource source(listed_images(next_image), classifier.config.preprocess, classifier.batch_size,
                     decoding_threads(classifier.choices), jpeg_decoding(classifier, options.decode),
                     sum.of_images());
  Progress progress(outcome.from_earlier, chosen.size());
  ClassifiedBatches batches(classifier, source);
  ImageBatch batch;
  std::vector<float> logits;
  size_t done = outcome.from_earlier;
  while (batches.next(batch, logits)) {
    size_t place = 0;
    for (const ImageBatch::Item& item : batch.items) {
      const Picture& picture = *left[item.index];
      Json line = named("file", data.file_of(picture));
      if (Json truth = truth_of(data, picture); !truth.is_null()) line["class"] = std::move(truth);
      if (item.error.empty()) {
        sum.add(item);
        Answer answer;
        const auto row = std::span(logits).subspan(place++ * classes, classes);
        const auto best = have_answer(row) ? top_k(row, 5) : std::vector<Prediction>();
        for (const Prediction& prediction : best) answer.top.push_back(prediction.index);
        if (!best.empty()) answer.probability = best[0].probability;
        count(picture, answer);
        outcome.not_finite += !all_finite(row);
        line["top"] = answer.top;
        line["probability"] = best.empty() ? Json() : Json(best[0].probability);
      } else {
        progress.clear();
        spdlog::error("skipped: {}", shown(item.error));
        ++outcome.failed;
        line["error"] = item.error;
        if (log) log->add_error(line);
        continue;
      }
      if (log) log->add(line);
    }
    if (log) log->flush();
    done += batch.items.size();
    const ClassCounts& total = outcome.accuracy.total();
    progress.show(done, fmt::format("top-1 {:.2f} %", 100 * share(total.top1, total.images)));
  }
  outcome.input_sum = sum.json();
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

// Refuses outputs that this data set does not support, before anything is computed.
void check_outputs(const Options& options, const std::string& where, bool several, size_t images,
                   size_t num_classes) {
  if (several && (options.format == "csv" || !options.confusion.empty()))
    fail_input(
        "{}: several classes are right of an image, so there is nothing to tell class by class: leave out {}",
        where, options.confusion.empty() ? "--format csv" : "--confusion");
  constexpr size_t most_classes = 32768;
  const size_t classes = std::min(num_classes, 2 * images);  // true and predicted class of each image
  if (!options.confusion.empty() && classes > most_classes)
    fail_input("--confusion: a table of up to {} classes, more than {}: --limit {} makes it small enough",
               classes, most_classes, most_classes / 2);
}

struct Outputs {
  std::optional<OutputFile> file, report, confusion, picture;

  explicit Outputs(const Options& options) {  // before anything is read
    if (!options.output.empty()) file.emplace(options.output);
    if (!options.report.empty()) report.emplace(options.report);
    if (options.confusion.empty()) return;
    const fs::path png = fs::path(options.confusion).replace_extension(".png");
    if (png != options.confusion) confusion.emplace(options.confusion);
    picture.emplace(png);
  }
};

// `report`: as the JSON result has it.
void write_page(Outputs& outputs, const std::string& title, const Outcome& outcome, const Json& report,
                const DataSet& data, const std::vector<std::string>& names,
                const PreprocessConfig& preprocess) {
  EvalPage page{title, outcome.accuracy, names, data.several, outcome.answers, {}, {}, preprocess};
  if (!data.truth_form.empty()) page.facts.emplace_back("truth", data.truth_form);
  if (outcome.failed > 0) page.facts.emplace_back("not readable", counted(outcome.failed, "image"));
  if (data.not_counted > 0)
    page.facts.emplace_back("not counted", counted(data.not_counted, "image") + " without a class");
  for (const auto& [key, value] : report.items())
    page.ran_on.emplace_back(key, value.is_string() ? value.get<std::string>() : value.dump());
  if (outcome.input_sum.is_string()) page.ran_on.emplace_back("input_sha256", outcome.input_sum);
  const Program program = this_program();
  page.ran_on.emplace_back("program",
                           fmt::format("vmamba-cli {}, commit {}", program.version, program.commit));
  page.ran_on.emplace_back("command", program.command);
  outputs.report->stream() << eval_page(page);
  outputs.report->commit();
}

void write_reports(const Options& options, Outputs& outputs, const Outcome& outcome, const Json& report,
                   const Json& made_by, const DataSet& data, const std::vector<std::string>& names) {
  std::ostream& out = outputs.file ? outputs.file->stream() : std::cout;
  if (options.format == "json")
    write_json(out, outcome, report, made_by, data, names);
  else if (options.format == "csv")
    write_csv(out, outcome, names);
  else
    write_text(out, outcome, data, names);
  if (!out.flush()) fail_machine("the results could not be written");  // to stdout: a file says so itself
  if (outputs.confusion) write_confusion_csv(outputs.confusion->stream(), outcome.accuracy, names);
  if (outputs.picture) outputs.picture->stream() << confusion_picture(outcome.accuracy, names);
  if (outputs.confusion) outputs.confusion->commit();
  if (outputs.picture) outputs.picture->commit();
  if (outputs.file) outputs.file->commit();
}

// --- --merge: the results of all shards as those of one run.

// One image of a shard, and the line with its answer or, without one, its error.
struct MergedImage {
  size_t position = 0;
  std::string_view line;
  const std::string* path = nullptr;
  int number = 0;  // of the line
};

struct ShardResults {
  std::string text;
  bool has_list = false;
  std::vector<MergedImage> images;  // in the shard's order; an empty line: missing
  std::vector<std::string> missing, doubled;
};

ShardResults read_shard(const std::string& path, ShardFiles& shards) {
  ShardResults results;
  results.text = read_file(path);
  std::unordered_map<std::string, size_t> places;
  std::vector<std::string> keys;
  std::vector<bool> answered;
  const std::string_view text = results.text;
  size_t begin = 0;
  for (int number = 1; text.find('\n', begin) != text.npos; ++number) {
    const std::string_view line = text.substr(begin, text.find('\n', begin) - begin);
    begin += line.size() + 1;
    const Json json = parse_shallow(line);
    const auto wrong = [&] { fail_input("{}:{}: not a line that eval wrote", path, number); };
    if (number == 1) {
      shards.add(path, "eval", json);
      continue;
    }
    if (!json.is_object()) wrong();
    if (number == 2) {
      const Json files = json.value("files", Json()), positions = json.value("positions", Json());
      if (!files.is_array() || !positions.is_array() || files.size() != positions.size()) wrong();
      for (size_t i = 0; i < files.size(); ++i) {
        const Json name = files[i].is_object() ? files[i] : Json{{"file", files[i]}};
        if (!name.value("file", Json()).is_string() || !positions[i].is_number_unsigned()) wrong();
        places.emplace(key(name), i);
        keys.push_back(name["file"].get<std::string>());
        results.images.push_back({.position = positions[i].get<size_t>(), .path = &path});
      }
      answered.resize(files.size());
      results.has_list = true;
    } else if (json.value("file", Json()).is_string() && (json.contains("top") || json.contains("error"))) {
      const auto place = places.find(key(json));
      if (place == places.end())
        fail_input("{}:{}: {} is not in the shard's list", path, number,
                   in_quotes(json["file"].get<std::string>()));
      const size_t i = place->second;
      const bool is_answer = json.contains("top");
      if (is_answer && answered[i]) results.doubled.push_back(keys[i]);
      if (is_answer || !answered[i]) {
        results.images[i].line = line;
        results.images[i].number = number;
      }
      answered[i] = answered[i] || is_answer;
    } else {
      wrong();
    }
  }
  if (begin == 0) fail_input("{}: not a file that eval --results wrote", path);
  for (size_t i = 0; i < keys.size(); ++i)
    if (results.images[i].line.empty()) results.missing.push_back(keys[i]);
  return results;
}

void tell(const ShardFiles::File& file, const char* what, const std::vector<std::string>& files) {
  constexpr size_t most = 20;
  if (files.empty()) return;
  std::string names;
  for (size_t i = 0; i < std::min(files.size(), most); ++i) names += (i > 0 ? ", " : "") + shown(files[i]);
  if (files.size() > most) names += fmt::format(" and {} more", files.size() - most);
  spdlog::error("shard {}: {}: {} {}: {}", to_string(file.shard), file.path, files.size(), what, names);
}

// Whether the shards are all there, each image once; if not, tells which are not.
bool is_whole(const ShardFiles& files, const std::vector<ShardResults>& shards) {
  bool whole = files.are_complete();
  for (size_t i = 0; i < shards.size(); ++i) {
    std::vector<std::string> doubled = shards[i].doubled;
    if (files.is_given_before(i)) {
      doubled.clear();
      for (const MergedImage& image : shards[i].images)
        if (!image.line.empty()) doubled.push_back(parse_shallow(image.line)["file"].get<std::string>());
    }
    if (!shards[i].has_list)
      spdlog::error("shard {}: {} ends before its list of images: run it again",
                    to_string(files.files[i].shard), files.files[i].path);
    tell(files.files[i], "missing", shards[i].missing);
    tell(files.files[i], "doubled", doubled);
    whole = whole && shards[i].has_list && shards[i].missing.empty() && doubled.empty();
  }
  return whole;
}

// Of the crops, as far as it shapes their pictures.
PreprocessConfig preprocess_in(const Json& header) {
  const Json preprocess = header["config"].value("preprocess", Json());
  const auto side = [&](const char* key) {
    const Json value = preprocess.is_object() ? preprocess.value(key, Json()) : Json();
    return value.is_number_integer() && value > 0 && value <= 1 << 14 ? value.get<int>() : 256;
  };
  const int crop = side("crop");
  return {.resize = std::max(side("resize"), crop), .crop = crop};
}

int merge_results(const Options& options) {
  refuse_others(*options.parser, "--merge",
                {"--merge", "--output", "--confusion", "--report", "--results", "--format"});
  Outputs outputs(options);
  std::optional<OutputFile> merged;
  if (!options.results.empty()) merged.emplace(options.results);
  ShardFiles files;
  std::vector<ShardResults> shards;
  for (const std::string& path : options.merge) shards.push_back(read_shard(path, files));
  if (!is_whole(files, shards)) return 1;

  std::vector<MergedImage> images;
  for (const ShardResults& results : shards)
    images.insert(images.end(), results.images.begin(), results.images.end());
  std::ranges::stable_sort(images, {}, &MergedImage::position);
  Json header = files.files[0].header;
  DataSet data;
  const Json num_classes = header["config"].value("num_classes", Json()),
             names = header.value("names", Json());
  const bool good = num_classes.is_number_integer() && num_classes > 0 && num_classes <= (1 << 20) &&
                    names.is_array() && names.size() == num_classes.get<size_t>() &&
                    std::ranges::all_of(names, [](const Json& name) { return name.is_string(); }) &&
                    header.value("truth", Json()).is_string() &&
                    header.value("several", Json()).is_boolean() &&
                    header.value("not_counted", Json()).is_number_unsigned();
  if (!good) fail_input("{}: its first line is not eval's", options.merge[0]);
  data.truth_form = header["truth"];
  data.several = header["several"];
  data.not_counted = header["not_counted"];
  const Json report = header["made_by"].value("report", Json::object());
  for (const char* of_shard : {"shard", "inputs_sha256", "truth", "several", "not_counted", "names"})
    header.erase(of_shard);
  header["made_by"].erase("report");
  header["made_by"]["images"] = images.size();
  // Its images are shown where they are still there.
  const std::string directory = header["eval"].is_string() ? header["eval"].get<std::string>() : "";
  if (merged) merged->stream() << dump_json(header) << '\n';

  Outcome outcome{Accuracy(num_classes.get<int>())};
  for (const MergedImage& image : images) {
    const Json line = parse_shallow(image.line);
    if (merged) merged->stream() << image.line << '\n';
    if (!line.contains("top")) {
      ++outcome.failed;
      continue;
    }
    const std::optional<Answer> answer = answer_in(line, num_classes.get<int>());
    std::vector<int> right;
    const Json classes = line.value("class", Json());
    bool is_line = answer.has_value();
    for (const Json& number : classes.is_array() ? classes : Json::array({classes})) {
      is_line = is_line && number.is_number_integer() && number >= 0 && number < num_classes;
      if (is_line) right.push_back(number.get<int>());
    }
    if (!is_line || right.empty() || (!data.several && right.size() > 1))
      fail_input("{}:{}: not a line that eval wrote: {}", *image.path, image.number,
                 printable(image.line, 200));
    const std::string file = line["file"];
    add_answer(outcome, data.several, file, right, *answer, {fs::path(directory) / file});
  }
  check_outputs(options, options.merge[0], data.several, images.size(), names.size());
  write_reports(options, outputs, outcome, report, to_json(this_program()), data, names);
  if (outputs.report) write_page(outputs, directory, outcome, report, data, names, preprocess_in(header));
  if (merged) merged->commit();
  if (outcome.failed > 0) spdlog::warn("not counted: {} not readable", counted(outcome.failed, "image"));
  return outcome.failed > 0 ? 1 : 0;
}

int run_eval(Options& options) {
  if (!options.merge.empty()) return merge_results(options);
  if (options.directory.empty()) fail_input("nothing to evaluate: name a folder or archives, or --merge");
  std::error_code ignored;
  if (fs::is_regular_file(options.directory, ignored) && !has_archive_ending(options.directory))
    fail_input("{}: is a file: give a folder with a folder of images for each class, or an archive",
               options.directory);
  options.shard = choose_shard(options.shard_text, {&options.output, &options.confusion, &options.report,
                                                    &options.results, &options.summary});
  SummaryFile summary(options.summary);
  Outputs outputs(options);
  Classifier classifier = make_classifier(options.model, options.batch_size);
  if (classifier.config.in_chans != 3)
    fail_input("images have 3 channels, the config's in_chans is {}", classifier.config.in_chans);
  const bool kept = options.format == "json" || !options.results.empty() || !options.report.empty() ||
                    !options.summary.empty();
  load_runners(classifier, kept ? Kept::yes : Kept::no);
  const int num_classes = classifier.config.num_classes;
  const DataSet data =
      read_data_set(options.directory, options.truth, options.shard, classifier.labels, num_classes);
  if (options.limit > 0 && data.archives && !options.shard.is_all())
    fail_input(
        "--limit: a shard of archives does not know the images of the others: leave out --limit or --shard");
  if (!options.shard_text.empty() && !data.unread.empty())
    fail_input("--shard: the shards would be of other images than elsewhere: {}", data.unread[0]);
  const size_t images = std::min(data.pictures.size(), options.limit > 0 ? options.limit : SIZE_MAX);
  check_outputs(options, options.truth, data.several, images, static_cast<size_t>(num_classes));
  const Outcome outcome = evaluate(options, classifier, data);
  const ClassCounts& total = outcome.accuracy.total();
  if (total.images == 0 && options.shard.is_all())
    fail_input("{}: none of its {} could be read", options.directory, counted(outcome.failed, "image"));
  const std::vector<std::string> names = class_names(classifier, data);
  const Json report = report_json(classifier);
  write_reports(options, outputs, outcome, report, made_by(classifier), data, names);
  if (outputs.report)
    write_page(outputs, options.directory, outcome, report, data, names, classifier.config.preprocess);
  const size_t answered = static_cast<size_t>(total.images) - outcome.from_earlier;
  spdlog::info("{} in {:.1f} s, {:.1f} a second", counted(answered, "image"), outcome.seconds,
               outcome.seconds > 0 ? static_cast<double>(answered) / outcome.seconds : 0);
  warn_not_finite(classifier, outcome.not_finite, answered);
  if (total.no_answer > 0)
    spdlog::warn("{} of {} without an answer, as their logits are NaN or infinite: counted as wrong",
                 total.no_answer, counted(static_cast<size_t>(total.images), "image"));
  if (outcome.failed > 0) spdlog::warn("not counted: {} not readable", counted(outcome.failed, "image"));
  for (const std::string& folder : data.unread) spdlog::error("skipped: {}", folder);
  const int exit_code = outcome.failed > 0 || !data.unread.empty() ? 1 : 0;
  summary.write({"eval", options.shard, answered, outcome.failed, static_cast<size_t>(total.no_answer),
                 outcome.from_earlier, outcome.seconds, exit_code, report});
  return exit_code;
}

}  // namespace

Command add_eval(CLI::App& app) {
  CLI::App* parser =
      app.add_subcommand("eval", "Measure top-1 and top-5 accuracy on a labelled set of images");
  auto options = std::make_shared<Options>();
  parser->add_option(
      "DIR|ARCHIVE", options->directory,
      "Folder with one subfolder per class (matched with --labels, else by sorted order), or a "
      "folder of images with --truth; or tar or zip archives (data-{000..146}.tar) of these, or with "
      "KEY.cls or KEY.json");
  parser
      ->add_option("--truth", options->truth,
                   "Ground truth for a folder of images: one class number per line (in the order of the "
                   "names), NAME,CLASS lines, or ReaL's JSON")
      ->type_name("FILE");
  add_batch_size_option(*parser, options->batch_size);
  parser->add_option("--limit", options->limit, "Only N images, spread evenly over the classes")
      ->check(whole_number(size_t{1}))
      ->type_name("N");
  add_decode_option(*parser, options->decode);
  parser->add_option("--format", options->format, "text (a summary), json or csv (class by class)")
      ->check(CLI::IsMember({"text", "json", "csv"}).description(""))
      ->type_name("FORMAT")
      ->capture_default_str();
  parser->add_option("-o,--output", options->output, "File for the result, instead of stdout")
      ->type_name("FILE");
  parser
      ->add_option("--confusion", options->confusion,
                   "Write the confusion matrix, and a picture of it as F.png; F.png: only the picture")
      ->type_name("F.csv|F.png");
  parser
      ->add_option("--report", options->report,
                   "Write an HTML page: accuracy, classes, confusions, calibration, images worth a look")
      ->type_name("F.html");
  parser
      ->add_option("--results", options->results,
                   "Append one line per image; a later run of the same model resumes from it")
      ->type_name("F.jsonl");
  parser
      ->add_option("--merge", options->merge,
                   "Instead of running: merge the --results of all shards into one result; with --results, "
                   "also their lines into one file")
      ->type_name("R.jsonl …");
  add_shard_option(*parser, options->shard_text);
  add_summary_option(*parser, options->summary);
  options->parser = parser;
  add_model_options(*parser, options->model, {.labels = true, .devices = true});
  return {parser, [options] { return run_eval(*options); }};
}

}  // namespace vmamba
