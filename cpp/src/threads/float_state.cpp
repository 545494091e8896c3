#include "threads/float_state.hpp"

#include <cfenv>

namespace cpuattn {
namespace {

// read() gives the control bits of a thread, write() sets them; kDefault are those that the C
// standard calls the default environment.
#if defined(__SSE2__)

constexpr unsigned kFlags = 0x3f;  // what has happened, which belongs to the caller
constexpr unsigned long long kDefault = 0x1f80;

unsigned long long read() { return __builtin_ia32_stmxcsr() & ~kFlags; }
void write(unsigned long long state) {
  __builtin_ia32_ldmxcsr(static_cast<unsigned>(state) | (__builtin_ia32_stmxcsr() & kFlags));
}

#elif defined(__aarch64__)

constexpr unsigned long long kDefault = 0;

unsigned long long read() {
  unsigned long long state;
  asm volatile("mrs %0, fpcr" : "=r"(state));
  return state;
}
void write(unsigned long long state) { asm volatile("msr fpcr, %0" : : "r"(state)); }

#else

constexpr unsigned long long kDefault = FE_TONEAREST;

unsigned long long read() { return static_cast<unsigned long long>(std::fegetround()); }
void write(unsigned long long state) { std::fesetround(static_cast<int>(state)); }

#endif

}  // namespace

DefaultFloatState::DefaultFloatState() : saved_(read()) {
  if (saved_ != kDefault) write(kDefault);
}

DefaultFloatState::~DefaultFloatState() {
  if (saved_ != kDefault) write(saved_);
}

}  // namespace cpuattn
