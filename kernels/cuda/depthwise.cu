// y = act(depthwise convolution of x + bias), stride 1: x and y (B,H,W,D) row-strided, w (k,k,D) and bias (D)
// float32. 3×3: a thread takes 4 channels of a strip of a few output columns and goes down it, accumulating
// what an input pixel adds to the three output rows around it in registers. Neighbouring strips belong to
// neighbouring threads of a block, so that the input they share is read from L2 once.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::depthwise;

template <class T>
struct Depthwise {
  Rows<const T> x;
  const float *w, *bias;
  Activation act;
  Rows<T> y;
  int64_t batch;
  int height, width, channels, size;
};

// A strip is `rows` rows of `columns` columns; groups = channels / 4. The loop is unrolled, so that the three
// rows of sums rotate without moves; loads run two or three rows ahead. SiLU, the usual activation, is a
// template parameter: a branch at each value keeps values from overlapping, and five activations at each
// place of the unrolled loop overflow the instruction cache.
template <class T, int rows, int columns, bool is_silu>
__global__ void __launch_bounds__(threads, 4)
    depthwise3x3_kernel(Depthwise<T> p, Divisor row_groups, Divisor strips, Divisor groups, int count) {
  wait_for_previous();
  const int i = static_cast<int>(blockIdx.x * threads + threadIdx.x);
  if (i >= count) return;
  const int strip = i / groups, band = strip / strips;
  const int channel = (i - strip * groups.by) * 4, first_column = (strip - band * strips.by) * columns;
  const int b = band / row_groups, first_row = (band - b * row_groups.by) * rows;

  using Raw = Pack<Pair<T>, 2>;
  const T* const x =
      p.x.data + ((int64_t{b} * p.height + first_row) * p.width + first_column - 1) * p.x.stride + channel;
  const int64_t x_row = p.width * p.x.stride;
  const auto read = [&](int row, Raw(&to)[columns + 2]) {  // relative to first_row
    const bool inside = first_row + row >= 0 && first_row + row < p.height;
#pragma unroll
    for (int c = 0; c < columns + 2; ++c) {
      const int column = first_column - 1 + c;
      to[c] = Raw{};
      if (inside && column >= 0 && column < p.width) to[c] = load_pack<Raw>(x + row * x_row + c * p.x.stride);
    }
  };
  constexpr int ahead = rows > 4 && !is_float<T> ? 3 : 2;  // rows in registers; 3 of float32 take too many
  Raw raw[ahead][columns + 2];
#pragma unroll
  for (int i = 0; i < ahead; ++i) read(i - 1, raw[i]);
  float w[9][4], bias[4] = {0, 0, 0, 0};
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) load(p.w + tap * p.channels + channel, w[tap]);
  if (p.bias != nullptr) load(p.bias + channel, bias);
  T* const y =
      p.y.data + ((int64_t{b} * p.height + first_row) * p.width + first_column) * p.y.stride + channel;
  float sums[3][columns][4];  // of output rows done, done + 1, done + 2, each at its row modulo 3
#pragma unroll
  for (int done = -2; done < rows; ++done) {
    if (done >= 0 && first_row + done >= p.height) break;
    Raw(&row)[columns + 2] = raw[(done + 2) % ahead];  // input row done + 1
#pragma unroll
    for (int c = 0; c < columns; ++c)
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[(done + 2) % 3][c][k] = bias[k];
#pragma unroll
    for (int in = 0; in < columns + 2; ++in) {
      const float2 low = to_float2(row[in].values[0]), high = to_float2(row[in].values[1]);
      const float value[4] = {low.x, low.y, high.x, high.y};
#pragma unroll
      for (int u = 0; u < 3; ++u) {  // tap row u of output row done + 2 − u
        if (done + 2 - u < 0 || done + 2 - u >= rows) continue;
#pragma unroll
        for (int v = 0; v < 3; ++v) {
          if (in - v < 0 || in - v >= columns) continue;
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            float& sum = sums[(done + 2 - u) % 3][in - v][k];
            sum = fmaf(value[k], w[u * 3 + v][k], sum);
          }
        }
      }
    }
    if (done + 1 + ahead <= rows) read(done + 1 + ahead, row);
    if (done < 0) continue;
#pragma unroll
    for (int c = 0; c < columns; ++c) {
      if (first_column + c >= p.width) break;
      float(&sum)[4] = sums[done % 3][c];
#pragma unroll
      for (int k = 0; k < 4; ++k) sum[k] = activated<is_float<T>>(is_silu ? Activation::silu : p.act, sum[k]);
      store(y + (int64_t{done} * p.width + c) * p.y.stride, sum);
    }
  }
}

// Any odd k and any alignment: one thread a value.
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

void depthwise_conv2d(const DepthwiseConv2d& op, const Stream& stream) {
  const View &x = op.x, &w = op.w, &bias = op.bias, &y = op.y;
  if (y.elements() == 0) return;
  dispatch(x.dtype, [&]<class T>(Type<T>) {
    const int height = static_cast<int>(x.dim(1)), width = static_cast<int>(x.dim(2)),
              channels = static_cast<int>(x.channels());
    const Depthwise<T> p{rows_of<const T>(x),
                         w.as<float>(),
                         bias.as<float>(),
                         op.act,
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
        launch(op.act == Activation::silu ? depthwise3x3_kernel<T, rows, columns, true>
                                          : depthwise3x3_kernel<T, rows, columns, false>,
               {.grid = blocks_for(count, threads), .block = threads}, stream, p, Divisor(row_groups),
               Divisor(strips), Divisor(groups), static_cast<int>(count));
      };
      const int multiprocessors = stream.device().multiprocessors;
      if (y.elements() < tuning::scaled(two_rows_below, multiprocessors))
        run.template operator()<2, 2>();
      else if (y.elements() < tuning::scaled(four_rows_below, multiprocessors))
        run.template operator()<4, 2>();
      else
        run.template operator()<7, 2>();
    } else {
      launch(depthwise_kernel<T>, {.grid = blocks_for(y.elements(), threads), .block = threads}, stream, p,
             y.elements());
    }
  });
}

}  // namespace vmamba::cuda
