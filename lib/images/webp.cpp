// WebP through libwebp; an animation gives its first canvas.
#include <webp/decode.h>
#include <webp/demux.h>

#include <cstring>
#include <memory>
#include <new>

#include "kernels/error.h"
#include "lib/images/formats.h"

namespace vmamba {
namespace {

void check_webp(VP8StatusCode status, const EncodedImage& encoded) {
  if (status == VP8_STATUS_OK) return;
  if (status == VP8_STATUS_NOT_ENOUGH_DATA) fail_truncated(encoded);
  if (status == VP8_STATUS_OUT_OF_MEMORY) throw std::bad_alloc();
  fail_input("{}: not a WebP file that can be decoded", encoded.name);
}

WebPBitstreamFeatures webp_features(const EncodedImage& encoded) {
  WebPBitstreamFeatures features;
  check_webp(WebPGetFeatures(data_of(encoded), encoded.bytes.size(), &features), encoded);
  return features;
}

}  // namespace

ImageSize webp_size(const EncodedImage& encoded) {
  const WebPBitstreamFeatures features = webp_features(encoded);
  return {features.width, features.height};
}

void decode_webp(const EncodedImage& encoded, uint8_t* rgb) {
  if (!webp_features(encoded).has_animation) {
    WebPDecoderConfig config;
    check(WebPInitDecoderConfig(&config), "libwebp is not the version that it was compiled for");
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA = {rgb, encoded.width * 3, static_cast<size_t>(encoded.pixels()) * 3};
    check_webp(WebPDecode(data_of(encoded), encoded.bytes.size(), &config), encoded);
    return;
  }
  const WebPData bytes{data_of(encoded), encoded.bytes.size()};
  const std::unique_ptr<WebPAnimDecoder, decltype(&WebPAnimDecoderDelete)> decoder(
      WebPAnimDecoderNew(&bytes, nullptr), WebPAnimDecoderDelete);
  WebPAnimInfo info;
  uint8_t* canvas = nullptr;
  int timestamp = 0;
  if (!decoder || !WebPAnimDecoderGetInfo(decoder.get(), &info) ||
      int64_t{info.canvas_width} * info.canvas_height != encoded.pixels() ||
      !WebPAnimDecoderGetNext(decoder.get(), &canvas, &timestamp))
    fail_input("{}: not a WebP animation that can be decoded; it may be truncated", encoded.name);
  for (int64_t i = 0; i < encoded.pixels(); ++i) std::memcpy(rgb + i * 3, canvas + i * 4, 3);
}

}  // namespace vmamba
