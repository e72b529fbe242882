// TGA through stb_image. It leaves missing pixels uninitialised, and reads some kinds otherwise than Pillow: those kinds
// are refused here, and the length of the pixel data is checked first.
#include <algorithm>
#include <cstdlib>
#include <memory>

#include "lib/images/formats.h"

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_TGA
#define STBI_NO_STDIO
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image.h>
#pragma GCC diagnostic pop

namespace vmamba {
namespace {

constexpr size_t header_bytes = 18;

struct Header {
  explicit Header(const uint8_t* p)
      : id_bytes(p[0]),
        map_type(p[1]),
        type(p[2] & 7),
        run_length_encoded(p[2] & 8),
        map_start(little16(p + 3)),
        map_entries(little16(p + 5)),
        map_bits(p[7]),
        width(little16(p + 12)),
        height(little16(p + 14)),
        bits(p[16]),
        right_to_left(p[17] & 0x10) {}
  uint32_t id_bytes, map_type;
  uint32_t type;  // 1 palette, 2 colour, 3 grey
  bool run_length_encoded;
  uint32_t map_start, map_entries, map_bits, width, height, bits;
  bool right_to_left;

  bool readable() const {
    if (map_start != 0 || map_type != (type == 1 ? 1 : 0)) return false;
    if (type == 1)
      return bits == 8 && map_entries > 0 && (map_bits == 16 || map_bits == 24 || map_bits == 32);
    return type == 2 ? bits == 16 || bits == 24 || bits == 32 : bits == 8 || bits == 16;
  }
};

// Fails if the pixel data ends early, or if an index lies past the end of the palette.
void check_data(const EncodedImage& encoded, const Header& header) {
  size_t at = header_bytes + header.id_bytes;
  if (header.type == 1) at += size_t{header.map_entries} * (header.map_bits / 8);
  const size_t pixel_bytes = header.bits / 8;
  const auto check_pixels = [&](size_t count) {
    const uint8_t* pixels = bytes_at(encoded, at, count * pixel_bytes);
    if (header.type == 1 &&
        std::any_of(pixels, pixels + count, [&](uint8_t i) { return i >= header.map_entries; }))
      fail_decoding(encoded, "a pixel's index lies past the end of the palette");
    at += count * pixel_bytes;
  };
  const auto total = size_t{header.width} * header.height;
  if (!header.run_length_encoded) return check_pixels(total);
  for (size_t done = 0; done < total;) {
    const uint8_t packet = *bytes_at(encoded, at++, 1);
    const size_t count = 1 + (packet & 127);
    const bool run = packet & 128;
    if (run && done % header.width + count > header.width)
      fail_decoding(encoded, "a run crosses the end of its row");
    check_pixels(run ? 1 : count);
    done += count;
  }
}

}  // namespace

// The format has no signature: every field of the header must be one that TGA allows.
bool begins_tga(std::string_view bytes) {
  if (bytes.size() < header_bytes) return false;
  const auto* p = reinterpret_cast<const uint8_t*>(bytes.data());
  const Header header(p);
  return (p[2] & ~8) != 0 && (p[2] & ~8) <= 3 && header.map_type <= 1 && header.width > 0 &&
         header.height > 0 &&
         (header.bits == 8 || header.bits == 16 || header.bits == 24 || header.bits == 32) &&
         (header.map_type == 1 || header.map_entries == 0) && (p[17] & 0xc0) == 0;
}

ImageSize tga_size(const EncodedImage& encoded) {
  const Header header(data_of(encoded));
  if (!header.readable()) fail_decoding(encoded, "this kind of TGA is not supported");
  check_data(encoded, header);
  return {header.width, header.height};
}

void decode_tga(const EncodedImage& encoded, uint8_t* rgb) {
  int width = 0, height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, decltype(&std::free)> pixels(
      stbi_load_from_memory(data_of(encoded), static_cast<int>(encoded.bytes.size()), &width, &height,
                            &channels, 3),
      std::free);
  if (!pixels || width != encoded.width || height != encoded.height) fail_decoding(encoded, "");
  std::copy_n(pixels.get(), encoded.pixels() * 3, rgb);
  if (!Header(data_of(encoded)).right_to_left) return;
  for (uint8_t* row = rgb; row < rgb + encoded.pixels() * 3; row += ptrdiff_t{width} * 3)
    for (int left = 0, right = width - 1; left < right; ++left, --right)
      std::swap_ranges(row + left * 3, row + left * 3 + 3, row + right * 3);
}

}  // namespace vmamba
