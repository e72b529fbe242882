// The images of tests/data/images with Pillow's results (expected.tsv).
#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "tests/testing.h"

namespace vmamba::testing {

struct ExpectedPixels {
  std::filesystem::path file;
  std::string step;  // "decode", "refused", or "RESIZE CROP INTERPOLATION"
  uint64_t hash;     // FNV-1a of the RGB bytes
};

inline std::vector<ExpectedPixels> expected_pixels(const std::string& folder = "images") {
  std::vector<ExpectedPixels> all;
  std::ifstream lines(data(folder) / "expected.tsv");
  std::string name, step, hash;
  while (std::getline(lines, name, '\t') && std::getline(lines, step, '\t') && std::getline(lines, hash)) {
    all.push_back({(data(folder) / name).lexically_normal(), step, std::stoull(hash, nullptr, 16)});
  }
  return all;
}

inline uint64_t fnv1a(std::span<const uint8_t> bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3u;
  return hash;
}

}  // namespace vmamba::testing
