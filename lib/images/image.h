// Decodes image files to 8-bit RGB, byte for byte as Pillow's Image.open(…).convert("RGB"), or fails
// (docs/images.md).
#pragma once
#include <atomic>
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

inline constexpr int64_t max_pixels = 178'956'970;  // Pillow's limit
inline constexpr size_t max_file_bytes = size_t{1} << 30;

enum class ImageFormat : uint8_t { jpeg, webp, png, bmp, gif, tiff, pnm, tga };
std::string_view to_string(ImageFormat format);

// The bytes of an image file with its parsed header; not yet decoded.
struct EncodedImage {
  std::string name;  // for error messages
  std::string bytes;
  ImageFormat format = ImageFormat::jpeg;
  int width = 0, height = 0;

  int64_t pixels() const { return int64_t{width} * height; }
};

// Detects the format by content; for files with several images only the first is read. InputError names the file and
// the reason; images of more than max_pixels are refused. `stop`: as of read_file().
EncodedImage open_image(const std::filesystem::path& path, const std::atomic<bool>* stop = nullptr);
EncodedImage parse_image(std::string bytes, std::string name);
// Colour profiles are ignored, EXIF orientation is applied only where Pillow does (TIFF), alpha is dropped. A truncated
// file is an InputError.
Image decode_image(const EncodedImage& encoded);

Image read_image(const std::filesystem::path& path);

// The name of the format detected from the first bytes; empty if it is not an image.
std::string_view image_format_of(std::string_view bytes);

// File name extensions (lower case, with the dot) that count as images in a folder.
bool has_image_ending(const std::filesystem::path& path);
inline constexpr std::string_view image_endings = ".jpg .png .webp .bmp .gif .tif .ppm .pgm .pbm .tga";

}  // namespace vmamba
