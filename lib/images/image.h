// Image files → 8-bit RGB, as Pillow's Image.open(…).convert("RGB") gives it, byte for byte.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace vmamba {

struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;  // height · width · 3, row-major
};

inline constexpr int64_t max_pixels = 178'956'970;  // Pillow's own limit

enum class ImageFormat : uint8_t { jpeg, webp, png, bmp, gif };
std::string_view to_string(ImageFormat format);

// An image file's bytes and what its header says; nothing is decoded yet.
struct EncodedImage {
  std::string name;  // for errors
  std::string bytes;
  ImageFormat format = ImageFormat::jpeg;
  int width = 0, height = 0;

  int64_t pixels() const { return int64_t{width} * height; }
};

// The format is told by the content: JPEG (libjpeg-turbo), WebP (libwebp), PNG, BMP or GIF (stb_image), the
// first frame of an animation. InputError names the file and the reason; more than max_pixels are refused
// here.
EncodedImage open_image(const std::filesystem::path& path);
EncodedImage parse_image(std::string bytes, std::string name);
// EXIF orientation and colour profiles are not applied, alpha is dropped. A truncated file is an InputError.
Image decode_image(const EncodedImage& encoded);

Image read_image(const std::filesystem::path& path);

// Endings (lower case, with the dot) by which image files are found in a folder.
bool has_image_ending(const std::filesystem::path& path);

}  // namespace vmamba
