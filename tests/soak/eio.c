/* LD_PRELOAD: every VMAMBA_EIO_EVERY-th read of an image fails with EIO (default 50). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t read(int descriptor, void* buffer, size_t count) {
  static ssize_t (*next)(int, void*, size_t);
  static unsigned images;
  if (!next) next = (ssize_t (*)(int, void*, size_t))dlsym(RTLD_NEXT, "read");
  char link[64], path[4096];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, path, sizeof(path) - 1);
  if (length > 0) {
    path[length] = 0;
    const char* every = getenv("VMAMBA_EIO_EVERY");
    if (strstr(path, "/images/") && __atomic_add_fetch(&images, 1, __ATOMIC_RELAXED) % (every ? atoi(every) : 50) == 0) {
      errno = EIO;
      return -1;
    }
  }
  return next(descriptor, buffer, count);
}
