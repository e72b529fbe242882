// Splitting loops over the threads of the process's one OpenMP pool, which oneDNN uses as well.
#pragma once
#include <omp.h>

#include <cstdint>

namespace vmamba {

// Calls body(begin, end) for one contiguous share of [0, count) a thread. Less than `grain` items a thread
// stay on one thread: waking the others would cost more. What an item computes must not depend on the split.
template <class Body>
void parallel_ranges(int threads, int64_t count, int64_t grain, const Body& body) {
  if (threads <= 1 || count < 2 * grain) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int thread = 0; thread < threads; ++thread) {
    const int64_t begin = count * thread / threads, end = count * (thread + 1) / threads;
    if (begin < end) body(begin, end);
  }
}

// Calls body(item, thread) for every item, neighbours on one thread: two processors that write neighbouring
// cache lines would take them from each other.
template <class Body>
void parallel_items(int threads, int64_t count, const Body& body) {
  if (threads <= 1 || count < 2) {
    for (int64_t item = 0; item < count; ++item) body(item, 0);
    return;
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t item = 0; item < count; ++item) body(item, omp_get_thread_num());
}

}  // namespace vmamba
