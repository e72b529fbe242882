// Operations bound by memory bandwidth: conversions, activations, sums, the layout of patches; softmax and
// mean over pixels. Maps are (B,H,W,C) or rows (M,C). Most take dtypes at run time: a uniform branch an
// access, which costs nothing here.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::pointwise;

struct AnyRows {
  void* data;
  int64_t stride;
  DType dtype;
};
AnyRows any_rows(const View& view) {
  return {view.data, view.row_stride, view.dtype};
}

template <int n>
__device__ void load(const AnyRows& rows, int64_t row, int64_t channel, float (&to)[n]) {
  const int64_t i = row * rows.stride + channel;
  if (rows.dtype == DType::float32)
    cuda::load(static_cast<const float*>(rows.data) + i, to);
  else if (rows.dtype == DType::float16)
    cuda::load(static_cast<const half*>(rows.data) + i, to);
  else
    cuda::load(static_cast<const bfloat16*>(rows.data) + i, to);
}

template <int n>
__device__ void store(const AnyRows& rows, int64_t row, int64_t channel, const float (&from)[n]) {
  const int64_t i = row * rows.stride + channel;
  if (rows.dtype == DType::float32)
    cuda::store(static_cast<float*>(rows.data) + i, from);
  else if (rows.dtype == DType::float16)
    cuda::store(static_cast<half*>(rows.data) + i, from);
  else
    cuda::store(static_cast<bfloat16*>(rows.data) + i, from);
}

__device__ float round_any(DType dtype, float x) {
  if (dtype == DType::float16) return rounded<half>(x);
  if (dtype == DType::bfloat16) return rounded<bfloat16>(x);
  return x;
}

// y = f(x), elementwise over (M, C); f(row, channel, values) changes n consecutive channels.
template <int n, class F>
__global__ void pointwise_kernel(AnyRows x, AnyRows y, int64_t rows, int64_t packs, F f) {
  wait_for_previous();
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= rows * packs) return;
  const int64_t row = i / packs, channel = (i - row * packs) * n;
  float values[n];
  load(x, row, channel, values);
  f(row, channel, values);
  store(y, row, channel, values);
}

struct Copy {
  template <int n>
  __device__ void operator()(int64_t, int64_t, float (&)[n]) const {}
};

struct Affine {
  const float *scale, *shift;
  Activation act;
  template <int n>
  __device__ void operator()(int64_t, int64_t channel, float (&v)[n]) const {
#pragma unroll
    for (int i = 0; i < n; ++i)
      v[i] = activated<true>(act, fmaf(v[i], scale[channel + i], shift[channel + i]));
  }
};

template <bool precise>
struct Activate {
  Activation act;
  AnyRows gate;
  DType round_act;
  template <int n>
  __device__ void operator()(int64_t row, int64_t channel, float (&v)[n]) const {
#pragma unroll
    for (int i = 0; i < n; ++i) v[i] = round_any(round_act, activated<precise>(act, v[i]));
    if (gate.data == nullptr) return;
    float by[n];
    load(gate, row, channel, by);
#pragma unroll
    for (int i = 0; i < n; ++i) v[i] *= by[i];
  }
};

// act over dense values in place, from the end: what the operation before wrote last is still in L2.
template <class T, Activation act>
__global__ void __launch_bounds__(threads) activate_kernel(T* y, int64_t packs) {
  wait_for_previous();
  constexpr int each = 16 / sizeof(T), at_a_time = 2;
  const int64_t first = int64_t{gridDim.x - 1 - blockIdx.x} * threads * at_a_time + threadIdx.x;
  float values[at_a_time][each];
#pragma unroll
  for (int j = 0; j < at_a_time; ++j)
    if (first + j * threads < packs) cuda::load(y + (first + j * threads) * each, values[j]);
#pragma unroll
  for (int j = 0; j < at_a_time; ++j) {
    if (first + j * threads >= packs) break;
#pragma unroll
    for (int i = 0; i < each; ++i) values[j][i] = activated<is_float<T>>(act, values[j][i]);
    cuda::store(y + (first + j * threads) * each, values[j]);
  }
}

struct Add {
  AnyRows other;
  int64_t rows;
  template <int n>
  __device__ void operator()(int64_t row, int64_t channel, float (&v)[n]) const {
    float by[n];
    load(other, row % rows, channel, by);
#pragma unroll
    for (int i = 0; i < n; ++i) v[i] += by[i];
  }
};

struct Channels3 {
  float mean[3], std[3];
};

__global__ void normalize_kernel(const uint8_t* pixels, Channels3 c, AnyRows y, int64_t count) {
  wait_for_previous();
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= count) return;
  const int channel = static_cast<int>(i % 3);
  const float value[1] = {(static_cast<float>(pixels[i]) / 255.0f - c.mean[channel]) / c.std[channel]};
  store(y, 0, i, value);
}

__global__ void nchw_to_nhwc_kernel(const float* x, AnyRows y, int64_t rows, int64_t pixels, int channels) {
  wait_for_previous();
  const int64_t row = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (row >= rows) return;
  const int64_t b = row / pixels, p = row - b * pixels;
  for (int c = 0; c < channels; ++c) {
    const float value[1] = {x[(b * channels + c) * pixels + p]};
    store(y, row, c, value);
  }
}

__global__ void merge_patches_kernel(AnyRows x, AnyRows y, int64_t count, int height, int width,
                                     int out_height, int out_width, int channels) {
  wait_for_previous();
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= count) return;
  const int channel = static_cast<int>(i % channels), quarter = static_cast<int>(i / channels % 4);
  const int64_t out = i / channels / 4;
  const int column = static_cast<int>(out % out_width) * 2 + quarter / 2;
  const int row = static_cast<int>(out / out_width % out_height) * 2 + quarter % 2;
  const int64_t b = out / out_width / out_height;
  float value[1] = {0};
  if (row < height && column < width) load(x, (b * height + row) * width + column, channel, value);
  store(y, out, quarter * channels + channel, value);
}

// Reductions over pixels: a block takes 32 channels of one image, threadIdx.y strides over the pixels, and
// the partial results are combined in a fixed order.
template <class Combine>
__device__ float combine_columns(float value, Combine combine) {
  __shared__ float partial[pool_rows][33];
  __syncthreads();
  partial[threadIdx.y][threadIdx.x] = value;
  __syncthreads();
  float result = partial[0][threadIdx.x];
  for (int i = 1; i < pool_rows; ++i) result = combine(result, partial[i][threadIdx.x]);
  return result;
}

__global__ void mean_pool_kernel(AnyRows x, float* y, int64_t pixels, int channels) {
  wait_for_previous();
  const int channel = blockIdx.x * 32 + threadIdx.x;
  const int64_t b = blockIdx.y;
  float sum = 0;
  if (channel < channels)
    for (int64_t p = threadIdx.y; p < pixels; p += pool_rows) {
      float value[1];
      load(x, b * pixels + p, channel, value);
      sum += value[0];
    }
  sum = combine_columns(sum, [](float a, float c) { return a + c; });
  if (channel < channels && threadIdx.y == 0) y[b * channels + channel] = sum / static_cast<float>(pixels);
}

__global__ void softmax_pixels_kernel(const float* x, AnyRows y, int64_t pixels, int channels) {
  wait_for_previous();
  const int channel = blockIdx.x * 32 + threadIdx.x;
  const int64_t b = blockIdx.y;
  const bool inside = channel < channels;
  const float* column = x + b * pixels * channels + channel;
  float largest = -INFINITY;
  if (inside)
    for (int64_t p = threadIdx.y; p < pixels; p += pool_rows) largest = fmaxf(largest, column[p * channels]);
  largest = combine_columns(largest, [](float a, float c) { return fmaxf(a, c); });
  float sum = 0;
  if (inside)
    for (int64_t p = threadIdx.y; p < pixels; p += pool_rows) sum += expf(column[p * channels] - largest);
  sum = combine_columns(sum, [](float a, float c) { return a + c; });
  if (inside)
    for (int64_t p = threadIdx.y; p < pixels; p += pool_rows) {
      const float value[1] = {expf(column[p * channels] - largest) / sum};
      store(y, b * pixels + p, channel, value);
    }
}

// --- Launchers.
LaunchShape per_thread(int64_t work) {
  return {.grid = blocks_for(work, threads), .block = threads};
}

template <class F>
void pointwise(const View& x, const View& y, bool wide, F f, const Stream& stream) {
  if (y.elements() == 0) return;
  if (wide && packs_of(x, 8) && packs_of(y, 8)) {
    const int64_t packs = y.channels() / 8;
    launch(pointwise_kernel<8, F>, per_thread(y.rows() * packs), stream, any_rows(x), any_rows(y), y.rows(),
           packs, f);
  } else {
    launch(pointwise_kernel<1, F>, per_thread(y.elements()), stream, any_rows(x), any_rows(y), y.rows(),
           y.channels(), f);
  }
}

}  // namespace

void require_code_for_device() {
  cudaFuncAttributes attributes{};
  CUDA_CALL(cudaFuncGetAttributes(&attributes, normalize_kernel));
}

void cast(const View& x, const View& y, const Stream& stream) {
  pointwise(x, y, true, Copy{}, stream);
}

void channel_affine(const ChannelAffine& op, const Stream& stream) {
  pointwise(op.x, op.y, true, Affine{op.scale.as<float>(), op.shift.as<float>(), op.act}, stream);
}

void activate(const vmamba::Activate& op, const Stream& stream) {
  const View &x = op.x, &gate = op.gate, &y = op.y;
  if (y.elements() == 0) return;
  const bool in_place = x.data == y.data && x.dtype == y.dtype && y.row_stride == y.channels();
  if (in_place && !gate && y.bytes() % 16 == 0 && reinterpret_cast<uintptr_t>(y.data) % 16 == 0) {
    dispatch(y.dtype, [&]<class T>(Type<T>) {
      const int64_t packs = static_cast<int64_t>(y.bytes() / 16);
      const auto run = [&](auto kernel) {
        launch(kernel, {.grid = blocks_for(packs, 2 * threads), .block = threads}, stream, y.as<T>(), packs);
      };
      switch (op.act) {
        case Activation::none:
          return;
        case Activation::silu:
          return run(activate_kernel<T, Activation::silu>);
        case Activation::gelu:
          return run(activate_kernel<T, Activation::gelu>);
        case Activation::relu:
          return run(activate_kernel<T, Activation::relu>);
        case Activation::sigmoid:
          return run(activate_kernel<T, Activation::sigmoid>);
      }
    });
    return;
  }
  const auto run = [&](auto precise) {
    const Activate<precise> f{op.act, any_rows(gate),
                              op.rounding == Rounding::each_step ? y.dtype : DType::float32};
    pointwise(x, y, packs_of(gate, 8), f, stream);
  };
  if (y.dtype == DType::float32)
    run(std::true_type());
  else
    run(std::false_type());
}

void add(const View& x, const View& other, const View& y, const Stream& stream) {
  pointwise(x, y, packs_of(other, 8), Add{any_rows(other), other.rows()}, stream);
}

void normalize(const View& pixels, const float* mean, const float* std, const View& y, const Stream& stream) {
  const Channels3 c{{mean[0], mean[1], mean[2]}, {std[0], std[1], std[2]}};
  if (y.elements() == 0) return;
  launch(normalize_kernel, per_thread(y.elements()), stream, pixels.as<uint8_t>(), c, any_rows(y),
         y.elements());
}

void nchw_to_nhwc(const View& x, const View& y, const Stream& stream) {
  if (y.elements() == 0) return;
  launch(nchw_to_nhwc_kernel, per_thread(y.rows()), stream, x.as<float>(), any_rows(y), y.rows(),
         y.dim(1) * y.dim(2), static_cast<int>(y.channels()));
}

void merge_patches(const View& x, const View& y, const Stream& stream) {
  if (y.elements() == 0) return;
  launch(merge_patches_kernel, per_thread(y.elements()), stream, any_rows(x), any_rows(y), y.elements(),
         static_cast<int>(x.dim(1)), static_cast<int>(x.dim(2)), static_cast<int>(y.dim(1)),
         static_cast<int>(y.dim(2)), static_cast<int>(x.channels()));
}

void mean_pool(const View& x, const View& y, const Stream& stream) {
  if (y.elements() == 0) return;
  const dim3 grid(blocks_for(x.channels(), 32), static_cast<unsigned>(x.dim(0)));
  launch(mean_pool_kernel, {.grid = grid, .block = dim3(32, pool_rows)}, stream, any_rows(x), y.as<float>(),
         x.dim(1) * x.dim(2), static_cast<int>(x.channels()));
}

void softmax_pixels(const View& x, const View& y, const Stream& stream) {
  if (y.elements() == 0) return;
  const dim3 grid(blocks_for(x.channels(), 32), static_cast<unsigned>(x.dim(0)));
  launch(softmax_pixels_kernel, {.grid = grid, .block = dim3(32, pool_rows)}, stream, x.as<float>(),
         any_rows(y), x.dim(1) * x.dim(2), static_cast<int>(x.channels()));
}

}  // namespace vmamba::cuda
