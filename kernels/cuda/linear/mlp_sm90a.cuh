// Steps that mlp_sm90a.cu and mlp_streamed_sm90a.cu share. Lane q of the four that hold a row has of each 32 channels the
// eight from 8q on, and of the hidden columns what wgmma gives and takes.
#pragma once
#include "kernels/cuda/values.cuh"

namespace vmamba::cuda {

template <class T>
using EightChannels = Pack<Pair<T>, 4>;

struct RowMoments {
  float mean, scale;  // 1 / √(variance + epsilon)
};
template <class T, int packs>
__device__ inline RowMoments row_moments(const EightChannels<T> (&x)[packs], float epsilon) {
  const auto mean_of = [&](auto&& f) {
    float sum = 0;
#pragma unroll
    for (int a = 0; a < packs; ++a)
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const float2 values = to_float2(x[a].values[pair]);
        sum += f(values.x) + f(values.y);
      }
    return quad_sum(sum) * (1.0f / (32 * packs));
  };
  const float mean = mean_of([](float value) { return value; });
  return {mean, rsqrtf(mean_of([&](float value) { return (value - mean) * (value - mean); }) + epsilon)};
}

// GELU(hidden + bias) as the left operand of the next product. bias: of the first of these columns, in shared memory.
template <class T, int columns>
__device__ inline void activate_hidden(const float (&hidden)[columns], const float* bias, int q,
                                       uint32_t (&activated)[columns / 8][4]) {
#pragma unroll
  for (int j = 0; j < columns / 4; j += 2) {
    float values[8];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 shift = *reinterpret_cast<const float2*>(bias + 8 * (j + i) + 2 * q);
      values[4 * i] = hidden[4 * (j + i)] + shift.x;
      values[4 * i + 1] = hidden[4 * (j + i) + 1] + shift.y;
      values[4 * i + 2] = hidden[4 * (j + i) + 2] + shift.x;
      values[4 * i + 3] = hidden[4 * (j + i) + 3] + shift.y;
    }
    fast_gelu(values);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Pair<T> pair = from_float2<T>(values[2 * i], values[2 * i + 1]);
      memcpy(&activated[j / 2][i], &pair, 4);
    }
  }
}

// values = sums + bias + residual of eight channels, from 32a + 8q on: row i of the two that a lane holds. bias: of all
// channels, in shared memory.
template <class T, int sums_count>
__device__ inline void add_residual(const float (&sums)[sums_count], int i, int a, int q, const float* bias,
                                    const EightChannels<T>& residual, float (&values)[8]) {
  load(bias + 32 * a + 8 * q, values);
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const float2 added = to_float2(residual.values[pair]);
    values[2 * pair] = sums[16 * a + 4 * pair + 2 * i] + values[2 * pair] + added.x;
    values[2 * pair + 1] = sums[16 * a + 4 * pair + 2 * i + 1] + values[2 * pair + 1] + added.y;
  }
}

}  // namespace vmamba::cuda
