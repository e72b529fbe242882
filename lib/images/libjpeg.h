// libjpeg's decoder over a file in memory. libjpeg reports errors by longjmp to Errors::jump: a function that calls it
// after setjmp must not own objects with destructors.
#pragma once
#include <algorithm>
#include <csetjmp>
#include <cstdio>

#include <jpeglib.h>

#include "lib/images/formats.h"

namespace vmamba {

struct JpegDecoder {
  struct Errors {
    jpeg_error_mgr base;
    jmp_buf jump;
    char text[JMSG_LENGTH_MAX];
  };
  jpeg_decompress_struct info{};
  Errors errors{};
  jpeg_source_mgr source{};

  JpegDecoder() {
    info.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = give_up;
    errors.base.emit_message = count_warning;
  }
  ~JpegDecoder() { jpeg_destroy_decompress(&info); }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  // After setjmp(errors.jump).
  void open(const EncodedImage& encoded) {
    jpeg_create_decompress(&info);
    source = {data_of(encoded), encoded.bytes.size(), nothing, no_more, skip, jpeg_resync_to_restart,
              nothing};
    info.src = &source;
  }

 private:
  [[noreturn]] static void give_up(j_common_ptr info) {
    auto* errors = reinterpret_cast<Errors*>(info->err);
    errors->base.format_message(info, errors->text);
    longjmp(errors->jump, 1);
  }

  // Corrupt data inside a scan is only a warning, as in Pillow.
  static void count_warning(j_common_ptr info, int level) { info->err->num_warnings += level < 0; }

  // The source manager provides the whole file at once. At its end libjpeg is suspended, as in Pillow: a scan is
  // decoded only if bytes follow it, though the end marker may be missing.
  static void nothing(j_decompress_ptr) {}
  static boolean no_more(j_decompress_ptr) { return FALSE; }
  static void skip(j_decompress_ptr info, long count) {
    jpeg_source_mgr& source = *info->src;
    const size_t skipped = count <= 0 ? 0 : std::min(static_cast<size_t>(count), source.bytes_in_buffer);
    source.next_input_byte += skipped;
    source.bytes_in_buffer -= skipped;
  }
};

// Whether a progressive file lacks scans, whose coefficients libjpeg would estimate, differently in every release.
inline bool lacks_scans(const jpeg_decompress_struct& info) {
  for (int i = 0; info.coef_bits != nullptr && i < info.num_components * DCTSIZE2; ++i)
    if (info.coef_bits[i / DCTSIZE2][i % DCTSIZE2] != 0) return true;
  return false;
}

}  // namespace vmamba
