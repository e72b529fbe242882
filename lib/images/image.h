// Image files → 8-bit RGB, as Pillow's Image.open(…).convert("RGB") gives it, byte for byte, or an error
// (docs/images.md).
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

enum class ImageFormat : uint8_t { jpeg, webp, png, bmp, gif, tiff, pnm };
std::string_view to_string(ImageFormat format);

// An image file's bytes and what its header says; nothing is decoded yet.
struct EncodedImage {
  std::string name;  // for errors
  std::string bytes;
  ImageFormat format = ImageFormat::jpeg;
  int width = 0, height = 0;

  int64_t pixels() const { return int64_t{width} * height; }
};

// The format is told by the content; of several images in a file the first is read. InputError names the file
// and the reason; more than max_pixels are refused here.
EncodedImage open_image(const std::filesystem::path& path);
EncodedImage parse_image(std::string bytes, std::string name);
// Colour profiles are not applied, EXIF orientation only where Pillow does (TIFF), alpha is dropped. A truncated
// file is an InputError.
Image decode_image(const EncodedImage& encoded);

Image read_image(const std::filesystem::path& path);

// What `bytes` begin as: the format's name; empty: no image.
std::string_view image_format_of(std::string_view bytes);

// Endings (lower case, with the dot) by which image files are found in a folder.
bool has_image_ending(const std::filesystem::path& path);
inline constexpr std::string_view image_endings = ".jpg .png .webp .bmp .gif .tif .ppm .pgm .pbm";

}  // namespace vmamba
