// SHA-256 (FIPS 180-4): identifies inputs and weights by content.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace vmamba {

class Sha256 {
 public:
  void add(const void* bytes, size_t count);
  void add(std::string_view text) { add(text.data(), text.size()); }
  void add(int64_t number);  // as 8 bytes, little-endian
  std::string hex();         // digest of everything added; nothing may be added afterwards

 private:
  void block(const uint8_t* bytes);

  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> rest_{};  // the incomplete last block
  uint64_t count_ = 0;              // bytes added so far
};

std::string sha256(std::string_view bytes);  // 64 hexadecimal digits, as sha256sum prints them

}  // namespace vmamba
