// Limits of control groups, as the files of version 1 and 2 show them, on a host and in a container.
#include <doctest/doctest.h>

#include <cmath>

#include "kernels/cgroup.h"
#include "lib/support/files.h"
#include "tests/testing.h"

using namespace vmamba;
namespace fs = std::filesystem;

namespace {

struct Groups {
  testing::TemporaryDirectory folder;
  CgroupFiles files{folder / "own", folder / "mount"};

  explicit Groups(const std::string& own) { write_file(files.own, own); }
  void file(const fs::path& path, const std::string& text) const {
    fs::create_directories((files.mount / path).parent_path());
    write_file(files.mount / path, text);
  }
};

}  // namespace

TEST_CASE("without control groups there is no limit") {
  const CgroupFiles none{"/nowhere", "/nowhere"};
  CHECK(std::isinf(cgroup_processors(none)));
  CHECK(cgroup_free_memory(none) == UINT64_MAX);
}

TEST_CASE("version 2: the smallest limit from the process's group upwards") {
  const Groups groups("0::/a.slice/b.service\n");
  groups.file("cpu.max", "max 100000\n");
  groups.file("a.slice/cpu.max", "150000 100000\n");
  groups.file("a.slice/b.service/cpu.max", "max 100000\n");
  groups.file("a.slice/b.service/memory.max", "1000\n");
  groups.file("a.slice/b.service/memory.current", "400\n");
  groups.file("a.slice/memory.max", "max\n");
  groups.file("a.slice/memory.current", "500\n");
  CHECK(cgroup_processors(groups.files) == 1.5);
  CHECK(cgroup_free_memory(groups.files) == 600);
  groups.file("a.slice/other/cpu.max", "1000 100000\n");  // another's
  CHECK(cgroup_processors(groups.files) == 1.5);
}

TEST_CASE("version 1, and a container whose group is the mount point") {
  const Groups groups("4:memory:/docker/1\n2:cpu,cpuacct:/docker/1\n0::/\n");
  groups.file("cpu/cpu.cfs_quota_us", "-1\n");
  groups.file("cpu/cpu.cfs_period_us", "100000\n");
  CHECK(std::isinf(cgroup_processors(groups.files)));
  groups.file("cpu/cpu.cfs_quota_us", "50000\n");
  CHECK(cgroup_processors(groups.files) == 0.5);
  groups.file("cpu/docker/1/cpu.cfs_quota_us", "25000\n");
  groups.file("cpu/docker/1/cpu.cfs_period_us", "100000\n");
  CHECK(cgroup_processors(groups.files) == 0.25);
  groups.file("memory/memory.limit_in_bytes", "9223372036854771712\n");
  groups.file("memory/memory.usage_in_bytes", "100\n");
  CHECK(cgroup_free_memory(groups.files) == UINT64_MAX);
  groups.file("memory/docker/1/memory.limit_in_bytes", "1000\n");
  groups.file("memory/docker/1/memory.usage_in_bytes", "1100\n");
  CHECK(cgroup_free_memory(groups.files) == 0);
}

TEST_CASE("other processes use the processors if they do so now and have for a minute") {
  const testing::TemporaryDirectory folder;
  const auto used = [&](const std::string& text) {
    write_file(folder / "loadavg", text);
    return processors_others_use(folder / "loadavg");
  };
  CHECK(used("3.50 1.00 0.50 3/120 4711\n") == 2);
  CHECK(used("0.25 1.00 0.50 9/120 4711\n") == 0.25);
  CHECK(used("3.50 1.00 0.50 1/120 4711\n") == 0);
  CHECK(used("0.00 0.00 0.00 0/120 4711\n") == 0);
  CHECK(used("unknown\n") == 0);
  CHECK(processors_others_use("/nowhere") == 0);
}
