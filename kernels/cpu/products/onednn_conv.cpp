// y (B, Ho, Wo, O): convolution of x (B, H, W, I) with w (O, kh, kw, I) and zero padding, by oneDNN.
#include "kernels/cpu/products/onednn.h"

namespace vmamba::cpu {

OneDnn::Operation OneDnn::make_conv2d(const ConvShape& shape) const {
  need_memory(primitive_memory);
  using dnnl::memory;
  constexpr auto f32 = memory::data_type::f32;
  const memory::desc x({shape.batch, shape.in, shape.height, shape.width}, f32, memory::format_tag::nhwc);
  const memory::desc y({shape.batch, shape.out, shape.out_height, shape.out_width}, f32,
                       memory::format_tag::nhwc);
  const memory::dims weight_dims{shape.out, shape.in, shape.kernel_height, shape.kernel_width};
  const memory::desc w_stored(weight_dims, f32, memory::format_tag::acdb);
  const memory::desc bias({shape.out}, f32, memory::format_tag::a);
  const memory::desc any(weight_dims, f32, memory::format_tag::any);
  // oneDNN asks for the padding that is used at the end of a dimension: it may be less than `padding`, even
  // negative.
  const auto far = [&](int64_t in, int64_t kernel, int64_t out) {
    return (out - 1) * shape.stride + kernel - in - shape.padding;
  };
  const memory::dims strides{shape.stride, shape.stride}, near{shape.padding, shape.padding},
      beyond{far(shape.height, shape.kernel_height, shape.out_height),
             far(shape.width, shape.kernel_width, shape.out_width)};
  constexpr auto kind = dnnl::prop_kind::forward_inference;
  constexpr auto direct = dnnl::algorithm::convolution_direct;
  using Description = dnnl::convolution_forward::desc;
  const auto description = shape.bias ? Description(kind, direct, x, any, bias, y, strides, near, beyond)
                                      : Description(kind, direct, x, any, y, strides, near, beyond);
  const dnnl::convolution_forward::primitive_desc chosen(description, attributes(), engine_);
  return make_operation(dnnl::convolution_forward(chosen), chosen, w_stored, shape.bias);
}

void OneDnn::conv2d(const ConvShape& shape, const float* x, const WeightSource& w, const float* bias,
                    float* y) {
  const std::pair key(threads_, shape);
  auto found = convs_.find(key);
  if (found == convs_.end()) found = convs_.emplace(key, make_conv2d(shape)).first;
  run(found->second, x, w, bias, y);
}

}  // namespace vmamba::cpu
