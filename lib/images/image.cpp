// Decoding of image files. Each decoder is used so that its bytes are Pillow's:
// - JPEG: libjpeg-turbo's defaults (slow integer IDCT, fancy upsampling). Four components are always taken as
// Adobe
//   stores them, inverted, and turned to RGB with Pillow's own rounding.
// - WebP: libwebp; an animation gives its first canvas.
// - PNG, BMP, GIF: stb_image, to three channels. What it would quietly fill with zeros (a file cut short) and
// what
//   it would composite (a transparent GIF) is settled here before it sees the bytes.
#include "lib/images/image.h"

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>

#include <jpeglib.h>
// jpeglib.h must come first
#include <jerror.h>
#include <webp/decode.h>
#include <webp/demux.h>

#include "kernels/error.h"
#include "lib/support/files.h"

namespace {

// The largest block stb_image may ask for while it decodes one image: a small file cannot inflate without
// end.
thread_local size_t largest_block = 0;

void* limited_realloc(void* memory, size_t bytes) {
  return bytes <= largest_block ? std::realloc(memory, bytes) : nullptr;
}

}  // namespace

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_ONLY_GIF
#define STBI_NO_STDIO
#define STBI_NO_HDR
#define STBI_NO_LINEAR
#define STBI_FAILURE_USERMSG
#define STBI_MALLOC(bytes) limited_realloc(nullptr, bytes)
#define STBI_REALLOC(memory, bytes) limited_realloc(memory, bytes)
#define STBI_FREE(memory) std::free(memory)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image.h>
#pragma GCC diagnostic pop

namespace vmamba {
namespace {

constexpr size_t max_file_bytes = size_t{1} << 30;

const uint8_t* data_of(const EncodedImage& encoded) {
  return reinterpret_cast<const uint8_t*>(encoded.bytes.data());
}

uint32_t little32(const uint8_t* p) {
  return p[0] | p[1] << 8 | p[2] << 16 | uint32_t{p[3]} << 24;
}
uint32_t little16(const uint8_t* p) {
  return static_cast<uint32_t>(p[0] | p[1] << 8);
}
uint32_t big32(const uint8_t* p) {
  return uint32_t{p[0]} << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

[[noreturn]] void fail_truncated(const EncodedImage& encoded) {
  fail_input("{}: the {} file is truncated", encoded.name, to_string(encoded.format));
}

std::optional<ImageFormat> format_of(std::string_view bytes) {
  using namespace std::string_view_literals;
  if (bytes.starts_with("\xff\xd8\xff"sv)) return ImageFormat::jpeg;
  if (bytes.starts_with("\x89PNG\r\n\x1a\n"sv)) return ImageFormat::png;
  if (bytes.starts_with("RIFF"sv) && bytes.substr(0, 12).ends_with("WEBP"sv)) return ImageFormat::webp;
  if (bytes.starts_with("GIF87a"sv) || bytes.starts_with("GIF89a"sv)) return ImageFormat::gif;
  if (bytes.starts_with("BM"sv)) return ImageFormat::bmp;
  return std::nullopt;
}

// --- JPEG. libjpeg reports errors by longjmp: the functions that call it hold nothing that has a destructor.

struct JpegErrors {
  jpeg_error_mgr base;
  jmp_buf jump;
  char text[JMSG_LENGTH_MAX];
  bool truncated;
};

[[noreturn]] void jpeg_give_up(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  errors->base.format_message(info, errors->text);
  longjmp(errors->jump, 1);
}

// Corrupt data inside a scan is a warning, as it is to Pillow; the end of the bytes is not.
void jpeg_warn(j_common_ptr info, int level) {
  if (level >= 0 || info->err->msg_code != JWRN_JPEG_EOF) return;
  reinterpret_cast<JpegErrors*>(info->err)->truncated = true;
  jpeg_give_up(info);
}

// A progressive file of a few kilobytes may hold so many scans that it decodes for hours.
void jpeg_limit_scans(j_common_ptr info) {
  constexpr int most = 500;
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= most) return;
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  std::snprintf(errors->text, sizeof errors->text, "more than %d scans", most);
  longjmp(errors->jump, 1);
}

// R = clip(n − C·n/255) with n = 255 − K, rounded as Pillow does; `cmyk` is inverted on the way in.
void rgb_from_inverted_cmyk(const uint8_t* cmyk, int width, uint8_t* rgb) {
  for (int x = 0; x < width; ++x, cmyk += 4, rgb += 3) {
    const int n = cmyk[3];
    for (int c = 0; c < 3; ++c) {
      const int t = (255 - cmyk[c]) * n + 128;
      rgb[c] = static_cast<uint8_t>(n - (((t >> 8) + t) >> 8));
    }
  }
}

struct JpegSize {
  int width, height;
};

// With `rgb` null only the header is read; else rgb has room for the size that the header gave, and `row` for
// four bytes a pixel of one line. False: errors says why.
bool run_jpeg(const EncodedImage& encoded, JpegErrors* errors, JpegSize* size, uint8_t* rgb, uint8_t* row) {
  jpeg_decompress_struct info{};
  jpeg_progress_mgr progress{};
  info.err = jpeg_std_error(&errors->base);
  errors->base.error_exit = jpeg_give_up;
  errors->base.emit_message = jpeg_warn;
  errors->truncated = false;
  if (setjmp(errors->jump)) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_create_decompress(&info);
  progress.progress_monitor = jpeg_limit_scans;
  info.progress = &progress;
  jpeg_mem_src(&info, data_of(encoded), encoded.bytes.size());
  jpeg_read_header(&info, TRUE);
  *size = {static_cast<int>(info.image_width), static_cast<int>(info.image_height)};
  if (rgb != nullptr) {
    const int components = info.num_components;
    if (components == 1) {
      info.out_color_space = JCS_GRAYSCALE;
    } else if (components == 3) {
      info.out_color_space = JCS_RGB;
    } else if (components == 4) {
      info.out_color_space = JCS_CMYK;
    } else {
      ERREXIT2(&info, JERR_COMPONENT_COUNT, components, 4);
    }
    jpeg_start_decompress(&info);
    const size_t stride = size_t{info.output_width} * 3;
    while (info.output_scanline < info.output_height) {
      uint8_t* out = rgb + info.output_scanline * stride;
      JSAMPROW line = components == 3 ? out : row;
      jpeg_read_scanlines(&info, &line, 1);
      if (components == 4) rgb_from_inverted_cmyk(row, static_cast<int>(info.output_width), out);
      if (components == 1) {
        for (size_t x = 0; x < info.output_width; ++x) out[3 * x] = out[3 * x + 1] = out[3 * x + 2] = row[x];
      }
    }
    jpeg_finish_decompress(&info);
  }
  jpeg_destroy_decompress(&info);
  return true;
}

JpegSize run_jpeg(const EncodedImage& encoded, uint8_t* rgb, uint8_t* row) {
  JpegErrors errors{};
  JpegSize size{};
  if (run_jpeg(encoded, &errors, &size, rgb, row)) return size;
  if (errors.truncated) fail_truncated(encoded);
  fail_input("{}: not a JPEG that can be decoded: {}", encoded.name, errors.text);
}

void decode_jpeg(const EncodedImage& encoded, Image& image) {
  std::vector<uint8_t> row(static_cast<size_t>(encoded.width) * 4);
  run_jpeg(encoded, image.rgb.data(), row.data());
}

// --- WebP.

void check_webp(VP8StatusCode status, const EncodedImage& encoded) {
  if (status == VP8_STATUS_OK) return;
  if (status == VP8_STATUS_NOT_ENOUGH_DATA) fail_truncated(encoded);
  if (status == VP8_STATUS_OUT_OF_MEMORY) throw std::bad_alloc();
  fail_input("{}: not a WebP file that can be decoded", encoded.name);
}

WebPBitstreamFeatures webp_features(const EncodedImage& encoded) {
  WebPBitstreamFeatures features;
  check_webp(WebPGetFeatures(data_of(encoded), encoded.bytes.size(), &features), encoded);
  return features;
}

void decode_webp(const EncodedImage& encoded, Image& image) {
  if (!webp_features(encoded).has_animation) {
    WebPDecoderConfig config;
    check(WebPInitDecoderConfig(&config), "libwebp is not the version that it was compiled for");
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA = {image.rgb.data(), image.width * 3, image.rgb.size()};
    check_webp(WebPDecode(data_of(encoded), encoded.bytes.size(), &config), encoded);
    return;
  }
  const WebPData bytes{data_of(encoded), encoded.bytes.size()};
  const std::unique_ptr<WebPAnimDecoder, decltype(&WebPAnimDecoderDelete)> decoder(
      WebPAnimDecoderNew(&bytes, nullptr), WebPAnimDecoderDelete);
  WebPAnimInfo info;
  uint8_t* canvas = nullptr;
  int timestamp = 0;
  if (!decoder || !WebPAnimDecoderGetInfo(decoder.get(), &info) ||
      int64_t{info.canvas_width} * info.canvas_height != encoded.pixels() ||
      !WebPAnimDecoderGetNext(decoder.get(), &canvas, &timestamp))
    fail_input("{}: not a WebP animation that can be decoded; it may be truncated", encoded.name);
  for (int64_t i = 0; i < encoded.pixels(); ++i) std::memcpy(&image.rgb[i * 3], &canvas[i * 4], 3);
}

// --- PNG, BMP, GIF.

// CRC-32 as PNG has it: reflected polynomial 0xedb88320.
uint32_t crc32(std::string_view bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> entries{};
    for (uint32_t i = 0; i < 256; ++i) {
      entries[i] = i;
      for (int bit = 0; bit < 8; ++bit) entries[i] = (entries[i] >> 1) ^ (entries[i] & 1 ? 0xedb88320u : 0);
    }
    return entries;
  }();
  uint32_t crc = 0xffffffffu;
  for (const char byte : bytes) crc = table[(crc ^ static_cast<uint8_t>(byte)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

// The chunks up to IEND lie inside the file; those that must be understood are, and are undamaged (stb_image
// checks no sum).
void check_png(const EncodedImage& encoded) {
  const std::string_view bytes = encoded.bytes;
  for (size_t at = 8; at + 12 <= bytes.size();) {
    const uint64_t length = big32(data_of(encoded) + at);
    const std::string_view type = bytes.substr(at + 4, 4);
    if (length > bytes.size() - at - 12) break;
    if ((type[0] & 0x20) == 0) {
      if (type != "IHDR" && type != "PLTE" && type != "IDAT" && type != "IEND")
        fail_input("{}: not a PNG that can be decoded: unknown chunk", encoded.name);
      if (crc32(bytes.substr(at + 4, length + 4)) != big32(data_of(encoded) + at + 8 + length))
        fail_input("{}: the PNG file is damaged: a checksum does not fit", encoded.name);
    }
    if (type == "IEND") return;
    at += length + 12;
  }
  fail_truncated(encoded);
}

// The pixel rows lie inside the file.
void check_bmp(const EncodedImage& encoded) {
  const uint8_t* bytes = data_of(encoded);
  if (encoded.bytes.size() < 34) fail_truncated(encoded);
  const bool core_header = little32(bytes + 14) == 12;
  const uint64_t bits = little16(bytes + (core_header ? 24 : 28));
  const uint64_t width = static_cast<uint64_t>(encoded.width), height = static_cast<uint64_t>(encoded.height);
  const uint64_t row = (width * bits + 7) / 8, stride = (width * bits + 31) / 32 * 4;
  if (little32(bytes + 10) + stride * (height - 1) + row > encoded.bytes.size()) fail_truncated(encoded);
}

// Walks to the end of the first frame, which lies inside the file. Its transparent colour is made an ordinary
// one: Pillow's "RGB" is the palette's colour there, whatever alpha would be.
void settle_gif(EncodedImage& encoded) {
  std::string& bytes = encoded.bytes;
  const auto byte = [&](size_t at) -> unsigned {
    if (at >= bytes.size()) fail_truncated(encoded);
    return static_cast<uint8_t>(bytes[at]);
  };
  const auto palette_bytes = [](unsigned flags) { return flags & 0x80 ? size_t{3} << ((flags & 7) + 1) : 0; };
  const auto after_blocks = [&](size_t at) {
    while (const unsigned length = byte(at)) at += length + 1;
    return at + 1;
  };
  size_t at = 13 + palette_bytes(byte(10));
  for (;;) {
    switch (byte(at)) {
      case 0x2c:  // image: descriptor, palette, code size, blocks
        after_blocks(at + 10 + palette_bytes(byte(at + 9)) + 1);
        return;
      case 0x21:  // extension: label, blocks
        if (byte(at + 1) == 0xf9 && byte(at + 2) >= 4) bytes[at + 3] = static_cast<char>(byte(at + 3) & ~1u);
        at = after_blocks(at + 2);
        break;
      case 0x3b:
        fail_input("{}: the GIF file holds no image", encoded.name);
      default:
        fail_input("{}: not a GIF that can be decoded", encoded.name);
    }
  }
}

[[noreturn]] void fail_stb(const EncodedImage& encoded) {
  const char* reason = stbi_failure_reason();
  if (reason != nullptr && std::strcmp(reason, "Out of memory") == 0)
    reason = "its data is larger than its size says";
  fail_input("{}: not a {} that can be decoded: {}", encoded.name, to_string(encoded.format),
             reason != nullptr ? reason : "corrupt");
}

void decode_with_stb(const EncodedImage& encoded, Image& image) {
  // Per pixel at most 4 channels of 16 bits, doubled where a buffer grows; per byte of the file the joined
  // IDATs.
  largest_block = 16 * static_cast<size_t>(encoded.pixels()) + 4 * encoded.bytes.size() + (size_t{1} << 20);
  int width = 0, height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(data_of(encoded), static_cast<int>(encoded.bytes.size()), &width, &height,
                            &channels, 3),
      stbi_image_free);
  if (!pixels || width != encoded.width || height != encoded.height) fail_stb(encoded);
  std::memcpy(image.rgb.data(), pixels.get(), image.rgb.size());
}

void read_header(EncodedImage& encoded) {
  if (encoded.format == ImageFormat::jpeg) {
    const JpegSize size = run_jpeg(encoded, nullptr, nullptr);
    encoded.width = size.width;
    encoded.height = size.height;
  } else if (encoded.format == ImageFormat::webp) {
    const WebPBitstreamFeatures features = webp_features(encoded);
    encoded.width = features.width;
    encoded.height = features.height;
  } else if (encoded.format == ImageFormat::png && encoded.bytes.size() >= 24) {
    const uint32_t width = big32(data_of(encoded) + 16), height = big32(data_of(encoded) + 20);
    encoded.width = static_cast<int>(std::min<uint32_t>(width, INT32_MAX));
    encoded.height = static_cast<int>(std::min<uint32_t>(height, INT32_MAX));
  } else {
    largest_block = size_t{1} << 20;
    int channels = 0;
    if (!stbi_info_from_memory(data_of(encoded), static_cast<int>(encoded.bytes.size()), &encoded.width,
                               &encoded.height, &channels))
      fail_input(
          "{}: not a {} that can be decoded: its header is truncated, corrupt or of a kind not supported",
          encoded.name, to_string(encoded.format));
    if (encoded.format == ImageFormat::bmp && encoded.height < 0)
      encoded.height = -(encoded.height + 1) + 1;  // top down
  }
}

}  // namespace

std::string_view to_string(ImageFormat format) {
  switch (format) {
    case ImageFormat::jpeg:
      return "JPEG";
    case ImageFormat::webp:
      return "WebP";
    case ImageFormat::png:
      return "PNG";
    case ImageFormat::bmp:
      return "BMP";
    case ImageFormat::gif:
      return "GIF";
  }
  return "?";
}

EncodedImage parse_image(std::string bytes, std::string name) {
  EncodedImage encoded;
  encoded.name = std::move(name);
  encoded.bytes = std::move(bytes);
  if (encoded.bytes.empty()) fail_input("{}: the file is empty", encoded.name);
  const auto format = format_of(encoded.bytes);
  if (!format) fail_input("{}: not an image (JPEG, PNG, WebP, BMP and GIF are read)", encoded.name);
  encoded.format = *format;
  read_header(encoded);
  if (encoded.width <= 0 || encoded.height <= 0)
    fail_input("{}: the image has no pixels ({} x {})", encoded.name, encoded.width, encoded.height);
  if (encoded.pixels() > max_pixels)
    fail_input("{}: {} x {} pixels; at most {} are decoded", encoded.name, encoded.width, encoded.height,
               int64_t{max_pixels});
  if (encoded.format == ImageFormat::png) check_png(encoded);
  if (encoded.format == ImageFormat::bmp) check_bmp(encoded);
  if (encoded.format == ImageFormat::gif) settle_gif(encoded);
  return encoded;
}

EncodedImage open_image(const std::filesystem::path& path) {
  return parse_image(read_file(path, max_file_bytes), path.string());
}

Image decode_image(const EncodedImage& encoded) {
  Image image;
  image.width = encoded.width;
  image.height = encoded.height;
  image.rgb.resize(static_cast<size_t>(encoded.pixels()) * 3);
  if (encoded.format == ImageFormat::jpeg) {
    decode_jpeg(encoded, image);
  } else if (encoded.format == ImageFormat::webp) {
    decode_webp(encoded, image);
  } else {
    decode_with_stb(encoded, image);
  }
  return image;
}

Image read_image(const std::filesystem::path& path) {
  return decode_image(open_image(path));
}

bool has_image_ending(const std::filesystem::path& path) {
  std::string ending = path.extension().string();
  for (char& c : ending) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  for (const std::string_view known : {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"})
    if (ending == known) return true;
  return false;
}

}  // namespace vmamba
