// Every image of tests/data decodes to Pillow's bytes; what is no image, or only half of one, is refused by
// name.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <fstream>

#include "kernels/error.h"
#include "lib/images/image.h"
#include "lib/support/files.h"
#include "tests/images/images.h"
#include "tests/testing.h"

using namespace vmamba;
using namespace vmamba::testing;

namespace {

EncodedImage parse(const std::string& bytes) {
  return parse_image(bytes, "it");
}

int64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

void put(std::string& bytes, size_t at, std::string_view part) {
  bytes.replace(at, part.size(), part);
}

}  // namespace

TEST_CASE("decoding gives Pillow's bytes") {
  int images = 0;
  for (const ExpectedPixels& expected : expected_pixels()) {
    if (expected.step != "decode") continue;
    INFO(expected.file);
    const Image image = read_image(expected.file);
    CHECK(image.rgb.size() == static_cast<size_t>(image.width) * image.height * 3);
    CHECK(fnv1a(image.rgb) == expected.hash);
    ++images;
  }
  CHECK(images >= 40);
}

TEST_CASE("odd files give Pillow's bytes or are refused") {
  int decoded = 0, refused = 0;
  for (const ExpectedPixels& expected : expected_pixels("odd_images")) {
    INFO(expected.file);
    if (expected.step == "refused") {
      CHECK_THROWS_AS(read_image(expected.file), InputError);
      ++refused;
      continue;
    }
    Image image;
    CHECK_NOTHROW(image = read_image(expected.file));
    CHECK(fnv1a(image.rgb) == expected.hash);
    ++decoded;
  }
  CHECK(decoded >= 140);
  CHECK(refused >= 40);
}

TEST_CASE("a file cut short is refused, whatever its format and wherever the cut") {
  // With how many bytes at the end that hold no pixels: a PNG's IEND and the checksum before it, a GIF's
  // terminators, a BMP row's padding.
  for (const auto& [name, tail] :
       std::initializer_list<std::pair<const char*, size_t>>{{"images/420_restart.jpg", 1},
                                                             {"images/444_progressive.jpg", 1},
                                                             {"images/rgba.png", 16},
                                                             {"odd_images/interlaced_9x9.png", 16},
                                                             {"images/lossy.webp", 3},
                                                             {"images/lossless_alpha.webp", 3},
                                                             {"images/animated.webp", 3},
                                                             {"images/palette.gif", 2},
                                                             {"images/rgb.bmp", 3},
                                                             {"images/1bit.bmp", 3},
                                                             {"odd_images/p6.ppm", 0},
                                                             {"odd_images/p3.ppm", 2},
                                                             {"odd_images/lzw.tif", 0},
                                                             {"odd_images/jpeg.tif", 0}}) {
    const std::string bytes = read_file(data(name));
    for (size_t length = 0; length + tail < bytes.size(); length += std::max<size_t>(1, bytes.size() / 97)) {
      INFO(name, " ", length);
      CHECK_THROWS_AS(decode_image(parse(bytes.substr(0, length))), InputError);
    }
  }
  const std::string jpeg = read_file(data("images/cat_420.jpg"));
  CHECK_THROWS_WITH_AS(decode_image(parse(jpeg.substr(0, jpeg.size() / 2))), "it: the JPEG file is truncated",
                       InputError);
  CHECK_THROWS_WITH_AS(decode_image(parse(jpeg.substr(0, jpeg.size() - 2))), "it: the JPEG file is truncated",
                       InputError);
}

TEST_CASE("damaged bytes are decoded or refused, never more than that") {
  uint32_t state = 1;
  const auto random = [&] { return state = state * 1664525u + 1013904223u, state >> 8; };
  int refused = 0;
  for (const char* name :
       {"images/420_restart.jpg", "images/444_progressive.jpg", "images/rgba.png", "images/interlaced.png",
        "images/palette_2bit.png", "images/lossless_alpha.webp", "images/animated.webp",
        "images/transparent.gif", "images/animated.gif", "images/rgba.bmp", "images/palette.bmp",
        "odd_images/rle8.bmp", "odd_images/interlaced.gif", "odd_images/p3.ppm", "odd_images/p5_16bit.pgm",
        "odd_images/lzw.tif", "odd_images/jpeg.tif", "odd_images/tiles_deflate.tif"}) {
    const std::string bytes = read_file(data(name));
    for (int round = 0; round < 60; ++round) {
      std::string damaged = bytes;
      for (uint32_t i = 0; i <= random() % 8; ++i)
        damaged[random() % std::min<size_t>(bytes.size(), 1 + random() % bytes.size())] =
            static_cast<char>(random());
      try {
        const EncodedImage encoded = parse(damaged);
        if (encoded.pixels() < 1 << 22) decode_image(encoded);
      } catch (const InputError&) {
        ++refused;
      }
    }
  }
  CHECK(refused > 100);
}

TEST_CASE("one wrong bit in a PNG is noticed") {
  const std::string png = read_file(data("images/interlaced.png"));
  int noticed = 0;
  for (size_t at = 8; at < png.size() - 16; at += 97, ++noticed) {
    std::string damaged = png;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    INFO(at);
    CHECK_THROWS_AS(decode_image(parse(damaged)), InputError);
  }
  CHECK(noticed > 50);
}

TEST_CASE("too many pixels are refused from the header") {
  std::string png = read_file(data("images/rgba.png"));
  put(png, 16, std::string("\x00\x00\x75\x30\x00\x00\x75\x30", 8));
  CHECK_THROWS_WITH_AS(parse(png), "it: 30000 x 30000 pixels; at most 178956970 are decoded", InputError);

  std::string jpeg = read_file(data("images/420_restart.jpg"));
  const size_t sof = jpeg.find("\xff\xc0");
  REQUIRE(sof != std::string::npos);
  put(jpeg, sof + 5, "\x75\x30\x75\x30");
  CHECK_THROWS_WITH_AS(parse(jpeg), doctest::Contains("30000 x 30000"), InputError);

  std::string bmp = read_file(data("images/rgb.bmp"));
  put(bmp, 18, std::string("\x30\x75\x00\x00\x30\x75\x00\x00", 8));
  CHECK_THROWS_WITH_AS(parse(bmp), doctest::Contains("30000 x 30000"), InputError);

  std::string gif = read_file(data("images/palette.gif"));
  put(gif, 6, "\x30\x75\x30\x75");
  CHECK_THROWS_WITH_AS(parse(gif), doctest::Contains("30000 x 30000"), InputError);
}

TEST_CASE("a GIF whose literals leave no code of the table is read within it") {
  // 12 bits, codes of 13: 5, 4098, 4098.
  std::string gif("GIF89a\2\0\2\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\2\0\2\0\0\x0c\5", 31);
  gif += std::string("\5\x40\0\x0a\x40\0;", 7);
  CHECK_THROWS_WITH_AS(decode_image(parse(gif)), doctest::Contains("a code stands for nothing"), InputError);
}

TEST_CASE("a JPEG of more scans than any encoder writes is refused before it is decoded") {
  const std::string jpeg = read_file(data("images/444_progressive.jpg"));
  const size_t scan = jpeg.find("\xff\xda"), length = static_cast<uint8_t>(jpeg[scan + 3]) + 2u;
  std::string scans;
  for (int i = 0; i < 100; ++i) scans += jpeg.substr(scan, length) + std::string("\x12\xff\x00\x34", 4);
  CHECK_THROWS_WITH_AS(parse(jpeg.substr(0, scan) + scans + jpeg.substr(scan)),
                       doctest::Contains("scans; at most 100"), InputError);
  // Scans of a picture inside a segment, and those behind the end, are none of this one's.
  CHECK_NOTHROW(parse(jpeg + scans));
}

TEST_CASE("a header alone does not cost the memory of the image that it announces") {
  const int64_t before = peak_memory();
  std::string bmp = read_file(data("images/rgb.bmp"));
  put(bmp, 18, std::string("\x10\x27\x00\x00\x10\x27\x00\x00", 8));
  CHECK_THROWS_AS(decode_image(parse(bmp)), InputError);
  for (const char* pnm :
       {"P6 10000 10000 255\n", "P5 10000 10000 65535\n", "P4 10000 10000\n", "P3 10000 10000 255\n0 1"})
    CHECK_THROWS_AS(decode_image(parse(pnm)), InputError);
  CHECK(peak_memory() - before < 16 << 20);
}

TEST_CASE("what is no image file is named with the reason") {
  const TemporaryDirectory folder;
  CHECK_THROWS_WITH_AS(read_image(folder.path()), doctest::Contains("is a folder"), InputError);
  CHECK_THROWS_WITH_AS(read_image(folder / "none.jpg"),
                       doctest::Contains("none.jpg: cannot be read: No such file"), InputError);
  write_file(folder / "empty.jpg", "");
  CHECK_THROWS_WITH_AS(read_image(folder / "empty.jpg"), doctest::Contains("empty.jpg: the file is empty"),
                       InputError);
  write_file(folder / "text.jpg", "hello");
  CHECK_THROWS_WITH_AS(read_image(folder / "text.jpg"), doctest::Contains("text.jpg: not an image"),
                       InputError);
  using namespace std::string_literals;
  const std::pair<std::string, const char*> others[] = {{"\0\0\0\x1c"
                                                         "ftypavif"s,
                                                         "an AVIF"},
                                                        {"\0\0\0\x18"
                                                         "ftypheic"s,
                                                         "a HEIC"},
                                                        {"\0\0\0\x18"
                                                         "ftypmif1"s,
                                                         "a HEIF"},
                                                        {"\0\0\0\x0cjP  \r\n\x87\n"s, "a JPEG 2000"},
                                                        {"\xff\x4f\xff\x51"s, "a JPEG 2000"},
                                                        {"\0\0\0\x0cJXL \r\n\x87\n"s, "a JPEG XL"},
                                                        {"\0\0\1\0\1\0\x10\x10"s, "an ICO"}};
  for (const auto& [bytes, name] : others) {
    const std::string wanted = fmt::format("other.png: is {} image, which is not supported (JPEG", name);
    CHECK_THROWS_WITH_AS(parse_image(bytes + std::string(40, '\0'), "other.png"),
                         doctest::Contains(wanted.c_str()), InputError);
  }
  REQUIRE(mkfifo((folder / "pipe.jpg").c_str(), 0600) == 0);
  CHECK_THROWS_WITH_AS(read_image(folder / "pipe.jpg"), doctest::Contains("pipe.jpg: the file is empty"),
                       InputError);
  CHECK_THROWS_WITH_AS(read_image("/dev/zero"), "/dev/zero: is not a file", InputError);
  write_file(folder / "huge.png", "");
  std::filesystem::resize_file(folder / "huge.png", uintmax_t{3} << 30);  // sparse
  CHECK_THROWS_WITH_AS(read_image(folder / "huge.png"), doctest::Contains("larger than"), InputError);
  CHECK_THROWS_WITH_AS(parse(std::string("\xff\xd8\xff\xd9", 4)),
                       doctest::Contains("not a JPEG that can be decoded"), InputError);
}

TEST_CASE("a small PNG cannot inflate without end") {
  const std::string bomb = read_file(data("images/bomb.png"));  // 1 × 1 pixel, 4 MB of rows
  const int64_t before = peak_memory();
  CHECK(decode_image(parse(bomb)).rgb == std::vector<uint8_t>{0, 0, 0});
  CHECK(peak_memory() - before < 1 << 20);
}
