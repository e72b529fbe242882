// y = act(depthwise convolution of x + bias). 3×3: a thread owns 4 channels of a strip of two output rows and
// slides along it with a window of 4×3 pixels in registers, so a pixel is read from memory about twice a
// thread.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launchers.h"

namespace vmamba::cuda {
namespace {

constexpr int threads = 128;

template <class T>
struct Depthwise {
  Rows<const T> x;
  const float *w, *bias;
  Activation act;
  Rows<T> y;
  int64_t batch;
  int height, width, channels, size;
};

// A strip: two rows of `columns` columns; groups = channels / 4. The loop is unrolled, so that the window's
// columns take turns without moving; the column after the next is on its way while one is worked on.
template <class T, int columns>
__global__ void __launch_bounds__(threads, 4)
    depthwise3x3_kernel(Depthwise<T> p, Divisor strips, Divisor row_pairs, Divisor groups, int count) {
  wait_for_previous();
  const int i = static_cast<int>(blockIdx.x * threads + threadIdx.x);
  if (i >= count) return;
  const int strip = i / groups, line = strip / strips;
  const int channel = (i - strip * groups.by) * 4, first_column = (strip - line * strips.by) * columns;
  const int64_t b = line / row_pairs;
  const int first_row = (line - static_cast<int>(b) * row_pairs.by) * 2;

  using Raw = Pack<Pair<T>, 2>;
  const T* rows[4];
  bool row_inside[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int row = first_row - 1 + r;
    row_inside[r] = row >= 0 && row < p.height;
    rows[r] = p.x.data + ((b * p.height + row) * p.width + first_column) * p.x.stride + channel;
  }
  const auto read = [&](int column, Raw(&to)[4]) {  // relative to first_column
    const bool inside = first_column + column >= 0 && first_column + column < p.width;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      to[r] = Raw{};
      if (inside && row_inside[r]) to[r] = *reinterpret_cast<const Raw*>(rows[r] + column * p.x.stride);
    }
  };
  const auto widen = [&](const Raw(&raw)[4], float(&to)[4][4]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float2 low = to_float2(raw[r].values[0]), high = to_float2(raw[r].values[1]);
      to[r][0] = low.x;
      to[r][1] = low.y;
      to[r][2] = high.x;
      to[r][3] = high.y;
    }
  };
  Raw raw[2][4];
  float window[3][4][4];  // column, row, channel
  read(-1, raw[0]);
  read(0, raw[1]);
  float w[9][4], bias[4] = {0, 0, 0, 0};
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) load(p.w + tap * p.channels + channel, w[tap]);
  if (p.bias != nullptr) load(p.bias + channel, bias);
  widen(raw[0], window[0]);
  widen(raw[1], window[1]);
  read(1, raw[1]);
  T* y = p.y.data + ((b * p.height + first_row) * p.width + first_column) * p.y.stride + channel;
#pragma unroll
  for (int column = 0; column < columns; ++column) {
    if (first_column + column >= p.width) break;
    if (column + 1 < columns) read(column + 2, raw[column % 2]);
    widen(raw[(column + 1) % 2], window[(column + 2) % 3]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (first_row + r >= p.height) break;
      float sum[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        sum[c] = bias[c];
#pragma unroll
        for (int u = 0; u < 3; ++u)
#pragma unroll
          for (int v = 0; v < 3; ++v)
            sum[c] = fmaf(window[(column + v) % 3][r + u][c], w[u * 3 + v][c], sum[c]);
        sum[c] = activated<is_float<T>>(p.act, sum[c]);
      }
      store(y + (int64_t{r} * p.width + column) * p.y.stride, sum);
    }
  }
}

// Any odd size and any alignment: a thread a value.
template <class T>
__global__ void __launch_bounds__(threads) depthwise_kernel(Depthwise<T> p, int64_t count) {
  wait_for_previous();
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= count) return;
  const int channel = static_cast<int>(i % p.channels);
  const int64_t out = i / p.channels;
  const int column = static_cast<int>(out % p.width), row = static_cast<int>(out / p.width % p.height);
  const int64_t image = out - (int64_t{row} * p.width + column);
  float sum = p.bias != nullptr ? p.bias[channel] : 0.0f;
  for (int u = 0; u < p.size; ++u)
    for (int v = 0; v < p.size; ++v) {
      const int r = row + u - p.size / 2, c = column + v - p.size / 2;
      if (r < 0 || r >= p.height || c < 0 || c >= p.width) continue;
      sum = fmaf(to_float(p.x.data[(image + int64_t{r} * p.width + c) * p.x.stride + channel]),
                 p.w[(u * p.size + v) * p.channels + channel], sum);
    }
  p.y.data[out * p.y.stride + channel] = from_float<T>(activated<is_float<T>>(p.act, sum));
}

}  // namespace

void depthwise_conv2d(const View& x, const View& w, const View& bias, Activation act, const View& y,
                      cudaStream_t stream) {
  if (y.elements() == 0) return;
  dispatch(x.dtype, [&]<class T>(Type<T>) {
    const int height = static_cast<int>(x.dim(1)), width = static_cast<int>(x.dim(2)),
              channels = static_cast<int>(x.channels());
    const Depthwise<T> p{rows_of<const T>(x),
                         w.as<float>(),
                         bias.as<float>(),
                         act,
                         rows_of<T>(y),
                         x.dim(0),
                         height,
                         width,
                         channels,
                         static_cast<int>(w.dim(0))};
    if (p.size == 3 && y.elements() < (int64_t{1} << 31) && packs_of(x, 4) && packs_of(y, 4) &&
        packs_of(w, 4) && packs_of(bias, 4)) {
      const int groups = channels / 4, row_pairs = (height + 1) / 2;
      const auto run = [&](auto columns) {
        const int strips = (width + columns - 1) / columns;
        const int64_t count = x.dim(0) * row_pairs * strips * groups;
        launch(depthwise3x3_kernel<T, columns>, blocks_for(count, threads), threads, 0, stream, p,
               Divisor(strips), Divisor(row_pairs), Divisor(groups), static_cast<int>(count));
      };
      // Long strips read less twice; short ones fill the device when there is little work.
      if (x.dim(0) * row_pairs * (width / 7) * groups < 50000)
        run(std::integral_constant<int, 2>());
      else
        run(std::integral_constant<int, 7>());
    } else {
      launch(depthwise_kernel<T>, blocks_for(y.elements(), threads), threads, 0, stream, p, y.elements());
    }
  });
}

}  // namespace vmamba::cuda
