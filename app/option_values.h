// Checks of the values that options take.
#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>

#include "lib/support/text.h"

namespace vmamba {

// A check that the value is a whole number in decimal: CLI11 itself would read 010 as 8, and true as 1.
template <class T>
auto whole_number(T least, T most = std::numeric_limits<T>::max()) {
  return [least, most](const std::string& text) -> std::string {
    const auto number = parse_decimal<T>(text);
    if (number && *number >= least && *number <= most && text != "-0") return {};
    const bool bounded = most < std::numeric_limits<T>::max();
    return fmt::format("{} is not a whole number from {}{}", printable(text), least,
                       bounded ? fmt::format(" to {}", most) : "");
  };
}

// A check that the value is a finite number that is `good`; `wanted` says which those are.
template <class Good>
auto real_number(std::string wanted, Good good) {
  return [wanted = std::move(wanted), good](const std::string& text) -> std::string {
    const auto number = parse_decimal<double>(text);
    if (number && std::isfinite(*number) && good(*number)) return {};
    if (!number && parse_number<double>(text)) return printable(text) + " has leading zeros: leave them out";
    double nearest{};
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, nearest);
    if (error == std::errc::result_out_of_range && rest == end &&
        std::abs(std::strtod(text.c_str(), nullptr)) < 1)
      return fmt::format("{} is too small: the smallest number is {}, else give 0", printable(text),
                         std::numeric_limits<double>::denorm_min());
    return fmt::format("{} is not a finite number {}", printable(text), wanted);
  };
}

// A check that a file that will hold safetensors is not named as one of another format of tensors.
inline std::string safetensors_name(const std::string& path) {
  constexpr auto others =
      std::to_array<std::string_view>({".npy", ".npz", ".pth", ".pt", ".ckpt", ".bin", ".onnx"});
  const std::string ending = lower_case(std::filesystem::path(path).extension().string());
  if (std::ranges::find(others, ending) == others.end()) return {};
  return fmt::format("{} would hold safetensors: name a .safetensors file", printable(path));
}

}  // namespace vmamba
