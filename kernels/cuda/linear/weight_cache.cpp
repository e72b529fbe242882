#include "kernels/cuda/linear/weight_cache.h"

#include "kernels/cuda/launchers.h"
#include "kernels/error.h"

namespace vmamba::cuda {

void* WeightCache::of(const View& weights, const What& what, size_t bytes, bool capturing,
                      const std::function<void(void* to)>& make) {
  const std::pair key{static_cast<const void*>(weights.data), what};
  if (const auto known = made_.find(key); known != made_.end()) return known->second.memory.get();
  if (capturing) return nullptr;
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  CUDA_CALL(error);
  Made made{weights.bytes(), DeviceMemory(memory)};
  make(memory);
  made_.emplace(key, std::move(made));
  return memory;
}

void WeightCache::forget(const void* memory, size_t bytes) {
  const auto begin = static_cast<const char*>(memory), end = begin + bytes;
  for (auto it = made_.begin(); it != made_.end();) {
    const auto weights = static_cast<const char*>(it->first.first);
    if (weights < end && begin < weights + it->second.weight_bytes) {
      retired_.push_back(std::move(it->second.memory));
      it = made_.erase(it);
    } else {
      ++it;
    }
  }
}

View WeightCache::converted(const View& bias, DType dtype, bool capturing, const Stream& stream) {
  if (!bias || dtype == DType::float32) return bias;
  View converted(nullptr, dtype, bias.device, {1, bias.elements()});
  converted.data = of(bias, {Kind::bias, {static_cast<int64_t>(dtype), bias.elements()}}, converted.bytes(),
                      capturing, [&](void* to) {
                        View there = converted;
                        there.data = to;
                        cast(bias.reshaped({1, bias.elements()}), there, stream);
                      });
  if (!converted && capturing) fail_unsupported("a bias must have been used before a graph is captured");
  if (!converted) throw OutOfMemory("CUDA: no memory left for a converted bias");
  return converted.reshaped({bias.elements()});
}

}  // namespace vmamba::cuda
