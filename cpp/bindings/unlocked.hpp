// Running without the GIL.
#pragma once

#include <pybind11/pybind11.h>

namespace cpuattn {

// Without the GIL for its lifetime.
//
// Once the interpreter ends, a thread that wants the GIL back never gets it: CPython before 3.14
// ends the thread there, by unwinding its stack, which no destructor survives and which would take
// the memory of worker threads away. Such a thread sleeps until the process is gone, as CPython
// 3.14 itself does.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  ~Unlocked() { take_back(); }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

  // f(), with the GIL.
  template <class F>
  auto locked(F f) {
    take_back();
    const auto result = f();
    state_ = PyEval_SaveThread();
    return result;
  }

 private:
  void take_back() noexcept;
  PyThreadState* state_;
};

}  // namespace cpuattn
