// The file formats, one source file each: the size in the header, and the pixels as by Pillow's convert("RGB").
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

#include "lib/images/image.h"

namespace vmamba {

struct ImageSize {
  int64_t width = 0, height = 0;
};

// `rgb` holds encoded.pixels() · 3 bytes, initialised to black. All functions throw InputError.
ImageSize bmp_size(const EncodedImage& encoded);
void decode_bmp(const EncodedImage& encoded, uint8_t* rgb);
ImageSize gif_size(const EncodedImage& encoded);
void decode_gif(const EncodedImage& encoded, uint8_t* rgb);
ImageSize jpeg_size(const EncodedImage& encoded);
void decode_jpeg(const EncodedImage& encoded, uint8_t* rgb);
ImageSize png_size(const EncodedImage& encoded);
void decode_png(const EncodedImage& encoded, uint8_t* rgb);
ImageSize pnm_size(const EncodedImage& encoded);
void decode_pnm(const EncodedImage& encoded, uint8_t* rgb);
bool begins_tga(std::string_view bytes);
ImageSize tga_size(const EncodedImage& encoded);
void decode_tga(const EncodedImage& encoded, uint8_t* rgb);
ImageSize tiff_size(const EncodedImage& encoded);
void decode_tiff(const EncodedImage& encoded, uint8_t* rgb);
ImageSize webp_size(const EncodedImage& encoded);
void decode_webp(const EncodedImage& encoded, uint8_t* rgb);

[[noreturn]] void fail_truncated(const EncodedImage& encoded);
[[noreturn]] void fail_decoding(const EncodedImage& encoded, std::string_view why);

inline const uint8_t* data_of(const EncodedImage& encoded) {
  return reinterpret_cast<const uint8_t*>(encoded.bytes.data());
}

// A pointer to `count` bytes of the file at offset `at`; fails if they lie beyond its end.
inline const uint8_t* bytes_at(const EncodedImage& encoded, size_t at, size_t count) {
  if (at > encoded.bytes.size() || count > encoded.bytes.size() - at) fail_truncated(encoded);
  return data_of(encoded) + at;
}

inline uint32_t little16(const uint8_t* p) {
  return static_cast<uint32_t>(p[0] | p[1] << 8);
}
inline uint32_t little32(const uint8_t* p) {
  return little16(p) | little16(p + 2) << 16;
}
inline uint32_t big16(const uint8_t* p) {
  return static_cast<uint32_t>(p[0] << 8 | p[1]);
}
inline uint32_t big32(const uint8_t* p) {
  return big16(p) << 16 | big16(p + 2);
}

// Entries past the end of a short palette are black.
using Palette = std::array<std::array<uint8_t, 3>, 256>;

inline void put_rgb(uint8_t* rgb, const std::array<uint8_t, 3>& color) {
  for (int c = 0; c < 3; ++c) rgb[c] = color[static_cast<size_t>(c)];
}
inline void put_grey(uint8_t* rgb, uint8_t value) {
  rgb[0] = rgb[1] = rgb[2] = value;
}
// a · b / 255, rounded as in Pillow.
inline int times_255th(int a, int b) {
  const int t = a * b + 128;
  return ((t >> 8) + t) >> 8;
}
// CMY and K to RGB: (1 − C)(1 − K), with `paper` = 255 − K.
inline void put_cmy(uint8_t* rgb, const uint8_t* cmy, int paper) {
  for (int c = 0; c < 3; ++c) rgb[c] = static_cast<uint8_t>(paper - times_255th(cmy[c], paper));
}

// Grey of more than 8 bits is clipped, not scaled, as in Pillow; the warning gives the number of clipped pixels.
void warn_of_clipped_grey(const EncodedImage& encoded, int64_t clipped);

}  // namespace vmamba
