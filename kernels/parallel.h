// Splitting loops over the threads of the process's one OpenMP pool, which oneDNN uses as well.
#pragma once
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace vmamba {

// OpenMP's settings of the calling thread, for as long as a loop or oneDNN runs: regions get a team of
// exactly `size` threads. That is as many of those wanted as OMP_THREAD_LIMIT and OMP_MAX_ACTIVE_LEVELS
// leave, and one inside a parallel region of the caller. oneDNN's matmul needs it: it shares its work out
// among omp_get_max_threads() threads, and where fewer come the shares of the others stay undone, without an
// error. The caller's own settings are back afterwards.
class Team {
 public:
  explicit Team(int wanted)
      : size(omp_in_parallel() || omp_get_max_active_levels() < 1 ? 1
                                                                  : std::min(wanted, omp_get_thread_limit())),
        threads_(omp_get_max_threads()),
        dynamic_(omp_get_dynamic()) {
    omp_set_dynamic(0);
    omp_set_num_threads(size);
  }
  ~Team() {
    omp_set_dynamic(dynamic_);
    omp_set_num_threads(threads_);
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  const int size;

 private:
  const int threads_, dynamic_;
};

// The threads that loops get where `wanted` are asked for; 0: all that the process may use.
int threads_to_use(int wanted);

// Calls body(begin, end) or body(begin, end, thread) for one contiguous share of [0, count) a thread;
// `thread`: its number, below `threads`. (omp_get_thread_num() may be that of a caller's own region.) Less
// than `grain` items a thread stay on one thread: waking the others would cost more. What an item computes
// must not depend on the split.
template <class Body>
void parallel_ranges(int threads, int64_t count, int64_t grain, const Body& body) {
  const auto run = [&](int64_t begin, int64_t end, [[maybe_unused]] int thread) {
    if (begin >= end) return;
    if constexpr (std::is_invocable_v<const Body&, int64_t, int64_t, int>) {
      body(begin, end, thread);
    } else {
      body(begin, end);
    }
  };
  if (threads <= 1 || count < 2 * grain) return run(0, count, 0);
  const Team team(threads);
#pragma omp parallel
  {
    const int me = omp_get_thread_num(), all = omp_get_num_threads();
    run(count * me / all, count * (me + 1) / all, me);
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
    std::atomic<int64_t> next = 0;
    int64_t end = 0;
  };
  const Team team(threads);
  const int share_count = team.size;
  std::vector<Share> shares(static_cast<size_t>(share_count));
  for (int i = 0; i < share_count; ++i) {
    shares[static_cast<size_t>(i)].next = count * i / share_count;
    shares[static_cast<size_t>(i)].end = count * (i + 1) / share_count;
  }
#pragma omp parallel
  {
    const int me = omp_get_thread_num();
    bool first = true;
    for (int i = 0; i < share_count; ++i) {  // all shares, whoever came
      Share& share = shares[static_cast<size_t>((me + i) % share_count)];
      for (int64_t item = 0; (item = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) {
        body(item, me, first);
        first = false;
      }
    }
  }
}

}  // namespace vmamba
