#include "isa/cpu.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace cpuattn {
namespace {

#if defined(__x86_64__)
struct Registers {
  unsigned eax, ebx, ecx, edx;
};

Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
  Registers r{};
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

// XCR0: which register files the operating system saves at a context switch.
unsigned saved_state() {
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool all(unsigned value, unsigned bits) { return (value & bits) == bits; }

CpuFeatures detect() {
  CpuFeatures features;
  const Registers one = cpuid(1);
  constexpr unsigned kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  if (!all(one.ecx, kFma | kOsxsave | kAvx | kF16c)) return features;
  const Registers seven = cpuid(7);
  constexpr unsigned kAvx2 = 1u << 5;
  constexpr unsigned kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
  constexpr unsigned kYmmState = 0x6, kZmmState = 0xe6;  // xmm, ymm; and opmask, zmm
  const unsigned state = saved_state();
  features.avx2_fma = all(seven.ebx, kAvx2) && all(state, kYmmState);
#ifdef CPUATTN_EMULATE_AVX512
  features.avx512 = features.avx512_vnni = features.avx512_bf16 = features.avx2_fma;
  return features;
#endif
  features.avx512 =
      features.avx2_fma && all(seven.ebx, kF | kDq | kBw | kVl) && all(state, kZmmState);
  constexpr unsigned kVnni = 1u << 11;
  features.avx512_vnni = features.avx512 && all(seven.ecx, kVnni);
  constexpr unsigned kBf16 = 1u << 5;  // of leaf 7, subleaf 1; all 0 where that does not exist
  features.avx512_bf16 = features.avx512_vnni && all(cpuid(7, 1).eax, kBf16);
  return features;
}
#else
CpuFeatures detect() {
  CpuFeatures features;
#if defined(__aarch64__)
  features.neon = true;  // part of the base architecture
#endif
  return features;
}
#endif

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace cpuattn
