// The threads that share the items of a loop: a pool of our own (pool.cpp), or with CPUATTN_OPENMP
// those of OpenMP (openmp.cpp).
#pragma once

#include <string_view>

namespace cpuattn {

// The shares of one loop. run(context, t) works on items until none is left; each t in
// [0, threads) is run at most once, 0 by the calling thread. Nobody waits for a thread that has
// not begun.
struct Shares {
  int threads = 1;
  void (*run)(void* context, int thread) = nullptr;
  bool (*has_items)(void* context) = nullptr;  // false: who begins now finds nothing to do
  void (*wait)(void* context) = nullptr;       // from time to time while the caller waits; or null
  void* context = nullptr;
};

// Returns when every thread that began has ended. Where a child was forked in `run` or `wait`, the
// child goes on without the other threads: lost_threads() then counts one more.
void run_shares(const Shares& shares);

// How often this process came out of a fork.
int lost_threads();

// The most threads that a loop may have here and now.
int usable_threads(int wanted);

// What runs the threads, in a few words.
std::string_view team_name();

}  // namespace cpuattn
