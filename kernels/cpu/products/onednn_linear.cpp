// y = act(x · wᵀ + bias) (+ y) as a oneDNN matmul. x (M, in), w (out, in), y (M, out).
#include "kernels/cpu/products/onednn.h"

namespace vmamba::cpu {

OneDnn::Operation OneDnn::make_linear(const LinearShape& shape) const {
  need_memory(primitive_memory);
  using dnnl::memory;
  constexpr auto f32 = memory::data_type::f32;
  dnnl::post_ops after;
  switch (shape.act) {
    case Activation::silu:
      after.append_eltwise(1, dnnl::algorithm::eltwise_swish, 1, 0);
      break;
    case Activation::gelu:
      after.append_eltwise(1, dnnl::algorithm::eltwise_gelu_erf, 0, 0);
      break;
    case Activation::relu:
    case Activation::sigmoid:  // not fused (cpu_kernels.cpp)
    case Activation::none:
      break;
  }
  if (shape.accumulate) after.append_sum(1);
  dnnl::primitive_attr attributes = OneDnn::attributes();
  attributes.set_post_ops(after);

  const memory::desc x({shape.rows, shape.in}, f32, memory::dims{shape.x_stride, 1});
  const memory::desc y({shape.rows, shape.out}, f32, memory::dims{shape.y_stride, 1});
  const memory::desc w_stored({shape.in, shape.out}, f32, memory::dims{1, shape.in});
  const memory::desc bias({1, shape.out}, f32, memory::format_tag::ab);
  const memory::desc any({shape.in, shape.out}, f32, memory::format_tag::any);
  const auto description = shape.bias ? dnnl::matmul::desc(x, any, bias, y) : dnnl::matmul::desc(x, any, y);
  const dnnl::matmul::primitive_desc chosen(description, attributes, engine_);
  return make_operation(dnnl::matmul(chosen), chosen, w_stored, shape.bias);
}

void OneDnn::linear(const LinearShape& shape, const float* x, const WeightSource& w, const float* bias,
                    float* y) {
  const std::pair key(threads_, shape);
  auto found = linears_.find(key);
  if (found == linears_.end()) found = linears_.emplace(key, make_linear(shape)).first;
  run(found->second, x, w, bias, y);
}

}  // namespace vmamba::cpu
