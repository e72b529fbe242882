// eval: top-1 and top-5 accuracy on a folder that holds a folder of images for each class.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <unordered_map>

#include "app/classifier.h"
#include "app/commands.h"
#include "app/program.h"
#include "kernels/error.h"
#include "lib/images/image.h"
#include "lib/labels/accuracy.h"
#include "lib/labels/predictions.h"
#include "lib/support/files.h"
#include "lib/support/sha256.h"
#include "lib/support/text.h"
#include "lib/verify/provenance.h"

namespace vmamba {
namespace {
namespace fs = std::filesystem;

struct Options {
  ModelOptions model;
  std::string directory, format = "text", output, confusion, results;
  int batch_size = 0;
  size_t limit = 0;
};

struct Picture {
  fs::path file;     // inside the directory
  size_t truth = 0;  // its class
};

struct DataSet {
  std::vector<std::string> folders;  // sorted
  std::vector<int> classes;          // of the folders
  std::vector<Picture> pictures;     // folder by folder, sorted
};

DataSet read_data_set(const std::string& directory, const Labels& labels, int num_classes) {
  DataSet data;
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  if (error) fail_input("{}: cannot be listed: {}", directory, error.message());
  for (const fs::directory_entry& entry : entries) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory(error) && !name.starts_with('.')) data.folders.push_back(name);
  }
  if (data.folders.empty())
    fail_input("{}: holds no folders; wanted a folder of images for each class", directory);
  std::sort(data.folders.begin(), data.folders.end());
  data.classes = classes_of_folders(data.folders, labels, num_classes, directory);
  size_t others = 0;
  for (size_t i = 0; i < data.folders.size(); ++i) {
    const FolderFiles files = folder_files(fs::path(directory) / data.folders[i]);
    others += files.others;
    if (files.images.empty())
      spdlog::warn("{}: no image files in it", shown((fs::path(directory) / data.folders[i]).string()));
    for (const fs::path& file : files.images)
      data.pictures.push_back({file.lexically_relative(directory), static_cast<size_t>(data.classes[i])});
  }
  log_left_out(directory, others);
  if (data.pictures.empty()) fail_input("{}: no image files ({}) in its folders", directory, image_endings);
  return data;
}

// `limit` pictures spread over the classes: the first of each, the second of each, …
std::vector<Picture> spread(const std::vector<Picture>& pictures, size_t limit) {
  std::vector<std::pair<size_t, size_t>> order;  // (how many of its class stand before it, place)
  std::unordered_map<size_t, size_t> seen;
  for (size_t i = 0; i < pictures.size(); ++i) order.emplace_back(seen[pictures[i].truth]++, i);
  std::sort(order.begin(), order.end());
  std::vector<Picture> chosen;
  for (size_t i = 0; i < std::min(limit, order.size()); ++i) chosen.push_back(pictures[order[i].second]);
  return chosen;
}

// --results: one JSON line an image, after a first line that says what model answered. A later run of the
// same model goes on where this one stopped.
class ResultLog {
 public:
  ResultLog(std::string path, const Json& header, int num_classes)
      : path_(std::move(path)), num_classes_(num_classes) {
    std::error_code error;
    if (fs::exists(path_, error) && !fs::is_directory(path_, error)) read(header);
    file_ = std::fopen(path_.c_str(), complete_ == 0 ? "w" : "r+");
    if (file_ == nullptr) fail_input("{}: cannot be written: {}", path_, std::strerror(errno));
    if (complete_ == 0) {
      add(header);
    } else if (ftruncate(fileno(file_), static_cast<off_t>(complete_)) != 0 ||
               std::fseek(file_, 0, SEEK_END) != 0) {
      std::fclose(file_);
      fail_machine("{}: {}", path_, std::strerror(errno));
    }
    flush();
  }
  ~ResultLog() { std::fclose(file_); }
  ResultLog(const ResultLog&) = delete;
  ResultLog& operator=(const ResultLog&) = delete;

  // The answer that an earlier run gave; null: none.
  const std::vector<int>* find(const std::string& file) const {
    const auto found = answers_.find(file);
    return found == answers_.end() ? nullptr : &found->second;
  }
  size_t size() const { return answers_.size(); }

  void add(const Json& line) {
    const std::string text = dump_json(line) + "\n";
    std::fwrite(text.data(), 1, text.size(), file_);
  }
  void flush() {
    if (std::fflush(file_) != 0 || std::ferror(file_))
      fail_machine("{}: writing failed: {}", path_, std::strerror(errno));
  }

 private:
  void read(const Json& header) {
    const std::string text = read_file(path_);
    size_t begin = 0;
    for (int number = 1;; ++number) {
      const size_t end = text.find('\n', begin);
      if (end == std::string::npos) break;  // what follows was cut off in the middle of a line
      const Json line = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                    text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
      if (!line.is_object())
        fail_input("{}:{}: not a line that eval wrote: give another file", path_, number);
      if (number == 1)
        check_header(line, header);
      else if (line.contains("top"))
        take(line, number);
      begin = end + 1;
    }
    complete_ = begin;
    if (complete_ == 0 && !text.empty()) fail_input("{}: not a file that eval wrote: give another", path_);
  }

  void check_header(const Json& was, const Json& is) const {
    if (was.contains("eval") && !was.contains("weights_sha256"))
      fail_input(
          "{}: was begun by an older version, which did not note the contents of weights, config and labels: "
          "whether they are this run's cannot be told: remove it or give another file",
          path_);
    const auto compared = [](Json header) {
      header.erase("made_by");
      return header.flatten();
    };
    const Json flat_was = compared(was), flat_is = compared(is);
    const auto value_of = [](const Json& flat, const std::string& key) {
      return flat.contains(key) ? dump_json(flat[key]) : std::string("none");
    };
    const auto compare = [&](const Json& keys) {
      for (const auto& [key, value] : keys.items())
        if (value_of(flat_was, key) != value_of(flat_is, key))
          fail_input("{}: was made with {} {}, this run has {}: remove it or give another file", path_,
                     key.substr(1), value_of(flat_was, key), value_of(flat_is, key));
    };
    compare(flat_is);
    compare(flat_was);
  }

  void take(const Json& line, int number) {
    std::vector<int> top;
    const Json& file = line.value("file", Json());
    const Json& list = line["top"];
    bool good = file.is_string() && list.is_array() && !list.empty();
    for (size_t i = 0; good && i < list.size(); ++i) {
      good =
          list[i].is_number_integer() && list[i].get<int64_t>() >= 0 && list[i].get<int64_t>() < num_classes_;
      if (good) top.push_back(list[i].get<int>());
    }
    if (!good) fail_input("{}:{}: not a line that eval wrote: give another file", path_, number);
    answers_[file.get<std::string>()] = std::move(top);
  }

  std::string path_;
  int num_classes_;
  std::FILE* file_ = nullptr;
  size_t complete_ = 0;  // bytes of whole lines
  std::unordered_map<std::string, std::vector<int>> answers_;
};

std::string utf8(const fs::path& file) {
  const std::string quoted = dump_json(file.string());
  return Json::parse(quoted).get<std::string>();
}

// A line on the terminal that renews itself; nothing where stderr is no terminal.
class Progress {
 public:
  Progress(size_t before, size_t total)
      : on_(isatty(STDERR_FILENO) && spdlog::should_log(spdlog::level::info)),
        before_(before),
        total_(total) {}
  ~Progress() { clear(); }

  void clear() const {
    if (on_) print_stderr("\r\x1b[K");
  }
  void show(size_t done, const ClassCounts& counts) {
    const auto now = std::chrono::steady_clock::now();
    if (!on_ || now - shown_ < std::chrono::milliseconds(200)) return;
    shown_ = now;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    const double rate = static_cast<double>(done - before_) / seconds;
    const auto left = static_cast<int64_t>(rate > 0 ? static_cast<double>(total_ - done) / rate : 0);
    print_stderr(fmt::format(
        "\r\x1b[K{} of {} images, {:.1f} a second, {}:{:02}:{:02} left, top-1 {:.2f} %", done, total_, rate,
        left / 3600, left / 60 % 60, left % 60,
        counts.images == 0 ? 0
                           : 100.0 * static_cast<double>(counts.top1) / static_cast<double>(counts.images)));
  }

 private:
  bool on_;
  size_t before_, total_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now(), shown_ = start_;
};

std::string class_name(const Classifier& classifier, const DataSet& data, size_t index) {
  if (!classifier.labels.empty()) return classifier.labels.names[index];
  const auto place = std::find(data.classes.begin(), data.classes.end(), static_cast<int>(index));
  return place == data.classes.end() ? fmt::format("class {}", index)
                                     : data.folders[static_cast<size_t>(place - data.classes.begin())];
}

double share(int64_t part, int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

struct Outcome {
  Accuracy accuracy;
  size_t failed = 0, from_earlier = 0;
  double seconds = 0;  // of this run's images
};

void write_text(std::ostream& out, const Outcome& outcome, const Classifier& classifier,
                const DataSet& data) {
  const ClassCounts& total = outcome.accuracy.total();
  const auto& classes = outcome.accuracy.classes();
  const auto with_images =
      std::count_if(classes.begin(), classes.end(), [](const auto& c) { return c.images > 0; });
  const auto line = [&](const char* what, int64_t count) {
    out << fmt::format("{:<12}{:6.2f} %   {} of {}\n", what, 100 * share(count, total.images), count,
                       total.images);
  };
  line("top-1", total.top1);
  line("top-5", total.top5);
  out << fmt::format("{:<12}{:6.2f} %   over {} classes\n", "class mean",
                     100 * outcome.accuracy.mean_class_top1(), with_images);
  std::vector<size_t> hardest;
  for (size_t i = 0; i < classes.size(); ++i)
    if (classes[i].images > 0 && classes[i].top1 < classes[i].images) hardest.push_back(i);
  std::stable_sort(hardest.begin(), hardest.end(), [&](size_t a, size_t b) {
    return share(classes[a].top1, classes[a].images) < share(classes[b].top1, classes[b].images);
  });
  if (hardest.size() > 5) hardest.resize(5);
  if (!hardest.empty()) out << "hardest classes\n";
  for (const size_t i : hardest) {
    const int mistake = outcome.accuracy.usual_mistake(static_cast<int>(i));
    const int64_t times = outcome.accuracy.confused(static_cast<int>(i), mistake);
    out << fmt::format("{:18.2f} %   {}, {} of {} taken for {}\n",
                       100 * share(classes[i].top1, classes[i].images),
                       shown(class_name(classifier, data, i)), times, classes[i].images,
                       shown(class_name(classifier, data, static_cast<size_t>(mistake))));
  }
}

void write_json(std::ostream& out, const Outcome& outcome, const Classifier& classifier,
                const DataSet& data) {
  const ClassCounts& total = outcome.accuracy.total();
  Json document = report_json(classifier);
  document["images"] = total.images;
  document["failed"] = outcome.failed;
  document["top1"] = share(total.top1, total.images);
  document["top5"] = share(total.top5, total.images);
  document["top1_count"] = total.top1;
  document["top5_count"] = total.top5;
  document["mean_class_top1"] = outcome.accuracy.mean_class_top1();
  document["seconds"] = outcome.seconds;
  document["classes"] = Json::array();
  for (size_t i = 0; i < outcome.accuracy.classes().size(); ++i) {
    const ClassCounts& counts = outcome.accuracy.classes()[i];
    if (counts.images == 0) continue;
    Json entry{{"class", i},
               {"label", class_name(classifier, data, i)},
               {"images", counts.images},
               {"top1", share(counts.top1, counts.images)},
               {"top5", share(counts.top5, counts.images)}};
    const int mistake = outcome.accuracy.usual_mistake(static_cast<int>(i));
    entry["most_confused_with"] = mistake < 0 ? Json() : Json(mistake);
    document["classes"].push_back(std::move(entry));
  }
  out << dump_json(document, 2) << '\n';
}

void write_csv(std::ostream& out, const Outcome& outcome, const Classifier& classifier, const DataSet& data) {
  out << "class,label,images,top1,top5,most_confused_with\n";
  for (size_t i = 0; i < outcome.accuracy.classes().size(); ++i) {
    const ClassCounts& counts = outcome.accuracy.classes()[i];
    if (counts.images == 0) continue;
    const int mistake = outcome.accuracy.usual_mistake(static_cast<int>(i));
    out << fmt::format("{},{},{},{},{},{}\n", i, csv_field(class_name(classifier, data, i)), counts.images,
                       share(counts.top1, counts.images), share(counts.top5, counts.images),
                       mistake < 0 ? "" : std::to_string(mistake));
  }
}

// What decides the answers, and who began the file: that may be another. The config stands here whole, so that a run of another one is told which key it is.
Json log_header(const Classifier& classifier, const std::string& weights_sum, const std::string& directory) {
  const RunReport report = classifier.runner->report();
  const fs::path& labels = classifier.files.labels;
  std::error_code error;
  Json made_by = to_json(this_program());
  made_by["device_name"] = report.device_name;
  made_by["threads"] = classifier.choice.threads;
  made_by["batch"] = classifier.batch_size;
  return {{"eval", utf8(fs::weakly_canonical(directory, error))},
          {"weights_sha256", weights_sum},
          {"config", Json::parse(dump_json(effective_config(classifier.config)))},
          {"config_sha256", config_sha256(classifier.config)},
          {"labels_sha256", labels.empty() ? Json() : Json(sha256(read_file(labels)))},
          {"device", report.device},
          {"dtype", report.dtype},
          {"selective_scan_backend", report.selective_scan_backend},
          {"forward_core", report.forward_core},
          {"made_by", std::move(made_by)}};
}

Outcome evaluate(const Options& options, Classifier& classifier, const std::string& weights_sum,
                 const DataSet& data) {
  const size_t classes = static_cast<size_t>(classifier.config.num_classes);
  const std::vector<Picture> chosen =
      options.limit > 0 ? spread(data.pictures, options.limit) : data.pictures;
  std::optional<ResultLog> log;
  if (!options.results.empty())
    log.emplace(options.results, log_header(classifier, weights_sum, options.directory),
                classifier.config.num_classes);

  Outcome outcome{Accuracy(classifier.config.num_classes)};
  std::vector<Picture> left;
  std::vector<fs::path> files;
  for (const Picture& picture : chosen) {
    const std::vector<int>* answer = log ? log->find(utf8(picture.file)) : nullptr;
    if (answer != nullptr) {
      outcome.accuracy.add(static_cast<int>(picture.truth), *answer);
      continue;
    }
    left.push_back(picture);
    files.push_back(options.directory / picture.file);
  }
  outcome.from_earlier = chosen.size() - left.size();
  if (outcome.from_earlier > 0)
    spdlog::info("{}: {} of {} images are answered already", options.results, outcome.from_earlier,
                 chosen.size());

  const auto start = std::chrono::steady_clock::now();
  ImageSource source(file_paths(std::move(files)), classifier.config.preprocess, classifier.batch_size,
                     decoding_threads(classifier));
  Progress progress(outcome.from_earlier, chosen.size());
  ClassifiedBatches batches(classifier, source);
  ImageBatch batch;
  std::vector<float> logits;
  size_t done = outcome.from_earlier;
  while (batches.next(batch, logits)) {
    size_t place = 0;
    for (const ImageBatch::Item& item : batch.items) {
      const Picture& picture = left[item.index];
      Json line{{"file", picture.file.string()}, {"class", picture.truth}};
      if (item.error.empty()) {
        std::vector<int> top;
        const auto best = top_k(std::span(logits).subspan(place++ * classes, classes), 5);
        for (const Prediction& prediction : best) top.push_back(prediction.index);
        outcome.accuracy.add(static_cast<int>(picture.truth), top);
        line["top"] = top;
        line["probability"] = best[0].probability;
      } else {
        progress.clear();
        spdlog::error("skipped: {}", shown(item.error));
        ++outcome.failed;
        line["error"] = item.error;
      }
      if (log) log->add(line);
    }
    if (log) log->flush();
    done += batch.items.size();
    progress.show(done, outcome.accuracy.total());
  }
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

int run_eval(const Options& options) {
  const fs::path picture = fs::path(options.confusion).replace_extension(".png");
  if (!options.confusion.empty() && picture == options.confusion)
    fail_input("--confusion {}: name the CSV; its picture is written beside it as .png", options.confusion);
  Classifier classifier = make_classifier(options.model, options.batch_size);
  if (classifier.config.in_chans != 3)
    fail_input("images have 3 channels, the config's in_chans is {}", classifier.config.in_chans);
  std::string weights_sum;
  load_runner(classifier, options.results.empty() ? nullptr : &weights_sum);
  const DataSet data = read_data_set(options.directory, classifier.labels, classifier.config.num_classes);
  std::optional<OutputFile> file;
  if (!options.output.empty()) file.emplace(options.output);
  if (!options.confusion.empty()) const OutputFile writable(options.confusion);

  const Outcome outcome = evaluate(options, classifier, weights_sum, data);
  const ClassCounts& total = outcome.accuracy.total();
  if (total.images == 0)
    fail_input("{}: none of its {} images could be read", options.directory, outcome.failed);
  std::ostream& out = file ? file->stream() : std::cout;
  if (options.format == "json")
    write_json(out, outcome, classifier, data);
  else if (options.format == "csv")
    write_csv(out, outcome, classifier, data);
  else
    write_text(out, outcome, classifier, data);
  out.flush();
  if (!out) fail_machine("the results could not be written");
  if (!options.confusion.empty()) {
    std::vector<std::string> names;
    for (size_t i = 0; i < outcome.accuracy.classes().size(); ++i)
      names.push_back(class_name(classifier, data, i));
    write_confusion_csv(options.confusion, outcome.accuracy, names);
    write_confusion_png(picture, outcome.accuracy);
  }
  if (file) file->commit();
  const auto answered = static_cast<double>(total.images) - static_cast<double>(outcome.from_earlier);
  spdlog::info("{} images in {:.1f} s, {:.1f} a second", answered, outcome.seconds,
               outcome.seconds > 0 ? answered / outcome.seconds : 0);
  if (outcome.failed > 0) spdlog::warn("{} images could not be read and are not counted", outcome.failed);
  return outcome.failed > 0 ? 1 : 0;
}

}  // namespace

Command add_eval(CLI::App& app) {
  CLI::App* parser =
      app.add_subcommand("eval", "Measure accuracy on a folder with a folder of images for each class");
  auto options = std::make_shared<Options>();
  parser
      ->add_option("DIR", options->directory,
                   "The folder; its folders' sorted names are the classes, or --labels'")
      ->required();
  parser
      ->add_option("--batch-size", options->batch_size,
                   "Images at a time (default: 8 to 32 on the CPU, 64 to 256 on CUDA, by the images' size)")
      ->check(CLI::Range(1, 1 << 16).description(""))
      ->type_name("N");
  parser->add_option("--limit", options->limit, "Only N images, spread evenly over the classes")
      ->check(CLI::PositiveNumber.description(""))
      ->type_name("N");
  parser->add_option("--format", options->format, "text (a summary), json or csv (class by class)")
      ->check(CLI::IsMember({"text", "json", "csv"}).description(""))
      ->type_name("FORMAT")
      ->capture_default_str();
  parser->add_option("-o,--output", options->output, "File for the result, instead of stdout")
      ->type_name("FILE");
  parser
      ->add_option("--confusion", options->confusion,
                   "Write which class is taken for which, and F.png, its picture")
      ->type_name("F.csv");
  parser
      ->add_option("--results", options->results,
                   "Append a line for every image; a later run of the same model goes on from there")
      ->type_name("F.jsonl");
  add_model_options(*parser, options->model, {.labels = true});
  return {parser, [options] { return run_eval(*options); }};
}

}  // namespace vmamba
