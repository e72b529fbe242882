// BMP: the headers of OS/2 (12 and 64 bytes) and Windows (40 to 124), 1 to 32 bits, RLE4 and RLE8, and the bit fields
// that Pillow supports. As in Pillow, the alpha channel of a 32-bit file is dropped.
#include <algorithm>
#include <bit>
#include <vector>

#include "lib/images/formats.h"

namespace vmamba {
namespace {

constexpr uint32_t raw = 0, rle8 = 1, rle4 = 2, bit_fields = 3;  // Header::coding

struct Header {
  int64_t width = 0, height = 0;
  bool top_down = false;
  uint32_t bits = 0, coding = raw;
  std::array<uint32_t, 4> masks{};  // of red, green, blue, alpha
  size_t colors = 0, color_bytes = 4;
  size_t palette = 0, pixels = 0;  // offsets in the file

  bool has_runs() const { return coding == rle8 || coding == rle4; }
};

Header read_header(const EncodedImage& encoded) {
  Header header;
  const uint32_t size = little32(bytes_at(encoded, 14, 4));
  constexpr std::array known{12u, 40u, 52u, 56u, 64u, 108u, 124u};
  if (std::ranges::find(known, size) == known.end()) fail_decoding(encoded, "its header is of no known size");
  const uint8_t* bytes = bytes_at(encoded, 14, size);
  header.palette = size_t{14} + size;
  if (size == 12) {
    header.width = little16(bytes + 4);
    header.height = little16(bytes + 6);
    header.bits = little16(bytes + 10);
    header.color_bytes = 3;
  } else {
    header.width = little32(bytes + 4);
    header.top_down = bytes[11] == 0xff;
    header.height = little32(bytes + 8);
    if (header.top_down) header.height = (int64_t{1} << 32) - header.height;
    header.bits = little16(bytes + 14);
    header.coding = little32(bytes + 16);
    header.colors = little32(bytes + 32);
    if (header.coding == bit_fields) {
      const size_t masks = size >= 56 ? 4 : 3;
      const uint8_t* mask = bytes_at(encoded, 14 + 40, masks * 4);
      for (size_t i = 0; i < masks; ++i) header.masks[i] = little32(mask + i * 4);
      if (size == 40) header.palette += 12;
    }
  }
  constexpr std::array depths{1u, 4u, 8u, 16u, 24u, 32u};
  if (std::ranges::find(depths, header.bits) == depths.end())
    fail_decoding(encoded, "it has no known number of bits a pixel");
  header.pixels = little32(bytes_at(encoded, 10, 4));
  if (header.bits <= 8) {
    if (header.colors == 0) header.colors = size_t{1} << header.bits;
    if (header.colors > 256) fail_decoding(encoded, "its palette has more than 256 colours");
    const size_t behind = header.palette + header.colors * header.color_bytes;
    // Some files give the palette's offset as the offset of the pixels.
    if (header.pixels == 0 || header.pixels == size_t{14} + size) header.pixels = behind;
  } else if (header.pixels == 0) {
    header.pixels = header.palette;
  }
  return header;
}

// A palette truncated by the end of the file is a shorter palette.
Palette read_palette(const EncodedImage& encoded, const Header& header) {
  Palette palette{};
  for (size_t i = 0; i < header.colors; ++i) {
    const size_t at = header.palette + i * header.color_bytes;
    if (at + header.color_bytes > encoded.bytes.size()) break;
    const uint8_t* bgr = data_of(encoded) + at;
    palette[i] = {bgr[2], bgr[1], bgr[0]};
  }
  // Pillow treats a grey ramp as no palette: indices past its end are grey levels as well.
  const int step = header.colors == 2 ? 255 : 1;
  for (size_t i = 0; i < header.colors; ++i)
    if (std::ranges::any_of(palette[i], [&](uint8_t c) { return c != static_cast<int>(i) * step; }))
      return palette;
  if (header.bits != (header.colors <= 2 ? 1 : 8))
    fail_decoding(encoded, "its palette is a ramp of greys that does not fit its bits a pixel");
  for (size_t i = header.colors; i < 256; ++i)
    palette[i].fill(static_cast<uint8_t>(header.colors <= 2 ? 255 : i));
  return palette;
}

// Row y as stored; the padding of the last row may be missing.
const uint8_t* row_at(const EncodedImage& encoded, const Header& header, int64_t y) {
  const size_t bits = static_cast<size_t>(header.width) * header.bits;
  return bytes_at(encoded, header.pixels + static_cast<size_t>(y) * ((bits + 31) / 32 * 4), (bits + 7) / 8);
}

// RLE: pairs of a count and an index (RLE4: two alternating indices). A count of 0 is an escape: end of row (0), end of
// image (1), a jump (2: by x and y), or a literal run of that many indices, padded to two bytes.
std::vector<uint8_t> unpack_runs(const EncodedImage& encoded, const Header& header) {
  const size_t width = static_cast<size_t>(header.width), wanted = width * static_cast<size_t>(header.height);
  const bool nibbles = header.coding == rle4;
  std::vector<uint8_t> indices(wanted);
  size_t done = 0, x = 0, at = header.pixels;
  const auto put = [&](unsigned index) {
    if (done < wanted) indices[done] = static_cast<uint8_t>(index);
    ++done;
  };
  while (done < wanted) {
    const uint8_t* pair = bytes_at(encoded, at, 2);
    at += 2;
    if (pair[0] > 0) {
      const size_t count = std::min<size_t>(pair[0], x < width ? width - x : 0);
      for (size_t i = 0; i < count; ++i) put(!nibbles ? pair[1] : i % 2 == 0 ? pair[1] >> 4 : pair[1] & 15);
      x += count;
    } else if (pair[1] == 0) {
      done += (width - done % width) % width;
      x = 0;
    } else if (pair[1] == 1) {
      fail_truncated(encoded);
    } else if (pair[1] == 2) {
      const uint8_t* jump = bytes_at(encoded, at, 2);
      at += 2;
      done += jump[0] + jump[1] * width;
      x = done % width;
    } else {
      const size_t count = std::min<size_t>(wanted - done, pair[1]);
      const size_t bytes = nibbles ? (count + 1) / 2 : count;
      const uint8_t* run = bytes_at(encoded, at, bytes);
      for (size_t i = 0; i < count; ++i)
        put(!nibbles ? run[i] : i % 2 == 0 ? run[i / 2] >> 4 : run[i / 2] & 15);
      x += pair[1];
      at += bytes;
      at += at % 2;  // padding to an even offset in the file, as in Pillow
    }
  }
  return indices;
}

// Byte positions of red, green and blue in a 32-bit pixel.
std::array<int, 3> channels_of(const EncodedImage& encoded, const std::array<uint32_t, 4>& masks) {
  constexpr std::array<std::array<uint32_t, 4>, 8> known{{{0xff0000, 0xff00, 0xff, 0},
                                                          {0xff000000, 0xff0000, 0xff00, 0},
                                                          {0xff000000, 0xff00, 0xff, 0},
                                                          {0xff000000, 0xff0000, 0xff00, 0xff},
                                                          {0xff, 0xff00, 0xff0000, 0xff000000},
                                                          {0xff0000, 0xff00, 0xff, 0xff000000},
                                                          {0xff000000, 0xff00, 0xff, 0xff0000},
                                                          {0, 0, 0, 0}}};
  if (std::ranges::find(known, masks) == known.end())
    fail_decoding(encoded, "its bit fields are of no known kind");
  if (masks[0] == 0) return {2, 1, 0};
  std::array<int, 3> channels{};
  for (size_t c = 0; c < 3; ++c) channels[c] = std::countr_zero(masks[c]) / 8;
  return channels;
}

}  // namespace

ImageSize bmp_size(const EncodedImage& encoded) {
  const Header header = read_header(encoded);
  // Missing rows are detected before their memory is allocated.
  if (!header.has_runs() && header.height > 0 && header.width <= max_pixels / header.height)
    row_at(encoded, header, header.height - 1);
  return {header.width, header.height};
}

void decode_bmp(const EncodedImage& encoded, uint8_t* rgb) {
  const Header header = read_header(encoded);
  const bool runs = header.has_runs();
  if (header.coding > bit_fields) fail_decoding(encoded, "its compression is not one that is read");
  if ((runs && header.bits > 8) || (header.coding == bit_fields && header.bits <= 8))
    fail_decoding(encoded, "its compression does not fit its bits a pixel");
  const Palette palette = header.bits <= 8 ? read_palette(encoded, header) : Palette{};
  std::array<int, 3> channels{2, 1, 0};
  unsigned green_bits = 5;
  if (header.coding == bit_fields) {
    const std::array<uint32_t, 3> masks{header.masks[0], header.masks[1], header.masks[2]};
    if (header.bits == 32) channels = channels_of(encoded, header.masks);
    if (header.bits == 16 && masks == std::array{0xf800u, 0x7e0u, 0x1fu})
      green_bits = 6;
    else if ((header.bits == 16 && masks != std::array{0x7c00u, 0x3e0u, 0x1fu}) ||
             (header.bits == 24 && masks != std::array{0xff0000u, 0xff00u, 0xffu}))
      fail_decoding(encoded, "its bit fields are of no known kind");
  }
  const std::vector<uint8_t> indices = runs ? unpack_runs(encoded, header) : std::vector<uint8_t>();
  const size_t width = static_cast<size_t>(header.width);
  for (int64_t y = 0; y < header.height; ++y) {
    uint8_t* out = rgb + (header.top_down ? y : header.height - 1 - y) * header.width * 3;
    const uint8_t* row = runs ? indices.data() + static_cast<size_t>(y) * width : row_at(encoded, header, y);
    for (size_t x = 0; x < width; ++x, out += 3) {
      if (header.bits <= 8) {
        const unsigned bits = runs ? 8 : header.bits, place = x * bits % 8;
        put_rgb(out, palette[(row[x * bits / 8] >> (8 - bits - place)) & ((1u << bits) - 1)]);
      } else if (header.bits == 16) {
        const uint32_t pixel = little16(row + x * 2), most_green = (1u << green_bits) - 1;
        out[0] = static_cast<uint8_t>(((pixel >> (5 + green_bits)) & 31) * 255 / 31);
        out[1] = static_cast<uint8_t>(((pixel >> 5) & most_green) * 255 / most_green);
        out[2] = static_cast<uint8_t>((pixel & 31) * 255 / 31);
      } else {
        const uint8_t* pixel = row + x * header.bits / 8;
        for (size_t c = 0; c < 3; ++c) out[c] = pixel[channels[c]];
      }
    }
  }
}

}  // namespace vmamba
