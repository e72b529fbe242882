// Image files → 8-bit RGB, as Pillow's Image.open(…).convert("RGB") gives it, byte for byte.
#pragma once
#include <cstdint>
#include <filesystem>
#include <vector>

namespace vmamba {

struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;  // height · width · 3, row-major
};

// JPEG (libjpeg-turbo), WebP (libwebp), PNG, BMP, GIF, … (stb_image). InputError names the file and the reason;
// an image of more than max_pixels is refused from its header.
Image read_image(const std::filesystem::path& path);
inline constexpr int64_t max_pixels = 178'956'970;  // Pillow's own limit

}  // namespace vmamba
