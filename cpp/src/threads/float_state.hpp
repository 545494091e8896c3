// The floating-point state of a thread: rounding to nearest, subnormal numbers as they are.
#pragma once

namespace cpuattn {

// The default state for its lifetime, then the one before: bits must not depend on what a caller,
// or whoever made a worker thread, has chosen.
class DefaultFloatState {
 public:
  DefaultFloatState();
  ~DefaultFloatState();
  DefaultFloatState(const DefaultFloatState&) = delete;
  DefaultFloatState& operator=(const DefaultFloatState&) = delete;

 private:
  unsigned long long saved_ = 0;
};

}  // namespace cpuattn
