// The selective scan in chunks of 64 steps, with two passes over the input. Over a chunk the recurrence is h
// → P·h + E, where P = exp(A · ΣΔ) and E is the state reached from h = 0. Pass one computes ΣΔ and E of all
// chunks in parallel; a prefix over the chunks of each sequence gives the initial state of every chunk; pass
// two computes the outputs, again all chunks in parallel.
#include <array>

#include "kernels/cpu/scan/scan.h"
#include "kernels/cpu/targets.h"
#include "kernels/parallel.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/scan/scan_mamba.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/scan/scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace vmamba::cpu {
namespace HWY_NAMESPACE {

inline constexpr int64_t chunk_steps = 64;  // a multiple of block_steps

// Chunks are numbered by direction, image, vector of channels, sequence and chunk of the sequence, the last
// fastest.
struct Chunks {
  int64_t blocks, sequences, per_sequence, steps;  // steps of a sequence

  explicit Chunks(const ScanArgs& args)
      : blocks((args.channels + lane_count() - 1) / lane_count()),
        sequences(
            sequence_count(args, scan_direction(args.order, 0))),  // the same for every direction of an order
        per_sequence((args.pixels() / sequences + chunk_steps - 1) / chunk_steps),
        steps(args.pixels() / sequences) {}
  int64_t count(const ScanArgs& args) const {
    return args.directions_count() * args.batch * blocks * sequences * per_sequence;
  }
};

// The record of a chunk: a state (N, max_lanes), E after pass one and the initial state after the prefix;
// then ΣΔ.
int64_t record_floats(const ScanArgs& args) {
  return (args.states + 1) * max_lanes;
}

struct ChunkPlace {
  int k;
  int64_t b, channel, sequence, chunk;
  ChunkPlace(const ScanArgs& args, const Chunks& chunks, int64_t index) {
    chunk = index % chunks.per_sequence, index /= chunks.per_sequence;
    sequence = index % chunks.sequences, index /= chunks.sequences;
    channel = index % chunks.blocks * lane_count(), index /= chunks.blocks;
    b = index % args.batch, k = static_cast<int>(index / args.batch);
  }
};

template <bool full>
void chunk_end(const ScanArgs& args, const ChunkPlace& place, float* record, float* workspace) {
  ChannelScan<1, full> scan(args, place.k, place.b, place.channel, workspace);
  DirectionWalk walk(args, scan_direction(args.order, place.k), place.sequence, place.chunk * chunk_steps);
  std::fill_n(scan.state(), args.states * max_lanes, 0.0f);
  V delta_sum = hn::Zero(F());
  for (int64_t step = 0; step < chunk_steps; step += block_steps) {
    int64_t pixels[block_steps];
    next_pixels(walk.read, block_steps, pixels);
    scan.run(pixels, block_steps, nullptr);
    for (int s = 0; s < block_steps; ++s) delta_sum = hn::Add(delta_sum, scan.delta(0, s));
  }
  std::copy_n(scan.state(), args.states * max_lanes, record);
  hn::StoreU(delta_sum, F(), record + args.states * max_lanes);
}

void ChunkEnds(const ScanArgs& args, float* records, int64_t begin, int64_t end, float* workspace) {
  const Chunks chunks(args);
  for (int64_t index = begin; index < end; ++index) {
    const ChunkPlace place(args, chunks, index);
    if (place.chunk + 1 == chunks.per_sequence) continue;  // no chunk follows the last one
    float* record = records + index * record_floats(args);
    args.channels - place.channel >= lane_count() ? chunk_end<true>(args, place, record, workspace)
                                                  : chunk_end<false>(args, place, record, workspace);
  }
}

// The prefix: replaces E in each record by the initial state of its chunk.
void ChunkStarts(const ScanArgs& args, float* records, int64_t begin, int64_t end, float* workspace) {
  const Chunks chunks(args);
  for (int64_t sequence = begin; sequence < end; ++sequence) {
    const ChunkPlace place(args, chunks, sequence * chunks.per_sequence);
    const ChannelScan<1, false> scan(args, place.k, place.b, place.channel, workspace);
    for (int64_t n = 0; n < args.states; ++n) {
      V h = hn::Zero(F());
      for (int64_t chunk = 0; chunk < chunks.per_sequence; ++chunk) {
        float* record = records + (sequence * chunks.per_sequence + chunk) * record_floats(args);
        float* state = record + n * max_lanes;
        const V reached = hn::LoadU(F(), state);
        hn::StoreU(h, F(), state);
        if (chunk + 1 == chunks.per_sequence) break;
        const V delta_sum = hn::LoadU(F(), record + args.states * max_lanes);
        h = hn::MulAdd(exp2_normal(hn::Mul(delta_sum, scan.scaled_A(n))), h, reached);
      }
    }
  }
}

template <bool full>
void chunk_output(const ScanArgs& args, const ChunkPlace& place, int64_t steps, const float* record,
                  float* workspace, float* out) {
  ChannelScan<1, full> scan(args, place.k, place.b, place.channel, workspace);
  DirectionWalk walk(args, scan_direction(args.order, place.k), place.sequence, place.chunk * chunk_steps);
  std::copy_n(record, args.states * max_lanes, scan.state());
  for (int64_t step = 0; step < steps; step += block_steps) {
    const int64_t count = std::min<int64_t>(block_steps, steps - step);
    int64_t pixels[block_steps], places[block_steps];
    next_pixels(walk.read, count, pixels);
    next_pixels(walk.write, count, places);
    scan.run(pixels, count, [&](int, int64_t s, V y) { scan.store(y, out + places[s] * args.channels); });
  }
}

void ChunkOutputs(const ScanArgs& args, const float* records, int64_t begin, int64_t end, float* workspace,
                  float* directions) {
  const Chunks chunks(args);
  for (int64_t index = begin; index < end; ++index) {
    const ChunkPlace place(args, chunks, index);
    const int64_t steps = std::min(chunk_steps, chunks.steps - place.chunk * chunk_steps);
    const float* record = records + index * record_floats(args);
    float* out =
        directions + (place.k * args.batch + place.b) * args.pixels() * args.channels + place.channel;
    args.channels - place.channel >= lane_count()
        ? chunk_output<true>(args, place, steps, record, workspace, out)
        : chunk_output<false>(args, place, steps, record, workspace, out);
  }
}

// The number of chunks, the number of sequences, the floats of a record and of the workspace of a thread.
std::array<int64_t, 4> ChunkSizes(const ScanArgs& args) {
  const Chunks chunks(args);
  return {chunks.count(args), chunks.count(args) / chunks.per_sequence, record_floats(args),
          workspace_floats(args)};
}

}  // namespace HWY_NAMESPACE
}  // namespace vmamba::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vmamba::cpu {

HWY_EXPORT(ChunkEnds);
HWY_EXPORT(ChunkStarts);
HWY_EXPORT(ChunkOutputs);
HWY_EXPORT(ChunkSizes);

void scan_mamba(const ScanArgs& args, ScratchMemory& memory, int threads) {
  const auto [chunks, sequences, record, workspace] = HWY_DYNAMIC_DISPATCH(ChunkSizes)(args);
  float* records = memory.floats(chunks * record);
  float* workspaces = memory.floats(threads * workspace);
  float* directions =
      args.directions ? args.directions : memory.floats(args.directions_count() * args.direction_values());
  const auto own = [&, floats = workspace](int thread) { return workspaces + thread * floats; };
  parallel_ranges(threads, chunks, 1, [&](int64_t begin, int64_t end, int thread) {
    HWY_DYNAMIC_DISPATCH(ChunkEnds)(args, records, begin, end, own(thread));
  });
  parallel_ranges(threads, sequences, 1, [&](int64_t begin, int64_t end, int thread) {
    HWY_DYNAMIC_DISPATCH(ChunkStarts)(args, records, begin, end, own(thread));
  });
  parallel_ranges(threads, chunks, 1, [&](int64_t begin, int64_t end, int thread) {
    HWY_DYNAMIC_DISPATCH(ChunkOutputs)(args, records, begin, end, own(thread), directions);
  });
  merge_directions(args, directions, threads);
}

}  // namespace vmamba::cpu
#endif
