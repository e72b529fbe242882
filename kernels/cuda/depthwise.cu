// y = act(depthwise convolution of x + bias). 3×3: a thread owns 4 channels of a strip of a few output rows
// and goes along it; what a pixel gives to the three output columns around it is added up in registers, so a
// pixel is read and converted (rows + 2) / rows times.
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

// A strip: `rows` rows of `columns` columns; groups = channels / 4. The loop is unrolled, so that the sums of
// three columns take turns without moving; the column after the next is on its way while one is worked on.
// The activation is known when compiling where it is the usual one: a choice at each value stops the values
// from overlapping, and five activations at each place of the unrolled loop overflow the instruction cache.
template <class T, int rows, int columns, bool is_silu>
__global__ void __launch_bounds__(threads, 4)
    depthwise3x3_kernel(Depthwise<T> p, Divisor strips, Divisor row_groups, Divisor groups, int count) {
  wait_for_previous();
  const int i = static_cast<int>(blockIdx.x * threads + threadIdx.x);
  if (i >= count) return;
  const int strip = i / groups, line = strip / strips;
  const int channel = (i - strip * groups.by) * 4, first_column = (strip - line * strips.by) * columns;
  const int64_t b = line / row_groups;
  const int first_row = (line - static_cast<int>(b) * row_groups.by) * rows;

  using Raw = Pack<Pair<T>, 2>;
  const T* const x =
      p.x.data + ((b * p.height + first_row - 1) * p.width + first_column) * p.x.stride + channel;
  const int64_t x_row = p.width * p.x.stride;
  const auto read = [&](int column, Raw(&to)[rows + 2]) {  // relative to first_column
    const bool inside = first_column + column >= 0 && first_column + column < p.width;
#pragma unroll
    for (int r = 0; r < rows + 2; ++r) {
      const int row = first_row - 1 + r;
      to[r] = Raw{};
      if (inside && row >= 0 && row < p.height) to[r] = load_pack<Raw>(x + r * x_row + column * p.x.stride);
    }
  };
  Raw raw[2][rows + 2];
  read(-1, raw[0]);
  read(0, raw[1]);
  float w[9][4], bias[4] = {0, 0, 0, 0};
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) load(p.w + tap * p.channels + channel, w[tap]);
  if (p.bias != nullptr) load(p.bias + channel, bias);
  T* const y = p.y.data + ((b * p.height + first_row) * p.width + first_column) * p.y.stride + channel;
  float sums[3][rows][4];  // of output columns done, done + 1, done + 2, each at its number modulo 3
#pragma unroll
  for (int done = -2; done < columns; ++done) {
    if (done >= 0 && first_column + done >= p.width) break;
    Raw(&column)[rows + 2] = raw[(done + 2) % 2];  // input column done + 1
#pragma unroll
    for (int r = 0; r < rows; ++r)
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[(done + 2) % 3][r][c] = bias[c];
#pragma unroll
    for (int in = 0; in < rows + 2; ++in) {
      const float2 low = to_float2(column[in].values[0]), high = to_float2(column[in].values[1]);
      const float value[4] = {low.x, low.y, high.x, high.y};
#pragma unroll
      for (int v = 0; v < 3; ++v) {  // tap column v of output column done + 2 − v
        if (done + 2 - v < 0 || done + 2 - v >= columns) continue;
#pragma unroll
        for (int u = 0; u < 3; ++u) {
          if (in - u < 0 || in - u >= rows) continue;
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            float& sum = sums[(done + 2 - v) % 3][in - u][c];
            sum = fmaf(value[c], w[u * 3 + v][c], sum);
          }
        }
      }
    }
    if (done + 3 <= columns) read(done + 3, column);
    if (done < 0) continue;
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      if (first_row + r >= p.height) break;
      float(&sum)[4] = sums[done % 3][r];
#pragma unroll
      for (int c = 0; c < 4; ++c) sum[c] = activated<is_float<T>>(is_silu ? Activation::silu : p.act, sum[c]);
      store(y + (int64_t{r} * p.width + done) * p.y.stride, sum);
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
      const int groups = channels / 4;
      const auto run = [&]<int rows, int columns>() {
        const int row_groups = (height + rows - 1) / rows, strips = (width + columns - 1) / columns;
        const int64_t count = x.dim(0) * row_groups * strips * groups;
        launch(act == Activation::silu ? depthwise3x3_kernel<T, rows, columns, true>
                                       : depthwise3x3_kernel<T, rows, columns, false>,
               blocks_for(count, threads), threads, 0, stream, p, Divisor(strips), Divisor(row_groups),
               Divisor(groups), static_cast<int>(count));
      };
      // Long strips read less twice; short ones fill the device when there is little work.
      if (y.elements() / (2 * 7 * 4) < 50000)
        run.template operator()<2, 2>();
      else
        run.template operator()<2, 7>();
    } else {
      launch(depthwise_kernel<T>, blocks_for(y.elements(), threads), threads, 0, stream, p, y.elements());
    }
  });
}

}  // namespace vmamba::cuda
