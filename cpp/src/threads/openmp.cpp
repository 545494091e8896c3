// OpenMP's threads, for programs that want one runtime for everything. A child that was forked
// after a parallel region would hang in the next one, and so works alone.
#include <dlfcn.h>
#include <omp.h>
#include <sched.h>

#include <atomic>
#include <ctime>
#include <string>

#include "threads/float_state.hpp"
#include "threads/system.hpp"
#include "threads/team.hpp"

namespace cpuattn {
namespace {

std::atomic<int> forks{0};

// The caller asks while it waits, so it does not wait in OpenMP's barrier: it yields at first and
// then sleeps a little.
void wait_for(const std::atomic<int>& working, const Shares& shares) {
  constexpr int kYields = 2000;
  for (int i = 0; working.load(std::memory_order_acquire) > 0; ++i) {
    if (i < kYields) {
      sched_yield();
      continue;
    }
    const timespec nap{0, 100000};
    nanosleep(&nap, nullptr);
    shares.wait(shares.context);
  }
}

}  // namespace

void run_shares(const Shares& shares) {
  if (shares.threads <= 1) {
    shares.run(shares.context, 0);
    return;
  }
  static const bool watched = (watch_forks([] { forks.fetch_add(1); }), true);
  (void)watched;
  std::atomic<int> working{0};
#pragma omp parallel num_threads(shares.threads)
  {
    const DefaultFloatState floats;
    const int thread = omp_get_thread_num();
    if (thread != 0) working.fetch_add(1, std::memory_order_relaxed);
    shares.run(shares.context, thread);
    if (thread != 0) working.fetch_sub(1, std::memory_order_release);
    if (thread == 0 && shares.wait) wait_for(working, shares);
  }
}

int lost_threads() { return forks.load(std::memory_order_relaxed); }

int usable_threads(int wanted) { return omp_in_parallel() || lost_threads() > 0 ? 1 : wanted; }

std::string_view team_name() {
  static const std::string full_name = [] {
    Dl_info library{};
    std::string name = "unknown";
    if (dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &library) != 0 && library.dli_fname) {
      name = library.dli_fname;
      name = name.substr(name.rfind('/') + 1);
    }
    return name + ", OpenMP " + std::to_string(_OPENMP);
  }();
  return full_name;
}

}  // namespace cpuattn
