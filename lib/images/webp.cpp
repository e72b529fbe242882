// WebP through libwebp. Still images also go through the animation decoder (first canvas), as in Pillow: it checks the
// file's structure.
#include <webp/decode.h>
#include <webp/demux.h>

#include <cstring>
#include <memory>

#include "lib/images/formats.h"

namespace vmamba {

ImageSize webp_size(const EncodedImage& encoded) {
  WebPBitstreamFeatures features;
  const VP8StatusCode status = WebPGetFeatures(data_of(encoded), encoded.bytes.size(), &features);
  if (status == VP8_STATUS_NOT_ENOUGH_DATA) fail_truncated(encoded);
  if (status != VP8_STATUS_OK) fail_decoding(encoded, "");
  return {features.width, features.height};
}

void decode_webp(const EncodedImage& encoded, uint8_t* rgb) {
  const WebPData bytes{data_of(encoded), encoded.bytes.size()};
  const std::unique_ptr<WebPAnimDecoder, decltype(&WebPAnimDecoderDelete)> decoder(
      WebPAnimDecoderNew(&bytes, nullptr), WebPAnimDecoderDelete);
  WebPAnimInfo info;
  uint8_t* canvas = nullptr;
  int timestamp = 0;
  if (!decoder || !WebPAnimDecoderGetInfo(decoder.get(), &info) ||
      info.canvas_width != static_cast<uint32_t>(encoded.width) ||
      info.canvas_height != static_cast<uint32_t>(encoded.height) ||
      !WebPAnimDecoderGetNext(decoder.get(), &canvas, &timestamp))
    fail_decoding(encoded, "it is corrupt or truncated");
  for (int64_t i = 0; i < encoded.pixels(); ++i) std::memcpy(rgb + i * 3, canvas + i * 4, 3);
}

}  // namespace vmamba
