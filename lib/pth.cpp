#include "kernels/error.h"
#include "lib/state_dict.h"

namespace vmamba {

StateDict read_pth(const std::filesystem::path& path, const std::string&) {
  fail_input("{}: .pth files can't be read yet", path.string());
}

}  // namespace vmamba
