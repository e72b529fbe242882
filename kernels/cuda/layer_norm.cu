// y = act(LayerNorm(x)) · gate over rows of C channels: x, gate and y (M, C) row-strided, gamma and beta (C)
// float32. A group of lanes holds a row in registers: x is read once, y written once, and the variance is
// computed from the differences to the mean.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {
namespace {

using namespace tuning::layer_norm;

// Whether the mean has two parts: the sum of large float32 values leaves it wrong by ulps of theirs. x − mean is exact near
// the mean, so its own mean is what the first part lacks. Values of 16 bits, and what is rounded to 16 bits, need none.
template <class X, class Y>
constexpr bool two_part_mean = is_float<X>&& is_float<Y>;

template <class X, class Y>
struct Norm {
  Rows<const X> x;
  const float *gamma, *beta;
  float epsilon;
  Activation act;
  Rows<const Y> gate;
  bool round_norm;
  Rows<Y> y;
  int64_t rows;
  int channels;
  int maps;  // x is the sum of so many dense maps, map_stride elements apart
  int64_t map_stride;
};

__device__ float group_sum(float value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

template <int n>
__device__ void group_sums(float (&values)[n], int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2)
#pragma unroll
    for (int i = 0; i < n; ++i) values[i] += __shfl_xor_sync(0xffffffffu, values[i], offset);
}

// Activation, gate and store of n consecutive channels of a normalised row.
template <bool plain, class X, class Y, int n>
__device__ void finish(const Norm<X, Y>& p, int64_t row, int channel, float (&v)[n]) {
  if constexpr (!plain) {
    if (p.round_norm)
#pragma unroll
      for (int i = 0; i < n; ++i) v[i] = rounded<Y>(v[i]);
    if (p.act != Activation::none) {
#pragma unroll
      for (int i = 0; i < n; ++i) v[i] = activated<is_float<Y>>(p.act, v[i]);
      if (p.round_norm)
#pragma unroll
        for (int i = 0; i < n; ++i) v[i] = rounded<Y>(v[i]);
    }
    if (p.gate.data != nullptr) {
      float by[n];
      load(p.gate.data + row * p.gate.stride + channel, by);
#pragma unroll
      for (int i = 0; i < n; ++i) v[i] *= by[i];
    }
  }
  store(p.y.data + row * p.y.stride + channel, v);
}

// `lanes` (a power of 2 up to 32) hold a row, each `packs` packs of 8 channels in the storage dtype, which
// takes few registers and so allows many loads in flight. A group of lanes takes `rows` rows; the rows that a
// warp holds at a time are adjacent. gamma and beta are loaded together with x where registers allow. plain:
// no activation and no gate, at compile time, which saves registers.
template <class X, class Y, int packs, int rows, bool plain>
__global__ void __launch_bounds__(threads, is_float<X> || packs > 1 || rows > 1 ? 8 : light_blocks)
    layer_norm_kernel(Norm<X, Y> p, int lanes) {
  wait_for_previous();
  const int lane = threadIdx.x & (lanes - 1), at_a_time = 32 / lanes;
  const int64_t warp = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int64_t first = warp * at_a_time * rows + (threadIdx.x & 31) / lanes;
  const float channels_inverse = 1.0f / static_cast<float>(p.channels);
  using Raw = Pack<Pair<X>, 4>;
  Raw raw[rows][packs];
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    // Lanes beyond the last row take part in the shuffles, so they load the last row.
    const int64_t offset = min(first + r * at_a_time, p.rows - 1) * p.x.stride;
#pragma unroll
    for (int j = 0; j < packs; ++j) {
      const int channel = (lane + j * lanes) * 8;
      raw[r][j] = Raw{};
      if (channel < p.channels) raw[r][j] = load_pack<Raw>(p.x.data + offset + channel);
    }
    if constexpr (is_float<X>)
      if (p.maps > 1)  // x is (x_0 + x_2) + (x_1 + x_3), or x_0 + x_1
#pragma unroll
        for (int j = 0; j < packs; ++j) {
          const int channel = (lane + j * lanes) * 8;
          if (channel >= p.channels) continue;
          const auto of = [&](int k) {
            return load_pack<Raw>(p.x.data + k * p.map_stride + offset + channel);
          };
          const Raw one = of(1), two = p.maps == 4 ? of(2) : Raw{}, three = p.maps == 4 ? of(3) : Raw{};
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            raw[r][j].values[i].x =
                (raw[r][j].values[i].x + two.values[i].x) + (one.values[i].x + three.values[i].x);
            raw[r][j].values[i].y =
                (raw[r][j].values[i].y + two.values[i].y) + (one.values[i].y + three.values[i].y);
          }
        }
  }
  constexpr bool affine_early = packs <= 2;
  float gamma[affine_early ? packs : 1][8], beta[affine_early ? packs : 1][8];
  const auto read_affine = [&](int channel, float(&g)[8], float(&b)[8]) {
    if (p.gamma == nullptr || channel >= p.channels) return;
    load(p.gamma + channel, g);
    load(p.beta + channel, b);
  };
  if constexpr (affine_early)
#pragma unroll
    for (int j = 0; j < packs; ++j) read_affine((lane + j * lanes) * 8, gamma[j], beta[j]);
  // The rows' sums are independent and interleaved, so that the shuffles' latencies overlap.
  float mean[rows], scale[rows];
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    mean[r] = 0;  // the values beyond the last channel are zero
#pragma unroll
    for (int j = 0; j < packs; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 pair = to_float2(raw[r][j].values[i]);
        mean[r] += pair.x + pair.y;
      }
  }
  group_sums(mean, lanes);
#pragma unroll
  for (int r = 0; r < rows; ++r) mean[r] *= channels_inverse;
  // The sum of f(x − mean) over this lane's values of row r.
  const auto sum_over = [&](int r, auto&& f) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < packs; ++j)
      if ((lane + j * lanes) * 8 < p.channels)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 pair = to_float2(raw[r][j].values[i]);
          sum = f(pair.x - mean[r], sum);
          sum = f(pair.y - mean[r], sum);
        }
    return sum;
  };
  float rest[rows] = {};
  if constexpr (two_part_mean<X, Y>) {
#pragma unroll
    for (int r = 0; r < rows; ++r)
      rest[r] = sum_over(r, [](float difference, float sum) { return sum + difference; });
    group_sums(rest, lanes);
#pragma unroll
    for (int r = 0; r < rows; ++r) rest[r] *= channels_inverse;
  }
#pragma unroll
  for (int r = 0; r < rows; ++r)
    scale[r] = sum_over(r, [&](float difference, float sum) {
      return fmaf(difference - rest[r], difference - rest[r], sum);
    });
  group_sums(scale, lanes);
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    scale[r] = rsqrtf(scale[r] * channels_inverse + p.epsilon);
    const int64_t row = first + r * at_a_time;
    if (row >= p.rows) break;
#pragma unroll
    for (int j = 0; j < packs; ++j) {
      const int channel = (lane + j * lanes) * 8;
      if (channel >= p.channels) continue;
      const int a = affine_early ? j : 0;
      if constexpr (!affine_early) read_affine(channel, gamma[0], beta[0]);
      float v[8];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 pair = to_float2(raw[r][j].values[i]);
        v[2 * i] = (pair.x - mean[r] - rest[r]) * scale[r];
        v[2 * i + 1] = (pair.y - mean[r] - rest[r]) * scale[r];
      }
      if (p.gamma != nullptr)
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = fmaf(v[i], gamma[a][i], beta[a][i]);
      finish<plain>(p, row, channel, v);
    }
  }
}

// Any number of channels and any alignment: one warp a row, which is read three times.
template <class X, class Y>
__global__ void __launch_bounds__(threads) any_layer_norm_kernel(Norm<X, Y> p) {
  wait_for_previous();
  const int lane = threadIdx.x & 31;
  const int64_t row = (int64_t{blockIdx.x} * threads + threadIdx.x) / 32;
  if (row >= p.rows) return;
  const X* x = p.x.data + row * p.x.stride;
  float sum = 0, differences = 0, squares = 0;
  for (int c = lane; c < p.channels; c += 32) sum += to_float(x[c]);
  const float mean = group_sum(sum, 32) / static_cast<float>(p.channels);
  for (int c = lane; c < p.channels; c += 32) differences += to_float(x[c]) - mean;
  const float rest = group_sum(differences, 32) / static_cast<float>(p.channels);
  for (int c = lane; c < p.channels; c += 32) {
    const float difference = to_float(x[c]) - mean - rest;
    squares = fmaf(difference, difference, squares);
  }
  const float scale = rsqrtf(group_sum(squares, 32) / static_cast<float>(p.channels) + p.epsilon);
  for (int c = lane; c < p.channels; c += 32) {
    float v[1] = {(to_float(x[c]) - mean - rest) * scale};
    if (p.gamma != nullptr) v[0] = fmaf(v[0], p.gamma[c], p.beta[c]);
    finish<false>(p, row, c, v);
  }
}

template <class X, class Y>
void launch_layer_norm(const Norm<X, Y>& p, bool packed, const Stream& stream) {
  const int packs = p.channels / 8;
  if (p.maps > 1 && (!packed || packs > 32 * 8))
    fail_unsupported("layer_norm of a sum of maps of these channels");
  if (!packed || packs > 32 * 8) {
    launch(any_layer_norm_kernel<X, Y>, {.grid = blocks_for(p.rows, threads / 32), .block = threads}, stream,
           p);
    return;
  }
  const bool many = p.rows > tuning::scaled(many_rows, stream.device().multiprocessors);
  const auto run = [&]<int each, int rows>() {
    int lanes = 1;
    while (lanes * each < packs) lanes *= 2;
    const int64_t warps = (p.rows + 32 / lanes * rows - 1) / (32 / lanes * rows);
    const int block = many ? threads : few_rows_threads;
    const LaunchShape shape{.grid = blocks_for(warps * 32, block), .block = block};
    if constexpr (!is_float<Y>)
      if (many && !p.round_norm && p.act == Activation::none && p.gate.data == nullptr)
        return launch(layer_norm_kernel<X, Y, each, rows, true>, shape, stream, p, lanes);
    launch(layer_norm_kernel<X, Y, each, rows, false>, shape, stream, p, lanes);
  };
  // Few idle lanes for the usual C, 96·2^i and 128·2^i; few packs a lane where there are few rows.
  const bool two_packs = many ? is_float<X> && !is_float<Y> : packs > 32;
  if (packs % 3 == 0 && packs <= 96 && (many || packs > 64))
    run.template operator()<3, 1>();
  else if (packs <= 64 && two_packs)
    run.template operator()<2, 1>();
  else if (packs <= 32 && many)
    run.template operator()<1, 4>();
  else if (packs <= 32)
    run.template operator()<1, 1>();
  else if (packs <= 128)
    run.template operator()<4, 1>();
  else
    run.template operator()<8, 1>();
}

}  // namespace

void layer_norm(const LayerNorm& op, int maps, const Stream& stream) {
  const View &x = op.x, &gamma = op.gamma, &beta = op.beta, &gate = op.gate, &y = op.y;
  if (y.elements() == 0) return;
  const bool packed =
      packs_of(x, 8) && packs_of(y, 8) && packs_of(gate, 8) && packs_of(gamma, 8) && packs_of(beta, 8);
  // Without act and gate the store rounds.
  const bool round_inside = op.rounding == Rounding::each_step && (op.act != Activation::none || gate);
  const auto run = [&]<class X, class Y>(Type<X>, Type<Y>) {
    launch_layer_norm(Norm<X, Y>{rows_of<const X>(x), gamma.as<float>(), beta.as<float>(), op.epsilon, op.act,
                                 rows_of<const Y>(gate), round_inside, rows_of<Y>(y), y.rows(),
                                 static_cast<int>(y.channels()), maps, x.rows() * x.row_stride},
                      packed, stream);
  };
  dispatch(y.dtype, [&]<class Y>(Type<Y> y_type) {
    if (x.dtype == y.dtype) return run(y_type, y_type);
    if (x.dtype == DType::float32) return run(Type<float>(), y_type);
    if (y.dtype != DType::float32) fail_unsupported("layer_norm from one 16-bit dtype to the other");
    if constexpr (is_float<Y>) {
      if (x.dtype == DType::float16)
        run(Type<half>(), y_type);
      else
        run(Type<bfloat16>(), y_type);
    }
  });
}

}  // namespace vmamba::cuda
