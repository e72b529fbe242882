// Prepares JPEGs for DecodeJpegs (kernels/jpeg.h): the host splits the scan of a baseline file into segments and
// entropy-decodes all other files; the device does the rest.
#pragma once
#include "lib/config/config.h"
#include "lib/images/image.h"

namespace vmamba {

// A JpegImage with its tables.
using PackedJpeg = std::vector<uint8_t>;

// False if decode_image must decode the file: another format, four components, sampling factors that do not divide the
// largest, corrupt or truncated data, or a file too large to keep a batch of them in memory.
bool pack_jpeg(const EncodedImage& encoded, const PreprocessConfig& preprocess, PackedJpeg& packed);
inline constexpr int64_t most_packed_pixels = 1 << 24;
inline constexpr size_t most_packed_bytes = size_t{4} << 20;  // of the file; its bits are counted in 32 bits

}  // namespace vmamba
