// y = act(x · wᵀ + bias) (+ y), computed in blocks of up to 32 × 32 of y: two by two tiles of sums that stay
// in tile registers over all steps through K, 32 values per step. x is split into parts by each thread, as
// many rows at a time as its L2 cache holds; w is split once. amx.h explains the parts. Notation: x (M, in),
// w (out, in), y (M, out).
#include "kernels/cpu/products/amx.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/targets.h"
#include "kernels/cpu/vector_kernels.h"
#include "kernels/error.h"
#include "kernels/parallel.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/products/amx.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/vector_math-inl.h"

#ifndef VMAMBA_AMX_SIZES_
#define VMAMBA_AMX_SIZES_
namespace vmamba::cpu {
namespace {

constexpr int64_t tile_rows = 16, tile_depth = 32, tile_values = tile_rows * tile_depth;
constexpr int64_t block_columns = 32;  // of y; a block has 2 · Product::x_rows rows

// How the sums of one block become y: act(sum + bias), plus y if accumulate.
struct Finish {
  const float* bias = nullptr;  // of the block's first column, or null
  float* y = nullptr;           // the block's first element
  int64_t stride = 0, rows = 0, columns = 0;
  Activation act = Activation::none;
  bool accumulate = false;
};

}  // namespace
}  // namespace vmamba::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace vmamba::cpu {
namespace HWY_NAMESPACE {

// The nearest bfloat16, as float32. (Overflow and NaN make the sum non-finite, and finish() computes it
// again.)
HWY_INLINE V rounded_to_part(V v) {
  const U d;
  const VU rounded = hn::Add(hn::BitCast(d, v), hn::Set(d, 0x8000u));
  return hn::BitCast(F(), hn::And(rounded, hn::Set(d, 0xffff0000u)));
}

template <int parts>
float split_rows(const float* const* rows, int64_t row_count, int64_t count, uint16_t* to,
                 int64_t part_stride, int64_t step_stride) {
  const auto store = [](V low, V high, uint16_t* p) {
#if HWY_TARGET == HWY_SCALAR
    p[0] = static_cast<uint16_t>(hn::GetLane(hn::BitCast(U(), low)) >> 16);
    p[1] = static_cast<uint16_t>(hn::GetLane(hn::BitCast(U(), high)) >> 16);
#else
    const hn::Repartition<uint16_t, F> d;
    hn::StoreU(hn::ConcatOdd(d, hn::BitCast(d, high), hn::BitCast(d, low)), d, p);
#endif
  };
  const I whole;  // magnitudes compare like the integers of their bits, with NaN the largest
  auto largest = hn::Zero(whole);
  const int64_t lanes = lane_count();
  const auto split = [&](V low, V high, uint16_t* p) {
    largest = hn::Max(largest, hn::Max(hn::BitCast(whole, hn::Abs(low)), hn::BitCast(whole, hn::Abs(high))));
    for (int part = 0; part + 1 < parts; ++part, p += part_stride) {
      const V low_part = rounded_to_part(low), high_part = rounded_to_part(high);
      store(low_part, high_part, p);
      low = hn::Sub(low, low_part), high = hn::Sub(high, high_part);
    }
    store(low, high, p);
  };
  for (int64_t k = 0; k < count; k += tile_depth, to += step_stride) {
    for (int64_t i = 0; i < tile_depth; i += 2 * lanes) {
      const int64_t left = count - k - i;
      uint16_t* p = to + i;
      if (left >= 2 * lanes) {
        for (int64_t r = 0; r < row_count; ++r, p += tile_depth) {
          const float* row = rows[r] + k + i;
          __builtin_prefetch(row + tile_depth);
          __builtin_prefetch(row + tile_depth + lanes);
          split(hn::LoadU(F(), row), hn::LoadU(F(), row + lanes), p);
        }
      } else {
        for (int64_t r = 0; r < row_count; ++r, p += tile_depth) {
          split(left > 0 ? load_some(rows[r] + k + i, left) : hn::Zero(F()),
                left > lanes ? load_some(rows[r] + k + i + lanes, left - lanes) : hn::Zero(F()), p);
        }
      }
    }
  }
  return hn::GetLane(hn::BitCast(F(), hn::MaxOfLanes(whole, largest)));
}

// Splits rows of `count` values: for each step of 32 values and each part, 32 bfloat16 per row, zero beyond
// `count`. Returns the largest magnitude; NaN if there is one.
float SplitRows(const float* const* rows, int64_t row_count, int64_t count, int parts, uint16_t* to,
                int64_t part_stride, int64_t step_stride) {
  return parts == 1   ? split_rows<1>(rows, row_count, count, to, part_stride, step_stride)
         : parts == 2 ? split_rows<2>(rows, row_count, count, to, part_stride, step_stride)
                      : split_rows<3>(rows, row_count, count, to, part_stride, step_stride);
}

float Dot(const float* x, const float* w, int64_t count) {
  V sums[4] = {hn::Zero(F()), hn::Zero(F()), hn::Zero(F()), hn::Zero(F())};
  for (int64_t i = 0; i < count; i += 4 * lane_count()) {
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t k = i + j * lane_count();
      if (k < count) sums[j] = hn::MulAdd(load_some(x + k, count - k), load_some(w + k, count - k), sums[j]);
    }
  }
  return hn::GetLane(hn::SumOfLanes(F(), hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]))));
}

template <Activation act, bool full>
void finish_columns(const Finish& f, int64_t column, const float* sums) {
  const int64_t count = f.columns - column;
  const auto load = [&](const float* p) { return full ? hn::LoadU(F(), p) : load_some(p, count); };
  const V bias = f.bias ? load(f.bias + column) : hn::Zero(F());
  sums += column;
  float* y = f.y + column;
  const auto sum = [&](int64_t r) { return hn::Add(hn::LoadU(F(), sums + r * block_columns), bias); };
  const auto put = [&](int64_t r, V v) {
    if (f.accumulate) v = hn::Add(v, load(y + r * f.stride));
    full ? hn::StoreU(v, F(), y + r * f.stride) : store_some(v, y + r * f.stride, count);
  };
  for (int64_t r = 0; r < f.rows; ++r) put(r, activated<act>(sum(r)));
}

void FinishBlock(const Finish& f, const float* sums) {
  with_activation(f.act, [&](auto act) {
    for (int64_t c = 0; c < f.columns; c += lane_count()) {
      f.columns - c >= lane_count() ? finish_columns<act(), true>(f, c, sums)
                                    : finish_columns<act(), false>(f, c, sums);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace vmamba::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#if HWY_ARCH_X86_64
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <oneapi/dnnl/dnnl.hpp>
#define VMAMBA_TILES __attribute__((target("amx-tile,amx-bf16"), noinline))
#define VMAMBA_TILES_INSIDE __attribute__((target("amx-tile,amx-bf16"), always_inline))
#endif

namespace vmamba::cpu {

HWY_EXPORT(SplitRows);
HWY_EXPORT(Dot);
HWY_EXPORT(FinishBlock);

namespace {

#if HWY_ARCH_X86_64
// --- Tile registers: 0 to 3 hold sums, 4 and 5 x, 6 and 7 w.

struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

VMAMBA_TILES void open_tiles(int64_t x_rows) {
  TileShapes shapes;
  for (int i = 0; i < 8; ++i) {
    shapes.row_bytes[i] = 64;
    shapes.rows[i] = static_cast<uint8_t>(i < 6 ? x_rows : tile_rows);
  }
  asm volatile("ldtilecfg %0" ::"m"(shapes));  // GCC 12 believes that the intrinsic reads only eight bytes
}
VMAMBA_TILES void close_tiles() {
  _tile_release();
}

// The products of parts, smallest first, in an order that loads few tiles.
struct Term {
  int x, w;
};
constexpr Term all_terms[] = {{0, 2}, {0, 1}, {1, 1}, {1, 0}, {2, 0}, {0, 0}};

template <int x_parts, int w_parts>
struct Terms {
  static constexpr bool is_used(Term t) { return t.x < x_parts && t.w < w_parts; }
  static constexpr int count =
      static_cast<int>(std::count_if(std::begin(all_terms), std::end(all_terms), is_used));
  static constexpr Term at(int n) {  // the n-th used term, cyclic
    n %= count;
    for (const Term t : all_terms)
      if (is_used(t) && n-- == 0) return t;
    return {};
  }
};

// Adjacent tile instructions stall each other on some virtual machines at times (docs/benchmarks.md): 24
// products and their loads took 548 ns, and 325 ns with eight nops between any two; otherwise 168 and 161 ns.
#define VMAMBA_APART "\n\t.rept 8\n\tnop\n\t.endr"
template <int sum, int x, int w>
VMAMBA_TILES_INSIDE inline void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" VMAMBA_APART ::"i"(sum), "i"(x), "i"(w));
}
template <int tile>
VMAMBA_TILES_INSIDE inline void load_tile(const uint16_t* from) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" VMAMBA_APART ::"r"(from), "r"(int64_t{64}), "i"(tile));
}

// Accumulates into the tiles of sums. x, w: `steps` times [part][2 tiles]; tiles of x have x_rows rows. Each
// step prefetches `ahead_lines` cache lines from `ahead` on into L2, and w two steps ahead into L1. A tile is
// loaded as soon as the products that read its predecessor have been issued.
template <int x_parts, int w_parts>
VMAMBA_TILES void multiply_block(const uint16_t* x, const uint16_t* w, int64_t steps, int64_t x_rows,
                                 const char* ahead, int64_t ahead_lines) {
  using Used = Terms<x_parts, w_parts>;
  constexpr Term first = Used::at(0);
  constexpr int64_t w_step = w_parts * 2 * tile_values;
  constexpr int64_t fetched = w_step / (4 * Used::count);  // by one product
  const int64_t x_tile = x_rows * tile_depth, x_step = x_parts * 2 * x_tile;
  load_tile<4>(x + 2 * first.x * x_tile);
  load_tile<5>(x + (2 * first.x + 1) * x_tile);
  load_tile<6>(w + 2 * first.w * tile_values);
  load_tile<7>(w + (2 * first.w + 1) * tile_values);
  for (int64_t step = 0; step < steps; ++step) {
    const bool last = step + 1 == steps;  // its last loads are not used; reload what is valid
    const uint16_t *next_x = last ? x : x + x_step, *next_w = last ? w : w + w_step, *soon = w + 2 * w_step;
    const auto product = [&]<int sum, int x_of, int w_of>() VMAMBA_TILES_INSIDE {
      multiply_tiles<sum, x_of, w_of>();
      for (int64_t i = 0; i < fetched; i += 32) _mm_prefetch(soon + i, _MM_HINT_T0);
      soon += fetched;
    };
    const auto term = [&]<int n>() VMAMBA_TILES_INSIDE {
      constexpr Term now = Used::at(n), next = Used::at(n + 1);
      constexpr bool wraps = n + 1 == Used::count, new_x = wraps || now.x != next.x,
                     new_w = wraps || now.w != next.w;
      const uint16_t* to_x = (wraps ? next_x : x) + 2 * next.x * x_tile;
      const uint16_t* to_w = (wraps ? next_w : w) + 2 * next.w * tile_values;
      if constexpr (new_w) {
        product.template operator()<0, 4, 6>();
        product.template operator()<2, 5, 6>();
        load_tile<6>(to_w);
        product.template operator()<1, 4, 7>();
        if constexpr (new_x) load_tile<4>(to_x);
        product.template operator()<3, 5, 7>();
        load_tile<7>(to_w + tile_values);
        if constexpr (new_x) load_tile<5>(to_x + x_tile);
      } else {
        product.template operator()<0, 4, 6>();
        product.template operator()<1, 4, 7>();
        load_tile<4>(to_x);
        product.template operator()<2, 5, 6>();
        product.template operator()<3, 5, 7>();
        load_tile<5>(to_x + x_tile);
      }
      for (int64_t i = n; i < ahead_lines; i += Used::count, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T1);
    };
    [&]<int... n>(std::integer_sequence<int, n...>) VMAMBA_TILES_INSIDE {
      (term.template operator()<n>(), ...);
    }
    (std::make_integer_sequence<int, Used::count>());
    x += x_step;
    w += w_step;
  }
}

VMAMBA_TILES void clear_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}
VMAMBA_TILES void load_sums(int64_t x_rows, const float* sums) {
  constexpr int64_t row_bytes = block_columns * sizeof(float);
  _tile_loadd(0, sums, row_bytes);
  _tile_loadd(1, sums + 16, row_bytes);
  _tile_loadd(2, sums + x_rows * block_columns, row_bytes);
  _tile_loadd(3, sums + x_rows * block_columns + 16, row_bytes);
}
VMAMBA_TILES void store_sums(int64_t x_rows, float* sums) {
  constexpr int64_t row_bytes = block_columns * sizeof(float);
  _tile_stored(0, sums, row_bytes);
  _tile_stored(1, sums + 16, row_bytes);
  _tile_stored(2, sums + x_rows * block_columns, row_bytes);
  _tile_stored(3, sums + x_rows * block_columns + 16, row_bytes);
}

using MultiplyBlock = void (*)(const uint16_t*, const uint16_t*, int64_t, int64_t, const char*, int64_t);
constexpr MultiplyBlock multiply_blocks[3][3] = {
    {multiply_block<1, 1>, multiply_block<1, 2>, multiply_block<1, 3>},
    {multiply_block<2, 1>, multiply_block<2, 2>, multiply_block<2, 3>},
    {multiply_block<3, 1>, multiply_block<3, 2>, multiply_block<3, 3>}};
#else
void open_tiles(int64_t) {}
void close_tiles() {}
#endif

}  // namespace

bool amx_available() {
#if HWY_ARCH_X86_64
  // oneDNN detects the processor and honours ONEDNN_MAX_CPU_ISA; Linux grants the tile registers on request.
  constexpr long request_permission = 0x1023, tile_data = 18;
  static const bool available = dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core_amx &&
                                syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  return available;
#else
  return false;
#endif
}

namespace {

int parts_of(DType dtype) {
  return dtype == DType::bfloat16 ? 1 : dtype == DType::float16 ? 2 : 3;
}

// The larger of two magnitudes; NaN is the largest.
float larger(float a, float b) {
  return std::isnan(a) || a > b ? a : b;
}

// Rounds up to whole cache lines.
int64_t whole_lines(int64_t floats) {
  return (floats + 15) / 16 * 16;
}

// A row of weights in float32, in place or widened into `buffer`.
const float* weight_row(const WeightSource& w, int64_t row, int64_t in, float* buffer) {
  if (w.dtype == DType::float32) return static_cast<const float*>(w.data) + row * in;
  widen(w.dtype, static_cast<const uint16_t*>(w.data) + row * in, buffer, in);
  return buffer;
}

// The rows of x: the rows of a matrix, or the input windows of a convolution.
struct Lines {
  const float* x = nullptr;
  int64_t stride = 0;
  const ConvShape* conv = nullptr;

  // Row r, in place or gathered into `buffer`.
  const float* row(int64_t r, float* buffer) const {
    if (!conv) return x + r * stride;
    const ConvShape& c = *conv;
    const int64_t w = r % c.out_width * c.stride - c.padding, line = r / c.out_width;
    const int64_t h = line % c.out_height * c.stride - c.padding, image = line / c.out_height;
    const int64_t before = std::clamp<int64_t>(-w, 0, c.kernel_width),
                  end = std::clamp<int64_t>(c.width - w, before, c.kernel_width);
    float* to = buffer;
    for (int64_t kh = 0; kh < c.kernel_height; ++kh, to += c.kernel_width * c.in) {
      if (h + kh < 0 || h + kh >= c.height) {
        std::fill_n(to, c.kernel_width * c.in, 0.0f);
        continue;
      }
      const float* from = x + (((image * c.height + h + kh) * c.width) + w) * c.in;
      std::fill_n(to, before * c.in, 0.0f);
      std::copy(from + before * c.in, from + end * c.in, to + before * c.in);
      std::fill(to + end * c.in, to + c.kernel_width * c.in, 0.0f);
    }
    return buffer;
  }
};

struct Product {
  int64_t rows = 0, in = 0, out = 0;
  Lines x;
  int x_parts = 3, w_parts = 3;
  const WeightSource* w = nullptr;
  const AmxProducts::Packed* packed = nullptr;
  const float* bias = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
  Activation act = Activation::none;
  bool accumulate = false;
  int64_t x_rows = 0;  // of a tile
  int64_t steps = 0;

  int64_t block_rows() const { return 2 * x_rows; }
  int64_t row_blocks() const { return (rows + block_rows() - 1) / block_rows(); }
  int64_t column_blocks() const { return (out + block_columns - 1) / block_columns; }
  int64_t x_tile() const { return x_rows * tile_depth; }
  int64_t x_block() const { return steps * x_parts * 2 * x_tile(); }
  int64_t w_block() const { return steps * w_parts * 2 * tile_values; }
};

// One thread's work on a product.
class Worker {
 public:
  // Floats of memory for `row_blocks` row blocks at a time.
  static int64_t floats(const Product& p, int64_t row_blocks) {
    return row_blocks * block_values + whole_lines((tile_rows + 1) * p.in);
  }
  Worker(const Product& p, int64_t row_blocks, float* memory)
      : p_(p), sums_(memory), rows_(memory + row_blocks * block_values) {
    open_tiles(p.x_rows);
  }
  ~Worker() { close_tiles(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Splits the rows of a block and returns their largest magnitude.
  float split(int64_t block, uint16_t* to) {
    float largest = 0;
    for (int64_t tile = 2 * block; tile < 2 * block + 2; ++tile, to += p_.x_tile()) {
      const int64_t first = tile * p_.x_rows, count = std::clamp<int64_t>(p_.rows - first, 0, p_.x_rows);
      const float* rows[tile_rows];
      for (int64_t r = 0; r < count; ++r) rows[r] = p_.x.row(first + r, rows_ + r * p_.in);
      largest = larger(HWY_DYNAMIC_DISPATCH(SplitRows)(rows, count, p_.in, p_.x_parts, to, 2 * p_.x_tile(),
                                                       p_.x_parts * 2 * p_.x_tile()),
                       largest);
    }
    return largest;
  }

  // Computes the row blocks [first, first + count) of one column block of y. x, largest: of these row blocks.
  // fetch: the next weights are not in L2 yet and are to be prefetched.
  void compute(int64_t first, int64_t count, int64_t column_block, const uint16_t* x, const float* largest,
               bool fetch) {
#if HWY_ARCH_X86_64
    const uint16_t* w = p_.packed->parts.get() + column_block * p_.w_block();
    const int64_t w_step = p_.w_parts * 2 * tile_values, x_step = p_.x_parts * 2 * p_.x_tile();
    const auto multiply = multiply_blocks[p_.x_parts - 1][p_.w_parts - 1];
    // A piece of w is multiplied with all row blocks while it is in the cache.
    const int64_t pieces = (p_.steps + 31) / 32;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t begin = p_.steps * piece / pieces, end = p_.steps * (piece + 1) / pieces;
      const bool last = piece + 1 == pieces, ends = last && column_block + 1 == p_.column_blocks();
      const int64_t lines = fetch && !ends ? (w_step * 2 / 64 + count - 1) / count : 0;
      for (int64_t i = 0; i < count; ++i) {
        float* sums = sums_ + i * block_values;
        piece == 0 ? clear_sums() : load_sums(p_.x_rows, sums);
        const auto* ahead = reinterpret_cast<const char*>(w + end * w_step) + i * (end - begin) * lines * 64;
        multiply(x + i * p_.x_block() + begin * x_step, w + begin * w_step, end - begin, p_.x_rows, ahead,
                 lines);
        store_sums(p_.x_rows, sums);
        if (last) finish(first + i, column_block, sums, largest[i]);
      }
    }
#else
    (void)first, (void)count, (void)column_block, (void)x, (void)largest, (void)fetch;
#endif
  }

 private:
  static constexpr int64_t block_values = 2 * tile_rows * block_columns;

  void finish(int64_t row_block, int64_t column_block, float* sums, float largest_x) {
    const int64_t row = row_block * p_.block_rows(), column = column_block * block_columns;
    const Finish f{p_.bias ? p_.bias + column : nullptr,
                   p_.y + row * p_.y_stride + column,
                   p_.y_stride,
                   std::min(p_.block_rows(), p_.rows - row),
                   std::min(block_columns, p_.out - column),
                   p_.act,
                   p_.accumulate};
    // Below these bounds no part and no sum of parts can have overflowed; NaN compares false.
    const float largest_w = p_.packed->largest[static_cast<size_t>(column_block)];
    const bool is_finite = largest_x < 0x1p126f && largest_w < 0x1p126f &&
                           static_cast<double>(largest_x) * largest_w * static_cast<double>(p_.in) < 0x1p126;
    for (int64_t r = 0; r < f.rows && !is_finite; ++r) {
      const float* x = p_.x.row(row + r, rows_);
      for (int64_t c = 0; c < f.columns; ++c) {
        float& sum = sums[r * block_columns + c];
        if (std::isfinite(sum)) continue;
        sum = HWY_DYNAMIC_DISPATCH(Dot)(x, weight_row(*p_.w, column + c, p_.in, rows_ + p_.in), p_.in);
      }
    }
    HWY_DYNAMIC_DISPATCH(FinishBlock)(f, sums);
  }

  const Product& p_;
  float *sums_, *rows_;
};

// Rows per tile of x that minimise the time of the slowest thread; the time of a block is its tiles' rows
// plus a constant.
int64_t best_tile_rows(int64_t rows, int64_t shares) {
  int64_t best = tile_rows, least = std::numeric_limits<int64_t>::max();
  for (int64_t n = tile_rows; n > 0; --n) {
    const int64_t blocks = (rows + 2 * n - 1) / (2 * n), time = (blocks + shares - 1) / shares * (n + 8);
    if (time < least) best = n, least = time;
  }
  return best;
}

constexpr int64_t cache_values = (5 << 18) / sizeof(uint16_t);  // 1.25 MiB of an L2 cache of 2 MiB

// Threads divide the rows: each takes groups of row blocks that fit in its L2 cache, with w or instead of it,
// and multiplies them with all weights.
void multiply_by_rows(const Product& p, int threads, ScratchMemory& memory) {
  const int64_t row_blocks = p.row_blocks();
  const bool w_stays = p.column_blocks() * p.w_block() <= cache_values;
  const int64_t most =
      w_stays ? 1 : std::clamp<int64_t>(cache_values / p.x_block(), 1, (row_blocks + threads - 1) / threads);
  const int64_t x_floats = most * p.x_block() / 2,
                own_floats = x_floats + whole_lines(most) + Worker::floats(p, most);
  float* all = memory.floats(threads * own_floats);
  parallel_claims(threads, (row_blocks + most - 1) / most, [&](int64_t group, int thread, bool first_group) {
    float* own = all + thread * own_floats;
    auto* x = reinterpret_cast<uint16_t*>(own);
    float* largest = own + x_floats;
    Worker worker(p, most, largest + whole_lines(most));
    const int64_t first = group * most, count = std::min(most, row_blocks - first);
    for (int64_t i = 0; i < count; ++i) largest[i] = worker.split(first + i, x + i * p.x_block());
    for (int64_t column_block = 0; column_block < p.column_blocks(); ++column_block) {
      worker.compute(first, count, column_block, x, largest, first_group || !w_stays);
    }
  });
}

// Threads split all rows together, then divide the columns.
void multiply_by_columns(const Product& p, int threads, ScratchMemory& memory) {
  const int64_t row_blocks = p.row_blocks(), own_floats = Worker::floats(p, row_blocks);
  float* all = memory.floats(row_blocks * p.x_block() / 2 + whole_lines(row_blocks) + threads * own_floats);
  auto* x = reinterpret_cast<uint16_t*>(all);
  float* largest = all + row_blocks * p.x_block() / 2;
  const auto own = [&](int thread) { return largest + whole_lines(row_blocks) + thread * own_floats; };
  parallel_claims(threads, row_blocks, [&](int64_t i, int thread, bool) {
    largest[i] = Worker(p, row_blocks, own(thread)).split(i, x + i * p.x_block());
  });
  // With few column blocks per thread, row blocks are divided as well.
  const int64_t parts = p.column_blocks() >= 4 * threads ? 1 : row_blocks;
  parallel_claims(threads, p.column_blocks() * parts, [&](int64_t item, int thread, bool) {
    const int64_t first = item % parts, count = parts == 1 ? row_blocks : 1;
    Worker(p, row_blocks, own(thread))
        .compute(first, count, item / parts, x + first * p.x_block(), largest + first, true);
  });
}

void multiply(Product& p, int threads, ScratchMemory& memory) {
  p.steps = (p.in + tile_depth - 1) / tile_depth;
  const bool few_rows = p.rows < threads * 4 * tile_rows,
             x_fits = p.rows * p.steps * tile_depth * p.x_parts <= cache_values;
  const bool by_rows = !few_rows && !(x_fits && p.rows < p.out);
  p.x_rows = best_tile_rows(p.rows, by_rows ? threads : 1);
  by_rows ? multiply_by_rows(p, threads, memory) : multiply_by_columns(p, threads, memory);
}

}  // namespace

// Packs w in the order in which it is read: blocks of 32 rows, steps of 32 values along `in`, parts, two
// tiles of 16 rows; in a tile, for each pair of adjacent values along `in`, the pairs of its 16 rows.
AmxProducts::Packed AmxProducts::pack(const WeightSource& w, int64_t out, int64_t in) const {
  const int parts = parts_of(w.dtype);
  const int64_t steps = (in + tile_depth - 1) / tile_depth,
                blocks = (out + block_columns - 1) / block_columns;
  const int64_t block_values = steps * parts * 2 * tile_values;
  const auto bytes = static_cast<size_t>(blocks * block_values) * sizeof(uint16_t);
  Packed packed;
  packed.parts.reset(static_cast<uint16_t*>(aligned_memory(bytes)));
  packed.largest.resize(static_cast<size_t>(blocks));
  packed.out = out, packed.in = in;
  parallel_ranges(threads_, blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> widened(static_cast<size_t>(in));
    std::vector<uint16_t> row(static_cast<size_t>(steps * parts * tile_depth));
    std::fill(packed.parts.get() + begin * block_values, packed.parts.get() + end * block_values,
              uint16_t{0});
    for (int64_t block = begin; block < end; ++block) {
      float& largest = packed.largest[static_cast<size_t>(block)];
      for (int64_t n = 0; n < std::min(block_columns, out - block * block_columns); ++n) {
        const float* values = weight_row(w, block * block_columns + n, in, widened.data());
        largest = larger(HWY_DYNAMIC_DISPATCH(SplitRows)(&values, 1, in, parts, row.data(), tile_depth,
                                                         parts * tile_depth),
                         largest);
        uint16_t* to = packed.parts.get() + block * block_values + n / 16 * tile_values + n % 16 * 2;
        constexpr int64_t pairs = tile_depth / 2;
        for (int64_t i = 0; i < steps * parts * pairs; ++i) {
          std::memcpy(to + i / pairs * 2 * tile_values + i % pairs * tile_depth, row.data() + 2 * i,
                      2 * sizeof(uint16_t));
        }
      }
    }
  });
  return packed;
}

const AmxProducts::Packed& AmxProducts::packed(const WeightSource& w, int64_t out, int64_t in) {
  Packed& packed = w.kept ? packed_[w.data] : passing_;
  if (!w.kept || packed.out != out || packed.in != in) packed = pack(w, out, in);
  return packed;
}

void AmxProducts::linear(const LinearShape& shape, DType dtype, const float* x, const WeightSource& w,
                         const float* bias, float* y) {
  Product product{shape.rows,
                  shape.in,
                  shape.out,
                  {x, shape.x_stride},
                  parts_of(dtype),
                  parts_of(w.dtype),
                  &w,
                  &packed(w, shape.out, shape.in),
                  bias,
                  y,
                  shape.y_stride,
                  shape.act,
                  shape.accumulate};
  multiply(product, threads_, memory_);
}

void AmxProducts::conv2d(const ConvShape& shape, DType dtype, const float* x, const WeightSource& w,
                         const float* bias, float* y) {
  const int64_t in = shape.kernel_height * shape.kernel_width * shape.in;
  Product product{shape.batch * shape.out_height * shape.out_width,
                  in,
                  shape.out,
                  {x, 0, &shape},
                  parts_of(dtype),
                  parts_of(w.dtype),
                  &w,
                  &packed(w, shape.out, in),
                  bias,
                  y,
                  shape.out};
  multiply(product, threads_, memory_);
}

void AmxProducts::forget(const void* begin, size_t bytes) {
  const auto* end = static_cast<const char*>(begin) + bytes;
  packed_.erase(packed_.lower_bound(begin), packed_.lower_bound(end));
}

}  // namespace vmamba::cpu
#endif
