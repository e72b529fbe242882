// What onednn_linear.cpp and onednn_conv.cpp share: running a primitive and packing its weights.
#include "kernels/cpu/products/onednn.h"

#include "kernels/error.h"

namespace vmamba::cpu {

OneDnn::OneDnn() : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {}

dnnl::primitive_attr OneDnn::attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

dnnl::memory OneDnn::packed(const Operation& operation, const WeightSource& w) {
  const auto found = packed_.find(w.data);
  if (w.kept && found != packed_.end()) {
    for (const dnnl::memory& memory : found->second) {
      if (memory.get_desc() == operation.w) return memory;
    }
  }
  std::vector<float> widened;
  const void* stored = w.data;
  if (w.dtype != DType::float32) {
    widened.resize(static_cast<size_t>(w.elements));
    widen(w.dtype, static_cast<const uint16_t*>(w.data), widened.data(), w.elements);
    stored = widened.data();
  }
  need_memory(primitive_memory);
  dnnl::memory from(operation.w_stored, engine_, const_cast<void*>(stored));
  dnnl::memory to(operation.w, engine_);
  dnnl::reorder(from, to).execute(stream_, from, to);
  stream_.wait();
  if (w.kept) packed_[w.data].push_back(to);
  return to;
}

void OneDnn::run(Operation& operation, const float* x, const WeightSource& w, const float* bias, float* y) {
  operation.x.set_data_handle(const_cast<float*>(x));
  operation.y.set_data_handle(y);
  if (bias) operation.bias.set_data_handle(const_cast<float*>(bias));
  const size_t needed = operation.scratchpad.get_desc().get_size();
  if (needed > scratchpad_bytes_) {
    scratchpad_.reset();
    scratchpad_bytes_ = 0;
    scratchpad_.reset(static_cast<char*>(aligned_memory(needed)));
    scratchpad_bytes_ = needed;
  }
  operation.scratchpad.set_data_handle(scratchpad_.get());
  operation.arguments[DNNL_ARG_WEIGHTS] = packed(operation, w);
  operation.primitive.execute(stream_, operation.arguments);
  stream_.wait();
}

void OneDnn::forget(const void* begin, size_t bytes) {
  const auto* end = static_cast<const char*>(begin) + bytes;
  packed_.erase(packed_.lower_bound(begin), packed_.lower_bound(end));
}

}  // namespace vmamba::cpu
