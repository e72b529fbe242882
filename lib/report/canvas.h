// A raster image that is drawn on, for PNG pictures: rectangles, images, text in a bitmap font, colour scales.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lib/images/image.h"

namespace vmamba {

struct Colour {
  uint8_t red = 0, green = 0, blue = 0;
};
Colour mixed(Colour a, Colour b, double part_of_b);
// Colour scales that are read without colour vision: dark to light (viridis) for s in [0, 1]; blue, white, orange for s in
// [−1, 1].
Colour sequential(double s);
Colour diverging(double s);

class Canvas {
 public:
  Canvas(int width, int height);  // white

  int width() const { return image_.width; }
  int height() const { return image_.height; }
  void rectangle(int x, int y, int width, int height, Colour colour, double opacity = 1);
  void frame(int x, int y, int width, int height, Colour colour, int thickness = 1);
  void image(int x, int y, const Image& image);
  // `x`, `y`: the upper left corner. Characters outside of ASCII are drawn as "?". Lines of text are 12 · scale high.
  void text(int x, int y, std::string_view text, Colour colour = {}, int scale = 1);
  // Upwards, from the lower left corner.
  void text_upwards(int x, int y, std::string_view text, Colour colour = {}, int scale = 1);
  std::string png() const;

 private:
  Image image_;
};
int text_width(std::string_view text, int scale = 1);
// The beginning of the text, with "..", that is not wider.
std::string text_within(std::string_view text, int width, int scale = 1);

std::string png_of(const Image& image);
std::string jpeg_of(const Image& image, int quality);

}  // namespace vmamba
