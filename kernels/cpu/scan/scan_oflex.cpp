// The selective scan with channels in the vector lanes, dt's projection inside the scan, and the directions
// summed as they are written: a task is one or two vectors of channels of an image and runs k1, k3, k0, k2
// one after another, y = ((y_1 + y_3) + y_0) + y_2. (Column directions first: two threads that first write y
// along its rows prefetch each other's channels, and 56² maps take a sixth longer.) If there are too few
// tasks for the threads, directions become tasks too and are summed afterwards, in the same order.
#include <utility>

#include "kernels/cpu/scan/scan.h"
#include "kernels/cpu/targets.h"
#include "kernels/parallel.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/scan/scan_oflex.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/scan/scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vmamba::cpu {
namespace HWY_NAMESPACE {

template <int vectors, bool full>
void scan_direction_channels(const ScanArgs& args, int k, int64_t b, int64_t channel, ScanMerge merge,
                             float* workspace, float* directions) {
  ChannelScan<vectors, full> scan(args, k, b, channel, workspace);
  const ScanDirection direction = scan_direction(args.order, k);
  const int64_t sequences = sequence_count(args, direction), steps = args.pixels() / sequences;
  const int64_t stride = args.channels, lanes = lane_count();
  float* y = args.y + b * args.pixels() * stride + channel;
  float* own = directions ? directions + (k * args.batch + b) * args.pixels() * stride + channel : nullptr;
  if (merge == ScanMerge::directions_only) y = std::exchange(own, nullptr);
  const bool add = merge == ScanMerge::add_to_y;
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    std::fill_n(scan.state(), vectors * args.states * max_lanes, 0.0f);
    DirectionWalk walk(args, direction, sequence, 0);
    int64_t pixels[block_steps], following[block_steps], mirrored[block_steps];
    const int64_t* const places = direction.mirrored_output ? mirrored : pixels;
    next_pixels(walk.read, std::min<int64_t>(block_steps, steps), following);
    for (int64_t step = 0; step < steps; step += block_steps) {
      const int64_t count = std::min<int64_t>(block_steps, steps - step), left = steps - step - count;
      std::copy_n(following, block_steps, pixels);
      if (left > 0) {
        next_pixels(walk.read, std::min<int64_t>(block_steps, left), following);
        scan.fetch_projections(following);
      }
      if (direction.mirrored_output) next_pixels(walk.write, count, mirrored);
      scan.run(pixels, count, [&](int i, int64_t s, V result) {
        const int64_t place = places[s] * stride + i * lanes;
        if (own) scan.store(result, own + place);
        scan.store(add ? hn::Add(scan.load(y + place), result) : result, y + place);
      });
    }
  }
}

// The channels [channel, channel + vectors · lanes), as far as they exist.
void ScanOneDirection(const ScanArgs& args, int k, int64_t b, int64_t channel, int64_t vectors,
                      ScanMerge merge, float* workspace, float* directions) {
  const bool full = args.channels - channel >= lane_count();
  const auto run = vectors == walk_vectors && full ? scan_direction_channels<walk_vectors, true>
                   : full                          ? scan_direction_channels<1, true>
                                                   : scan_direction_channels<1, false>;
  run(args, k, b, channel, merge, workspace, directions);
}

void MergeDirections(const ScanArgs& args, const float* directions, int64_t begin, int64_t end) {
  const int64_t values = args.direction_values();
  const auto output = [&](int k, int64_t i) { return load_some(directions + k * values + i, end - i); };
  for (int64_t i = begin; i < end; i += lane_count()) {
    const V sum = args.directions_count() == 2
                      ? hn::Add(output(1, i), output(0, i))
                      : hn::Add(hn::Add(hn::Add(output(1, i), output(3, i)), output(0, i)), output(2, i));
    store_some(sum, args.y + i, end - i);
  }
}

int64_t ScanLanes() {
  return lane_count();
}
int64_t ScanVectors() {
  return walk_vectors;
}
int64_t ScanWorkspace(const ScanArgs& args) {
  return workspace_floats(args);
}

}  // namespace HWY_NAMESPACE
}  // namespace vmamba::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vmamba::cpu {

HWY_EXPORT(ScanOneDirection);
HWY_EXPORT(MergeDirections);
HWY_EXPORT(ScanLanes);
HWY_EXPORT(ScanVectors);
HWY_EXPORT(ScanWorkspace);

void merge_directions(const ScanArgs& args, const float* directions, int threads) {
  parallel_ranges(threads, args.direction_values(), 1 << 14, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(MergeDirections)(args, directions, begin, end);
  });
}

void scan_oflex(const ScanArgs& args, ScratchMemory& memory, int threads) {
  const int64_t lanes = HWY_DYNAMIC_DISPATCH(ScanLanes)(), blocks = (args.channels + lanes - 1) / lanes;
  const int64_t workspace = HWY_DYNAMIC_DISPATCH(ScanWorkspace)(args);
  float* scratch = memory.floats(threads * workspace);
  const int64_t together = HWY_DYNAMIC_DISPATCH(ScanVectors)();
  // Calls body(task, vectors) for the tasks [begin, end), `together` adjacent ones at once if they belong to
  // one image and fill their lanes.
  const auto for_walks = [&](int64_t begin, int64_t end, const auto& body) {
    for (int64_t task = begin, vectors; task < end; task += vectors) {
      const bool fit = task + together <= end && (task % blocks + together) * lanes <= args.channels;
      vectors = fit ? together : 1;
      body(task, vectors);
    }
  };
  const int64_t tasks = args.batch * blocks, rounds = (tasks + threads - 1) / threads;
  if (4 * tasks >= 3 * rounds * threads) {  // at least three quarters of the threads are busy
    parallel_ranges(threads, tasks, 1, [&](int64_t begin, int64_t end, int thread) {
      float* own = scratch + thread * workspace;
      for_walks(begin, end, [&](int64_t task, int64_t vectors) {
        const auto run = [&](int k, ScanMerge merge) {
          HWY_DYNAMIC_DISPATCH(ScanOneDirection)
          (args, k, task / blocks, task % blocks * lanes, vectors, merge, own, args.directions);
        };
        run(1, ScanMerge::set_y);
        if (args.directions_count() == 4) run(3, ScanMerge::add_to_y);
        run(0, ScanMerge::add_to_y);
        if (args.directions_count() == 4) run(2, ScanMerge::add_to_y);
      });
    });
    return;
  }
  const int directions_count = args.directions_count();
  float* directions =
      args.directions ? args.directions : memory.floats(directions_count * args.direction_values());
  parallel_ranges(threads, directions_count * tasks, 1, [&](int64_t begin, int64_t end, int thread) {
    for_walks(begin, end, [&](int64_t task, int64_t vectors) {
      HWY_DYNAMIC_DISPATCH(ScanOneDirection)
      (args, static_cast<int>(task / tasks), task % tasks / blocks, task % blocks * lanes, vectors,
       ScanMerge::directions_only, scratch + thread * workspace, directions);
    });
  });
  merge_directions(args, directions, threads);
}

}  // namespace vmamba::cpu
#endif
