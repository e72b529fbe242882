// A model ready to run on one device: kernels, weights, arena and, on CUDA, one captured graph per batch shape. Not
// thread-safe, like its kernels: used by one thread at a time (kernels/kernels.h).
#pragma once
#include <deque>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <tuple>

#include "lib/config/config.h"
#include "lib/model/vssm.h"

namespace vmamba {

struct RunChoice {
  Device device;
  Precision precision = Precision::float32;
  int threads = 0;  // CPU only; 0: all that are available to the process
  friend bool operator==(const RunChoice&, const RunChoice&) = default;
};

// The kernels for a choice: the fast ones of its device, or the scalar ones for float64.
std::unique_ptr<Kernels> kernels_for(const RunChoice& choice);

// What actually runs, for reports.
struct RunReport {
  std::string device;                  // "cpu", "cuda:0"
  std::string device_name;             // "Intel(R) Xeon(R) …, 2 threads"
  std::string dtype;                   // "float32", "tf32", …
  std::string selective_scan_backend;  // the algorithm in use, never "null"
  std::string forward_core;            // "v0", "v1", or "null (forward_type v05_noz)"
};
std::string to_string(const RunReport& report);  // one line
void to_json(nlohmann::ordered_json& json, const RunReport& report);

class Runner {
 public:
  // InputError if the weights do not fit the config, MachineError if the device is unavailable.
  Runner(const Config& config, const StateDict& weights, const RunChoice& choice);
  // The same with given kernels (the scalar oracle, profiling kernels).
  Runner(const Config& config, const StateDict& weights, std::unique_ptr<Kernels> kernels,
         Precision precision);
  // The same with weights that were prepared before the kernels were there.
  Runner(const Config& config, const PreparedWeights& weights, std::unique_ptr<Kernels> kernels,
         Precision precision);
  ~Runner();

  // input (B, in_chans, H, W) float32, already normalised; returns logits (B, num_classes) as float32, (B, 0) of a
  // backbone. InputError
  // if the model cannot take that shape. After OutOfMemory the Runner remains usable with a smaller batch.
  HostTensor run(const HostTensor& input, Taps* taps = nullptr);
  // pixels: `batch` resized images of height · width · 3 bytes; they are normalised on the device.
  HostTensor run_pixels(const uint8_t* pixels, int64_t batch, int64_t height, int64_t width,
                        Taps* taps = nullptr);
  // run_pixels in three steps, so that the next images can be uploaded, and started, while the device computes.
  void stage_pixels(const uint8_t* pixels, int64_t batch, int64_t height, int64_t width);
  // With images that the device decodes in the places of some pixels. Returns the places of those that it cannot:
  // then nothing is staged.
  std::vector<int64_t> stage_images(const uint8_t* pixels, std::span<const DecodeJpegs::Packed> jpegs,
                                    int64_t batch, int64_t height, int64_t width);
  void start_staged(Taps* taps = nullptr);
  HostTensor finish();  // waits; returns the logits of the batch that was started first

  // For benchmarks: queues the last forward again, on the input that is still on the device.
  void replay(Taps* taps = nullptr);

  const Config& config() const { return config_; }
  Kernels& kernels() { return *kernels_; }
  RunReport report() const;

 private:
  struct Buffers {
    Tensor nhwc, logits;  // (B, H, W, in_chans) in the storage dtype; (B, num_classes)
    uint64_t multiply_accumulates = 0;
    bool warm = false;  // has run without taps: lazily created resources exist, so it can be captured
    bool arena_fits_taps = false;
    std::unique_ptr<CapturedWork> graph;
  };
  using Shape = std::tuple<int64_t, int64_t, int64_t>;  // B, H, W

  void start(Taps* taps);  // queues a forward and the copy of its logits
  Buffers& prepare(const Shape& shape, bool observed);
  void grow_arena(size_t bytes);

  Config config_;
  Precision precision_;
  std::unique_ptr<Kernels> kernels_;
  std::unique_ptr<Vssm> model_;
  Tensor input_;      // bytes of an NCHW float32 input
  Tensor pixels_[2];  // bytes of two batches of images, used alternately
  View staged_;       // (B, H, W, 3) uint8 in pixels_[0]; empty once started
  std::unique_ptr<Arena> arena_;
  size_t arena_bytes_ = 0;
  std::map<Shape, Buffers> buffers_;
  Shape last_{};
  std::deque<View> started_;  // logits of the batches that finish() has not returned: their shape and dtype
};

// The taps of a forward of one image, in the order they are produced, with the shape of each (NHWC).
struct TapShape {
  std::string name;
  std::vector<int64_t> dims;
};
std::vector<TapShape> tap_shapes(const Config& config, int64_t height, int64_t width);

// The cost of a forward of that shape, from a dry run: bytes besides the weights, and multiply-accumulates.
struct ForwardCost {
  size_t arena_bytes = 0;
  uint64_t multiply_accumulates = 0;
};
ForwardCost forward_cost(const Config& config, DType storage, int64_t batch, int64_t height, int64_t width);

}  // namespace vmamba
