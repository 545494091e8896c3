#include "unlocked.hpp"

#include <chrono>
#include <thread>

namespace cpuattn {

void Unlocked::take_back() noexcept {
  try {
    PyEval_RestoreThread(state_);
  } catch (...) {  // the C library's unwinding of a thread, which must not leave this function
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

}  // namespace cpuattn
