// For compare_with_pillow.py: decodes the image files that standard input lists, one a line, and prints for each
// WIDTH, HEIGHT and the FNV-1a hash of its RGB bytes, or "error" and why there are none, separated by tabs.
#include <spdlog/spdlog.h>

#include <cstdio>
#include <iostream>
#include <string>

#include "kernels/error.h"
#include "lib/images/image.h"

int main() {
  spdlog::set_level(spdlog::level::off);
  for (std::string path; std::getline(std::cin, path);) {
    try {
      const vmamba::Image image = vmamba::read_image(path);
      uint64_t hash = 0xcbf29ce484222325u;
      for (const uint8_t byte : image.rgb) hash = (hash ^ byte) * 0x100000001b3u;
      std::printf("%d\t%d\t%016llx\n", image.width, image.height, static_cast<unsigned long long>(hash));
    } catch (const vmamba::InputError& error) {
      std::printf("error\t%s\n", error.what());
    }
  }
}
