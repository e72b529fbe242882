// Convolution with zero padding, x (B,H,W,I), w (O,kh,kw,I), y (B,Ho,Wo,O): im2col, which makes it a matrix
// product over patches (B·Ho·Wo, kh·kw·I), and a direct kernel for few input channels. And a plain matrix
// product, y (M,N) = x (M,K) · w (N,K)ᵀ, for what cuBLASLt refuses.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::conv;

struct Patches {
  int height, width, channels, kernel_height, kernel_width, stride, padding, out_height, out_width;
};

// One thread copies n channels of one tap of one patch. Indices are 32 bits, for the divisions: the caller
// slices.
template <class T, int n>
__global__ void __launch_bounds__(threads)
    im2col_kernel(const T* x, Patches p, Divisor packs, Divisor taps, Divisor out_width, Divisor out_height,
                  Divisor kernel_width, int first, T* columns, int count) {
  wait_for_previous();
  const int i = static_cast<int>(blockIdx.x * threads + threadIdx.x);
  if (i >= count) return;
  const int place = i / packs, row = place / taps;  // place = row · taps + tap
  const int tap = place - row * taps.by, channel = (i - place * packs.by) * n;
  const int out = first + row, line = out / out_width, b = line / out_height;
  const int v = tap / kernel_width;
  const int column = (out - line * out_width.by) * p.stride + tap - v * kernel_width.by - p.padding;
  const int input_row = (line - b * out_height.by) * p.stride + v - p.padding;
  Pack<T, n> pack{};
  if (input_row >= 0 && input_row < p.height && column >= 0 && column < p.width)
    pack = load_pack<Pack<T, n>>(x + ((int64_t{b} * p.height + input_row) * p.width + column) * p.channels +
                                 channel);
  store_pack(columns + int64_t{i} * n, pack);
}

// One thread: n output channels of one pixel.
template <class T, int n>
__global__ void __launch_bounds__(threads) direct_conv2d_kernel(const T* x, const T* w, const float* bias,
                                                                Patches p, T* y, int outputs, int64_t count) {
  wait_for_previous();
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= count) return;
  const int groups = outputs / n, patch = p.kernel_height * p.kernel_width * p.channels;
  const int64_t out = i / groups, line = out / p.out_width, b = line / p.out_height;
  const int o = static_cast<int>(i - out * groups) * n;
  const int column = static_cast<int>(out - line * p.out_width) * p.stride - p.padding;
  const int row = static_cast<int>(line - b * p.out_height) * p.stride - p.padding;
  float sum[n];
#pragma unroll
  for (int j = 0; j < n; ++j) sum[j] = bias != nullptr ? bias[o + j] : 0.0f;
  for (int u = 0; u < p.kernel_height; ++u)
    for (int v = 0; v < p.kernel_width; ++v) {
      if (row + u < 0 || row + u >= p.height || column + v < 0 || column + v >= p.width) continue;
      const T* from = x + ((b * p.height + row + u) * p.width + column + v) * p.channels;
      const T* by = w + int64_t{o} * patch + (u * p.kernel_width + v) * p.channels;
      for (int c = 0; c < p.channels; ++c) {
        const float value = to_float(from[c]);
#pragma unroll
        for (int j = 0; j < n; ++j) sum[j] = fmaf(value, to_float(by[j * patch + c]), sum[j]);
      }
    }
#pragma unroll
  for (int j = 0; j < n; ++j) y[out * outputs + o + j] = from_float<T>(sum[j]);
}

// The same of 3 channels with the weights in shared memory, one thread: n output channels of `pixels` neighbours in a line.
template <class T, int n, int pixels>
__global__ void __launch_bounds__(threads) image_conv2d_kernel(const T* x, const T* w, const float* bias,
                                                               Patches p, T* y, int outputs, int64_t count) {
  extern __shared__ float4 shared_weights[];  // (patch, outputs)
  float* const weights = reinterpret_cast<float*>(shared_weights);
  constexpr int channels = 3;
  const int patch = p.kernel_height * p.kernel_width * channels;
  for (int i = threadIdx.x; i < patch * outputs; i += threads)
    weights[i] = to_float(w[i % outputs * patch + i / outputs]);
  wait_for_previous();
  __syncthreads();
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= count) return;
  const int groups = outputs / n;
  const int64_t out = i / groups * pixels, line = out / p.out_width, b = line / p.out_height;
  const int o = static_cast<int>(i % groups) * n;
  const int column = static_cast<int>(out - line * p.out_width) * p.stride - p.padding;
  const int row = static_cast<int>(line - b * p.out_height) * p.stride - p.padding;
  float sums[pixels][n];
#pragma unroll
  for (auto& sum : sums)
#pragma unroll
    for (int j = 0; j < n; ++j) sum[j] = bias != nullptr ? bias[o + j] : 0.0f;
  for (int u = 0; u < p.kernel_height; ++u) {
    if (row + u < 0 || row + u >= p.height) continue;
    for (int v = 0; v < p.kernel_width; ++v) {
      const T* from = x + ((b * p.height + row + u) * p.width + column + v) * channels;
      const float* by = weights + (u * p.kernel_width + v) * channels * outputs + o;
      bool inside[pixels];
#pragma unroll
      for (int k = 0; k < pixels; ++k) {
        const int at = column + v + k * p.stride;
        inside[k] = at >= 0 && at < p.width;
      }
#pragma unroll
      for (int c = 0; c < channels; ++c, by += outputs) {
        float values[pixels], factors[n];
#pragma unroll
        for (int k = 0; k < pixels; ++k)
          values[k] = inside[k] ? to_float(from[k * p.stride * channels + c]) : 0.0f;
        load(by, factors);
#pragma unroll
        for (int k = 0; k < pixels; ++k)
#pragma unroll
          for (int j = 0; j < n; ++j) sums[k][j] = fmaf(values[k], factors[j], sums[k][j]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < pixels; ++k) store(y + (out + k) * outputs + o, sums[k]);
}

constexpr int tile = 16;

template <class T, class Y>
__global__ void plain_linear_kernel(Rows<const T> x, const T* w, const float* bias, Rows<const Y> residual,
                                    Rows<Y> y, int64_t rows, int in, int out) {
  wait_for_previous();
  __shared__ float xs[tile][tile + 1], ws[tile][tile + 1];
  const int64_t row = int64_t{blockIdx.x} * tile + threadIdx.y;
  const int o = blockIdx.y * tile + threadIdx.x, w_row = blockIdx.y * tile + threadIdx.y;
  float sum = bias != nullptr && o < out ? bias[o] : 0.0f;
  for (int i = 0; i < in; i += tile) {
    const int k = i + threadIdx.x;
    xs[threadIdx.y][threadIdx.x] = row < rows && k < in ? to_float(x.data[row * x.stride + k]) : 0.0f;
    ws[threadIdx.y][threadIdx.x] = w_row < out && k < in ? to_float(w[int64_t{w_row} * in + k]) : 0.0f;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < tile; ++j) sum = fmaf(xs[threadIdx.y][j], ws[threadIdx.x][j], sum);
    __syncthreads();
  }
  if (row >= rows || o >= out) return;
  if (residual.data != nullptr) sum += to_float(residual.data[row * residual.stride + o]);
  y.data[row * y.stride + o] = from_float<Y>(sum);
}

}  // namespace

void im2col(const View& x, int64_t kernel_height, int64_t kernel_width, int stride, int padding,
            int64_t out_height, int64_t out_width, int64_t first, const View& columns, const Stream& stream) {
  if (columns.elements() == 0) return;
  const Patches p{static_cast<int>(x.dim(1)),
                  static_cast<int>(x.dim(2)),
                  static_cast<int>(x.channels()),
                  static_cast<int>(kernel_height),
                  static_cast<int>(kernel_width),
                  stride,
                  padding,
                  static_cast<int>(out_height),
                  static_cast<int>(out_width)};
  if (columns.elements() >= (int64_t{1} << 31) || x.dim(0) * out_height * out_width >= (int64_t{1} << 31))
    fail_unsupported("im2col of 2^31 values");
  dispatch(x.dtype, [&]<class T>(Type<T>) {
    const auto run = [&](auto n) {
      const int64_t count = columns.elements() / n;
      launch(im2col_kernel<T, n>, {.grid = blocks_for(count, threads), .block = threads}, stream, x.as<T>(),
             p, Divisor(x.channels() / n), Divisor(kernel_height * kernel_width), Divisor(out_width),
             Divisor(out_height), Divisor(kernel_width), first, columns.as<T>(), count);
    };
    if (packs_of(x, 16 / sizeof(T)))
      run(std::integral_constant<int, 16 / sizeof(T)>());
    else
      run(std::integral_constant<int, 1>());
  });
}

void direct_conv2d(const Conv2d& op, const Stream& stream) {
  const View &x = op.x, &w = op.w, &bias = op.bias, &y = op.y;
  if (y.elements() == 0) return;
  const Patches p{static_cast<int>(x.dim(1)),
                  static_cast<int>(x.dim(2)),
                  static_cast<int>(x.channels()),
                  static_cast<int>(w.dim(1)),
                  static_cast<int>(w.dim(2)),
                  op.stride,
                  op.padding,
                  static_cast<int>(y.dim(1)),
                  static_cast<int>(y.dim(2))};
  const int outputs = static_cast<int>(y.channels());
  dispatch(x.dtype, [&]<class T>(Type<T>) {
    const auto run = [&](auto n) {
      const int64_t count = y.rows() * (outputs / n);
      launch(direct_conv2d_kernel<T, n>, {.grid = blocks_for(count, threads), .block = threads}, stream,
             x.as<T>(), w.as<T>(), bias.as<float>(), p, y.as<T>(), outputs, count);
    };
    constexpr int n = 16, pixels = 4;
    const int64_t weight_bytes = w.elements() * static_cast<int64_t>(sizeof(float));
    if (p.channels == 3 && outputs % n == 0 && p.out_width % pixels == 0 &&
        weight_bytes <= image_weight_bytes) {
      const int64_t count = y.rows() / pixels * (outputs / n);
      launch(image_conv2d_kernel<T, n, pixels>,
             {.grid = blocks_for(count, threads),
              .block = threads,
              .shared_bytes = static_cast<size_t>(weight_bytes)},
             stream, x.as<T>(), w.as<T>(), bias.as<float>(), p, y.as<T>(), outputs, count);
    } else if (outputs % 8 == 0)
      run(std::integral_constant<int, 8>());
    else
      run(std::integral_constant<int, 1>());
  });
}

void plain_linear(const Linear& op, const Stream& stream) {
  const View &x = op.x, &w = op.w, &bias = op.bias, &residual = op.residual, &y = op.y;
  if (y.elements() == 0) return;
  const int in = static_cast<int>(x.channels()), out = static_cast<int>(y.channels());
  const dim3 grid(blocks_for(y.rows(), tile), blocks_for(out, tile));
  dispatch(x.dtype, [&]<class T>(Type<T>) {
    const auto run = [&]<class Y>(Type<Y>) {
      launch(plain_linear_kernel<T, Y>, {.grid = grid, .block = dim3(tile, tile)}, stream,
             rows_of<const T>(x), w.as<T>(), bias.as<float>(), rows_of<const Y>(residual), rows_of<Y>(y),
             y.rows(), in, out);
    };
    if (y.dtype == DType::float32)
      run(Type<float>());
    else
      run(Type<T>());
  });
}

}  // namespace vmamba::cuda
