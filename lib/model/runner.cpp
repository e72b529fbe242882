// Memory and captured graphs of a model that runs on one device.
#include "lib/model/runner.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/error.h"

namespace vmamba {
namespace {

// The arena size in bytes for a forward, from a dry run of the same code.
size_t dry_arena_bytes(const Vssm& model, Kernels& dry, int64_t batch, int64_t height, int64_t width,
                       Taps* taps) {
  Arena arena;
  const View input = arena.take(model.storage(), {batch, height, width, model.config().in_chans});
  const View logits = arena.take(computed_in(model.storage()), {batch, model.config().num_classes});
  const size_t before = arena.used();
  model.forward(dry, arena, input, logits, taps);
  return arena.peak() - before;
}

// Requests every tap, to size the arena for an observed run, which stores more intermediate values.
class EveryTap final : public Taps {
 public:
  bool wants(std::string_view) override { return true; }
  void at(std::string_view, const View&) override {}
};

// A View in `memory` with the shape and dtype of `host`; `memory` is reallocated if it is too small.
View at_least(Tensor& memory, Kernels& kernels, const View& host) {
  if (!memory.view() || memory.view().bytes() < host.bytes()) {
    memory = Tensor();
    memory = Tensor(kernels, DType::uint8, {static_cast<int64_t>(host.bytes())});
  }
  View device = host;
  device.data = memory.view().data;
  device.device = kernels.device();
  return device;
}

}  // namespace

std::string to_string(const RunReport& report) {
  return fmt::format("device {} ({}), dtype {}, selective_scan_backend {}, forward_core {}", report.device,
                     report.device_name, report.dtype, report.selective_scan_backend, report.forward_core);
}

void to_json(nlohmann::ordered_json& json, const RunReport& report) {
  json = {{"device", report.device},
          {"device_name", report.device_name},
          {"dtype", report.dtype},
          {"selective_scan_backend", report.selective_scan_backend},
          {"forward_core", report.forward_core}};
}

std::unique_ptr<Kernels> kernels_for(const RunChoice& choice) {
  if (storage_dtype(choice.precision) == DType::float64) return make_scalar_kernels(choice.threads);
  return make_kernels(choice.device,
                      {.threads = choice.threads, .allow_tf32 = row_of(choice.precision).tf32});
}

Runner::Runner(const Config& config, const StateDict& weights, const RunChoice& choice)
    : Runner(config, weights, kernels_for(choice), choice.precision) {}

Runner::Runner(const Config& config, const StateDict& weights, std::unique_ptr<Kernels> kernels,
               Precision precision)
    : config_(config),
      precision_(precision),
      kernels_(std::move(kernels)),
      model_(std::make_unique<Vssm>(config, weights, *kernels_, storage_dtype(precision))) {}

Runner::Runner(const Config& config, const PreparedWeights& weights, std::unique_ptr<Kernels> kernels,
               Precision precision)
    : config_(config),
      precision_(precision),
      kernels_(std::move(kernels)),
      model_(std::make_unique<Vssm>(config, weights, *kernels_, storage_dtype(precision))) {}

Runner::~Runner() = default;

HostTensor Runner::run(const HostTensor& input, Taps* taps) {
  if (input.dims.size() != 4 || input.dims[0] < 1 || input.dims[1] != config_.in_chans)
    fail_input("input: wanted (batch, {}, height, width), got {}", config_.in_chans,
               shape_string(input.dims));
  Buffers& buffers = prepare({input.dims[0], input.dims[2], input.dims[3]}, taps != nullptr);
  const View device = at_least(input_, *kernels_, input.view());
  kernels_->copy(input.view(), device);
  kernels_->nchw_to_nhwc(device, buffers.nhwc);
  start(taps);
  return finish();
}

HostTensor Runner::run_pixels(const uint8_t* pixels, int64_t batch, int64_t height, int64_t width,
                              Taps* taps) {
  stage_pixels(pixels, batch, height, width);
  start_staged(taps);
  return finish();
}

void Runner::stage_pixels(const uint8_t* pixels, int64_t batch, int64_t height, int64_t width) {
  stage_images(pixels, {}, batch, height, width);
}

std::vector<int64_t> Runner::stage_images(const uint8_t* pixels, std::span<const DecodeJpegs::Packed> jpegs,
                                          int64_t batch, int64_t height, int64_t width) {
  if (config_.in_chans != 3)
    fail_input("images have 3 channels, the config wants in_chans {}", config_.in_chans);
  const View host(const_cast<uint8_t*>(pixels), DType::uint8, Device{}, {batch, height, width, 3});
  std::swap(pixels_[0], pixels_[1]);
  staged_ = {};
  const View device = at_least(pixels_[0], *kernels_, host);
  std::vector<int64_t> unfit;
  if (jpegs.empty())
    kernels_->upload(host, device);
  else
    unfit = kernels_->decode_jpegs({.jpegs = jpegs, .pixels = host, .y = device});
  if (unfit.empty()) staged_ = device;
  return unfit;
}

void Runner::start_staged(Taps* taps) {
  const View pixels = std::exchange(staged_, View());
  check(static_cast<bool>(pixels), "nothing is staged");
  Buffers& buffers = prepare({pixels.dim(0), pixels.dim(1), pixels.dim(2)}, taps != nullptr);
  kernels_->normalize(pixels, config_.preprocess.mean.data(), config_.preprocess.std.data(), buffers.nhwc);
  start(taps);
}

void Runner::start(Taps* taps) {
  replay(taps);
  const View logits = buffers_.at(last_).logits;
  if (!config_.out_indices) kernels_->queue_copy(logits);
  started_.push_back(logits);
}

HostTensor Runner::finish() {
  check(!started_.empty(), "nothing is started");
  const View device = started_.front();
  started_.pop_front();
  if (config_.out_indices) {
    kernels_->synchronize();
    return {{device.dim(0), 0}, {}};
  }
  HostTensor logits{{device.dim(0), config_.num_classes}, {}};
  logits.values.resize(static_cast<size_t>(device.elements()));
  if (device.dtype == DType::float64) {
    HostArray<double> wide{logits.dims, std::vector<double>(logits.values.size())};
    kernels_->take_copy(wide.view());
    std::ranges::copy(wide.values, logits.values.begin());
  } else {
    kernels_->take_copy(logits.view());
  }
  return logits;
}

void Runner::replay(Taps* taps) {
  const auto found = buffers_.find(last_);
  check(found != buffers_.end(), "replay before the first run");
  Buffers& buffers = found->second;
  kernels_->expect_work(buffers.multiply_accumulates);
  const auto work = [&] { model_->forward(*kernels_, *arena_, buffers.nhwc, buffers.logits, taps); };
  if (taps == nullptr && buffers.warm && !buffers.graph) buffers.graph = kernels_->capture(work);
  if (taps == nullptr && buffers.graph)
    buffers.graph->launch();
  else
    work();
  // An observed run does not count: it stores in the arena what a plain run keeps in scratch memory.
  buffers.warm |= taps == nullptr;
}

Runner::Buffers& Runner::prepare(const Shape& shape, bool observed) {
  const auto [batch, height, width] = shape;
  auto found = buffers_.find(shape);
  uint64_t multiply_accumulates = 0;
  if (found == buffers_.end() || (observed && !found->second.arena_fits_taps)) {
    model_->prepare(*kernels_, height, width);
    EveryTap every;
    const std::unique_ptr<Kernels> dry = make_dry_kernels(kernels_->device());
    grow_arena(dry_arena_bytes(*model_, *dry, batch, height, width, observed ? &every : nullptr));
    multiply_accumulates = dry->multiply_accumulates();
  }
  if (found == buffers_.end()) {
    Buffers buffers;
    buffers.nhwc = Tensor(*kernels_, model_->storage(), {batch, height, width, config_.in_chans});
    buffers.logits = Tensor(*kernels_, computed_in(model_->storage()), {batch, config_.num_classes});
    buffers.multiply_accumulates = multiply_accumulates;
    found = buffers_.emplace(shape, std::move(buffers)).first;
  }
  found->second.arena_fits_taps |= observed;
  last_ = shape;
  return found->second;
}

// Called for every new shape. Drops all captured graphs: the new shape may reallocate the kernels' scratch memory, to
// which they hold pointers.
void Runner::grow_arena(size_t bytes) {
  kernels_->synchronize();
  for (auto& [shape, buffers] : buffers_) {
    buffers.graph.reset();
    buffers.warm = false;
  }
  if (bytes <= arena_bytes_) return;
  arena_.reset();
  arena_bytes_ = 0;
  arena_ = std::make_unique<Arena>(*kernels_, bytes);
  arena_bytes_ = bytes;
}

RunReport Runner::report() const {
  RunReport report;
  report.device = to_string(kernels_->device());
  report.device_name = kernels_->description();
  report.dtype = std::string(to_string(precision_));
  report.selective_scan_backend = std::string(to_string(resolved(config_.selective_scan_backend)));
  report.forward_core = config_.forward_core_version == ForwardCoreVersion::unset
                            ? fmt::format("null (forward_type {})", config_.forward_type)
                            : std::string(to_string(config_.forward_core_version));
  return report;
}

std::vector<TapShape> tap_shapes(const Config& config, int64_t height, int64_t width) {
  class Shapes final : public Taps {
   public:
    bool wants(std::string_view) override { return true; }
    void at(std::string_view name, const View& value) override {
      all.push_back({std::string(name), {value.dims.begin(), value.dims.begin() + value.rank}});
    }
    std::vector<TapShape> all;
  } shapes;
  const std::unique_ptr<Kernels> dry = make_dry_kernels(Device{});
  Vssm model(config, *dry, DType::float32);
  model.prepare(*dry, height, width);
  dry_arena_bytes(model, *dry, 1, height, width, &shapes);
  return shapes.all;
}

ForwardCost forward_cost(const Config& config, DType storage, int64_t batch, int64_t height, int64_t width) {
  const std::unique_ptr<Kernels> dry = make_dry_kernels(Device{});
  Vssm model(config, *dry, storage);
  model.prepare(*dry, height, width);
  const size_t bytes = dry_arena_bytes(model, *dry, batch, height, width, nullptr);
  return {bytes, dry->multiply_accumulates()};
}

}  // namespace vmamba
