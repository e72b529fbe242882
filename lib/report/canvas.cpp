#include "lib/report/canvas.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "kernels/error.h"

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <stb_easy_font.h>
#include <stb_image_write.h>
#pragma GCC diagnostic pop

namespace vmamba {
namespace {

template <size_t N>
Colour between(const std::array<Colour, N>& colours, double s) {
  const double place = s > 0 ? std::min(s, 1.0) * (N - 1) : 0;  // NaN: 0
  const auto i = std::min(static_cast<size_t>(place), N - 2);
  return mixed(colours[i], colours[i + 1], place - static_cast<double>(i));
}

std::string ascii(std::string_view text) {
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xc0) == 0x80) continue;  // the rest of a character
    result += byte >= 32 && byte < 127 ? c : '?';
  }
  return result;
}

// The rectangles of the text's strokes.
void strokes(std::string_view text, const std::function<void(int x, int y, int width, int height)>& draw) {
  struct Vertex {
    float x, y, z;
    uint8_t colour[4];
  };
  std::string letters = ascii(text);
  std::vector<Vertex> vertices(letters.size() * 80 + 4);
  const int quads = stb_easy_font_print(0, 0, letters.data(), nullptr, vertices.data(),
                                        static_cast<int>(vertices.size() * sizeof(Vertex)));
  for (int i = 0; i < quads; ++i) {
    const Vertex &from = vertices[static_cast<size_t>(4 * i)], &to = vertices[static_cast<size_t>(4 * i + 2)];
    draw(static_cast<int>(from.x), static_cast<int>(from.y), static_cast<int>(to.x - from.x),
         static_cast<int>(to.y - from.y));
  }
}

void append(void* to, void* bytes, int count) {
  static_cast<std::string*>(to)->append(static_cast<const char*>(bytes), static_cast<size_t>(count));
}

}  // namespace

Colour mixed(Colour a, Colour b, double part_of_b) {
  const auto mix = [&](uint8_t from, uint8_t to) {
    return static_cast<uint8_t>(std::lround(from + (to - from) * part_of_b));
  };
  return {mix(a.red, b.red), mix(a.green, b.green), mix(a.blue, b.blue)};
}

Colour sequential(double s) {
  return between<5>({{{68, 1, 84}, {59, 82, 139}, {33, 145, 140}, {94, 201, 98}, {253, 231, 37}}}, s);
}

Colour diverging(double s) {
  return between<5>({{{5, 48, 97}, {67, 147, 195}, {247, 247, 247}, {224, 130, 20}, {127, 59, 8}}},
                    (s + 1) / 2);
}

Canvas::Canvas(int width, int height)
    : image_{width, height, std::vector<uint8_t>(static_cast<size_t>(width) * height * 3, 255)} {}

void Canvas::rectangle(int x, int y, int width, int height, Colour colour, double opacity) {
  const int right = std::min(x + width, image_.width), bottom = std::min(y + height, image_.height);
  for (int row = std::max(y, 0); row < bottom; ++row)
    for (int column = std::max(x, 0); column < right; ++column) {
      uint8_t* pixel = &image_.rgb[(static_cast<size_t>(row) * image_.width + column) * 3];
      const Colour result = mixed({pixel[0], pixel[1], pixel[2]}, colour, opacity);
      pixel[0] = result.red, pixel[1] = result.green, pixel[2] = result.blue;
    }
}

void Canvas::frame(int x, int y, int width, int height, Colour colour, int thickness) {
  rectangle(x, y, width, thickness, colour);
  rectangle(x, y + height - thickness, width, thickness, colour);
  rectangle(x, y, thickness, height, colour);
  rectangle(x + width - thickness, y, thickness, height, colour);
}

void Canvas::image(int x, int y, const Image& image) {
  for (int row = 0; row < image.height; ++row)
    for (int column = 0; column < image.width; ++column) {
      const uint8_t* pixel = &image.rgb[(static_cast<size_t>(row) * image.width + column) * 3];
      rectangle(x + column, y + row, 1, 1, {pixel[0], pixel[1], pixel[2]});
    }
}

void Canvas::text(int x, int y, std::string_view text, Colour colour, int scale) {
  strokes(text, [&](int left, int top, int width, int height) {
    rectangle(x + left * scale, y + top * scale, width * scale, height * scale, colour);
  });
}

void Canvas::text_upwards(int x, int y, std::string_view text, Colour colour, int scale) {
  strokes(text, [&](int left, int top, int width, int height) {
    rectangle(x + top * scale, y - (left + width) * scale, height * scale, width * scale, colour);
  });
}

int text_width(std::string_view text, int scale) {
  std::string letters = ascii(text);
  return stb_easy_font_width(letters.data()) * scale;
}

std::string text_within(std::string_view text, int width, int scale) {
  if (text_width(text, scale) <= width) return std::string(text);
  std::string part = ascii(text);
  while (!part.empty() && text_width(part + "..", scale) > width) part.pop_back();
  return part + "..";
}

std::string Canvas::png() const {
  return png_of(image_);
}

std::string png_of(const Image& image) {
  std::string bytes;
  check(stbi_write_png_to_func(append, &bytes, image.width, image.height, 3, image.rgb.data(),
                               image.width * 3) != 0,
        "no PNG was made");
  return bytes;
}

std::string jpeg_of(const Image& image, int quality) {
  std::string bytes;
  check(stbi_write_jpg_to_func(append, &bytes, image.width, image.height, 3, image.rgb.data(), quality) != 0,
        "no JPEG was made");
  return bytes;
}

}  // namespace vmamba
