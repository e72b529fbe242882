// A model ready to run: kernels, weights, arena and, on CUDA, one captured graph a batch shape.
#pragma once
#include <memory>
#include <string>

#include "lib/config.h"
#include "lib/vssm.h"

namespace vmamba {

struct RunChoice {
  Device device;
  Precision precision = Precision::float32;
  int threads = 0;
};

class Runner {
 public:
  Runner(const Config& config, const StateDict& weights, const RunChoice& choice);
  ~Runner();

  // input (B, C, H, W) float32, already normalised; logits (B, num_classes). Errors name a shape the model refuses.
  HostTensor run(const HostTensor& input, Taps* taps = nullptr);
  // Images of crop × crop, already resized: B · crop · crop · 3 bytes. Normalised on the device.
  HostTensor run_pixels(const uint8_t* pixels, int batch, int height, int width, Taps* taps = nullptr);

  const Config& config() const { return config_; }
  Kernels& kernels() { return *kernels_; }
  // "cpu (Intel Xeon, 2 threads) · float32 · backend oflex · forward core v05 (null)": what really runs.
  std::string description() const;

 private:
  struct Shape;
  Config config_;
  Precision precision_;
  std::unique_ptr<Kernels> kernels_;
  std::unique_ptr<Vssm> model_;
  std::unique_ptr<Shape> shape_;
};

}  // namespace vmamba
