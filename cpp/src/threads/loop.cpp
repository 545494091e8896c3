#include "threads/loop.hpp"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>

#include "isa/environment.hpp"
#include "threads/cpus.hpp"
#include "threads/float_state.hpp"
#include "threads/team.hpp"

namespace cpuattn {
namespace {

using Clock = std::chrono::steady_clock;

// How often the caller is asked.
constexpr std::chrono::milliseconds kAskInterval{50};

// How many of the kernels' questions pass without a look at the clock, which takes 25 ns: a block
// of keys takes microseconds, but of very wide heads seconds. After slow ones each looks.
constexpr int kFirstQuestions = 4, kMostQuestions = 16;

// Shared by the threads of one loop.
struct Progress {
  const Loop& loop;
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<std::ptrdiff_t> next{0};
  std::atomic<bool> stopped{false};
  // Touched by the calling thread only.
  Clock::time_point last_asked = Clock::now(), last_look = last_asked;
  int questions_to_look = kFirstQuestions;

  explicit Progress(const Loop& l) : loop(l) {}

  void ask_caller() {
    const Clock::time_point now = Clock::now();
    questions_to_look = now - last_look < kAskInterval / 2 ? kMostQuestions : 1;
    last_look = now;
    if (now - last_asked < kAskInterval) return;
    last_asked = now;
    if (loop.should_stop(loop.stop_context)) stopped = true;
  }
};

bool ask_as_caller(void* context) {
  auto& progress = *static_cast<Progress*>(context);
  if (--progress.questions_to_look == 0) progress.ask_caller();
  return progress.stopped.load(std::memory_order_relaxed);
}

bool ask_as_worker(void* context) {
  return static_cast<Progress*>(context)->stopped.load(std::memory_order_relaxed);
}

void work(void* context, int thread) {
  auto& progress = *static_cast<Progress*>(context);
  const Loop& loop = progress.loop;
  StopCheck stop;
  if (loop.should_stop) {
    const bool is_caller = std::this_thread::get_id() == progress.caller;
    stop = {is_caller ? ask_as_caller : ask_as_worker, &progress};
  }
  for (;;) {
    const std::ptrdiff_t item = progress.next.fetch_add(1, std::memory_order_acq_rel);
    if (item >= loop.items || progress.stopped.load(std::memory_order_relaxed)) return;
    loop.body(loop.context, thread, item, stop);
  }
}

// By the caller's own threads, whose state of floating-point numbers is unknown.
void run_elsewhere(Progress& progress) {
  const ParallelFor& parallel_for = progress.loop.parallel_for;
  parallel_for.run(
      parallel_for.pool, progress.loop.threads,
      [](void* context, int thread) {
        const DefaultFloatState floats;
        work(context, thread);
      },
      &progress);
}

void run_here(Progress& progress) {
  Shares shares;
  shares.threads = progress.loop.threads;
  shares.run = work;
  shares.has_items = [](void* context) {
    const auto& p = *static_cast<Progress*>(context);
    return p.next.load(std::memory_order_relaxed) < p.loop.items;
  };
  if (progress.loop.should_stop) {
    shares.wait = [](void* context) { static_cast<Progress*>(context)->ask_caller(); };
  }
  shares.context = &progress;
  const int lost = lost_threads();
  run_shares(shares);
  if (lost == lost_threads()) return;
  // A child was forked in the middle: what the other threads had begun is lost with them.
  progress.next = 0;
  work(&progress, 0);
}

std::atomic<int> chosen_threads{0};

}  // namespace

bool run(const Loop& loop) {
  Progress progress(loop);
  if (loop.threads <= 1) {
    work(&progress, 0);
  } else if (loop.parallel_for.run) {
    run_elsewhere(progress);
  } else {
    run_here(progress);
  }
  return !progress.stopped;
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

}  // namespace cpuattn
