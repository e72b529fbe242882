// PNM: P1 to P6, bitmaps, grey and colour, as text or binary. Grey of more than 8 bits is scaled to 16 and clipped at
// 255, colour is scaled to 8, as in Pillow.
#include <algorithm>
#include <cmath>
#include <string>

#include "lib/images/formats.h"

namespace vmamba {
namespace {

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

struct Header {
  char kind = 0;  // '1' to '6'
  int64_t width = 0, height = 0;
  int most = 1;  // sample value of white
  size_t pixels = 0;

  bool is_text() const { return kind <= '3'; }
  bool is_bitmap() const { return kind == '1' || kind == '4'; }
  size_t channels() const { return kind == '3' || kind == '6' ? 3 : 1; }
  bool is_deep_grey() const { return channels() == 1 && most > 255; }
  size_t row_bytes() const {  // for binary kinds only
    const auto samples = static_cast<size_t>(width) * channels();
    return is_bitmap() ? (samples + 7) / 8 : most < 256 ? samples : samples * 2;
  }
};

// Tokens of the text part. "#" begins a comment up to the end of the line; as in Pillow, a comment does not separate
// tokens.
class Words {
 public:
  Words(const EncodedImage& encoded, size_t at) : encoded_(encoded), at_(at) {}

  size_t at() const { return at_; }

  // The next byte outside of comments; −1 at the end.
  int next() {
    const std::string& bytes = encoded_.bytes;
    while (at_ < bytes.size() && bytes[at_] == '#') {
      at_ = bytes.find_first_of("\r\n", at_);
      if (at_ != bytes.npos) ++at_;
    }
    return at_ < bytes.size() ? static_cast<uint8_t>(bytes[at_++]) : -1;
  }

  // The next number; also consumes the one white-space character after it.
  int64_t number() {
    int c = next();
    while (c >= 0 && is_space(static_cast<char>(c))) c = next();
    if (c < 0) fail_truncated(encoded_);
    int64_t value = 0;
    int digits = 0;
    for (; c >= 0 && !is_space(static_cast<char>(c)); c = next()) {
      if (c < '0' || c > '9') fail_decoding(encoded_, "it has something else where a number is wanted");
      if (++digits > 10) fail_decoding(encoded_, "it has a number of more than 10 digits");
      value = value * 10 + (c - '0');
    }
    return value;
  }

 private:
  const EncodedImage& encoded_;
  size_t at_;
};

Header read_header(const EncodedImage& encoded) {
  Header header;
  header.kind = static_cast<char>(*bytes_at(encoded, 1, 1));
  Words words(encoded, 3);
  header.width = words.number();
  header.height = words.number();
  if (!header.is_bitmap()) {
    const int64_t most = words.number();
    if (most <= 0 || most > 65535) fail_decoding(encoded, "its largest value must be between 1 and 65535");
    header.most = static_cast<int>(most);
  }
  header.pixels = std::min(words.at(), encoded.bytes.size());
  return header;
}

// Reads the samples, row by row.
template <class Put>
void read_samples(const EncodedImage& encoded, const Header& header, size_t count, Put put) {
  if (header.kind == '1') {  // digits may be adjacent, without separators
    Words words(encoded, header.pixels);
    size_t i = 0;
    for (int c = words.next(); c >= 0; c = words.next()) {
      if (is_space(static_cast<char>(c))) continue;
      if (c != '0' && c != '1') fail_decoding(encoded, "it has something else than 0 and 1");
      if (i < count) put(i++, c - '0');
    }
    if (i < count) fail_truncated(encoded);
  } else if (header.is_text()) {
    Words words(encoded, header.pixels);
    for (size_t i = 0; i < count; ++i) {
      const int64_t value = words.number();
      if (value > header.most) fail_decoding(encoded, "a value is larger than its largest value");
      put(i, static_cast<int>(value));
    }
  } else {
    const size_t row_bytes = header.row_bytes(), samples = count / static_cast<size_t>(header.height);
    for (size_t y = 0, i = 0; i < count; ++y) {
      const uint8_t* row = bytes_at(encoded, header.pixels + y * row_bytes, row_bytes);
      for (size_t x = 0; x < samples; ++x)
        put(i++, header.is_bitmap()  ? row[x / 8] >> (7 - x % 8) & 1
                 : header.most < 256 ? row[x]
                                     : static_cast<int>(big16(row + x * 2)));
    }
  }
}

}  // namespace

ImageSize pnm_size(const EncodedImage& encoded) {
  const Header header = read_header(encoded);
  // Missing rows are detected before their memory is allocated; in text a sample takes at least a byte.
  if (header.height > 0 && header.width <= max_pixels / header.height)
    bytes_at(
        encoded, header.pixels,
        static_cast<size_t>(header.height) *
            (header.is_text() ? static_cast<size_t>(header.width) * header.channels() : header.row_bytes()));
  return {header.width, header.height};
}

void decode_pnm(const EncodedImage& encoded, uint8_t* rgb) {
  const Header header = read_header(encoded);
  const int full = header.is_deep_grey() ? 65535 : 255;
  int64_t clipped = 0;
  const auto value_of = [&](int sample) {
    if (header.is_bitmap()) return sample == 0 ? 255 : 0;
    if (header.most == 255) return sample;
    const int value =
        std::min(full, static_cast<int>(std::nearbyint(static_cast<double>(sample) / header.most * full)));
    clipped += value > 255;
    return std::min(value, 255);
  };
  const size_t channels = header.channels();
  read_samples(encoded, header, static_cast<size_t>(encoded.pixels()) * channels, [&](size_t i, int sample) {
    const auto value = static_cast<uint8_t>(value_of(sample));
    if (channels == 3)
      rgb[i] = value;
    else
      put_grey(rgb + i * 3, value);
  });
  if (header.is_deep_grey()) warn_of_clipped_grey(encoded, clipped);
}

}  // namespace vmamba
