// Parsing of --image-size.
#include "app/image_size.h"

#include <string_view>

#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {

InputSize parse_image_size(const std::string& text) {
  constexpr int64_t largest = 16384;
  const auto side = [&](std::string_view word) {
    const auto number = parse_decimal<int64_t>(word);
    if (!number || *number < 1 || *number > largest)
      fail_input(
          "--image-size {}: not a size; it is SIDE or HEIGHTxWIDTH in pixels, up to {}, without leading zeros",
          text, largest);
    return *number;
  };
  const std::string_view words = text;
  const size_t x = words.find('x');
  if (x == words.npos) return {side(words), side(words)};
  return {side(words.substr(0, x)), side(words.substr(x + 1))};
}

}  // namespace vmamba
