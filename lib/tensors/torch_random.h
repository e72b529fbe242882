// Random numbers of torch.manual_seed on a CPU, bit for bit: torch.rand, uniform_, torch.randn and trunc_normal_ of
// contiguous float32 tensors, as PyTorch computes them on x86-64 with AVX2.
#pragma once
#include <cstdint>
#include <optional>
#include <random>
#include <span>

namespace vmamba {

class TorchRandom {
 public:
  explicit TorchRandom(uint64_t seed) : engine_(static_cast<uint32_t>(seed)) {}

  void uniform(std::span<float> out, float low, float high);  // tensor.uniform_(low, high)
  void normal(std::span<float> out);                          // torch.randn
  void truncated_normal(std::span<float> out, double std);    // trunc_normal_(std=std), clipped to ±2
  void skip(uint64_t draws) { engine_.discard(draws); }       // skips uniform draws

 private:
  float uniform01() { return static_cast<float>(engine_() & 0xffffffu) * 0x1p-24f; }
  double uniform01_double();

  std::mt19937 engine_;
  std::optional<double> next_normal_;  // unused second value of the last pair (small draws)
};

}  // namespace vmamba
