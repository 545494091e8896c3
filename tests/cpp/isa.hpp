// The instruction set that a test was compiled for: Float32 and Float64, and whether it runs here.
#pragma once

#include CPUATTN_TEST_VEC

#include <cstdio>
#include <string>

#include "isa/registry.hpp"

namespace test {

constexpr int kSkipped = 77;  // ctest shows it as skipped

inline bool runs_here() {
  for (const cpuattn::Isa* isa : cpuattn::available_isas()) {
    if (std::string(isa->name) == CPUATTN_TEST_ISA) return true;
  }
  std::printf("skipped: this CPU cannot run %s\n", CPUATTN_TEST_ISA);
  return false;
}

}  // namespace test
