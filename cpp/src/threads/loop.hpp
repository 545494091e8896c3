// The items of a call, handed out to threads; interrupts; how many threads there are by default.
#pragma once

#include <cstddef>

#include "cpuattn/attention.hpp"

namespace cpuattn {

// Asked by kernels and between items: true once the call has been interrupted.
struct StopCheck {
  bool (*ask)(void*) = nullptr;
  void* context = nullptr;
};

// body(context, thread, item) for each item, which are handed out in order. Items may be run again,
// by a child that is forked in the middle.
struct Loop {
  std::ptrdiff_t items = 0;
  int threads = 1;
  void (*body)(void* context, int thread, std::ptrdiff_t item, const StopCheck& stop) = nullptr;
  void* context = nullptr;
  bool (*should_stop)(void*) = nullptr;  // of the caller, asked on the calling thread only
  void* stop_context = nullptr;
  ParallelFor parallel_for;  // of the caller, instead of our threads
};

// False if the call was interrupted.
bool run(const Loop& loop);

int default_threads();
void set_default_threads(int threads);

}  // namespace cpuattn
