# Writes OUTPUT, which defines build_commit: the commit of SOURCE, "-dirty" where files differ from it, or "unknown" where
# SOURCE is no checkout of git. An OUTPUT that says so already is left alone. cmake -DSOURCE=… -DOUTPUT=… -P cmake/commit.cmake
set(commit unknown)
find_program(GIT git)
if(GIT AND EXISTS ${SOURCE}/.git)  # not another checkout around an unpacked archive
  execute_process(COMMAND ${GIT} -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=*
    OUTPUT_VARIABLE found RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT failed AND found MATCHES "^[0-9a-f]+(-dirty)?$")
    set(commit ${found})
  endif()
endif()
file(CONFIGURE OUTPUT ${OUTPUT} @ONLY CONTENT [[
#include "build_info.h"

namespace vmamba {
const char build_commit[] = "@commit@";
}  // namespace vmamba
]])
