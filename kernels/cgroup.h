// What the control groups of the process leave to it, of version 2 and of version 1, here and in the groups above.
#pragma once
#include <cstdint>
#include <filesystem>

namespace vmamba {

// Where the system shows them; tests have their own.
struct CgroupFiles {
  std::filesystem::path own = "/proc/self/cgroup", mount = "/sys/fs/cgroup";
};

double cgroup_processors(const CgroupFiles& files = {});     // infinity without a quota
uint64_t cgroup_free_memory(const CgroupFiles& files = {});  // bytes; UINT64_MAX without a limit

}  // namespace vmamba
