#include "kernels/cuda/linear/bias_cache.h"

#include "kernels/cuda/launchers.h"

namespace vmamba::cuda {

View BiasCache::converted(const View& bias, DType dtype, bool capturing, const Stream& stream) {
  if (!bias || dtype == DType::float32) return bias;
  Bias& known = biases_[{bias.data, dtype}];
  View converted(known.memory.get(), dtype, bias.device, {bias.elements()});
  if (known.memory && known.length == bias.elements()) return converted;
  if (capturing) fail_unsupported("a bias must have been used before a graph is captured");
  if (known.memory) retired_.push_back(std::move(known.memory));
  known.memory = device_memory(converted.bytes());
  known.length = bias.elements();
  converted.data = known.memory.get();
  cast(bias.reshaped({1, bias.elements()}), converted.reshaped({1, bias.elements()}), stream);
  return converted;
}

void BiasCache::forget(const void* memory, size_t bytes) {
  auto it = biases_.lower_bound({memory, DType{}});
  while (it != biases_.end() && it->first.first < static_cast<const char*>(memory) + bytes) {
    retired_.push_back(std::move(it->second.memory));
    it = biases_.erase(it);
  }
}

}  // namespace vmamba::cuda
