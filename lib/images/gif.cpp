// GIF: the first frame on its canvas. Pixels outside the frame have the transparent index, or index 0.
#include <algorithm>
#include <vector>

#include "lib/images/formats.h"

namespace vmamba {
namespace {

struct Frame {
  ImageSize canvas;
  int64_t left = 0, top = 0, width = 0, height = 0;
  bool interlaced = false;
  uint8_t background = 0;  // index of the pixels outside the frame
  unsigned literal_bits = 0;
  size_t blocks = 0;  // offset of the first data block
  Palette palette{};
};

// Reads the palette of 2 << (flags & 7) colours at `at` and moves `at` past it.
Palette read_palette(const EncodedImage& encoded, unsigned flags, size_t& at) {
  Palette palette{};
  const size_t colors = size_t{2} << (flags & 7);
  const uint8_t* bytes = bytes_at(encoded, at, colors * 3);
  for (size_t i = 0; i < colors; ++i) std::copy_n(bytes + i * 3, 3, palette[i].begin());
  at += colors * 3;
  // Pillow treats a grey ramp as no palette: indices past its end are grey levels as well.
  const auto is_ramp = [&] {
    for (size_t i = 0; i < colors; ++i)
      if (std::ranges::any_of(palette[i], [&](uint8_t c) { return c != i; })) return false;
    return true;
  };
  if (is_ramp())
    for (size_t i = colors; i < 256; ++i) palette[i].fill(static_cast<uint8_t>(i));
  return palette;
}

// Reads up to the first image and its header. Blocks that are neither extensions nor images are skipped.
Frame read_frame(const EncodedImage& encoded) {
  const auto byte = [&](size_t at) -> unsigned { return *bytes_at(encoded, at, 1); };
  Frame frame;
  const uint8_t* screen = bytes_at(encoded, 0, 13);
  frame.canvas = {little16(screen + 6), little16(screen + 8)};
  size_t at = 13;
  for (size_t i = 0; i < 256; ++i) frame.palette[i].fill(static_cast<uint8_t>(i));
  if (screen[10] & 0x80) frame.palette = read_palette(encoded, screen[10], at);
  for (;;) {
    const unsigned kind = byte(at++);
    if (kind == 0x3b) fail_decoding(encoded, "it holds no image");
    if (kind == 0x21) {
      const bool is_control = byte(at) == 0xf9, is_comment = byte(at) == 0xfe;
      size_t length = byte(at + 1);
      if (is_control && length > 0 && (byte(at + 2) & 1)) {
        if (length < 4) fail_decoding(encoded, "its graphic control extension is too short");
        frame.background = static_cast<uint8_t>(byte(at + 5));
      }
      at += 2 + length;
      if (length > 0 || !is_comment)
        while ((length = byte(at++)) > 0) at += length;
    }
    if (kind == 0x2c) break;
  }
  const uint8_t* image = bytes_at(encoded, at, 9);
  frame.left = little16(image);
  frame.top = little16(image + 2);
  frame.width = little16(image + 4);
  frame.height = little16(image + 6);
  frame.canvas.width = std::max(frame.canvas.width, frame.left + frame.width);
  frame.canvas.height = std::max(frame.canvas.height, frame.top + frame.height);
  frame.interlaced = image[8] & 0x40;
  at += 9;
  if (image[8] & 0x80) frame.palette = read_palette(encoded, image[8], at);
  frame.literal_bits = byte(at++);
  frame.blocks = at;
  return frame;
}

// Reads codes of variable width, least significant bit first, from length-prefixed blocks.
class Codes {
 public:
  Codes(const EncodedImage& encoded, size_t at) : encoded_(encoded), at_(at) {}

  unsigned next(unsigned bits) {
    while (held_ < bits) {
      if (left_ == 0) {
        left_ = *bytes_at(encoded_, at_, 1);
        if (left_ == 0) fail_truncated(encoded_);
        bytes_at(encoded_, ++at_, left_);
      }
      buffer_ |= uint32_t{data_of(encoded_)[at_++]} << held_;
      held_ += 8;
      --left_;
    }
    const unsigned code = buffer_ & ((1u << bits) - 1);
    buffer_ >>= bits;
    held_ -= bits;
    return code;
  }

 private:
  const EncodedImage& encoded_;
  size_t at_, left_ = 0;  // offset of the next byte; bytes left in the block
  uint32_t buffer_ = 0;
  unsigned held_ = 0;  // bits in the buffer
};

// Writes the pixels of the frame in file order.
class FramePixels {
 public:
  FramePixels(const Frame& frame, uint8_t* rgb) : frame_(frame), rgb_(rgb), pass_(frame.interlaced ? 1 : 0) {}

  // Returns true after the last pixel.
  bool put(uint8_t index) {
    put_rgb(rgb_ + ((frame_.top + y_) * frame_.canvas.width + frame_.left + x_) * 3, frame_.palette[index]);
    if (++x_ < frame_.width) return false;
    constexpr std::array steps{1, 8, 8, 4, 2}, starts{0, 0, 4, 2, 1};  // [0]: not interlaced
    x_ = 0;
    y_ += steps[pass_];
    while (y_ >= frame_.height) {
      if (pass_ == 0 || pass_ == 4) return true;
      y_ = starts[++pass_];
    }
    return false;
  }

 private:
  const Frame& frame_;
  uint8_t* rgb_;
  int64_t x_ = 0, y_ = 0;
  size_t pass_;
};

}  // namespace

ImageSize gif_size(const EncodedImage& encoded) {
  return read_frame(encoded).canvas;
}

// LZW: a code is a literal, "clear", "end", or a table entry: an earlier code plus one index. A full table is kept
// until "clear".
void decode_gif(const EncodedImage& encoded, uint8_t* rgb) {
  const Frame frame = read_frame(encoded);
  if (frame.width == 0 || frame.height == 0) fail_decoding(encoded, "its first frame has no pixels");
  if (frame.literal_bits > 12) fail_decoding(encoded, "its codes are too long");
  for (int64_t i = 0; i < encoded.pixels(); ++i) put_rgb(rgb + i * 3, frame.palette[frame.background]);

  constexpr unsigned most_bits = 12, no_code = ~0u;
  const unsigned clear = 1u << frame.literal_bits, end = clear + 1;
  std::vector<uint16_t> before(size_t{1} << most_bits);  // an earlier code, and the index appended to it
  std::vector<uint8_t> last(size_t{1} << most_bits), text((size_t{1} << most_bits) + 1);
  Codes codes(encoded, frame.blocks);
  FramePixels pixels(frame, rgb);
  unsigned bits = frame.literal_bits + 1, free = end + 1, previous = no_code;
  for (;;) {
    const unsigned code = codes.next(bits);
    if (code == clear) {
      bits = frame.literal_bits + 1;
      free = end + 1;
      previous = no_code;
      continue;
    }
    if (code == end) fail_truncated(encoded);
    // With literals of 12 bits "end" and `free` are beyond the table.
    const unsigned most = std::min(previous == no_code ? clear : free, (1u << most_bits) - 1);
    if (code > most) fail_decoding(encoded, "a code stands for nothing");
    // Decodes the code's indices from last to first; the entry about to be added ends with its own first index.
    size_t begin = text.size();
    unsigned part = code;
    if (previous != no_code && code == free) {
      text[--begin] = 0;
      part = previous;
    }
    for (; part > end; part = before[part]) text[--begin] = last[part];
    text[--begin] = static_cast<uint8_t>(part);
    if (previous != no_code && code == free) text.back() = text[begin];
    if (previous != no_code && free < 1u << most_bits) {
      before[free] = static_cast<uint16_t>(previous);
      last[free] = text[begin];
      if (free == (1u << bits) - 1 && bits < most_bits) ++bits;
      ++free;
    }
    previous = code;
    for (; begin < text.size(); ++begin)
      if (pixels.put(text[begin])) return;
  }
}

}  // namespace vmamba
