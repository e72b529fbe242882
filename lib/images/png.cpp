// PNG through libpng. As in Pillow, the CRCs of chunks before the pixels must match; those of the pixel data need
// not, as zlib has its own checksum; data after the last row is not needed. 16-bit colour keeps the high 8 bits;
// 16-bit grey is clipped at 255. libpng reports errors by longjmp, so the function that calls it must not own
// objects with destructors.
#include <png.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels/error.h"
#include "lib/images/formats.h"

namespace vmamba {
namespace {

struct Decoder {
  const EncodedImage& encoded;
  const bool is_interlaced;
  size_t at = 0;  // offset of the next byte for libpng
  bool truncated = false;
  char text[160] = "";
  png_structp png = nullptr;
  png_infop info = nullptr;
  int color_type = 0;
  size_t depth = 0;
  Palette palette{};
  int64_t clipped = 0;  // number of clipped 16-bit grey pixels
};

[[noreturn]] void give_up(png_structp png, png_const_charp text) {
  auto* decoder = static_cast<Decoder*>(png_get_error_ptr(png));
  std::snprintf(decoder->text, sizeof decoder->text, "%s", text);
  png_longjmp(png, 1);
}

void take(png_structp png, png_bytep to, size_t count) {
  auto* decoder = static_cast<Decoder*>(png_get_io_ptr(png));
  const std::string& bytes = decoder->encoded.bytes;
  if (count > bytes.size() - decoder->at) {
    decoder->truncated = true;
    png_error(png, "truncated");
  }
  std::memcpy(to, bytes.data() + decoder->at, count);
  decoder->at += count;
}

void put_row(Decoder& decoder, const uint8_t* row, uint8_t* rgb) {
  const int color_type = decoder.color_type;
  const size_t depth = decoder.depth, sample = depth == 16 ? 2 : 1;
  const bool has_color = color_type & PNG_COLOR_MASK_COLOR;
  const size_t pixel = sample * ((has_color ? 3 : 1) + (color_type & PNG_COLOR_MASK_ALPHA ? 1 : 0));
  const auto width = static_cast<size_t>(decoder.encoded.width);
  if (color_type == PNG_COLOR_TYPE_PALETTE) {
    for (size_t x = 0; x < width; ++x) put_rgb(rgb + x * 3, decoder.palette[row[x]]);
  } else if (has_color) {
    for (size_t x = 0; x < width; ++x)
      for (size_t c = 0; c < 3; ++c) rgb[x * 3 + c] = row[x * pixel + c * sample];
  } else if (color_type == PNG_COLOR_TYPE_GRAY && depth == 16) {
    for (size_t x = 0; x < width; ++x) {
      decoder.clipped += row[x * 2] != 0;
      put_grey(rgb + x * 3, row[x * 2] != 0 ? 255 : row[x * 2 + 1]);
    }
  } else {
    for (size_t x = 0; x < width; ++x) put_grey(rgb + x * 3, row[x * pixel]);
  }
}

// `rows`: a buffer for all rows of `row_bytes` if the image is interlaced, else for one row.
bool run(Decoder& decoder, uint8_t* rows, size_t row_bytes, uint8_t* rgb) {
  decoder.png =
      png_create_read_struct(PNG_LIBPNG_VER_STRING, &decoder, give_up, [](png_structp, png_const_charp) {});
  decoder.info = decoder.png == nullptr ? nullptr : png_create_info_struct(decoder.png);
  if (decoder.info == nullptr) return false;
  png_structp png = decoder.png;
  const auto height = static_cast<png_uint_32>(decoder.encoded.height);
  const size_t step = decoder.is_interlaced ? row_bytes : 0;
  if (setjmp(png_jmpbuf(png))) {
    // After the last row libpng reads on. If the file is truncated only there, the image is complete.
    const bool is_whole = decoder.is_interlaced ? png_get_current_pass_number(png) == 7
                                                : png_get_current_row_number(png) == height;
    if (!decoder.truncated || !is_whole) return false;
    put_row(decoder, rows + (height - 1) * step, rgb + size_t{3} * (height - 1) * decoder.encoded.width);
    return true;
  }
  png_set_read_fn(png, &decoder, take);
  png_set_user_limits(png, 0x7fffffff, 0x7fffffff);  // the caller has checked the size
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  png_set_compression_buffer_size(png, 1 << 16);
  png_read_info(png, decoder.info);
  png_set_crc_action(png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);

  decoder.color_type = png_get_color_type(png, decoder.info);
  decoder.depth = png_get_bit_depth(png, decoder.info);
  png_colorp colors = nullptr;
  int count = 0;
  if (decoder.color_type == PNG_COLOR_TYPE_PALETTE && png_get_PLTE(png, decoder.info, &colors, &count))
    for (int i = 0; i < count && i < 256; ++i)
      decoder.palette[static_cast<size_t>(i)] = {colors[i].red, colors[i].green, colors[i].blue};
  if (decoder.color_type == PNG_COLOR_TYPE_PALETTE)
    png_set_packing(png);
  else if (decoder.depth < 8)
    png_set_expand_gray_1_2_4_to_8(png);
  const int passes = png_set_interlace_handling(png);
  png_read_update_info(png, decoder.info);
  if (png_get_rowbytes(png, decoder.info) > row_bytes || (passes > 1) != decoder.is_interlaced)
    png_error(png, "its header does not fit its rows");
  for (int pass = 0; pass < passes; ++pass)
    for (png_uint_32 y = 0; y < height; ++y) {
      png_read_row(png, rows + y * step, nullptr);
      if (pass == passes - 1) put_row(decoder, rows + y * step, rgb + size_t{3} * y * decoder.encoded.width);
    }
  return true;
}

// Chunks after the pixels are ignored, but as in Pillow a truncated chunk there is an error, and so is an animation
// frame (fdAT) without a frame control chunk (fcTL).
void check_chunks(const EncodedImage& encoded) {
  const std::string_view bytes = encoded.bytes;
  bool is_announced = false;
  for (size_t at = 8; at + 8 <= bytes.size();) {
    const uint64_t length = big32(data_of(encoded) + at);
    const std::string_view kind = bytes.substr(at + 4, 4);
    if (kind == "IEND" ||
        !std::ranges::all_of(kind, [](unsigned char c) { return std::isalnum(c) || c == '_'; }))
      return;
    if (length > bytes.size() - at - 8) fail_truncated(encoded);
    is_announced = is_announced || kind == "fcTL";
    if (kind == "fdAT" && !is_announced) fail_decoding(encoded, "a part of an animation without its control");
    at += 12 + length;
  }
}

}  // namespace

ImageSize png_size(const EncodedImage& encoded) {
  const uint8_t* header = bytes_at(encoded, 8, 8 + 13);
  return {big32(header + 8), big32(header + 12)};
}

void decode_png(const EncodedImage& encoded, uint8_t* rgb) {
  const uint8_t* header = bytes_at(encoded, 16, 13);
  const bool is_interlaced = header[12] != 0;
  const size_t row_bytes = static_cast<size_t>(encoded.width) * 4 * (header[8] == 16 ? 2 : 1);
  std::vector<uint8_t> rows(row_bytes * (is_interlaced ? static_cast<size_t>(encoded.height) : 1));
  Decoder decoder{encoded, is_interlaced};
  const bool done = run(decoder, rows.data(), row_bytes, rgb);
  png_destroy_read_struct(&decoder.png, &decoder.info, nullptr);
  if (done) {
    check_chunks(encoded);
    if (header[8] == 16 && header[9] == PNG_COLOR_TYPE_GRAY) warn_of_clipped_grey(encoded, decoder.clipped);
    return;
  }
  if (decoder.truncated) fail_truncated(encoded);
  fail_decoding(encoded, decoder.text);
}

}  // namespace vmamba
