// bench: latency and throughput of the forward pass, with the input already on the device. Timed with events
// on CUDA (replays of one captured graph) and with a clock on the CPU.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <random>

#include "app/commands.h"
#include "app/image_size.h"
#include "app/model_options.h"
#include "kernels/error.h"
#include "lib/config/names.h"
#include "lib/model/init.h"
#include "lib/model/profile.h"
#include "lib/support/files.h"
#include "lib/support/json.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

struct Options {
  ModelOptions model;  // device, dtype and backend may be lists here
  std::vector<int> batch_sizes{1};
  std::vector<std::string> sizes;  // "224" or "384x640"; empty: the config's size
  int warm_up = 3;
  int iterations = 0;  // 0: as many as fit into `seconds`
  double seconds = 2;
  bool profile = false;
  std::string format = "table";
  std::string output;
};

struct Row {
  RunReport run;
  int64_t batch = 0, height = 0, width = 0;
  std::vector<double> ms;  // sorted
  uint64_t multiply_accumulates = 0;
  std::vector<ProfiledOperation> operations;  // means over several forwards

  double percentile(double p) const {  // nearest rank
    const auto rank = static_cast<size_t>(std::ceil(p / 100 * static_cast<double>(ms.size())));
    return ms[std::clamp<size_t>(rank, 1, ms.size()) - 1];
  }
  double mean() const { return std::accumulate(ms.begin(), ms.end(), 0.0) / static_cast<double>(ms.size()); }
  double images_per_second() const { return 1000 * static_cast<double>(batch) / percentile(50); }
  double gmacs_per_second() const { return static_cast<double>(multiply_accumulates) / percentile(50) / 1e6; }
};

std::vector<std::string> split(const std::string& list, const char* option) {
  std::vector<std::string> items;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    if (end == begin) fail_input("{} {}: an item of the list is empty", option, list);
    items.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return items;
}

// Values of mean 0 and standard deviation 1, like the pixels of a normalised photograph.
HostTensor noise(int64_t batch, int64_t channels, int64_t height, int64_t width) {
  HostTensor input{{batch, channels, height, width}, {}};
  std::mt19937 generator(0);
  std::normal_distribution<float> normal;
  const size_t one = static_cast<size_t>(channels * height * width);
  input.values.resize(static_cast<size_t>(batch) * one);
  std::generate_n(input.values.begin(), one, [&] { return normal(generator); });
  for (int64_t b = 1; b < batch; ++b)
    std::copy_n(input.values.begin(), one, input.values.begin() + static_cast<int64_t>(one) * b);
  return input;
}

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The times of `count` forwards, run back to back.
std::vector<double> times_of(Runner& runner, int count) {
  Kernels& kernels = runner.kernels();
  kernels.elapsed_ms();
  kernels.mark();
  for (int i = 0; i < count; ++i) {
    runner.replay();
    kernels.mark();
  }
  const std::vector<float> times = kernels.elapsed_ms();
  return {times.begin(), times.end()};
}

Row measure(Runner& runner, const Options& options, int64_t batch, int64_t height, int64_t width) {
  Row row;
  row.run = runner.report();
  row.batch = batch;
  row.height = height;
  row.width = width;
  runner.run(noise(batch, runner.config().in_chans, height, width));
  const int warm_up = std::max(options.warm_up, 2);  // on CUDA the graph is captured in the second forward
  const double each = seconds_of([&] {
                        for (int i = 0; i < warm_up; ++i) runner.replay();
                        runner.kernels().synchronize();
                      }) /
                      warm_up;
  const int least = runner.kernels().device().type == DeviceType::cpu ? 10 : 50;
  const int count = options.iterations > 0
                        ? options.iterations
                        : std::clamp(static_cast<int>(options.seconds / std::max(each, 1e-6)), least, 10000);
  row.ms = times_of(runner, count);
  std::sort(row.ms.begin(), row.ms.end());
  return row;
}

std::vector<ProfiledOperation> profile(const Config& config, const StateDict& weights,
                                       const RunChoice& choice, int64_t batch, int64_t height,
                                       int64_t width) {
  auto owned = std::make_unique<ProfilingKernels>(kernels_for(choice));
  ProfilingKernels& profiling = *owned;
  Runner runner(config, weights, std::move(owned), choice.precision);
  runner.run(noise(batch, config.in_chans, height, width), &profiling);
  constexpr int repetitions = 5;
  std::vector<ProfiledOperation> mean;
  for (int i = 0; i <= repetitions; ++i) {
    profiling.start();
    runner.replay(&profiling);
    std::vector<ProfiledOperation> operations = profiling.finish();
    if (i == 0) continue;  // warm-up
    if (mean.empty())
      mean = std::move(operations);
    else
      for (size_t j = 0; j < mean.size(); ++j) mean[j].ms += operations[j].ms;
  }
  for (ProfiledOperation& operation : mean) operation.ms /= repetitions;
  return mean;
}

// The operations of one kind of step, summed over all blocks.
struct StepTotal {
  std::string step, operation;
  int calls = 0;
  double ms = 0;
  uint64_t multiply_accumulates = 0, bytes = 0;
};

std::vector<StepTotal> totals(const std::vector<ProfiledOperation>& operations) {
  std::map<std::pair<std::string, std::string>, StepTotal> by_kind;
  for (const ProfiledOperation& o : operations) {
    const std::string step(kind_of(o.step));
    StepTotal& total = by_kind[{step, o.operation}];
    total.step = step;
    total.operation = o.operation;
    ++total.calls;
    total.ms += o.ms;
    total.multiply_accumulates += o.multiply_accumulates;
    total.bytes += o.bytes;
  }
  std::vector<StepTotal> result;
  for (auto& [kind, total] : by_kind) result.push_back(std::move(total));
  std::sort(result.begin(), result.end(), [](const StepTotal& a, const StepTotal& b) { return a.ms > b.ms; });
  return result;
}

// --- Output formats.

using Cells = std::vector<std::vector<std::string>>;  // the first row holds the column titles

std::string aligned(const Cells& cells, size_t text_columns) {
  std::vector<size_t> widths(cells[0].size());
  for (const auto& row : cells)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string text;
  for (const auto& row : cells) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i)
      line += (i ? "  " : "") + (i < text_columns ? fmt::format("{:<{}}", row[i], widths[i])
                                                  : fmt::format("{:>{}}", row[i], widths[i]));
    text += line + "\n";
  }
  return text;
}

std::string markdown(const Cells& cells, size_t text_columns) {
  std::string text;
  for (size_t r = 0; r < cells.size(); ++r) {
    text += fmt::format("| {} |\n", fmt::join(cells[r], " | "));
    if (r > 0) continue;
    for (size_t i = 0; i < cells[0].size(); ++i) text += i < text_columns ? "|---" : "|---:";
    text += "|\n";
  }
  return text;
}

std::string rate(double per_second) {
  if (per_second == 0) return "";
  return per_second < 100 ? fmt::format("{:.3g}", per_second) : fmt::format("{:.0f}", per_second);
}

Cells result_cells(const std::vector<Row>& rows) {
  Cells cells{{"device", "dtype", "backend", "forward core", "batch", "image", "runs", "median ms", "p90 ms",
               "p99 ms", "images/s", "GMAC/s"}};
  for (const Row& row : rows)
    cells.push_back({row.run.device, row.run.dtype, row.run.selective_scan_backend, row.run.forward_core,
                     std::to_string(row.batch), fmt::format("{}x{}", row.height, row.width),
                     std::to_string(row.ms.size()), fmt::format("{:.3f}", row.percentile(50)),
                     fmt::format("{:.3f}", row.percentile(90)), fmt::format("{:.3f}", row.percentile(99)),
                     fmt::format("{:.1f}", row.images_per_second()), rate(row.gmacs_per_second())});
  return cells;
}

Cells profile_cells(const Row& row) {
  Cells cells{{"step", "operation", "calls", "ms", "share", "GMAC/s", "GB/s"}};
  double sum = 0;
  const std::vector<StepTotal> steps = totals(row.operations);
  for (const StepTotal& step : steps) sum += step.ms;
  for (const StepTotal& step : steps)
    cells.push_back({step.step, step.operation, std::to_string(step.calls), fmt::format("{:.3f}", step.ms),
                     fmt::format("{:.1f} %", 100 * step.ms / sum),
                     rate(static_cast<double>(step.multiply_accumulates) / step.ms / 1e6),
                     rate(static_cast<double>(step.bytes) / step.ms / 1e6)});
  cells.push_back(
      {"all", "", std::to_string(row.operations.size()), fmt::format("{:.3f}", sum), "100.0 %", "", ""});
  return cells;
}

std::string json_text(const std::string& model, const std::string& weights, const std::vector<Row>& rows) {
  using Json = nlohmann::ordered_json;
  Json results = Json::array();
  for (const Row& row : rows) {
    Json result(row.run);
    result.update({{"batch", row.batch},
                   {"height", row.height},
                   {"width", row.width},
                   {"runs", row.ms.size()},
                   {"ms",
                    {{"min", row.ms.front()},
                     {"mean", row.mean()},
                     {"p50", row.percentile(50)},
                     {"p90", row.percentile(90)},
                     {"p99", row.percentile(99)},
                     {"max", row.ms.back()}}},
                   {"images_per_second", row.images_per_second()},
                   {"multiply_accumulates", row.multiply_accumulates}});
    for (const ProfiledOperation& o : row.operations)
      result["profile"].push_back({{"step", o.step},
                                   {"operation", o.operation},
                                   {"ms", o.ms},
                                   {"multiply_accumulates", o.multiply_accumulates},
                                   {"bytes", o.bytes}});
    results.push_back(std::move(result));
  }
  return dump_json({{"model", model}, {"weights", weights}, {"results", results}}, 2) + "\n";
}

std::string csv_text(const std::vector<Row>& rows) {
  std::string text =
      "device,dtype,selective_scan_backend,forward_core,batch,height,width,runs,min_ms,mean_ms,p50_ms,p90_ms,"
      "p99_ms,max_ms,images_per_second,multiply_accumulates\n";
  for (const Row& row : rows)
    text += fmt::format("{},{},{},{},{},{},{},{},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{}\n",
                        row.run.device, row.run.dtype, row.run.selective_scan_backend, row.run.forward_core,
                        row.batch, row.height, row.width, row.ms.size(), row.ms.front(), row.mean(),
                        row.percentile(50), row.percentile(90), row.percentile(99), row.ms.back(),
                        row.images_per_second(), row.multiply_accumulates);
  return text;
}

std::string table_text(const std::string& model, const std::string& weights, const std::vector<Row>& rows,
                       bool as_markdown) {
  const auto table = as_markdown ? markdown : aligned;
  std::string text = fmt::format("{}, {}\n", model, weights);
  std::vector<std::string> devices;
  for (const Row& row : rows) {
    const std::string line = fmt::format("{}: {}\n", row.run.device, row.run.device_name);
    if (std::find(devices.begin(), devices.end(), line) == devices.end()) devices.push_back(line);
  }
  for (const std::string& line : devices) text += line;
  text += "\n" + table(result_cells(rows), 4);
  for (const Row& row : rows) {
    if (row.operations.empty()) continue;
    text += fmt::format("\nProfile: {}, {}, {}, batch {}, {}x{}\n\n", row.run.device, row.run.dtype,
                        row.run.selective_scan_backend, row.batch, row.height, row.width);
    text += table(profile_cells(row), 2);
  }
  return text;
}

int run_bench(const Options& options) {
  std::optional<OutputFile> file;
  if (!options.output.empty()) file.emplace(options.output);
  ModelFiles files = find_model(options.model);
  ModelOptions one = options.model;
  one.selective_scan_backend.clear();
  const Config base = load_model_config(one, files);
  const std::string model =
      base.name.empty() ? std::filesystem::path(files.config_name()).filename().string() : base.name;
  const StateDict weights = files.weights.empty() ? init_weights(base, 0) : read_weights(files);
  const std::string weights_text =
      files.weights.empty() ? "weights from seed 0" : "weights " + files.weights.filename().string();

  std::vector<InputSize> sizes;
  for (const std::string& size : options.sizes) sizes.push_back(parse_image_size(size));
  if (sizes.empty()) sizes.push_back({base.preprocess.crop, base.preprocess.crop});
  std::vector<std::string> backends{""};
  if (!options.model.selective_scan_backend.empty())
    backends = split(options.model.selective_scan_backend, "--selective-scan-backend");

  struct Plan {
    RunChoice choice;
    Config config;
  };
  std::vector<Plan> plans;  // built for every combination first: bad input fails before minutes of measuring
  for (const std::string& device : split(options.model.device, "--device"))
    for (const std::string& dtype : split(options.model.dtype, "--dtype"))
      for (const std::string& backend : backends) {
        one.device = device;
        one.dtype = dtype;
        one.selective_scan_backend = backend;
        plans.push_back({choose_run(one), load_model_config(one, files)});
      }

  std::vector<Row> rows;
  bool all_measured = true;
  for (const Plan& plan : plans) {
    Runner runner(plan.config, weights, plan.choice);
    for (const auto& [height, width] : sizes)
      for (const int batch : options.batch_sizes) try {
          spdlog::debug("measuring {}, batch {}, {}x{}", to_string(runner.report()), batch, height, width);
          Row row = measure(runner, options, batch, height, width);
          row.multiply_accumulates =
              forward_cost(plan.config, storage_dtype(plan.choice.precision), batch, height, width)
                  .multiply_accumulates;
          if (options.profile)
            row.operations = profile(plan.config, weights, plan.choice, batch, height, width);
          rows.push_back(std::move(row));
        } catch (const OutOfMemory& error) {
          spdlog::warn("batch {}, {}x{} left out: {}", batch, height, width, error.what());
          all_measured = false;
        }
  }
  if (rows.empty()) fail_machine("nothing could be measured: out of memory");

  std::string text;
  if (options.format == "json")
    text = json_text(model, weights_text, rows);
  else if (options.format == "csv")
    text = csv_text(rows);
  else
    text = printable_lines(table_text(model, weights_text, rows, options.format == "md"));
  if (file) {
    file->stream() << text;
    file->commit();
  } else {
    fmt::print("{}", text);
  }
  return all_measured ? 0 : 1;
}

}  // namespace

Command add_bench(CLI::App& app) {
  CLI::App* parser =
      app.add_subcommand("bench", "Measure latency and throughput, with a profile per operation");
  const auto options = std::make_shared<Options>();
  add_model_options(*parser, options->model);
  const auto whole = CLI::Range(1, 1 << 20).description("");
  parser->add_option("--batch-size,--batch", options->batch_sizes, "Images per batch; may be a list")
      ->type_name("N")
      ->delimiter(',')
      ->check(whole);
  parser
      ->add_option("--image-size,--size", options->sizes,
                   "SIDE or HEIGHTxWIDTH in pixels; may be a list (default: the config's)")
      ->type_name("S")
      ->delimiter(',');
  parser->add_option("--warm-up", options->warm_up, "Forwards before the measured ones")
      ->type_name("N")
      ->check(CLI::Range(0, 1 << 20).description(""))
      ->capture_default_str();
  parser
      ->add_option("--iterations", options->iterations, "Number of measured forwards (default: by --seconds)")
      ->type_name("N")
      ->check(whole);
  parser
      ->add_option("--seconds", options->seconds,
                   "Measure for about this long, but at least 10 forwards (50 on CUDA)")
      ->type_name("S")
      ->check(CLI::Range(0.0, 86400.0).description(""))
      ->capture_default_str();
  parser->add_flag("--profile", options->profile, "Time each operation too (without a CUDA graph)");
  parser->add_option("--format", options->format, "table, json, csv or md")
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"table", "json", "csv", "md"}).description(""))
      ->capture_default_str();
  parser->add_option("-o,--output", options->output, "Write here instead of standard output")
      ->type_name("FILE");
  parser->footer(
      "Device, dtype, backend, batch and size may be lists (--batch-size 1,8,64): every combination is "
      "measured.\n"
      "images/s is the batch over the median. Without --weights, a --config runs on weights made from seed "
      "0.");
  return {parser, [options] { return run_bench(*options); }};
}

}  // namespace vmamba
