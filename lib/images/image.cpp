// The table of image formats, and the checks common to all of them.
#include "lib/images/image.h"

#include <algorithm>

#include "kernels/error.h"
#include "lib/images/formats.h"
#include "lib/support/files.h"
#include "lib/support/log.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

using namespace std::string_view_literals;

bool begins_webp(std::string_view bytes) {
  return bytes.starts_with("RIFF"sv) && bytes.substr(0, 12).ends_with("WEBP"sv);
}
bool begins_tiff(std::string_view bytes) {
  for (const std::string_view magic : {"II*\0"sv, "MM\0*"sv, "II+\0"sv, "MM\0+"sv})  // the last two: BigTIFF
    if (bytes.starts_with(magic)) return true;
  return false;
}
bool begins_pnm(std::string_view bytes) {
  return bytes.size() > 2 && bytes[0] == 'P' && bytes[1] >= '1' && bytes[1] <= '6' &&
         " \t\n\v\f\r"sv.find(bytes[2]) != std::string_view::npos;
}

struct Format {
  ImageFormat format;
  std::string_view name;
  bool (*begins)(std::string_view bytes);
  ImageSize (*size)(const EncodedImage&);
  void (*decode)(const EncodedImage&, uint8_t* rgb);
};

constexpr Format formats[] = {
    {ImageFormat::jpeg, "JPEG", [](std::string_view bytes) { return bytes.starts_with("\xff\xd8\xff"sv); },
     jpeg_size, decode_jpeg},
    {ImageFormat::png, "PNG", [](std::string_view bytes) { return bytes.starts_with("\x89PNG\r\n\x1a\n"sv); },
     png_size, decode_png},
    {ImageFormat::webp, "WebP", begins_webp, webp_size, decode_webp},
    {ImageFormat::gif, "GIF",
     [](std::string_view bytes) { return bytes.starts_with("GIF87a"sv) || bytes.starts_with("GIF89a"sv); },
     gif_size, decode_gif},
    {ImageFormat::bmp, "BMP", [](std::string_view bytes) { return bytes.starts_with("BM"sv); }, bmp_size,
     decode_bmp},
    {ImageFormat::tiff, "TIFF", begins_tiff, tiff_size, decode_tiff},
    {ImageFormat::pnm, "PNM", begins_pnm, pnm_size, decode_pnm},
    {ImageFormat::tga, "TGA", begins_tga, tga_size, decode_tga},  // without a signature: last
};

const Format* format_of(std::string_view bytes) {
  const Format* found =
      std::ranges::find_if(formats, [&](const Format& format) { return format.begins(bytes); });
  return found == std::end(formats) ? nullptr : found;
}
const Format& row_of(ImageFormat format) {
  return *std::ranges::find(formats, format, &Format::format);
}

// Formats that are not read.
struct OtherFormat {
  std::string_view name;
  size_t at;  // where the signature is
  std::string_view signature;
};
constexpr OtherFormat other_formats[] = {
    {"an AVIF", 4, "ftypavif"},
    {"an AVIF", 4, "ftypavis"},
    {"a HEIC", 4, "ftyphei"},
    {"a HEIC", 4, "ftyphev"},
    {"a HEIF", 4, "ftypmif1"},
    {"a HEIF", 4, "ftypmsf1"},
    {"a JPEG 2000", 0, "\0\0\0\x0cjP  \r\n\x87\n"sv},
    {"a JPEG 2000", 0, "\xffO\xffQ"sv},
    {"a JPEG XL", 0, "\0\0\0\x0cJXL \r\n\x87\n"sv},
    {"an ICO", 0, "\0\0\1\0"sv},
};

}  // namespace

void fail_truncated(const EncodedImage& encoded) {
  fail_input("{}: the {} file is truncated", encoded.name, to_string(encoded.format));
}

void fail_decoding(const EncodedImage& encoded, std::string_view why) {
  fail_input("{}: not a {} that can be decoded: {}", encoded.name, to_string(encoded.format),
             printable(why.empty() ? "it is corrupt" : why));
}

void warn_of_clipped_grey(const EncodedImage& encoded, int64_t clipped) {
  log_remark(
      LogLevel::warning,
      "{}: grey of more than 8 bits is not scaled but clipped to 0…255, as Pillow does: {} of {} pixels are",
      printable(encoded.name, 1000), clipped, encoded.pixels());
}

std::string_view to_string(ImageFormat format) {
  return row_of(format).name;
}

std::string_view image_format_of(std::string_view bytes) {
  const Format* format = format_of(bytes);
  return format == nullptr ? "" : format->name;
}

EncodedImage parse_image(std::string bytes, std::string name) {
  EncodedImage encoded;
  encoded.name = std::move(name);
  encoded.bytes = std::move(bytes);
  if (encoded.bytes.empty()) fail_input("{}: the file is empty", encoded.name);
  const Format* format = format_of(encoded.bytes);
  if (format == nullptr) {
    constexpr std::string_view known = "JPEG, PNG, WebP, GIF, BMP, TIFF, PNM and TGA are read";
    for (const OtherFormat& other : other_formats)
      if (encoded.bytes.size() > other.at &&
          encoded.bytes.compare(other.at, other.signature.size(), other.signature) == 0)
        fail_input("{}: is {} image, which is not supported ({})", encoded.name, other.name, known);
    fail_input("{}: not an image ({})", encoded.name, known);
  }
  encoded.format = format->format;
  const ImageSize size = format->size(encoded);
  if (size.width <= 0 || size.height <= 0)
    fail_input("{}: the image has no pixels ({} x {})", encoded.name, size.width, size.height);
  if (size.width > max_pixels / size.height)
    fail_input("{}: {} x {} pixels; at most {} are decoded", encoded.name, size.width, size.height,
               int64_t{max_pixels});
  encoded.width = static_cast<int>(size.width);
  encoded.height = static_cast<int>(size.height);
  return encoded;
}

EncodedImage open_image(const std::filesystem::path& path, const std::atomic<bool>* stop) {
  return parse_image(read_file(path, max_file_bytes, stop), path.string());
}

Image decode_image(const EncodedImage& encoded) {
  Image image;
  image.width = encoded.width;
  image.height = encoded.height;
  image.rgb.resize(static_cast<size_t>(encoded.pixels()) * 3);
  row_of(encoded.format).decode(encoded, image.rgb.data());
  return image;
}

Image read_image(const std::filesystem::path& path) {
  return decode_image(open_image(path));
}

bool has_image_ending(const std::filesystem::path& path) {
  const std::string ending = lower_case(path.extension().string());
  for (const std::string_view known : {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif",
                                       ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"})
    if (ending == known) return true;
  return false;
}

}  // namespace vmamba
