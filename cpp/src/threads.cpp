#include "threads.hpp"

#include <dlfcn.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <stdexcept>
#include <string>

#include "registry.hpp"

namespace cpuattn {
namespace {

using Clock = std::chrono::steady_clock;

// How often the caller is asked, and how many of the kernels' questions pass without a look at
// the clock (a block of keys takes microseconds, the clock 25 ns).
constexpr std::chrono::milliseconds kAskInterval{50};
constexpr int kQuestionsPerLook = 16;

// Shared by the threads of one call.
struct Progress {
  const ParallelFor& loop;
  std::atomic<std::ptrdiff_t> next{0};
  std::atomic<int> working{0};
  std::atomic<bool> stopped{false};
  Clock::time_point last_asked = Clock::now();  // touched by the calling thread only
  int questions = 0;

  explicit Progress(const ParallelFor& l) : loop(l) {}

  void ask_caller() {
    const Clock::time_point now = Clock::now();
    if (now - last_asked < kAskInterval) return;
    last_asked = now;
    if (loop.should_stop(loop.stop_context)) stopped = true;
  }
};

bool ask_as_caller(void* context) {
  auto& progress = *static_cast<Progress*>(context);
  if (++progress.questions % kQuestionsPerLook == 0) progress.ask_caller();
  return progress.stopped.load(std::memory_order_relaxed);
}

bool ask_as_worker(void* context) {
  return static_cast<Progress*>(context)->stopped.load(std::memory_order_relaxed);
}

void work(Progress& progress, int thread) {
  const ParallelFor& loop = progress.loop;
  StopCheck stop;
  if (loop.should_stop) {
    stop.ask = thread == 0 ? ask_as_caller : ask_as_worker;
    stop.context = &progress;
  }
  for (;;) {
    const std::ptrdiff_t item = progress.next.fetch_add(1, std::memory_order_acq_rel);
    if (item >= loop.items || progress.stopped.load(std::memory_order_relaxed)) return;
    loop.body(loop.context, thread, item, stop);
  }
}

// The calling thread must go on asking while the others finish, so it does not wait in
// OpenMP's barrier: it yields at first and then sleeps a little.
void wait_and_ask(Progress& progress) {
  for (int i = 0; progress.working.load(std::memory_order_acquire) > 0; ++i) {
    if (i < 2000) {
      sched_yield();
      continue;
    }
    const timespec nap{0, 100000};
    nanosleep(&nap, nullptr);
    progress.ask_caller();
  }
}

std::atomic<bool> forked_child{false};
std::atomic<bool> used_openmp{false};

// A child of fork() has no worker threads, but libgomp believes that it has.
void watch_forks() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] {
    if (used_openmp.load()) forked_child.store(true);
  });
  (void)registered;
}

int cpus_of_process() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  return omp_get_num_procs();
}

std::atomic<int> chosen_threads{0};

}  // namespace

bool run(const ParallelFor& loop) {
  Progress progress(loop);
  if (loop.threads <= 1) {
    work(progress, 0);
    return !progress.stopped;
  }
  watch_forks();
  used_openmp = true;
  progress.working = 0;
#pragma omp parallel num_threads(loop.threads)
  {
    const int thread = omp_get_thread_num();
    if (thread != 0) progress.working.fetch_add(1, std::memory_order_relaxed);
    work(progress, thread);
    if (thread != 0) progress.working.fetch_sub(1, std::memory_order_release);
    if (thread == 0 && loop.should_stop) wait_and_ask(progress);
  }
  return !progress.stopped;
}

int usable_threads(int wanted) {
  if (wanted <= 1 || omp_in_parallel() || forked_child.load(std::memory_order_relaxed)) return 1;
  return wanted;
}

int default_threads() {
  int threads = chosen_threads.load(std::memory_order_relaxed);
  if (threads == 0) {
    threads = requested_threads();
    if (threads == 0) threads = cpus_of_process();
    chosen_threads = threads;
  }
  return threads;
}

void set_default_threads(int threads) {
  if (threads < 1) {
    throw std::invalid_argument("num_threads is " + std::to_string(threads) +
                                "; it must be at least 1");
  }
  chosen_threads = threads;
}

std::string openmp_runtime() {
  Dl_info library{};
  std::string name = "unknown";
  if (dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &library) != 0 && library.dli_fname) {
    name = library.dli_fname;
    name = name.substr(name.rfind('/') + 1);
  }
  return name + ", OpenMP " + std::to_string(_OPENMP);
}

}  // namespace cpuattn
