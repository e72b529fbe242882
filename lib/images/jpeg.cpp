// JPEG through libjpeg-turbo with its defaults (slow integer IDCT, fancy upsampling). Four components are always
// read as Adobe stores them, inverted, and converted to RGB with Pillow's rounding.
#include <vector>

#include "kernels/error.h"
#include "lib/images/formats.h"
#include "lib/images/libjpeg.h"

#include <jerror.h>

namespace vmamba {
namespace {

enum class Outcome { done, truncated, failed };

// If `rgb` is null, only the header is read; else rgb holds the pixels of the size in the header, and `row` one row of
// four bytes per pixel.
Outcome run(const EncodedImage& encoded, JpegDecoder& decoder, uint8_t* rgb, uint8_t* row) {
  jpeg_decompress_struct& info = decoder.info;
  if (setjmp(decoder.errors.jump)) return Outcome::failed;
  decoder.open(encoded);
  if (jpeg_read_header(&info, TRUE) == JPEG_SUSPENDED) return Outcome::truncated;
  if (rgb == nullptr) return Outcome::done;
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
  if (!jpeg_start_decompress(&info)) return Outcome::truncated;
  if (lacks_scans(info)) return Outcome::truncated;
  const size_t stride = size_t{info.output_width} * 3;
  while (info.output_scanline < info.output_height) {
    uint8_t* out = rgb + info.output_scanline * stride;
    JSAMPROW line = components == 3 ? out : row;
    if (jpeg_read_scanlines(&info, &line, 1) != 1) return Outcome::truncated;
    for (size_t x = 0; components != 3 && x < info.output_width; ++x, out += 3) {
      if (components == 1)
        put_grey(out, row[x]);
      else  // inverted: 255 − CMY
        for (int c = 0; c < 3; ++c)
          out[c] = static_cast<uint8_t>(row[x * 4 + 3] - times_255th(255 - row[x * 4 + c], row[x * 4 + 3]));
    }
  }
  jpeg_finish_decompress(&info);  // all rows are decoded, whether or not the end marker is present
  return Outcome::done;
}

ImageSize run(const EncodedImage& encoded, uint8_t* rgb, uint8_t* row) {
  JpegDecoder decoder;
  const Outcome outcome = run(encoded, decoder, rgb, row);
  if (outcome == Outcome::truncated) fail_truncated(encoded);
  if (outcome == Outcome::failed) fail_decoding(encoded, decoder.errors.text);
  return {decoder.info.image_width, decoder.info.image_height};
}

// Counts the scans up to the end of the image. Inside a scan, 0xff is followed by 0 or a restart marker.
int count_scans(const EncodedImage& encoded) {
  const std::string_view bytes = encoded.bytes;
  int scans = 0;
  for (size_t at = 2; (at = bytes.find('\xff', at)) != bytes.npos && at + 1 < bytes.size();) {
    const auto marker = static_cast<uint8_t>(bytes[at + 1]);
    constexpr uint8_t start_of_scan = 0xda, end_of_image = 0xd9;
    if (marker == end_of_image) break;
    if (marker == 1 && scans == 0)
      fail_decoding(encoded, "a marker that stands in no header");  // as in Pillow
    if (marker == 0xff) {
      ++at;
    } else if (marker <= 1 || (marker >= 0xd0 && marker <= 0xd8)) {
      at += 2;  // marker without a segment
    } else {
      if (at + 4 > bytes.size()) break;
      scans += marker == start_of_scan;
      at += 2 + big16(data_of(encoded) + at + 2);
    }
  }
  return scans;
}

}  // namespace

ImageSize jpeg_size(const EncodedImage& encoded) {
  // Every scan of a progressive file is a pass over all pixels: a small file could take hours.
  constexpr int most_scans = 100;
  if (const int scans = count_scans(encoded); scans > most_scans)
    fail_input("{}: a JPEG of {} scans; at most {} are decoded: save it anew", encoded.name, scans,
               most_scans);
  return run(encoded, nullptr, nullptr);
}

void decode_jpeg(const EncodedImage& encoded, uint8_t* rgb) {
  std::vector<uint8_t> row(static_cast<size_t>(encoded.width) * 4);
  run(encoded, rgb, row.data());
}

}  // namespace vmamba
