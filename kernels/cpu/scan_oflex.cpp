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

template <bool full>
void scan_direction_channels(const ScanArgs& args, int k, int64_t b, int64_t channel, ScanMerge merge,
                             float* kept, float* workspace, float* directions) {
  ChannelScan<full> scan(args, k, b, channel, workspace);
  const ScanDirection direction = scan_direction(args.order, k);
  const int64_t sequences = sequence_count(args, direction), steps = args.pixels() / sequences;
  const int64_t stride = args.channels;
  float* y = args.y + b * args.pixels() * stride + channel;
  float* own = directions ? directions + (k * args.batch + b) * args.pixels() * stride + channel : nullptr;
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    std::fill_n(scan.state(), args.states * max_lanes, 0.0f);
    DirectionWalk walk(args, direction, sequence, 0);
    for (int64_t step = 0; step < steps; step += block_steps) {
      const int64_t count = std::min<int64_t>(block_steps, steps - step);
      V out[block_steps];
      scan.run(walk.read, count, out, nullptr);
      for (int64_t s = 0; s < count; ++s, walk.write.next()) {
        const int64_t pixel = walk.write.pixel();
        float* to = y + pixel * stride;
        if (own) scan.store(out[s], own + pixel * stride);
        switch (merge) {
          case ScanMerge::set_y:
            scan.store(out[s], to);
            break;
          case ScanMerge::add_to_y:
            scan.store(hn::Add(scan.load(to), out[s]), to);
            break;
          case ScanMerge::keep:
            hn::StoreU(out[s], F(), kept + pixel * max_lanes);
            break;
          case ScanMerge::add_with_kept: {
            const V pair = hn::Add(hn::LoadU(F(), kept + pixel * max_lanes), out[s]);
            scan.store(hn::Add(scan.load(to), pair), to);
            break;
          }
          case ScanMerge::directions_only:
            break;
        }
      }
    }
  }
}

void ScanOneDirection(const ScanArgs& args, int k, int64_t b, int64_t channel, ScanMerge merge, float* kept,
                      float* workspace, float* directions) {
  args.channels - channel >= lane_count()
      ? scan_direction_channels<true>(args, k, b, channel, merge, kept, workspace, directions)
      : scan_direction_channels<false>(args, k, b, channel, merge, kept, workspace, directions);
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

void scan_oflex(const ScanArgs& args, ScratchMemory& memory, int threads) {
  const int64_t lanes = HWY_DYNAMIC_DISPATCH(ScanLanes)(), blocks = (args.channels + lanes - 1) / lanes;
  const int64_t workspace = HWY_DYNAMIC_DISPATCH(ScanWorkspace)(args),
                kept = HWY_DYNAMIC_DISPATCH(ScanKept)(args);
  const int64_t tasks = args.batch * blocks, rounds = (tasks + threads - 1) / threads;
  if (4 * tasks >= 3 * rounds * threads) {  // three quarters of the threads' time is used
    float* scratch = memory.floats(threads * (workspace + kept));
    parallel_items(threads, tasks, [&](int64_t task, int thread) {
      float* own = scratch + thread * (workspace + kept);
      const auto run = [&](int k, ScanMerge merge) {
        HWY_DYNAMIC_DISPATCH(ScanOneDirection)
        (args, k, task / blocks, task % blocks * lanes, merge, own + workspace, own, args.directions);
      };
      run(0, ScanMerge::set_y);
      if (args.directions_count() == 2) return run(1, ScanMerge::add_to_y);
      run(2, ScanMerge::add_to_y);
      run(1, ScanMerge::keep);
      run(3, ScanMerge::add_with_kept);
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
     ScanMerge::directions_only, nullptr, scratch + thread * workspace, directions);
  });
  merge_directions(args, directions, threads);
}

}  // namespace vmamba
#endif
