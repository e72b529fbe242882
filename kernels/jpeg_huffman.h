// The entropy-coded data of a baseline JPEG in one scan, as it is packed for DecodeJpegs (kernels/jpeg.h), and its
// decoding from an arbitrary bit. Stuffed zeros and restart markers are removed; the data between two restart markers is
// a segment, which starts at a byte boundary.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define VMAMBA_HOST_DEVICE __host__ __device__
#else
#define VMAMBA_HOST_DEVICE
#endif

namespace vmamba {

inline constexpr int jpeg_lookup_bits = 9, jpeg_longest_code = 16;
inline constexpr int jpeg_most_blocks_per_mcu = 10;
inline constexpr int jpeg_padding = 32;  // bytes that may be read past the end of the data

struct JpegHuffmanTable {
  uint16_t lookup[1 << jpeg_lookup_bits];  // by the next bits: length · 256 + symbol; 0: a longer code
  int32_t last[jpeg_longest_code + 1];     // the last code of each length, −1 if there is none
  int32_t offset[jpeg_longest_code + 1];   // from a code of that length to its symbol's index
  uint8_t symbols[256];
};

struct JpegMcuBlock {
  uint8_t component, column, row;  // of the block in the MCU
  uint8_t dc_table, ac_table;      // among the scan's tables
};

struct JpegSegment {
  uint32_t begin, end;  // bytes of the data
  uint32_t first_span;  // index of the segment's first span of span_bits
};

struct JpegScan {
  int32_t mcus_across, mcus, blocks_per_mcu;
  int32_t mcus_per_segment;
  int32_t segments, spans, tables;
  uint32_t
      span_bits;  // segments are cut into spans, which are decoded in parallel; the last of each is shorter
  uint32_t segment_table, huffman_tables, data;  // offsets of JpegSegment[], JpegHuffmanTable[], bytes
  JpegMcuBlock block[jpeg_most_blocks_per_mcu];
  uint8_t mcu_columns[3], mcu_rows[3];  // blocks of each component in an MCU
  uint8_t natural_order[64];            // row-major position by zigzag position
};

// State between two symbols: the next bit, and block_in_mcu · 64 + the zigzag position of the next coefficient.
struct JpegState {
  uint32_t bit, place;
  VMAMBA_HOST_DEVICE friend bool operator==(const JpegState& a, const JpegState& b) {
    return a.bit == b.bit && a.place == b.place;
  }
};

// Bit reader: peeks 32 bits at any position and advances by less than 32. The next word is loaded ahead.
class JpegBits {
 public:
  VMAMBA_HOST_DEVICE JpegBits(const uint8_t* data, uint32_t bit)  // data: aligned to 4 bytes
      : words_(reinterpret_cast<const uint32_t*>(data)),
        at_(bit),
        high_(swapped(words_[bit / 32])),
        low_(swapped(words_[bit / 32 + 1])),
        ahead_(words_[bit / 32 + 2]) {}
  VMAMBA_HOST_DEVICE uint32_t at() const { return at_; }
  VMAMBA_HOST_DEVICE uint32_t next() const {
#ifdef __CUDA_ARCH__
    return __funnelshift_l(low_, high_, at_ % 32);
#else
    return static_cast<uint32_t>((uint64_t{high_} << 32 | low_) >> (32 - at_ % 32));
#endif
  }
  VMAMBA_HOST_DEVICE void skip(int bits) {
    const uint32_t before = at_ / 32;
    at_ += static_cast<uint32_t>(bits);
    if (at_ / 32 == before) return;
    high_ = low_;
    low_ = swapped(ahead_);
    ahead_ = words_[before + 3];
  }

 private:
  VMAMBA_HOST_DEVICE static uint32_t swapped(uint32_t word) {
#ifdef __CUDA_ARCH__
    return __byte_perm(word, 0, 0x0123);
#else
    return __builtin_bswap32(word);
#endif
  }
  const uint32_t* words_;
  uint32_t at_, high_, low_, ahead_;
};

// Decodes the symbols that begin before `end`, up to the end of `most` blocks. Calls `sink`: begin(n) before the
// coefficients of the n-th block of this call; dc(difference); ac(zigzag position, value). Returns the number of blocks
// that ended. Invalid data clears `sound` and is skipped deterministically.
template <class Sink>
VMAMBA_HOST_DEVICE inline uint32_t jpeg_decode(const JpegScan& scan, const JpegHuffmanTable* tables,
                                               const uint8_t* data, JpegState& state, uint32_t end,
                                               uint32_t most, bool& sound, Sink&& sink) {
  uint32_t blocks = 0;
  JpegBits in(data, state.bit);
  int z = static_cast<int>(state.place % 64), block = static_cast<int>(state.place / 64);
  const JpegHuffmanTable *dc = tables + scan.block[block].dc_table, *ac = tables + scan.block[block].ac_table;
  if (in.at() < end && blocks < most) sink.begin(0);
  while (in.at() < end && blocks < most) {
    const JpegHuffmanTable& table = z == 0 ? *dc : *ac;
    const uint32_t bits = in.next();
    int length = 0, symbol = -1;
    if (const uint32_t entry = table.lookup[bits >> (32 - jpeg_lookup_bits)]; entry != 0) {
      length = static_cast<int>(entry >> 8);
      symbol = static_cast<int>(entry & 255);
    } else {
      for (length = jpeg_lookup_bits + 1; length <= jpeg_longest_code; ++length) {
        const int code = static_cast<int>(bits >> (32 - length));
        if (code > table.last[length]) continue;
        symbol = table.symbols[(code + table.offset[length]) & 255];
        break;
      }
      if (symbol < 0) {
        sound = false;
        in.skip(1);
        continue;
      }
    }
    const int size = symbol & 15, run = symbol >> 4;
    int value = 0;
    if (size > 0) {
      value = static_cast<int>((bits << length) >> (32 - size));
      if (value < 1 << (size - 1)) value -= (1 << size) - 1;
    }
    in.skip(length + size);
    if (z == 0) {
      sink.dc(value);
      z = 1;
    } else if (size > 0) {
      z += run;
      if (z < 64)
        sink.ac(z, value);
      else
        sound = false;
      ++z;
    } else if (run == 15) {
      z += 16;
      if (z > 64) sound = false;
    } else {
      z = 64;
    }
    if (z >= 64) {
      z = 0;
      block = block + 1 == scan.blocks_per_mcu ? 0 : block + 1;
      dc = tables + scan.block[block].dc_table;
      ac = tables + scan.block[block].ac_table;
      ++blocks;
      if (in.at() < end && blocks < most) sink.begin(blocks);
    }
  }
  state = {in.at(), static_cast<uint32_t>(block * 64 + z)};
  return blocks;
}

// Blocks of segment s.
VMAMBA_HOST_DEVICE inline uint32_t jpeg_segment_blocks(const JpegScan& scan, int s) {
  const int first = s * scan.mcus_per_segment, left = scan.mcus - first;
  return static_cast<uint32_t>((left < scan.mcus_per_segment ? left : scan.mcus_per_segment) *
                               scan.blocks_per_mcu);
}

// Whether a fully decoded segment may end in this state: at most one byte of padding is left.
VMAMBA_HOST_DEVICE inline bool jpeg_segment_is_over(const JpegSegment& segment, const JpegState& state) {
  return state.place == 0 && state.bit <= segment.end * 8 && segment.end * 8 - state.bit < 8;
}

}  // namespace vmamba
