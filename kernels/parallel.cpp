#include "kernels/parallel.h"

#include "kernels/cgroup.h"
#include "kernels/error.h"
#include "kernels/platform.h"

namespace vmamba {
namespace {

// Processors that the process may use: its affinity mask, capped by the CPU quota of its cgroup.
int usable_threads() {
  const double quota = std::min(cgroup_processors(), 1e6);
  return std::min(allowed_processors(), static_cast<int>(std::max(1.0, quota + 0.5)));
}

// The threads that OpenMP starts if `wanted` are asked for, counted in a parallel region.
int threads_that_come(int wanted) {
  const Team team(wanted);
  int came = 1;
#pragma omp parallel
#pragma omp single
  came = omp_get_num_threads();
  return came;
}

}  // namespace

int threads_to_use(int wanted) {
  check(wanted >= 0, "threads: wanted 0 (all) or more, got {}", wanted);
  return threads_that_come(wanted > 0 ? wanted : usable_threads());
}

}  // namespace vmamba
