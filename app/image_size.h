// --image-size: SIDE or HEIGHTxWIDTH, in pixels.
#pragma once
#include <cstdint>
#include <string>

namespace vmamba {

struct InputSize {
  int64_t height = 0, width = 0;
};
// InputError if `text` is not a size or the size is too large.
InputSize parse_image_size(const std::string& text);

}  // namespace vmamba
