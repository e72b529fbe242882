// bench: latency and throughput of the forward pass, with the input already on the device. Timed with events
// on CUDA (replays of one captured graph) and with a clock on the CPU. A lane is one stream of forwards on one
// device; lanes (--streams, several devices) run side by side, a thread each.
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <future>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <random>
#include <thread>

#include "app/commands.h"
#include "app/image_size.h"
#include "app/model_options.h"
#include "app/option_values.h"
#include "app/program.h"
#include "app/progress.h"
#include "kernels/cgroup.h"
#include "kernels/devices.h"
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
  ModelOptions model;  // config, device, dtype and backend may be lists here
  std::vector<int> batch_sizes{1};
  std::vector<std::string> sizes;  // "224" or "384x640"; empty: the config's size
  int warm_up = 3;
  int iterations = 0;  // 0: as many as fit into `seconds`
  double seconds = 2;
  int streams = 1;
  std::string cache = "warm";
  bool profile = false;
  std::string format = "table";
  std::string output, export_to;

  bool cold() const { return cache == "cold"; }
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>((values.size() - 1) / 2);  // nearest rank
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

struct Row {
  std::string model;
  RunReport run;
  int64_t batch = 0, height = 0, width = 0;
  std::vector<Device> devices;
  int streams = 1;                         // on each device
  std::vector<std::vector<double>> lanes;  // times in ms, in the order of measuring
  std::vector<double> ms;                  // those of all lanes, sorted
  std::vector<DeviceState> states;         // of each device, while it computed
  size_t host_peak = 0;                    // bytes of the process so far
  std::optional<double> alone;             // images/s of the devices, each measured alone, together
  std::optional<double> first_alone;       // of the first one
  uint64_t multiply_accumulates = 0;
  std::vector<ProfiledOperation> operations;  // means over several forwards

  double percentile(double p) const {  // nearest rank
    const auto rank = static_cast<size_t>(std::ceil(p / 100 * static_cast<double>(ms.size())));
    return ms[std::clamp<size_t>(rank, 1, ms.size()) - 1];
  }
  double mean() const { return std::accumulate(ms.begin(), ms.end(), 0.0) / static_cast<double>(ms.size()); }
  double deviation() const {
    double sum = 0;
    for (const double value : ms) sum += (value - mean()) * (value - mean());
    return ms.size() < 2 ? 0 : std::sqrt(sum / static_cast<double>(ms.size() - 1));
  }
  // The middle half of the times, as a share of the median.
  double spread() const { return (percentile(75) - percentile(25)) / percentile(50); }
  double forwards_per_second() const {
    double sum = 0;
    for (const std::vector<double>& lane : lanes) sum += 1000 / median(lane);
    return sum;
  }
  double images_per_second() const { return static_cast<double>(batch) * forwards_per_second(); }
  double gmacs_per_second() const {
    return static_cast<double>(multiply_accumulates) * forwards_per_second() / 1e9;
  }
};

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

// Memory as large as the cache, twice: a copy from one to the other leaves nothing else in it.
struct CacheFlush {
  Tensor from, to;
  CacheFlush(Kernels& kernels, size_t bytes)
      : from(kernels, DType::uint8, {static_cast<int64_t>(bytes)}),
        to(kernels, DType::uint8, {static_cast<int64_t>(bytes)}) {}
};

// A runner that has run, ready to be timed.
struct Lane {
  std::unique_ptr<Runner> runner;
  std::optional<CacheFlush> flush;  // before every forward
  double each = 0;                  // seconds, about
};

// The times of `count` forwards. `meanwhile` is called while the last ones may still run.
std::vector<double> times_of(const Lane& lane, int count, const std::function<void()>& meanwhile) {
  Kernels& kernels = lane.runner->kernels();
  kernels.elapsed_ms();
  if (!lane.flush) kernels.mark();
  for (int i = 0; i < count; ++i) {
    if (lane.flush) {
      kernels.copy(lane.flush->from.view(), lane.flush->to.view());
      kernels.mark();
    }
    lane.runner->replay();
    kernels.mark();
  }
  meanwhile();
  const std::vector<float> marked = kernels.elapsed_ms();
  std::vector<double> times;
  for (size_t i = 0; i < marked.size(); i += lane.flush ? 2 : 1) times.push_back(marked[i]);
  return times;
}

void warm_up(Lane& lane, const Options& options, int64_t batch, int64_t height, int64_t width) {
  Runner& runner = *lane.runner;
  runner.run(noise(batch, runner.config().in_chans, height, width));
  lane.each = seconds_of([&] {
                for (int i = 0; i < options.warm_up; ++i) runner.replay();
                runner.kernels().synchronize();
              }) /
              options.warm_up;
}

// Calls work(0) to work(count - 1) on a thread each and returns when all are done. Rethrows one of their exceptions.
void side_by_side(size_t count, const std::function<void(size_t)>& work) {
  if (count == 1) return work(0);
  std::promise<bool> started;  // all threads; false: one could not be
  const std::shared_future<bool> all_started = started.get_future().share();
  std::vector<std::future<void>> running;
  try {
    for (size_t i = 0; i < count; ++i)
      running.push_back(std::async(std::launch::async, [&work, all_started, i] {
        if (all_started.get()) work(i);
      }));
  } catch (...) {
    started.set_value(false);
    throw;
  }
  started.set_value(true);
  for (const auto& future : running) future.wait();
  for (auto& future : running) future.get();
}

size_t host_peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<size_t>(usage.ru_maxrss) * 1024;
}

// lanes: `options.streams` for each device, in the order of the devices.
Row measure(std::vector<Lane>& lanes, const std::vector<Device>& devices, const Options& options,
            int64_t batch, int64_t height, int64_t width) {
  Row row;
  row.run = lanes[0].runner->report();
  row.batch = batch;
  row.height = height;
  row.width = width;
  row.devices = devices;
  row.streams = options.streams;
  row.lanes.resize(lanes.size());
  row.states.resize(devices.size());
  side_by_side(lanes.size(), [&](size_t i) { warm_up(lanes[i], options, batch, height, width); });
  const int least = devices[0].type == DeviceType::cpu ? 10 : 50;
  const int count = options.iterations > 0
                        ? options.iterations
                        : static_cast<int>(std::clamp<double>(options.seconds / std::max(lanes[0].each, 1e-6),
                                                              least, 10000));
  side_by_side(lanes.size(), [&](size_t i) {
    const size_t stream = i % static_cast<size_t>(options.streams),
                 device = i / static_cast<size_t>(options.streams);
    row.lanes[i] = times_of(lanes[i], count, [&] {
      if (stream == 0) row.states[device] = device_state(devices[device]);
    });
  });
  for (size_t i = 1; i < devices.size(); ++i) row.run.device += "," + to_string(devices[i]);
  for (const std::vector<double>& lane : row.lanes) row.ms.insert(row.ms.end(), lane.begin(), lane.end());
  std::sort(row.ms.begin(), row.ms.end());
  row.host_peak = host_peak_bytes();
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

template <class T>
std::string known(const std::optional<T>& value) {
  return value ? fmt::format("{}", *value) : "-";
}

std::string mebibytes(size_t bytes) {
  return fmt::format("{:.0f}", static_cast<double>(bytes) / 0x1p20);
}

constexpr size_t text_columns = 5;
Cells result_cells(const std::vector<Row>& rows) {
  Cells cells{{"model", "device", "dtype", "backend", "forward core", "batch", "streams", "image", "runs",
               "median ms", "p90 ms", "p99 ms", "spread", "images/s", "GMAC/s"}};
  // Columns that no row has are left out; of the clock, the line of its device above the table says why.
  const bool clocks =
      std::ranges::any_of(rows, [](const Row& row) { return row.states[0].clock_mhz.has_value(); });
  const bool memories =
      std::ranges::any_of(rows, [](const Row& row) { return row.states[0].memory_in_use.has_value(); });
  if (clocks) cells[0].push_back("MHz");
  if (memories) cells[0].push_back("device MiB");
  for (const Row& row : rows) {
    const std::optional<size_t>& memory = row.states[0].memory_in_use;
    cells.push_back({row.model, row.run.device, row.run.dtype, row.run.selective_scan_backend,
                     row.run.forward_core, std::to_string(row.batch), std::to_string(row.streams),
                     fmt::format("{}x{}", row.height, row.width), std::to_string(row.ms.size()),
                     fmt::format("{:.3f}", row.percentile(50)), fmt::format("{:.3f}", row.percentile(90)),
                     fmt::format("{:.3f}", row.percentile(99)), fmt::format("{:.1f} %", 100 * row.spread()),
                     fmt::format("{:.1f}", row.images_per_second()), rate(row.gmacs_per_second())});
    if (clocks) cells.back().push_back(known(row.states[0].clock_mhz));
    if (memories) cells.back().push_back(memory ? mebibytes(*memory) : "-");
  }
  return cells;
}

// The rows of several devices, each with the first device alone.
Cells scaling_cells(const std::vector<Row>& rows) {
  Cells cells{
      {"model", "devices", "dtype", "batch a device", "image", "images/s", "times one", "efficiency"}};
  for (const Row& row : rows) {
    if (!row.alone) continue;
    cells.push_back({row.model, row.run.device, row.run.dtype, std::to_string(row.batch),
                     fmt::format("{}x{}", row.height, row.width),
                     fmt::format("{:.1f}", row.images_per_second()),
                     fmt::format("{:.2f}", row.images_per_second() / *row.first_alone),
                     fmt::format("{:.1f} %", 100 * row.images_per_second() / *row.alone)});
  }
  return cells;
}

// What the clocks of a device were while it was measured, over all rows. Empty: no row has it.
std::string clocks_text(const std::vector<Row>& rows, Device device) {
  std::optional<unsigned> least, most, limit, memory, celsius, watts;
  std::string driver, throttled, unknown;
  bool reasons_known = false;
  const auto fold = [](std::optional<unsigned>& into, const std::optional<unsigned>& value,
                       const auto& better) {
    if (value) into = into ? better(*into, *value) : *value;
  };
  const auto lower = [](unsigned a, unsigned b) { return std::min(a, b); };
  const auto higher = [](unsigned a, unsigned b) { return std::max(a, b); };
  for (const Row& row : rows)
    for (size_t i = 0; i < row.devices.size(); ++i) {
      if (row.devices[i] != device) continue;
      const DeviceState& state = row.states[i];
      fold(least, state.clock_mhz, lower);
      fold(most, state.clock_mhz, higher);
      fold(limit, state.most_clock_mhz, higher);
      fold(memory, state.memory_clock_mhz, lower);
      fold(celsius, state.celsius, higher);
      fold(watts, state.watts, higher);
      driver = state.driver;
      unknown = state.unknown;
      reasons_known |= state.throttled.has_value();
      if (state.throttled && throttled.find(*state.throttled) == std::string::npos)
        throttled += (throttled.empty() ? "" : ", ") + *state.throttled;
    }
  if (!unknown.empty()) return fmt::format("{}: clocks not known: {}\n", to_string(device), unknown);
  std::string text =
      fmt::format("{}: clock {} to {} of {} MHz", to_string(device), known(least), known(most), known(limit));
  if (device.type == DeviceType::cpu) return text + "\n";
  return text + fmt::format(", memory {} MHz, at most {} °C and {} W, throttled by {}; driver {}\n",
                            known(memory), known(celsius), known(watts),
                            !reasons_known      ? "-"
                            : throttled.empty() ? "nothing"
                                                : throttled,
                            driver.empty() ? "-" : driver);
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

using Json = nlohmann::ordered_json;

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

Json states_json(const Row& row) {
  Json states = Json::array();
  for (size_t i = 0; i < row.devices.size(); ++i) {
    const DeviceState& state = row.states[i];
    states.push_back({{"device", to_string(row.devices[i])},
                      {"driver", state.driver.empty() ? Json() : Json(state.driver)},
                      {"clock_mhz", or_null(state.clock_mhz)},
                      {"most_clock_mhz", or_null(state.most_clock_mhz)},
                      {"memory_clock_mhz", or_null(state.memory_clock_mhz)},
                      {"celsius", or_null(state.celsius)},
                      {"watts", or_null(state.watts)},
                      {"throttled_by", or_null(state.throttled)},
                      {"not_known", state.unknown.empty() ? Json() : Json(state.unknown)},
                      {"cache_bytes", state.cache_bytes},
                      {"memory_in_use_bytes", or_null(state.memory_in_use)}});
  }
  return states;
}

// The models that were measured and what their weights are, as one line each.
struct Measured {
  std::vector<std::string> models, weights;
};

// `samples`: with every time that was measured.
std::string json_text(const Measured& measured, const Options& options, const std::vector<Row>& rows,
                      bool samples) {
  Json results = Json::array();
  for (const Row& row : rows) {
    Json result{{"model", row.model}};
    result.update(Json(row.run));
    result.update({{"batch", row.batch},
                   {"height", row.height},
                   {"width", row.width},
                   {"devices", row.devices.size()},
                   {"streams", row.streams},
                   {"runs", row.ms.size()},
                   {"ms",
                    {{"min", row.ms.front()},
                     {"mean", row.mean()},
                     {"deviation", row.deviation()},
                     {"p25", row.percentile(25)},
                     {"p50", row.percentile(50)},
                     {"p75", row.percentile(75)},
                     {"p90", row.percentile(90)},
                     {"p99", row.percentile(99)},
                     {"max", row.ms.back()}}},
                   {"images_per_second", row.images_per_second()},
                   {"multiply_accumulates", row.multiply_accumulates},
                   {"state", states_json(row)},
                   {"host_peak_bytes", row.host_peak}});
    if (row.alone)
      result["weak_scaling"] = {{"times_one", row.images_per_second() / *row.first_alone},
                                {"efficiency", row.images_per_second() / *row.alone}};
    for (const ProfiledOperation& o : row.operations)
      result["profile"].push_back({{"step", o.step},
                                   {"operation", o.operation},
                                   {"ms", o.ms},
                                   {"multiply_accumulates", o.multiply_accumulates},
                                   {"bytes", o.bytes}});
    if (samples) result["samples_ms"] = row.lanes;
    results.push_back(std::move(result));
  }
  return dump_json({{"model", fmt::format("{}", fmt::join(measured.models, ","))},
                    {"weights", fmt::format("{}", fmt::join(measured.weights, ","))},
                    {"made_by", to_json(this_program())},
                    {"processors", std::thread::hardware_concurrency()},
                    {"threads", options.model.threads},
                    {"cache", options.cache},
                    {"results", results}},
                   2) +
         "\n";
}

std::string csv_text(const Options& options, const std::vector<Row>& rows) {
  std::string text =
      "device,dtype,selective_scan_backend,forward_core,batch,height,width,runs,min_ms,mean_ms,p50_ms,p90_ms,"
      "p99_ms,max_ms,images_per_second,multiply_accumulates,model,devices,streams,cache,deviation_ms,clock_mhz,"
      "device_memory_in_use_bytes,host_peak_bytes\n";
  const auto or_empty = [](const auto& value) { return value ? std::to_string(*value) : std::string(); };
  for (const Row& row : rows)
    text += fmt::format(
        "{},{},{},{},{},{},{},{},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{},{},{},{},{},{:.6g},"
        "{},{},{}\n",
        csv_field(row.run.device), row.run.dtype, row.run.selective_scan_backend, row.run.forward_core,
        row.batch, row.height, row.width, row.ms.size(), row.ms.front(), row.mean(), row.percentile(50),
        row.percentile(90), row.percentile(99), row.ms.back(), row.images_per_second(),
        row.multiply_accumulates, csv_field(row.model), row.devices.size(), row.streams, options.cache,
        row.deviation(), or_empty(row.states[0].clock_mhz), or_empty(row.states[0].memory_in_use),
        row.host_peak);
  return text;
}

std::string table_text(const Measured& measured, const Options& options, const std::vector<Row>& rows,
                       bool as_markdown) {
  const auto table = as_markdown ? markdown : aligned;
  std::string text;
  for (size_t i = 0; i < measured.models.size(); ++i)
    text += fmt::format("{}, {}\n", measured.models[i], measured.weights[i]);
  std::vector<Device> devices;
  for (const Row& row : rows) {
    if (row.devices.size() > 1 || std::ranges::find(devices, row.devices[0]) != devices.end()) continue;
    devices.push_back(row.devices[0]);
    text += fmt::format("{}: {}\n", row.run.device, row.run.device_name) + clocks_text(rows, row.devices[0]);
  }
  const Program program = this_program();
  text += fmt::format("vmamba-cli {}, commit {}\n", program.version, program.commit);
  text += fmt::format(
      "caches {}: {}; {} processors, --threads {}; host memory at most {} MiB\n", options.cache,
      options.cold() ? "emptied before every forward" : "each forward finds what the one before left",
      std::thread::hardware_concurrency(), options.model.threads, mebibytes(rows.back().host_peak));
  text += "\n" + table(result_cells(rows), text_columns);
  if (const Cells scaling = scaling_cells(rows); scaling.size() > 1)
    text += "\nWeak scaling, against each device alone\n\n" + table(scaling, 3);
  for (const Row& row : rows) {
    if (row.operations.empty()) continue;
    text += fmt::format("\nProfile: {}, {}, {}, {}, batch {}, {}x{}\n\n", row.model, row.run.device,
                        row.run.dtype, row.run.selective_scan_backend, row.batch, row.height, row.width);
    text += table(profile_cells(row), 2);
  }
  return text;
}

// Each device alone; then the first two of a kind, the first three, …
std::vector<std::vector<Device>> device_sets(const std::vector<Device>& devices) {
  std::vector<std::vector<Device>> sets;
  for (const Device device : devices) sets.push_back({device});
  for (const DeviceRow& kind : table_of<DeviceType>) {
    std::vector<Device> set;
    for (const Device device : devices) {
      if (device.type != kind.value) continue;
      set.push_back(device);
      if (set.size() > 1) sets.push_back(set);
    }
  }
  return sets;
}

// Fills in what each device of the row reached alone.
void compare_with_alone(Row& row, const std::vector<Row>& rows) {
  double sum = 0;
  for (const Device device : row.devices) {
    const auto same = std::ranges::find_if(rows, [&](const Row& one) {
      return one.devices == std::vector{device} && one.model == row.model && one.run.dtype == row.run.dtype &&
             one.run.selective_scan_backend == row.run.selective_scan_backend && one.batch == row.batch &&
             one.height == row.height && one.width == row.width;
    });
    if (same == rows.end()) return;
    if (sum == 0) row.first_alone = same->images_per_second();
    sum += same->images_per_second();
  }
  row.alone = sum;
}

// The names in --config; a file whose name has a comma stays one.
std::vector<std::string> configs_of(const std::string& text) {
  std::error_code ignored;
  if (text.empty() || std::filesystem::exists(text, ignored)) return {text};
  return split_list("--config", text);
}

int run_bench(const Options& options) {
  std::optional<OutputFile> file, exported;
  if (!options.output.empty()) file.emplace(options.output);
  if (!options.export_to.empty()) exported.emplace(options.export_to);
  const std::vector<std::string> configs = configs_of(options.model.config);
  if (configs.size() > 1 && !options.model.weights.empty())
    fail_input("--config {}: --weights belong to one config: name one, or leave them out",
               options.model.config);
  if (options.profile && options.streams > 1)
    fail_input("--profile times one stream of operations: leave out --streams");
  const std::vector<std::vector<Device>> sets = device_sets(parse_devices(options.model.device));
  std::vector<std::string> backends{""};
  if (!options.model.selective_scan_backend.empty())
    backends = split_list("--selective-scan-backend", options.model.selective_scan_backend);

  struct Plan {
    std::vector<Device> devices;
    Precision precision;
    Config config;
  };
  struct Model {
    std::string name;
    StateDict weights;
    std::vector<InputSize> sizes;
    std::vector<Plan> plans;
  };
  std::vector<Model>
      models;  // built for every combination first: bad input fails before minutes of measuring
  Measured measured;
  for (const std::string& config : configs) {
    ModelOptions one = options.model;
    one.config = config;
    one.selective_scan_backend.clear();
    ModelFiles files = find_model(one);
    const Config base = load_model_config(one, files);
    Model model;
    model.name =
        base.name.empty() ? std::filesystem::path(files.config_name()).filename().string() : base.name;
    for (const std::string& size : options.sizes) model.sizes.push_back(parse_image_size(size));
    if (model.sizes.empty()) model.sizes.push_back({base.preprocess.crop, base.preprocess.crop});
    for (const std::vector<Device>& devices : sets)
      for (const std::string& dtype : split_list("--dtype", options.model.dtype))
        for (const std::string& backend : backends) {
          one.selective_scan_backend = backend;
          model.plans.push_back({devices, parse_precision(dtype, devices[0]), load_model_config(one, files)});
        }
    model.weights = files.weights.empty() ? init_weights(base, 0) : read_weights(files);
    measured.models.push_back(model.name);
    measured.weights.push_back(files.weights.empty() ? "weights from seed 0"
                                                     : "weights " + files.weights.filename().string());
    models.push_back(std::move(model));
  }

  if (waiting_threads_sleep())
    spdlog::warn(
        "threads that wait sleep (OMP_WAIT_POLICY=PASSIVE, which the program sets itself on a busy machine): forwards on "
        "the CPU take longer");
  std::vector<Row> rows;
  bool all_measured = true;
  size_t measurements = 0, done = 0;
  for (const Model& model : models)
    measurements += model.plans.size() * model.sizes.size() * options.batch_sizes.size();
  Progress progress(0, measurements, "measurements");
  for (const Model& model : models)
    for (const Plan& plan : model.plans) {
      std::vector<Lane> lanes(plan.devices.size() * static_cast<size_t>(options.streams));
      side_by_side(lanes.size(), [&](size_t i) {
        const Device device = plan.devices[i / static_cast<size_t>(options.streams)];
        lanes[i].runner = std::make_unique<Runner>(plan.config, model.weights,
                                                   RunChoice{device, plan.precision, options.model.threads});
        if (options.cold())
          lanes[i].flush.emplace(lanes[i].runner->kernels(), device_state(device).cache_bytes);
      });
      for (const auto& [height, width] : model.sizes)
        for (const int batch : options.batch_sizes) try {
            spdlog::debug("measuring {}, batch {}, {}x{}", to_string(lanes[0].runner->report()), batch,
                          height, width);
            progress.show(done++, fmt::format("{}, batch {}, {}x{}", lanes[0].runner->report().dtype, batch,
                                              height, width));
            Row row = measure(lanes, plan.devices, options, batch, height, width);
            row.model = model.name;
            row.multiply_accumulates =
                forward_cost(plan.config, storage_dtype(plan.precision), batch, height, width)
                    .multiply_accumulates;
            if (row.devices.size() > 1) compare_with_alone(row, rows);
            if (options.profile && row.devices.size() == 1)
              row.operations =
                  profile(plan.config, model.weights,
                          {plan.devices[0], plan.precision, options.model.threads}, batch, height, width);
            rows.push_back(std::move(row));
          } catch (const OutOfMemory& error) {
            progress.clear();
            spdlog::warn("batch {}, {}x{} left out: {}", batch, height, width, error.what());
            all_measured = false;
          }
    }
  if (rows.empty()) fail_machine("nothing could be measured: out of memory");

  std::string text;
  if (options.format == "json")
    text = json_text(measured, options, rows, false);
  else if (options.format == "csv")
    text = csv_text(options, rows);
  else
    text = printable_lines(table_text(measured, options, rows, options.format == "md"));
  if (exported) {
    exported->stream() << json_text(measured, options, rows, true);
    exported->commit();
  }
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
  add_model_options(*parser, options->model, {.devices = true});
  parser->get_option("--config")->join(',');
  const auto whole = whole_number(1, 1 << 20);
  parser->add_option("--batch-size,--batch", options->batch_sizes, "Images per batch; may be a list")
      ->type_name("N")
      ->delimiter(',')
      ->check(whole);
  parser
      ->add_option("--image-size,--size", options->sizes,
                   "SIDE or HEIGHTxWIDTH in pixels; may be a list (default: the config's)")
      ->type_name("S")
      ->delimiter(',');
  parser
      ->add_option("--warm-up", options->warm_up,
                   "Forwards before the measured ones, at least 2: on CUDA the second captures a graph")
      ->type_name("N")
      ->check(whole_number(2, 1 << 20))
      ->capture_default_str();
  parser
      ->add_option("--iterations", options->iterations, "Number of measured forwards (default: by --seconds)")
      ->type_name("N")
      ->check(whole);
  parser
      ->add_option("--seconds", options->seconds,
                   "Measure for about this long, but at least 10 forwards (50 on CUDA) and at most 10000")
      ->type_name("S")
      ->check(real_number("from 0 to 86400", [](double x) { return x >= 0 && x <= 86400; }))
      ->excludes("--iterations")
      ->capture_default_str();
  parser
      ->add_option("--streams", options->streams,
                   "Concurrent runs per device, each with its own stream and thread")
      ->type_name("N")
      ->check(whole_number(1, 64))
      ->capture_default_str();
  parser
      ->add_option("--cache", options->cache,
                   "warm: caches as the previous forward left them; cold: L2 flushed before every forward")
      ->type_name("STATE")
      ->check(CLI::IsMember({"warm", "cold"}).description(""))
      ->capture_default_str();
  parser->add_flag("--profile", options->profile, "Time each operation too (without a CUDA graph)");
  parser->add_option("--format", options->format, "table, json, csv or md")
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"table", "json", "csv", "md"}).description(""))
      ->capture_default_str();
  parser->add_option("-o,--output", options->output, "Write here instead of standard output")
      ->type_name("FILE");
  parser->add_option("--export", options->export_to, "Write every measured time to FILE, as JSON")
      ->type_name("FILE");
  parser->footer(
      "Config, device, dtype, backend, batch and size may be lists (--batch-size 1,8,64): every combination is "
      "measured.\n"
      "Several devices of a kind are measured together as well (weak scaling).\n"
      "images/s is the batch over the median, summed over streams and devices. Without --weights, a --config "
      "runs on weights made from seed 0.");
  return {parser, [options] { return run_bench(*options); }};
}

}  // namespace vmamba
