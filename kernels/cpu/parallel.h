// Splitting loops over the threads of the process's one OpenMP pool, which oneDNN uses as well.
#pragma once
#include <omp.h>

#include <atomic>
#include <cstdint>
#include <vector>

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

// Calls body(item, thread, first) for every item; `first`: the thread's first. A thread takes the items of
// its own share, neighbours, one after another and then what is left of the others': one that is slower for a
// while keeps nobody waiting.
template <class Body>
void parallel_claims(int threads, int64_t count, const Body& body) {
  if (threads <= 1 || count < 2) {
    for (int64_t item = 0; item < count; ++item) body(item, 0, item == 0);
    return;
  }
  struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
  };
  std::vector<Share> shares(static_cast<size_t>(threads));
  for (int thread = 0; thread < threads; ++thread) {
    shares[static_cast<size_t>(thread)].next = count * thread / threads;
    shares[static_cast<size_t>(thread)].end = count * (thread + 1) / threads;
  }
#pragma omp parallel num_threads(threads)
  {
    const int me = omp_get_thread_num();
    bool first = true;
    for (int i = 0; i < threads; ++i) {
      Share& share = shares[static_cast<size_t>((me + i) % threads)];
      for (int64_t item = 0; (item = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) {
        body(item, me, first);
        first = false;
      }
    }
  }
}

}  // namespace vmamba
