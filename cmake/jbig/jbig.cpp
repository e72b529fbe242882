// The functions of libjbig that libtiff refers to, for the archive and the wheel: libjbig itself is under the GPL. Images
// compressed with JBIG are refused before any of these is called (lib/images/tiff.cpp).
#include <cstddef>

#define STAND_IN extern "C" __attribute__((visibility("default")))

STAND_IN void jbg_dec_init(void*) {}
STAND_IN int jbg_dec_in(void*, unsigned char*, size_t, size_t*) {
  return 1;  // not JBG_EOK
}
STAND_IN unsigned long jbg_dec_getsize(const void*) {
  return 0;
}
STAND_IN unsigned char* jbg_dec_getimage(const void*, int) {
  return nullptr;
}
STAND_IN void jbg_dec_free(void*) {}
STAND_IN void jbg_enc_init(void*) {}
STAND_IN void jbg_enc_out(void*) {}
STAND_IN void jbg_enc_free(void*) {}
STAND_IN int jbg_newlen(unsigned char*, size_t) {
  return 1;
}
STAND_IN const char* jbg_strerror(int) {
  return "JBIG is left out";
}
