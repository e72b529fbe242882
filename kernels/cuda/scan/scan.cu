// The choice of a scan kernel, and the plain one: one thread a channel and direction runs through the
// sequence as the equations of kernels.h say. x (B,H,W,D), y_k (K,B,H,W,D).
#include "kernels/cuda/scan/scan.cuh"

#include "kernels/cuda/launchers.h"

namespace vmamba::cuda {
namespace {

namespace plain_scan = tuning::plain_scan;

template <class T>
__global__ void __launch_bounds__(plain_scan::threads) plain_scan_kernel(Scan<T> p) {
  wait_for_previous();
  const int d = blockIdx.x * plain_scan::threads + threadIdx.x, k = blockIdx.z;
  const int64_t b = blockIdx.y, pixels = int64_t{p.height} * p.width;
  if (d >= p.channels) return;
  const ScanDirection direction = p.direction[k];
  const int64_t length = direction.per_line ? (direction.columns ? p.height : p.width) : pixels;
  const int64_t kd = int64_t{k} * p.channels + d;
  const auto at = [&](int64_t step) {
    return direction.columns ? step % p.height * p.width + step / p.height : step;
  };
  float* out = p.y + (int64_t{k} * p.batch + b) * pixels * p.channels + d;

  for (int first = 0; first < p.states; first += plain_scan::states) {
    const int count = min(plain_scan::states, p.states - first);
    for (int64_t line = 0; line < pixels; line += length) {
      float h[plain_scan::states];
#pragma unroll
      for (int n = 0; n < plain_scan::states; ++n) h[n] = 0;
      for (int64_t i = 0; i < length; ++i) {
        const int64_t from = at(line + (direction.reversed ? length - 1 - i : i));
        const int64_t to = direction.mirrored_output ? at(line + i) : from;
        const T* projection =
            p.projections + (b * pixels + from) * p.projections_stride + k * p.per_direction;
        float dt = 0;
        if (p.dt_weight != nullptr)
          for (int r = 0; r < p.rank; ++r)
            dt = fmaf(to_float(p.dt_weight[kd * p.rank + r]), to_float(projection[r]), dt);
        else
          dt = to_float(projection[d / (p.channels / p.rank)]);
        const float z = rounded<T>(dt) + p.dt_bias[kd];
        const float delta = z > 20.0f ? z : log1pf(expf(z));
        const float x = to_float(p.x[(b * pixels + from) * p.x_stride + d]);
        float sum = first == 0 ? p.D[kd] * x : out[to * p.channels];
#pragma unroll
        for (int n = 0; n < plain_scan::states; ++n)
          if (n < count) {
            const int state = first + n;
            h[n] = fmaf(expf(delta * p.A[kd * p.states + state]), h[n],
                        delta * to_float(projection[p.rank + state]) * x);
            sum = fmaf(to_float(projection[p.rank + p.states + state]), h[n], sum);
          }
        out[to * p.channels] = p.round && first + plain_scan::states >= p.states ? rounded<T>(sum) : sum;
      }
    }
  }
}

__global__ void merge_maps_kernel(const float* maps, int count, float* y, int64_t elements) {
  wait_for_previous();
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= elements) return;
  const auto of = [&](int k) { return maps[k * elements + i]; };
  y[i] = count == 2 ? of(0) + of(1) : (of(0) + of(2)) + (of(1) + of(3));
}

// --- Launchers.
template <class T>
Scan<T> scan_of(const SelectiveScan2d& s, int maps, float* y) {
  Scan<T> scan{s.x.as<T>(),
               s.projections.as<T>(),
               s.dt_weight.as<T>(),
               s.dt_bias.as<float>(),
               s.A.as<float>(),
               s.D.as<float>(),
               y,
               s.x.row_stride,
               s.projections.row_stride,
               static_cast<int>(s.x.dim(0)),
               static_cast<int>(s.x.dim(1)),
               static_cast<int>(s.x.dim(2)),
               static_cast<int>(s.x.dim(3)),
               0,
               static_cast<int>(s.A.dim(2)),
               0,
               direction_count(s.order),
               maps,
               s.direction_rounding == DirectionRounding::storage,
               Divisor(s.x.dim(1)),
               Divisor(s.x.dim(2)),
               {}};
  scan.per_direction = static_cast<int>(s.projections.channels()) / scan.count;
  scan.rank = scan.per_direction - 2 * scan.states;
  for (int k = 0; k < scan.count; ++k) scan.direction[k] = scan_direction(s.order, k);
  return scan;
}

// Whether chunked_scan takes it: values are loaded in pairs, offsets inside an image are 32 bits.
bool can_scan_chunked(const SelectiveScan2d& s) {
  const int64_t states = s.A.dim(2), rank = s.projections.channels() / direction_count(s.order) - 2 * states;
  const int64_t pixels = s.x.dim(1) * s.x.dim(2), channels = s.x.dim(3);
  const bool pairs = channels % 2 == 0 && rank % 2 == 0 && (states == 1 || states % 2 == 0) &&
                     packs_of(s.x, 2) && packs_of(s.projections, 2);
  const int64_t widest = std::max({s.x.row_stride, s.projections.row_stride, channels});
  return pairs && pixels * widest < (int64_t{1} << 31) && s.x.dim(0) < 65536;
}

// Whether serial_scan takes what chunked_scan takes.
bool can_scan_serial(const SelectiveScan2d& s, const DeviceProperties& device) {
  const int64_t states = s.A.dim(2), rank = s.projections.channels() / direction_count(s.order) - 2 * states;
  const ScanDirection direction = scan_direction(s.order, 0);
  const bool is_float = s.x.dtype == DType::float32;
  const bool packs = is_float ? packs_of(s.x, 4) : packs_of(s.x, 8) && packs_of(s.projections, 8);
  return s.dt_weight && s.direction_rounding == DirectionRounding::none && (states == 1 || states == 16) &&
         rank <= (is_float ? most_rank<float>(states) : most_rank<half>(states)) &&
         s.x.dim(1) * s.x.dim(2) > 1 && !direction.per_line && !direction.mirrored_output && packs &&
         device.major >= 8;
}

}  // namespace

ScanPlan plan_scan(const SelectiveScan2d& s, const DeviceProperties& device) {
  namespace tune = tuning::serial_scan;
  const int count = direction_count(s.order);
  if (s.backend == ScanBackend::torch || !can_scan_chunked(s)) return {ScanKernel::plain, count};
  const bool one_state = s.A.dim(2) == 1, wants_each = s.directions || s.backend == ScanBackend::mamba;
  const double warps_per_multiprocessor =
      static_cast<double>(s.x.dim(0) * ((s.x.dim(3) + 31) / 32)) / device.multiprocessors;
  if (warps_per_multiprocessor >= (one_state ? tune::one_state_from : tune::many_states_from) &&
      can_scan_serial(s, device)) {
    const bool leaves_l2 = one_state && s.x.elements() * 4 > tune::maps_from_l2s * device.l2_bytes;
    // unidi: no direction is another's reverse, so two can't share a block from both ends.
    if (wants_each || leaves_l2 || s.order == ScanOrder::unidi) return {ScanKernel::serial, count};
    return {ScanKernel::serial, warps_per_multiprocessor < tune::maps_below ? 2 : 1};
  }
  namespace chunks = tuning::chunked_scan;
  const int64_t pixels = s.x.dim(1) * s.x.dim(2);
  const int64_t blocks = s.x.dim(0) * ((s.x.dim(3) + chunks::block_channels - 1) / chunks::block_channels),
                warps = blocks * ((pixels + 4 * chunks::steps - 1) / (4 * chunks::steps));
  const bool few = blocks < device.multiprocessors || warps < chunks::maps_below * device.multiprocessors;
  return {ScanKernel::chunked, wants_each || few ? count : 1};
}

void selective_scan_2d(const ScanPlan& plan, const SelectiveScan2d& scan, float* maps, const Stream& stream) {
  dispatch(scan.x.dtype, [&]<class T>(Type<T>) {
    const Scan<T> p = scan_of<T>(scan, plan.maps, maps == nullptr ? scan.y.as<float>() : maps);
    if (plan.kernel == ScanKernel::plain) {
      const dim3 grid(blocks_for(p.channels, plain_scan::threads), p.batch, p.count);
      launch(plain_scan_kernel<T>, {.grid = grid, .block = plain_scan::threads}, stream, p);
    } else if (plan.kernel == ScanKernel::chunked) {
      chunked_scan(p, stream);
    } else {
      serial_scan(p, stream);
    }
  });
}

void merge_maps(const float* maps, int count, const View& y, const Stream& stream) {
  launch(merge_maps_kernel, {.grid = blocks_for(y.elements(), 256), .block = 256}, stream, maps, count,
         y.as<float>(), y.elements());
}

}  // namespace vmamba::cuda
