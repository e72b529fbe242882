// What the control groups of the process leave to it, of version 2 and of version 1, here and in the groups above; and
// what other processes do.
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

// Processors that other processes use, now and over the last minute (so that the other end of a pipe, just started,
// does not count), as long as this process has one thread. The file: averages of 1, 5 and 15 minutes, then the number
// that run now, this one too.
double processors_others_use(const std::filesystem::path& load = "/proc/loadavg");
// Whether that is a quarter of the processors or more, in three looks within 2 ms (a process that only wakes up for a moment does
// not count): then spinning threads slow down those that they wait for.
bool machine_is_busy();
// Whether threads that wait for work sleep at once (OMP_WAIT_POLICY=PASSIVE). Then waking one takes tens
// of microseconds, on a busy machine up to milliseconds.
bool waiting_threads_sleep();

}  // namespace vmamba
