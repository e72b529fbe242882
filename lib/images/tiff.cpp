// TIFF through libtiff: the first page, in strips or tiles, interleaved or planar. Supports what Pillow does: grey,
// palette, RGB, CMYK and YCbCr with the bit depths in its table; the orientation is applied (Pillow does so for
// TIFF only). 16-bit colour keeps the high 8 bits; grey of more than 8 bits is clipped to 0…255.
#include <tiffio.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/error.h"
#include "lib/images/formats.h"

namespace vmamba {
namespace {

// --- libtiff's I/O on memory; the first error is kept.

struct Source {
  const EncodedImage& encoded;
  uint64_t at = 0;
  char error[200] = "";
};

tmsize_t read_source(thandle_t handle, void* to, tmsize_t count) {
  auto* source = static_cast<Source*>(handle);
  const uint64_t size = source->encoded.bytes.size();
  const uint64_t got = source->at >= size ? 0 : std::min(static_cast<uint64_t>(count), size - source->at);
  std::memcpy(to, source->encoded.bytes.data() + (got == 0 ? 0 : source->at), got);
  source->at += got;
  return static_cast<tmsize_t>(got);
}

toff_t seek_source(thandle_t handle, toff_t offset, int whence) {
  auto* source = static_cast<Source*>(handle);
  source->at = offset + (whence == SEEK_CUR   ? source->at
                         : whence == SEEK_END ? source->encoded.bytes.size()
                                              : 0);
  return source->at;
}

int keep_error(TIFF*, void* data, const char*, const char* format, va_list arguments) {
  auto* source = static_cast<Source*>(data);
  if (source->error[0] == 0) std::vsnprintf(source->error, sizeof source->error, format, arguments);
  return 1;
}

using Tiff = std::unique_ptr<TIFF, decltype(&TIFFClose)>;

Tiff open_tiff(Source& source) {
  const std::unique_ptr<TIFFOpenOptions, decltype(&TIFFOpenOptionsFree)> options(TIFFOpenOptionsAlloc(),
                                                                                 TIFFOpenOptionsFree);
  if (!options) throw std::bad_alloc();
  TIFFOpenOptionsSetMaxSingleMemAlloc(options.get(), tmsize_t{1} << 30);
  TIFFOpenOptionsSetErrorHandlerExtR(options.get(), keep_error, &source);
  TIFFOpenOptionsSetWarningHandlerExtR(
      options.get(), [](TIFF*, void*, const char*, const char*, va_list) { return 1; }, nullptr);
  Tiff tiff(TIFFClientOpenExt(
                "", "r", &source, read_source, [](thandle_t, void*, tmsize_t) { return tmsize_t{0}; },
                seek_source, [](thandle_t) { return 0; },
                [](thandle_t handle) { return toff_t{static_cast<Source*>(handle)->encoded.bytes.size()}; },
                [](thandle_t handle, void** base, toff_t* size) {
                  const std::string& bytes = static_cast<Source*>(handle)->encoded.bytes;
                  *base = const_cast<char*>(bytes.data());
                  *size = bytes.size();
                  return 1;
                },
                [](thandle_t, void*, toff_t) {}, options.get()),
            TIFFClose);
  if (!tiff) fail_decoding(source.encoded, source.error);
  return tiff;
}

template <class T>
T field(const Tiff& tiff, uint32_t tag, T otherwise) {
  T value = otherwise;
  return TIFFGetFieldDefaulted(tiff.get(), tag, &value) == 1 ? value : otherwise;
}

// --- Tags.

struct Layout {
  uint32_t width = 0, height = 0;
  uint16_t bits = 1, samples = 1, format = SAMPLEFORMAT_UINT, photometric = 0, compression = 1,
           orientation = 1;
  bool planes = false, premultiplied = false;
  size_t colors = 1;  // samples per pixel without the extra ones

  bool is_deep_grey() const { return colors == 1 && photometric != PHOTOMETRIC_PALETTE && bits > 8; }
};

// libtiff repairs damaged tags in its own way (if the palette is unreadable, it treats the indices as grey), Pillow
// does not: tags that affect pixels must have a numeric type, and list tags must lie inside the file.
void check_directory(const EncodedImage& encoded, const Tiff& tiff, const Layout& layout) {
  const bool is_big_endian = encoded.bytes[0] == 'M';
  const auto number = [&](size_t at, size_t bytes) {
    const uint8_t* p = bytes_at(encoded, at, bytes);
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value = value << 8 | p[is_big_endian ? i : bytes - 1 - i];
    return value;
  };
  const bool is_big_tiff = number(2, 2) == 43;
  const size_t word = is_big_tiff ? 8 : 4;
  const size_t directory = number(is_big_tiff ? 8 : 4, word),
               entries = number(directory, is_big_tiff ? 8 : 2);
  uint64_t photometric = PHOTOMETRIC_MINISWHITE, far = 0;  // bytes stored outside the entries
  bool has_offsets = false;
  for (size_t i = 0; i < entries; ++i) {
    const size_t entry = directory + (is_big_tiff ? 8 + i * 20 : 2 + i * 12);
    const uint64_t tag = number(entry, 2), type = number(entry + 2, 2), count = number(entry + 4, word);
    constexpr std::array deciding{TIFFTAG_IMAGEWIDTH,   TIFFTAG_IMAGELENGTH,  TIFFTAG_BITSPERSAMPLE,
                                  TIFFTAG_COMPRESSION,  TIFFTAG_PHOTOMETRIC,  TIFFTAG_SAMPLESPERPIXEL,
                                  TIFFTAG_ROWSPERSTRIP, TIFFTAG_PLANARCONFIG, TIFFTAG_TILEWIDTH,
                                  TIFFTAG_TILELENGTH,   TIFFTAG_SAMPLEFORMAT, TIFFTAG_ORIENTATION};
    constexpr std::array lists{TIFFTAG_STRIPOFFSETS, TIFFTAG_TILEOFFSETS, TIFFTAG_STRIPBYTECOUNTS,
                               TIFFTAG_TILEBYTECOUNTS, TIFFTAG_COLORMAP};
    const auto width = static_cast<uint64_t>(TIFFDataWidth(static_cast<TIFFDataType>(type)));
    const bool is_number = type == TIFF_SHORT || type == TIFF_LONG;
    bool good = count > 0 && count <= encoded.bytes.size() &&
                (is_number || std::ranges::find(deciding, tag) == deciding.end());
    const bool is_far = good && count * width > word;
    if (is_far) far += count * width;
    if (is_far && std::ranges::find(lists, tag) != lists.end())
      bytes_at(encoded, number(entry + 4 + word, word), count * width);
    const bool is_offsets = tag == TIFFTAG_STRIPOFFSETS || tag == TIFFTAG_TILEOFFSETS;
    if (is_offsets)  // libtiff itself splits a single large strip
      good = good && count <= (TIFFIsTiled(tiff.get()) ? TIFFNumberOfTiles(tiff.get())
                                                       : TIFFNumberOfStrips(tiff.get()));
    if (tag == TIFFTAG_COLORMAP && layout.photometric == PHOTOMETRIC_PALETTE)
      good = good && count == size_t{3} << layout.bits;
    if (!good) fail_decoding(encoded, fmt::format("tag {} is damaged", tag));
    if (tag == TIFFTAG_PHOTOMETRIC) photometric = number(entry + 4 + word, type == TIFF_SHORT ? 2 : 4);
    has_offsets = has_offsets || is_offsets;
  }
  if (photometric != layout.photometric || !has_offsets || far > encoded.bytes.size())
    fail_decoding(encoded, "its tags are damaged");
}

Layout read_layout(const EncodedImage& encoded, const Tiff& tiff) {
  Layout layout;
  layout.width = field<uint32_t>(tiff, TIFFTAG_IMAGEWIDTH, 0);
  layout.height = field<uint32_t>(tiff, TIFFTAG_IMAGELENGTH, 0);
  layout.bits = field<uint16_t>(tiff, TIFFTAG_BITSPERSAMPLE, 1);
  layout.samples = field<uint16_t>(tiff, TIFFTAG_SAMPLESPERPIXEL, 1);
  layout.format = field<uint16_t>(tiff, TIFFTAG_SAMPLEFORMAT, SAMPLEFORMAT_UINT);
  layout.compression = field<uint16_t>(tiff, TIFFTAG_COMPRESSION, COMPRESSION_NONE);
  layout.photometric = field<uint16_t>(tiff, TIFFTAG_PHOTOMETRIC, PHOTOMETRIC_MINISWHITE);
  layout.orientation = field<uint16_t>(tiff, TIFFTAG_ORIENTATION, ORIENTATION_TOPLEFT);
  layout.planes = field<uint16_t>(tiff, TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG) == PLANARCONFIG_SEPARATE;
  check_directory(encoded, tiff, layout);
  if (layout.compression == COMPRESSION_OJPEG) layout.photometric = PHOTOMETRIC_YCBCR;
  uint16_t extras = 0;
  const uint16_t* extra = nullptr;
  if (TIFFGetField(tiff.get(), TIFFTAG_EXTRASAMPLES, &extras, &extra) != 1) extras = 0;

  constexpr std::array known{1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32809, 32946, 34925, 50000};
  if (std::ranges::find(known, layout.compression) == known.end())
    fail_decoding(encoded, "its compression is not one that is read");
  const auto bits_in = [&](std::initializer_list<int> list) {
    return std::ranges::find(list, layout.bits) != list.end();
  };
  const bool is_little = encoded.bytes[0] == 'I';
  bool good = false;
  switch (layout.photometric) {
    case PHOTOMETRIC_MINISWHITE:
    case PHOTOMETRIC_MINISBLACK: {
      const bool dark = layout.photometric == PHOTOMETRIC_MINISBLACK;
      // As in Pillow's table: deep grey only in little-endian files.
      good = layout.format == SAMPLEFORMAT_UINT
                 ? bits_in({1, 2, 4, 8}) || (bits_in({16}) && (dark || is_little)) ||
                       (bits_in({32}) && dark && is_little)
             : layout.format == SAMPLEFORMAT_INT    ? dark && bits_in({8, 16, 32})
             : layout.format == SAMPLEFORMAT_IEEEFP ? bits_in({32})
                                                    : false;
      if (extras > 0) good = dark && extras == 1 && layout.bits == 8 && extra[0] == EXTRASAMPLE_UNASSALPHA;
      break;
    }
    case PHOTOMETRIC_PALETTE:
      good = extras == 0 ? bits_in({1, 2, 4, 8})
                         : extras == 1 && bits_in({8}) && extra[0] != EXTRASAMPLE_ASSOCALPHA;
      break;
    case PHOTOMETRIC_RGB:
      layout.colors = 3;
      layout.premultiplied = extras > 0 && extra[0] == EXTRASAMPLE_ASSOCALPHA;
      good = (layout.bits == 8 && extras <= 3) || (layout.bits == 16 && extras <= 1);
      break;
    case PHOTOMETRIC_SEPARATED:
      layout.colors = 4;
      good = (layout.bits == 8 && extras <= 2) || (layout.bits == 16 && extras == 0);
      break;
    case PHOTOMETRIC_YCBCR:
      layout.colors = layout.samples;
      good = layout.bits == 8 && extras == 0 && (layout.samples == 1 || layout.samples == 3) &&
             (layout.samples == 1 || layout.compression != COMPRESSION_NONE);
      break;
    default:
      break;
  }
  for (int i = 1; i < extras; ++i) good = good && extra[i] == EXTRASAMPLE_UNSPECIFIED;
  if (layout.colors > 1) good = good && layout.format == SAMPLEFORMAT_UINT;
  if (layout.planes && layout.samples > 1 && layout.compression == COMPRESSION_NONE)  // as in Pillow
    good = good && !layout.premultiplied && layout.bits == 8;
  // An unspecified fourth sample of RGB is alpha.
  if (layout.photometric == PHOTOMETRIC_RGB && layout.samples == 4 && extras == 0) extras = 1;
  if (!good || layout.samples != layout.colors + extras)
    fail_decoding(
        encoded,
        fmt::format("{} samples of {} bits with photometric interpretation {} are not a kind that is "
                    "read",
                    layout.samples, layout.bits, layout.photometric));
  return layout;
}

// --- Samples → 8 bits: palette indices unchanged, grey scaled up from fewer bits, clipped from more.

template <class T>
uint8_t clipped(T value) {
  return value >= T{255} ? 255 : value > T{0} ? static_cast<uint8_t>(value) : 0;
}

// Converts `count` samples of a row, written `step` bytes apart. Returns the number of clipped samples.
int64_t narrow_samples(const Layout& layout, const uint8_t* row, size_t count, uint8_t* out, size_t step) {
  const unsigned bits = layout.bits;
  const bool is_index = layout.photometric == PHOTOMETRIC_PALETTE;
  int64_t beyond = 0;
  const auto clip = [&]<class T>(T) {
    for (size_t i = 0; i < count; ++i) {
      T value;
      std::memcpy(&value, row + i * sizeof(T), sizeof(T));
      beyond += !(value >= T{0} && value <= static_cast<T>(255));
      out[i * step] = clipped(value);
    }
  };
  if (bits < 8) {
    const unsigned most = (1u << bits) - 1, scale = is_index ? 1 : 255 / most;
    for (size_t i = 0; i < count; ++i)
      out[i * step] = static_cast<uint8_t>(((row[i * bits / 8] >> (8 - bits - i * bits % 8)) & most) * scale);
  } else if (bits == 8) {
    for (size_t i = 0; i < count; ++i) out[i * step] = row[i];
  } else if (!layout.is_deep_grey()) {
    for (size_t i = 0; i < count; ++i) {
      uint16_t value;
      std::memcpy(&value, row + i * 2, 2);
      out[i * step] = static_cast<uint8_t>(value >> 8);
    }
  } else if (layout.format == SAMPLEFORMAT_IEEEFP) {
    clip(float{});
  } else if (bits == 32) {
    clip(int32_t{});  // unsigned samples too, as in Pillow
  } else if (layout.format == SAMPLEFORMAT_INT) {
    clip(int16_t{});
  } else {
    clip(uint16_t{});
  }
  if (layout.photometric == PHOTOMETRIC_MINISWHITE && bits <= 8)
    for (size_t i = 0; i < count; ++i) out[i * step] = static_cast<uint8_t>(255 - out[i * step]);
  return beyond;
}

// --- 8-bit samples → RGB.

void put_row(const Layout& layout, const Palette& palette, const uint8_t* samples, size_t count,
             uint8_t* rgb) {
  for (size_t x = 0; x < count; ++x, samples += layout.samples, rgb += 3) {
    if (layout.photometric == PHOTOMETRIC_PALETTE) {
      put_rgb(rgb, palette[samples[0]]);
    } else if (layout.colors == 1) {
      put_grey(rgb, samples[0]);
    } else if (layout.colors == 4) {
      put_cmy(rgb, samples, 255 - samples[3]);
    } else {
      const int alpha = layout.premultiplied ? samples[3] : 255;
      for (int c = 0; c < 3; ++c)
        rgb[c] = static_cast<uint8_t>(alpha == 0 ? 0 : std::min(255, samples[c] * 255 / alpha));
    }
  }
}

Palette read_palette(const EncodedImage& encoded, const Tiff& tiff, const Layout& layout) {
  Palette palette{};
  uint16_t *red = nullptr, *green = nullptr, *blue = nullptr;
  if (layout.photometric != PHOTOMETRIC_PALETTE) return palette;
  if (TIFFGetField(tiff.get(), TIFFTAG_COLORMAP, &red, &green, &blue) != 1)
    fail_decoding(encoded, "it has no palette");
  for (size_t i = 0; i < size_t{1} << layout.bits; ++i)
    palette[i] = {static_cast<uint8_t>(red[i] >> 8), static_cast<uint8_t>(green[i] >> 8),
                  static_cast<uint8_t>(blue[i] >> 8)};
  return palette;
}

// libtiff itself converts subsampled colour to RGB.
void decode_ycbcr(const EncodedImage& encoded, Source& source, const Tiff& tiff, const Layout& layout,
                  uint8_t* rgb) {
  std::vector<uint32_t> pixels(size_t{layout.width} * layout.height);
  TIFFRGBAImage image;
  char text[1024] = "";
  if (!TIFFRGBAImageOK(tiff.get(), text) || !TIFFRGBAImageBegin(&image, tiff.get(), 1, text))
    fail_decoding(encoded, text);
  image.orientation = image.req_orientation = ORIENTATION_TOPLEFT;
  const int got = TIFFRGBAImageGet(&image, pixels.data(), layout.width, layout.height);
  TIFFRGBAImageEnd(&image);
  if (got != 1) fail_decoding(encoded, source.error);
  for (size_t i = 0; i < pixels.size(); ++i) std::memcpy(rgb + i * 3, &pixels[i], 3);
}

// Decodes strip by strip or tile by tile.
void decode_blocks(const EncodedImage& encoded, Source& source, const Tiff& tiff, const Layout& layout,
                   uint8_t* rgb) {
  TIFF* file = tiff.get();
  const bool tiled = TIFFIsTiled(file);
  const uint32_t block_width = tiled ? field<uint32_t>(tiff, TIFFTAG_TILEWIDTH, 0) : layout.width;
  const uint32_t block_height =
      tiled ? field<uint32_t>(tiff, TIFFTAG_TILELENGTH, 0)
            : std::min(field<uint32_t>(tiff, TIFFTAG_ROWSPERSTRIP, layout.height), layout.height);
  const auto row_bytes = static_cast<uint64_t>(tiled ? TIFFTileRowSize(file) : TIFFScanlineSize(file));
  const auto block_bytes = static_cast<uint64_t>(tiled ? TIFFTileSize(file) : TIFFStripSize(file));
  const size_t planes = layout.planes ? layout.samples : 1, samples = layout.samples / planes;
  const uint64_t wanted = (uint64_t{block_width} * samples * layout.bits + 7) / 8;
  // A tile may be larger than the image, but a small file must not be able to allocate all memory.
  const uint64_t most = 64 * (uint64_t{1} << 20) + 16 * uint64_t{layout.width} * layout.height;
  if (block_width == 0 || block_height == 0 || row_bytes < wanted || block_bytes < row_bytes * block_height ||
      block_bytes > most)
    fail_decoding(encoded, "its strips or tiles do not fit its size");
  const Palette palette = read_palette(encoded, tiff, layout);
  // libdeflate, libtiff's preferred decoder, leaves the end of a block uninitialised if its data is longer than the
  // block.
  if (layout.compression == COMPRESSION_ADOBE_DEFLATE || layout.compression == COMPRESSION_DEFLATE)
    TIFFSetField(file, TIFFTAG_DEFLATE_SUBCODEC, DEFLATE_SUBCODEC_ZLIB);
  std::vector<uint8_t> block(block_bytes);
  const uint32_t columns = std::min(block_width, layout.width), rows = std::min(block_height, layout.height);
  std::vector<uint8_t> narrow(size_t{columns} * rows * layout.samples);
  int64_t beyond = 0;
  for (uint32_t top = 0; top < layout.height; top += std::min(block_height, layout.height - top))
    for (uint32_t left = 0; left < layout.width; left += std::min(block_width, layout.width - left)) {
      const uint32_t width = std::min(columns, layout.width - left),
                     height = std::min(rows, layout.height - top);
      const size_t row_samples = size_t{width} * layout.samples;
      for (size_t plane = 0; plane < planes; ++plane) {
        const auto sample = static_cast<uint16_t>(plane);
        const uint64_t needed = (height - 1) * row_bytes + (uint64_t{width} * samples * layout.bits + 7) / 8;
        const tmsize_t got = tiled ? TIFFReadTile(file, block.data(), left, top, 0, sample)
                                   : TIFFReadEncodedStrip(file, TIFFComputeStrip(file, top, sample),
                                                          block.data(), static_cast<tmsize_t>(block_bytes));
        if (got < 0) fail_decoding(encoded, source.error);
        if (static_cast<uint64_t>(got) < needed) fail_truncated(encoded);
        for (uint32_t y = 0; y < height; ++y)
          beyond += narrow_samples(layout, block.data() + y * row_bytes, size_t{width} * samples,
                                   narrow.data() + y * row_samples + plane, planes);
      }
      for (uint32_t y = 0; y < height; ++y)
        put_row(layout, palette, narrow.data() + y * row_samples, width,
                rgb + (size_t{top + y} * layout.width + left) * 3);
    }
  if (layout.is_deep_grey()) warn_of_clipped_grey(encoded, beyond);
}

bool is_turned(const Layout& layout) {
  return layout.orientation >= ORIENTATION_LEFTTOP;
}

}  // namespace

ImageSize tiff_size(const EncodedImage& encoded) {
  Source source{encoded};
  const Layout layout = read_layout(encoded, open_tiff(source));
  return is_turned(layout) ? ImageSize{layout.height, layout.width} : ImageSize{layout.width, layout.height};
}

void decode_tiff(const EncodedImage& encoded, uint8_t* rgb) {
  Source source{encoded};
  const Tiff tiff = open_tiff(source);
  const Layout layout = read_layout(encoded, tiff);
  const bool moved = layout.orientation != ORIENTATION_TOPLEFT;
  std::vector<uint8_t> stored(moved ? static_cast<size_t>(encoded.pixels()) * 3 : 0);
  uint8_t* pixels = moved ? stored.data() : rgb;
  const bool is_ycbcr = layout.photometric == PHOTOMETRIC_YCBCR && layout.samples == 3;
  if (is_ycbcr && (layout.compression != COMPRESSION_JPEG || layout.planes)) {
    decode_ycbcr(encoded, source, tiff, layout, pixels);
  } else {
    if (is_ycbcr) TIFFSetField(tiff.get(), TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
    decode_blocks(encoded, source, tiff, layout, pixels);
  }
  if (!moved) return;
  const bool turned = is_turned(layout);
  const auto has = [&](std::initializer_list<int> list) {
    return std::ranges::find(list, layout.orientation) != list.end();
  };
  // Whether the first stored column or row is displayed last.
  const bool flip_columns =
      has({ORIENTATION_TOPRIGHT, ORIENTATION_BOTRIGHT, ORIENTATION_RIGHTBOT, ORIENTATION_LEFTBOT});
  const bool flip_rows =
      has({ORIENTATION_BOTRIGHT, ORIENTATION_BOTLEFT, ORIENTATION_RIGHTTOP, ORIENTATION_RIGHTBOT});
  for (size_t y = 0; y < layout.height; ++y)
    for (size_t x = 0; x < layout.width; ++x) {
      const size_t row = flip_rows ? layout.height - 1 - y : y,
                   column = flip_columns ? layout.width - 1 - x : x;
      const size_t place = turned ? column * layout.height + row : row * layout.width + column;
      std::memcpy(rgb + place * 3, pixels + (y * layout.width + x) * 3, 3);
    }
}

}  // namespace vmamba
