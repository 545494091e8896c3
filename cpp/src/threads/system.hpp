// What the core asks of the operating system; the only place that tells systems apart.
#pragma once

namespace cpuattn {

// The CPUs that the process may use: the mask of its first thread. Where an OpenMP runtime may have
// bound that thread to one place, all that a thread of the process can have.
int cpus_of_mask();

// A thread as the scheduler knows it. Where the system has no masks of CPUs, nothing happens.
class Placement {
 public:
  // Of the calling thread, which then may use every CPU that the process may use.
  void take_calling_thread();
  // Moves the thread off this CPU, if it may use others; whether it did. Called from any thread,
  // one at a time.
  bool keep_off(int cpu);

 private:
  using Mask = unsigned char[128];       // of 1024 CPUs
  [[maybe_unused]] int thread_ = 0;      // 0: not known
  [[maybe_unused]] Mask allowed_ = {};   // by the process, or by somebody who changed it since
  [[maybe_unused]] Mask narrowed_ = {};  // as the thread was left
};

// The CPU that the calling thread runs on; -1 if the system does not tell.
int current_cpu();

// A thread that lives until the process ends, or false if no more are to be had.
bool start_thread(void (*body)(void*), void* context);

// Calls in_child, which must not lock, in every child that the process forks from now on.
void watch_forks(void (*in_child)());

// For the body of a loop that waits: for nanoseconds, or giving way to other threads.
void pause_cpu();

}  // namespace cpuattn
