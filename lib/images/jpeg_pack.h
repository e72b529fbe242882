// JPEGs prepared for DecodeJpegs (kernels/jpeg.h): the host takes the data of a baseline file's scan apart, and undoes
// the entropy coding of all others; the device does the rest.
#pragma once
#include "lib/config/config.h"
#include "lib/images/image.h"

namespace vmamba {

// A JpegImage with its tables.
using PackedJpeg = std::vector<uint8_t>;

// False where decode_image must decode the file: other formats, four components, sampling factors without a common
// measure, corrupt or truncated data, and files too large to keep a batch of them in memory.
bool pack_jpeg(const EncodedImage& encoded, const PreprocessConfig& preprocess, PackedJpeg& packed);
inline constexpr int64_t most_packed_pixels = 1 << 24;
inline constexpr size_t most_packed_bytes = size_t{4} << 20;  // of the file; its bits are counted in 32 bits

}  // namespace vmamba
