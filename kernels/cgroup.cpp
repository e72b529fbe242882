#include "kernels/cgroup.h"

#include <fmt/format.h>
#include <strings.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

namespace vmamba {
namespace fs = std::filesystem;
namespace {

// The folders that may limit the process: its group's, and those of the groups above. In a container the group's path
// may be that outside of it, and its folder the mount point.
std::vector<fs::path> folders(const CgroupFiles& files, const std::string& controller) {
  std::vector<fs::path> found{files.mount, files.mount / controller};
  std::ifstream own(files.own);
  for (std::string line; std::getline(own, line);) {  // ID:CONTROLLERS:PATH; version 2 names no controllers
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const bool version_2 = controllers == ",,";
    if (!version_2 && controllers.find(fmt::format(",{},", controller)) == std::string::npos) continue;
    const fs::path mount = version_2 ? files.mount : files.mount / controller;
    fs::path below;
    for (const fs::path& part : fs::path(line.substr(second + 1)).relative_path()) {
      below /= part;
      found.push_back(mount / below);
    }
  }
  return found;
}

// The two numbers of a group: in one file, or in two.
bool read(const fs::path& first, const fs::path& second, double& a, double& b) {
  std::ifstream file(first), other(second);
  if (!(file >> a)) return false;  // "max"
  return second.empty() ? static_cast<bool>(file >> b) : static_cast<bool>(other >> b);
}

}  // namespace

double cgroup_processors(const CgroupFiles& files) {
  double least = std::numeric_limits<double>::infinity(), quota = 0, period = 0;
  for (const fs::path& folder : folders(files, "cpu"))
    if ((read(folder / "cpu.max", {}, quota, period) ||
         read(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us", quota, period)) &&
        quota > 0 && period > 0)
      least = std::min(least, quota / period);
  return least;
}

uint64_t cgroup_free_memory(const CgroupFiles& files) {
  uint64_t least = UINT64_MAX;
  double limit = 0, used = 0;
  for (const fs::path& folder : folders(files, "memory"))
    if ((read(folder / "memory.max", folder / "memory.current", limit, used) ||
         read(folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes", limit, used)) &&
        limit < 0x1p60)  // version 1 has 2^63 for none
      least = std::min(least, static_cast<uint64_t>(std::max(limit - used, 0.0)));
  return least;
}

double processors_others_use(const std::filesystem::path& load) {
  std::ifstream file(load);
  double minute = 0, longer = 0;
  int running = 1;
  file >> minute >> longer >> longer >> running;
  return std::max(std::min(minute, running - 1.0), 0.0);
}

bool machine_is_busy() {
  for (int look = 0; look < 3; ++look) {
    if (look > 0) usleep(1000);
    if (4 * processors_others_use() < static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN))) return false;
  }
  return true;
}

bool waiting_threads_sleep() {
  const char* policy = std::getenv("OMP_WAIT_POLICY");
  return policy != nullptr && strcasecmp(policy, "passive") == 0;
}

}  // namespace vmamba
