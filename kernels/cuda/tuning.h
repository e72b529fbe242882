// Every number that was tuned on one GPU, with what it was measured against and how to measure it again.
//
// All were found on an H200 (132 multiprocessors, 60 MiB of L2) with the commands below and are not measured on
// other GPUs; times are given where they were kept, of float16 at batch 128. Thresholds of work that fills a GPU
// are scaled by the device's multiprocessors. Times are in docs/benchmarks.md ("Where the time goes", "What was tried"). To measure a number
// again, change it here, build the preset cuda, and compare
//   build/cuda/vmamba-cli bench --device cuda --config vmamba_tiny_s1l8 --dtype float16 --batch-size 1   (and 128)
//   ncu --metrics gpu__time_duration.sum …                                                  (one kernel alone)
// before and after on the same GPU in the same run; then scripts/gpu_check.sh test.
#pragma once
#include <cstddef>
#include <cstdint>

namespace vmamba::cuda::tuning {

// A threshold of work found on 132 multiprocessors, for a device with `multiprocessors`.
constexpr int64_t scaled(int64_t found, int multiprocessors) {
  return found * multiprocessors / 132;
}

// --- Host copies: pinned memory through which pageable memory is copied, in two halves of this size. Pinning takes 0.4 ms a
// MiB.
constexpr size_t staging_half_bytes = size_t{1} << 20;

namespace jpeg {
constexpr int threads = 256;          // per block
constexpr int entropy_threads = 512;  // per image
// Data that does not resynchronise within this many bits is left to the CPU; photographs need a few thousand.
constexpr int most_synchronisation_bits = 1 << 17;
constexpr int blocks_in_flight = 1 << 14;  // per launch, divided evenly among its images
// Workspace of one launch: as many images as fit, at least one.
constexpr size_t workspace_bytes = size_t{512} << 20;
constexpr size_t most_images = 4096;
}  // namespace jpeg

namespace pointwise {
constexpr int threads = 256;   // of a block
constexpr int pool_rows = 16;  // threads of a block that walk the pixels of one channel in reductions
}  // namespace pointwise

// Small blocks for few rows (with whole packs a load): 3.4 → 2.2 µs at batch 1.
namespace layer_norm {
constexpr int threads = 128, few_rows_threads = 64;  // of a block
// Blocks a multiprocessor that registers must allow where a lane holds one pack; sm_75 has room for 8.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int light_blocks = 8;
#else
constexpr int light_blocks = 12;
#endif
constexpr int64_t many_rows = 4096;  // scaled; from more rows on bandwidth counts, not latency
}  // namespace layer_norm

// Strips of 7 rows load fewest values twice (56²: 53 µs); shorter strips give more threads where there is little
// work (batch 8: 4.9 µs).
namespace depthwise {
constexpr int threads = 128;
constexpr int64_t two_rows_below = 200'000, four_rows_below = 4'000'000;  // elements of y, scaled
}  // namespace depthwise

// As many blocks as are resident at once: each loops over tiles (98 µs).
namespace stem {
constexpr int threads = 128;
template <int outputs>
constexpr int blocks_per_multiprocessor = outputs == 48 ? 4 : 3;
}  // namespace stem

namespace conv {
constexpr int threads = 256;
// Bytes of patches that im2col writes at a time, so that the product reads them from L2 (56 of an H200's 60
// MiB), but no fewer rows than a product needs to fill the GPU.
constexpr int64_t patch_bytes(int64_t l2_bytes) {
  return l2_bytes / 15 * 14;
}
constexpr int64_t least_patches = 4096;
// Of float32, in shared memory, without lowering how many blocks a multiprocessor holds.
constexpr int64_t image_weight_bytes = 24 << 10;
}  // namespace conv

// Convolutions without a matrix of patches, against im2col and cuBLASLt: the four of VMamba-T 642 → 273 µs with the norms
// of two. Not tuned: 192 pixels × 192 channels make whole waves of the three downsamples on 132 multiprocessors.
namespace conv_sm90a {
constexpr int max_stages = 8, min_stages = 3;
constexpr int64_t least_tiles = 66;  // of 192 pixels; scaled
}  // namespace conv_sm90a

// --- Matrix products.
namespace gemm {
constexpr size_t workspace_bytes = size_t{32} << 20;  // NVIDIA's recommendation for Hopper
}

// Up to this many rows of float32 cuBLASLt is not used.
namespace few_rows {
constexpr int64_t most_rows = 8;
constexpr int threads = 128;
}  // namespace few_rows

// Up to these sizes the small-M kernel was faster than cuBLASLt (with the activation's or the norm's own
// kernel where there is one), in a CUDA graph of 64 equal products.
namespace small_m {
constexpr int64_t most_multiplications = int64_t{1} << 27;  // M · K · N; scaled
constexpr int64_t most_results = 160'000;                   // M · N without activation and norm; scaled
constexpr int64_t most_normed_results = 310'000;            // M · N with a norm; scaled
constexpr int64_t tall_warps = 1500;  // from more warps of 16 rows on they take 32; scaled
constexpr int warps_per_block = 6;    // about
// K from which on a warp holds only some of its weights in registers; the second for tall warps.
constexpr int long_k = 12 * 96, long_k_tall = 8 * 96;
// deep: values of K in flight a warp, in units of 32; tall: rows, in units of 16. These bound the registers.
constexpr int most_parts(int deep) {
  return deep > 3 ? 8 : 12;
}
constexpr int most_threads(int tall, int deep) {
  return deep > 3 ? 256 : tall == 1 ? 512 : 384;
}
}  // namespace small_m

// x · wᵀ and GELU in one kernel, against cuBLASLt and the GELU kernel: 56² 280 → 139 µs, 28² 140 → 80, 14² 94
// → 61 (float16, batch 128). Four warpgroups of 128 columns were no better (137, but 14²: 67).
namespace gelu_sm90a {
constexpr int warpgroups = 3;  // that multiply in turn
constexpr int max_stages = 16;
constexpr int min_stages = 8;  // fewer are slower than cuBLASLt: K of 768 and more (7²: 67 → 72 µs)
constexpr int max_k = 1024;
constexpr int wide_columns = 192, narrow_columns = 128;  // of y, a block: wide where N is a multiple
}  // namespace gelu_sm90a

// LayerNorm and a product in one kernel, against two: in_proj 56² 79 → 44 µs, 28² 42 → 28, 14² 30 → 26; out_norm of four maps
// and out_proj 56² 224 → 185, but with one stage of x 28² 112 → 116.
namespace norm_linear_sm90a {
constexpr int max_x_stages = 8;  // of each warpgroup
constexpr int max_w_stages = 16, least_w_stages = 3;
constexpr int64_t most_outputs = 2048;
constexpr int64_t least_rows = 24'000;  // scaled: a tile of 64 for each warpgroup
}  // namespace norm_linear_sm90a

// LayerNorm, fc1, GELU and fc2 in one kernel, against three: 56² 307 → 185 µs; with streamed weights 28² 171 → 147.
namespace mlp_sm90a {
constexpr int warpgroups = 3;
constexpr int max_stages = 8, min_stages = 4;  // of streamed weights
constexpr int64_t least_rows = 50'000;         // scaled; below, the weights are copied too often
}  // namespace mlp_sm90a

// Products of float32 as those of float16 halves, at batch 128 against cuBLASLt (and its GELU step), in µs:
//        float32: in_proj     fc1        fc2        tf32: in_proj   fc1        fc2
//   56²         276 → 141  1,073 → 366  857 → 282       122 → 147  519 → 319  225 → 272
//   28²         223 → 80     817 → 248  709 → 178        71 → 72   274 → 180  158 → 139
//   14²         210 → 60     686 → 191  757 → 158        45 → 44   170 → 119  111 → 89
//   7²          196 → 61     687 → 188  655 → 197        39 → 38   121 → 103  121 → 100
namespace float_sm90a {
constexpr int max_stages = 8;
constexpr int split_threads = 128;  // of a block
constexpr int tile_cost = 32;       // time of a tile besides its columns, in columns
// M · N from which on they were faster, for K of 96 to 3,072 (tf32 without GELU: where there are so many columns); scaled.
constexpr int64_t least_results = 1 << 18, least_tf32_results = 1 << 20;
constexpr int64_t least_tf32_outputs = 192;
}  // namespace float_sm90a

// --- Selective scan.
namespace plain_scan {
constexpr int threads = 64;
constexpr int states = 16;  // in registers; more states take another walk
}  // namespace plain_scan

// Steps divide the maps of 224² images (56, 28, 14); chunks of 7 or 8 steps were slower (56²: 490 → 650 µs).
namespace chunked_scan {
constexpr int steps = 14;                                   // of a thread
constexpr int block_channels = 16;                          // fixed by the fragment layout
constexpr int one_state_warps = 12, many_states_warps = 8;  // of a block, at most
// Blocks have fewer warps where so many of them, with y in shared memory, fit a multiprocessor.
constexpr int small_block_warps = 4;
constexpr int small_blocks_one_state = 4, small_blocks_many_states = 2;
// The directions run side by side, each into its own map, below this many warps a multiprocessor. VMamba-T at batch 8 with
// that and small blocks for maps: 0.960 → 0.889 ms.
constexpr int64_t maps_below = 8;
constexpr int max_cluster = 8;  // blocks; the portable limit. Batch 1, 56²: 23.4 → 14.8 µs against one block
}  // namespace chunked_scan

namespace serial_scan {
// Long tiles take more shared memory, so fewer blocks fit where a thread has several states or channels.
constexpr int tile_steps(int states, int channels, size_t value_bytes) {
  return states == 1 && channels == 1 && value_bytes == 2 ? 16 : 8;
}
constexpr int tile_stages = 3;  // tiles in shared memory: one in use, two being copied
constexpr int block_warps = 2;
constexpr int least_blocks = 8;  // a multiprocessor, that registers must allow
// Warps of 32 channels a multiprocessor. From `…_from` on one thread a channel is faster than chunks (14²,
// batch 128: 131 → 87 µs; 16 states: 1,286 → 520); below maps_below the two pairs of directions must run side by side,
// each into its own map, to fill the GPU (against four maps: VMamba-S, batch 32: 3.54 → 3.44 ms). The thresholds are where the
// measured times cross.
constexpr double one_state_from = 2.5, many_states_from = 0.6, maps_below = 8;
// With one state all directions run side by side, each into its own map, where y takes more than this many times the L2 cache:
// additions to what has left the cache cost more than a norm of four maps (VMamba-B, batch 128: 18.20 → 18.05 ms).
constexpr int64_t maps_from_l2s = 2;
// Warps of 32 channels and a direction a multiprocessor from which on a thread takes two channels: they share
// the step's overhead, and half as many warps still hide each other's latencies (28²: 156 → 147 µs).
constexpr double two_channels_from = 16;
}  // namespace serial_scan

}  // namespace vmamba::cuda::tuning
