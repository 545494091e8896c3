// Running items on several threads. The only place that knows of OpenMP, forks and interrupts.
#pragma once

#include <cstddef>
#include <string>

namespace cpuattn {

// Asked by kernels and between items: true once the call has been interrupted.
struct StopCheck {
  bool (*ask)(void*) = nullptr;
  void* context = nullptr;
};

// One thread's share of a call: body(context, thread, item) for items handed out in order.
// Returns false if the call was interrupted.
struct ParallelFor {
  std::ptrdiff_t items = 0;
  int threads = 1;
  void (*body)(void* context, int thread, std::ptrdiff_t item, const StopCheck& stop) = nullptr;
  void* context = nullptr;
  bool (*should_stop)(void*) = nullptr;  // of the caller, asked on the calling thread only
  void* stop_context = nullptr;
};
bool run(const ParallelFor& loop);

// The most threads that a call may use here and now: 1 inside of another parallel region and in
// a forked child, where OpenMP's runtime would hang.
int usable_threads(int wanted);

int default_threads();
void set_default_threads(int threads);

// The file name of the OpenMP runtime in use and the version macro the core was built with.
std::string openmp_runtime();

}  // namespace cpuattn
