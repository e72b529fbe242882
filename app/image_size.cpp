// Parsing of --image-size.
#include "app/image_size.h"

#include <charconv>

#include "kernels/error.h"

namespace vmamba {

InputSize parse_image_size(const std::string& text) {
  constexpr int64_t largest = 16384;
  const auto side = [&](const char* begin, const char* end) {
    int64_t number = 0;
    const auto [rest, error] = std::from_chars(begin, end, number);
    if (error != std::errc() || rest != end || number < 1 || number > largest)
      fail_input("--image-size {}: not a size; it is SIDE or HEIGHTxWIDTH in pixels, up to {}", text,
                 largest);
    return number;
  };
  const char *begin = text.data(), *end = begin + text.size();
  const size_t x = text.find('x');
  if (x == std::string::npos) return {side(begin, end), side(begin, end)};
  return {side(begin, begin + x), side(begin + x + 1, end)};
}

}  // namespace vmamba
