// The scan with channels in the lanes, the time steps' projection inside, and the directions merged as they
// are written: one vector of channels walks k0, k2, k1, k3 after another, so that y = (y_0 + y_2) + (y_1 +
// y_3) needs the outputs of only one direction beside y itself. Where there are too few channels for the
// threads, the directions are spread as well and merged afterwards; the sums are the same.
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scan.h"
#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/scan_oflex.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vmamba {
namespace HWY_NAMESPACE {

// Where a direction's output goes. `kept` is (pixels, max_lanes), the outputs of direction 1.
enum class Merge { set_y, add_to_y, keep, add_with_kept, directions_only };

template <Merge merge>
void scan_direction_channels(const ScanArgs& args, int k, int64_t b, int64_t channel, float* kept,
                             float* workspace, float* directions) {
  ChannelScan scan(args, k, b, channel, workspace);
  const ScanDirection direction = scan_direction(args.order, k);
  const int64_t sequences = sequence_count(args, direction), steps = args.pixels() / sequences;
  const int64_t count = scan.count(), stride = args.channels;
  float* y = args.y + b * args.pixels() * stride + channel;
  float* own = directions ? directions + (k * args.batch + b) * args.pixels() * stride + channel : nullptr;
  V unused = hn::Zero(F());
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    std::fill_n(scan.state(), args.states * max_lanes, 0.0f);
    DirectionWalk walk(args, direction, sequence, 0);
    for (int64_t step = 0; step < steps; step += block_steps) {
      scan.run<true>(walk.read, std::min<int64_t>(block_steps, steps - step), unused, [&](V out) {
        const int64_t pixel = walk.write.pixel();
        walk.write.next();
        if (own) store_some(out, own + pixel * stride, count);
        if constexpr (merge == Merge::set_y) store_some(out, y + pixel * stride, count);
        if constexpr (merge == Merge::add_to_y) {
          store_some(hn::Add(load_some(y + pixel * stride, count), out), y + pixel * stride, count);
        }
        if constexpr (merge == Merge::keep) hn::StoreU(out, F(), kept + pixel * max_lanes);
        if constexpr (merge == Merge::add_with_kept) {
          const V pair = hn::Add(hn::LoadU(F(), kept + pixel * max_lanes), out);
          store_some(hn::Add(load_some(y + pixel * stride, count), pair), y + pixel * stride, count);
        }
      });
    }
  }
}

void ScanMerged(const ScanArgs& args, int64_t b, int64_t channel, float* kept, float* workspace) {
  scan_direction_channels<Merge::set_y>(args, 0, b, channel, kept, workspace, args.directions);
  if (args.directions_count() == 2) {
    return scan_direction_channels<Merge::add_to_y>(args, 1, b, channel, kept, workspace, args.directions);
  }
  scan_direction_channels<Merge::add_to_y>(args, 2, b, channel, kept, workspace, args.directions);
  scan_direction_channels<Merge::keep>(args, 1, b, channel, kept, workspace, args.directions);
  scan_direction_channels<Merge::add_with_kept>(args, 3, b, channel, kept, workspace, args.directions);
}

void ScanOneDirection(const ScanArgs& args, int k, int64_t b, int64_t channel, float* workspace,
                      float* directions) {
  scan_direction_channels<Merge::directions_only>(args, k, b, channel, nullptr, workspace, directions);
}

void MergeDirections(const ScanArgs& args, const float* directions, int64_t begin, int64_t end) {
  const int64_t values = args.direction_values();
  const auto output = [&](int k, int64_t i) { return load_some(directions + k * values + i, end - i); };
  for (int64_t i = begin; i < end; i += lane_count()) {
    const V sum = args.directions_count() == 2
                      ? hn::Add(output(0, i), output(1, i))
                      : hn::Add(hn::Add(output(0, i), output(2, i)), hn::Add(output(1, i), output(3, i)));
    store_some(sum, args.y + i, end - i);
  }
}

int64_t ScanLanes() {
  return lane_count();
}
int64_t ScanWorkspace(const ScanArgs& args) {
  return workspace_floats(args);
}
int64_t ScanKept(const ScanArgs& args) {
  return args.pixels() * max_lanes;
}

}  // namespace HWY_NAMESPACE
}  // namespace vmamba
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vmamba {

HWY_EXPORT(ScanMerged);
HWY_EXPORT(ScanOneDirection);
HWY_EXPORT(MergeDirections);
HWY_EXPORT(ScanLanes);
HWY_EXPORT(ScanWorkspace);
HWY_EXPORT(ScanKept);

void merge_directions(const ScanArgs& args, const float* directions, int threads) {
  parallel_ranges(threads, args.direction_values(), 1 << 14, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(MergeDirections)(args, directions, begin, end);
  });
}

void scan_oflex(const ScanArgs& args, ScanMemory& memory, int threads) {
  const int64_t lanes = HWY_DYNAMIC_DISPATCH(ScanLanes)(), blocks = (args.channels + lanes - 1) / lanes;
  const int64_t workspace = HWY_DYNAMIC_DISPATCH(ScanWorkspace)(args),
                kept = HWY_DYNAMIC_DISPATCH(ScanKept)(args);
  const int64_t tasks = args.batch * blocks, rounds = (tasks + threads - 1) / threads;
  if (4 * tasks >= 3 * rounds * threads) {  // three quarters of the threads' time is used
    float* scratch = memory.floats(threads * (workspace + kept));
    parallel_items(threads, tasks, [&](int64_t task, int thread) {
      float* own = scratch + thread * (workspace + kept);
      HWY_DYNAMIC_DISPATCH(ScanMerged)(args, task / blocks, task % blocks * lanes, own + workspace, own);
    });
    return;
  }
  const int directions_count = args.directions_count();
  float* scratch = memory.floats(threads * workspace);
  float* directions =
      args.directions ? args.directions : memory.floats(directions_count * args.direction_values());
  parallel_items(threads, directions_count * tasks, [&](int64_t task, int thread) {
    HWY_DYNAMIC_DISPATCH(ScanOneDirection)
    (args, static_cast<int>(task / tasks), task % tasks / blocks, task % blocks * lanes,
     scratch + thread * workspace, directions);
  });
  merge_directions(args, directions, threads);
}

}  // namespace vmamba
#endif
