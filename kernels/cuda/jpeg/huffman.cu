// Entropy decoding of baseline JPEGs, one thread block per image, after Weißenberger and Schmidt, "Accelerating JPEG
// Decompression on GPUs" (arXiv 2111.09219). The data is cut into spans. Each span is first decoded as if a
// block began at its first bit, then again from the state in which the preceding span ended, until no span's start
// changes. Huffman codes resynchronise after a few symbols, so few rounds suffice. At the fixed point every start is
// correct, because the first span of a segment starts correctly and each span follows from the one before. A prefix sum
// over the blocks per span gives the position of its coefficients, and a prefix sum over the MCUs turns DC differences
// into DC coefficients.
#include "kernels/cuda/jpeg/decoder.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tuning.h"

namespace vmamba::cuda {
namespace {

using tuning::jpeg::entropy_threads;

struct Nothing {
  __device__ void begin(uint32_t) const {}
  __device__ void dc(int) const {}
  __device__ void ac(int, int) const {}
};

// Coefficients of block n of the scan; null if the crop does not need it.
__device__ int16_t* place_of(const JpegImage* image, const JpegScan& scan, int16_t* coefficients,
                             uint32_t n) {
  const int mcu = static_cast<int>(n / scan.blocks_per_mcu);
  const JpegMcuBlock in_mcu = scan.block[n - mcu * scan.blocks_per_mcu];
  const JpegComponent& component = image->component[in_mcu.component];
  const int mcu_row = mcu / scan.mcus_across, mcu_column = mcu - mcu_row * scan.mcus_across;
  const int row = mcu_row * scan.mcu_rows[in_mcu.component] + in_mcu.row - component.top;
  const int column = mcu_column * scan.mcu_columns[in_mcu.component] + in_mcu.column - component.left;
  if (row < 0 || row >= component.blocks_down || column < 0 || column >= component.blocks_across)
    return nullptr;
  return coefficients +
         (int64_t{component.first_block} + row * component.blocks_across + column) * jpeg_coefficients;
}

struct Store {
  const JpegImage* image;
  const JpegScan& scan;
  int16_t *coefficients, *differences;
  uint32_t first;  // of the scan's blocks
  int16_t* block = nullptr;
  uint32_t number = 0;

  __device__ void begin(uint32_t n) {
    number = first + n;
    block = place_of(image, scan, coefficients, number);
  }
  __device__ void dc(int difference) { differences[number] = static_cast<int16_t>(difference); }
  __device__ void ac(int z, int value) {
    if (block != nullptr) block[scan.natural_order[z]] = static_cast<int16_t>(value);
  }
};

// Segmented sum: restarts at each flag.
struct Sum {
  int32_t value;
  int32_t flag;
};
__device__ Sum operator+(const Sum& a, const Sum& b) {
  return {b.flag != 0 ? b.value : a.value + b.value, a.flag | b.flag};
}

// Inclusive scan over the threads of the block.
__device__ Sum running_sum(Sum own, Sum* shared) {
  const int t = static_cast<int>(threadIdx.x);
  for (int step = 1; step < entropy_threads; step *= 2) {
    shared[t] = own;
    __syncthreads();
    if (t >= step) own = shared[t - step] + own;
    __syncthreads();
  }
  return own;
}

__global__ void __launch_bounds__(entropy_threads) entropy_kernel(const JpegJob* jobs) {
  wait_for_previous();
  __shared__ JpegScan scan;
  __shared__ JpegHuffmanTable tables[jpeg_most_tables];
  __shared__ Sum sums[entropy_threads];
  const JpegJob job = jobs[blockIdx.x];
  const JpegImage* image = job.image;
  if (image->entropy != JpegEntropy::huffman) return;
  const int t = static_cast<int>(threadIdx.x);
  const auto copy_words = [t](const void* from, void* to, size_t bytes) {
    for (size_t i = t; i < bytes / 4; i += entropy_threads)
      static_cast<uint32_t*>(to)[i] = static_cast<const uint32_t*>(from)[i];
  };
  copy_words(&image->scan, &scan, sizeof scan);
  copy_words(jpeg_table<JpegHuffmanTable>(image, image->scan.huffman_tables), tables,
             image->scan.tables * sizeof(JpegHuffmanTable));
  __syncthreads();
  const auto* segments = jpeg_table<JpegSegment>(image, scan.segment_table);
  const auto* data = jpeg_table<uint8_t>(image, scan.data);
  JpegSpan* spans = job.spans;
  bool sound = true;

  for (int i = t; i < scan.spans; i += entropy_threads) {
    int low = 0, high = scan.segments - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (segments[middle].first_span <= static_cast<uint32_t>(i))
        low = middle;
      else
        high = middle - 1;
    }
    const JpegSegment segment = segments[low];
    const uint32_t begin = segment.begin * 8 + (i - segment.first_span) * scan.span_bits;
    spans[i] = {
        .segment = low, .end = min(begin + scan.span_bits, segment.end * 8), .start = {begin, 0}, .again = 1};
  }

  // Only its own thread writes a span; others read `reached` between the barriers.
  const int most_rounds = 4 + tuning::jpeg::most_synchronisation_bits / static_cast<int>(scan.span_bits);
  for (int round = 0;; ++round) {
    for (int i = t; i < scan.spans; i += entropy_threads) {
      JpegSpan& span = spans[i];
      if (span.again == 0) continue;
      bool any = true;
      JpegState state = span.start;
      span.blocks = jpeg_decode(scan, tables, data, state, span.end, UINT32_MAX, any, Nothing());
      span.reached = state;
    }
    __syncthreads();
    bool changed = false;
    for (int i = t; i < scan.spans; i += entropy_threads) {
      JpegSpan& span = spans[i];
      span.again = i > 0 && spans[i - 1].segment == span.segment && !(spans[i - 1].reached == span.start);
      if (span.again != 0) span.start = spans[i - 1].reached;
      changed = changed || span.again != 0;
    }
    if (__syncthreads_or(changed) == 0) break;
    if (round == most_rounds) {
      *job.unfit = 1;
      return;
    }
  }

  Sum before{0, 0};  // over the spans of earlier iterations
  for (int first = 0; first < scan.spans; first += entropy_threads) {
    const int i = first + t;
    Sum own{0, 0};
    if (i < scan.spans)
      own = {static_cast<int32_t>(spans[i].blocks), i == 0 || spans[i - 1].segment != spans[i].segment};
    const Sum until = before + running_sum(own, sums);
    sums[t] = until;
    __syncthreads();
    before = sums[entropy_threads - 1];
    __syncthreads();
    if (i >= scan.spans) continue;
    const JpegSpan span = spans[i];
    const JpegSegment segment = segments[span.segment];
    const uint32_t blocks = jpeg_segment_blocks(scan, span.segment);
    const uint32_t done = static_cast<uint32_t>(until.value) - span.blocks;
    if (done > blocks) {
      sound = false;
      continue;
    }
    JpegState state = span.start;
    const uint32_t first_block =
        static_cast<uint32_t>(span.segment) * scan.mcus_per_segment * scan.blocks_per_mcu + done;
    const uint32_t ended = jpeg_decode(scan, tables, data, state, span.end, blocks - done, sound,
                                       Store{image, scan, job.coefficients, job.differences, first_block});
    if (span.end == segment.end * 8)
      sound = sound && done + ended == blocks && jpeg_segment_is_over(segment, state);
    else
      sound = sound && state.bit >= span.end;
  }
  if (__syncthreads_or(!sound) != 0) {  // some differences were not written
    *job.unfit = 1;
    return;
  }

  // Each thread takes adjacent MCUs.
  const int begin = static_cast<int>(int64_t{scan.mcus} * t / entropy_threads),
            end = static_cast<int>(int64_t{scan.mcus} * (t + 1) / entropy_threads);
  Sum own[jpeg_components] = {};
  const auto each_block = [&](auto visit) {
    for (int mcu = begin; mcu < end; ++mcu) {
      if (mcu % scan.mcus_per_segment == 0)
        for (int c = 0; c < image->components; ++c) own[c] = {0, 1};
      for (int b = 0; b < scan.blocks_per_mcu; ++b) {
        const uint32_t n = static_cast<uint32_t>(mcu) * scan.blocks_per_mcu + b;
        Sum& sum = own[scan.block[b].component];
        sum.value += job.differences[n];
        visit(n, sum.value);
      }
    }
  };
  each_block([](uint32_t, int32_t) {});
  for (int c = 0; c < image->components; ++c) {
    const Sum until = running_sum(own[c], sums);
    sums[t] = until;
    __syncthreads();
    own[c] = t > 0 ? sums[t - 1] : Sum{0, 0};
    __syncthreads();
  }
  each_block([&](uint32_t n, int32_t value) {
    if (value != static_cast<int16_t>(value)) sound = false;
    if (int16_t* block = place_of(image, scan, job.coefficients, n); block != nullptr)
      block[0] = static_cast<int16_t>(value);
  });
  if (!sound) *job.unfit = 1;
}

}  // namespace

void decode_entropy(const JpegJob* jobs, int count, const Stream& stream) {
  launch(entropy_kernel, {.grid = dim3(static_cast<unsigned>(count)), .block = entropy_threads}, stream,
         jobs);
}

}  // namespace vmamba::cuda
