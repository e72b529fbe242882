// The selective scan as its equations stand (kernels.h), in float32: one step after the other, one channel at
// a time. The reference among the backends.
#include <cmath>
#include <vector>

#include "kernels/cpu/scan/scan.h"
#include "kernels/half.h"
#include "kernels/parallel.h"

namespace vmamba::cpu {
namespace {

float softplus(float x) {
  return x > 20.0f ? x : std::log1p(std::exp(x));
}

// Direction k of channel d of image b, into out (B, H, W, D); h: workspace for N states.
void scan_channel(const ScanArgs& args, int k, int64_t b, int64_t d, float* h, float* out) {
  const ScanDirection direction = scan_direction(args.order, k);
  const int64_t states = args.states, rank = args.rank, channels = args.channels;
  const int64_t steps = args.pixels() / sequence_count(args, direction);
  const float* A = args.A + (k * channels + d) * states;
  const float* weight = args.dt_weight ? args.blocked_weight(k, d) : nullptr;
  const float dt_bias = args.dt_bias[k * channels + d], skip = args.D[k * channels + d];
  for (int64_t sequence = 0; sequence < sequence_count(args, direction); ++sequence) {
    for (int64_t n = 0; n < states; ++n) h[n] = 0;
    DirectionWalk walk(args, direction, sequence, 0);
    for (int64_t step = 0; step < steps; ++step, walk.read.next(), walk.write.next()) {
      const int64_t pixel = b * args.pixels() + walk.read.pixel();
      const float* projection = args.projections.at(pixel) + k * (rank + 2 * states);
      const float* B = projection + rank;
      const float* C = B + states;
      float dt = 0;
      if (weight) {
        for (int64_t r = 0; r < rank; ++r) dt += weight[r * 16] * projection[r];
        dt = round_to(args.round_dt, dt);
      } else {
        dt = projection[d / (channels / rank)];
      }
      const float delta = softplus(dt + dt_bias), x = args.x.at(pixel)[d];
      float y = skip * x;
      for (int64_t n = 0; n < states; ++n) {
        h[n] = std::exp(delta * A[n]) * h[n] + delta * B[n] * x;
        y += C[n] * h[n];
      }
      out[(b * args.pixels() + walk.write.pixel()) * channels + d] = round_to(args.round_y, y);
    }
  }
}

}  // namespace

void scan_torch(const ScanArgs& args, ScratchMemory& memory, int threads) {
  const int64_t values = args.direction_values();
  float* directions = args.directions ? args.directions : memory.floats(args.directions_count() * values);
  const int64_t tasks = args.directions_count() * args.batch * args.channels;
  parallel_ranges(threads, tasks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> h(static_cast<size_t>(args.states));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t d = task % args.channels, b = task / args.channels % args.batch;
      const int k = static_cast<int>(task / args.channels / args.batch);
      scan_channel(args, k, b, d, h.data(), directions + k * values);
    }
  });
  merge_directions(args, directions, threads);
}

}  // namespace vmamba::cpu
