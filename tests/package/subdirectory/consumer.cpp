#include <vmamba.h>

#include "lib/config/config.h"

static_assert(__cplusplus >= 202002L);
const char* backend() {
  return vmamba::to_string(vmamba::Config().selective_scan_backend).data();
}
