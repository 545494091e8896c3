#include "isa/registry.hpp"

#include <atomic>
#include <stdexcept>

#include "isa/cpu.hpp"
#include "isa/environment.hpp"

namespace cpuattn {

extern const Isa scalar_isa;
#if defined(CPUATTN_HAVE_AVX2)
extern const Isa avx2_isa;
#endif
#if defined(CPUATTN_HAVE_AVX512)
extern const Isa avx512_isa;
#endif
#if defined(CPUATTN_HAVE_AVX512_VNNI)
extern const Int8Kernels avx512_vnni_kernels;
#endif
#if defined(CPUATTN_HAVE_AVX512_BF16)
extern const BFloat16Kernels avx512_bf16_kernels;
#endif
#if defined(CPUATTN_HAVE_NEON)
extern const Isa neon_isa;
#endif

namespace {

struct Level {
  const Isa* isa;
  bool runs_here;
};

#if defined(CPUATTN_HAVE_AVX512_VNNI)
const Isa& avx512_vnni_isa() {
  static const Isa isa{"avx512_vnni", avx512_isa.float32, avx512_isa.float64, nullptr,
                       &avx512_vnni_kernels};
  return isa;
}
#endif
#if defined(CPUATTN_HAVE_AVX512_BF16)
const Isa& avx512_bf16_isa() {
  static const Isa isa{"avx512_bf16", avx512_isa.float32, avx512_isa.float64, &avx512_bf16_kernels,
                       &avx512_vnni_kernels};
  return isa;
}
#endif

// Best first. A new ISA is a row here.
std::vector<Level> levels() {
  [[maybe_unused]] const CpuFeatures& cpu = cpu_features();
  return {
#if defined(CPUATTN_HAVE_AVX512_BF16)
      {&avx512_bf16_isa(), cpu.avx512_bf16},
#endif
#if defined(CPUATTN_HAVE_AVX512_VNNI)
      {&avx512_vnni_isa(), cpu.avx512_vnni},
#endif
#if defined(CPUATTN_HAVE_AVX512)
      {&avx512_isa, cpu.avx512},
#endif
#if defined(CPUATTN_HAVE_AVX2)
      {&avx2_isa, cpu.avx2_fma},
#endif
#if defined(CPUATTN_HAVE_NEON)
      {&neon_isa, cpu.neon},
#endif
      {&scalar_isa, true},
  };
}

const Isa& find_isa(const std::string& name, const char* source) {
  std::string valid;
  for (const Isa* isa : available_isas()) {
    if (name == isa->name) return *isa;
    valid += (valid.empty() ? "" : ", ") + std::string(isa->name);
  }
  throw std::invalid_argument(std::string(source) + "='" + name +
                              "' is not an instruction set that this CPU and build can run; "
                              "valid are: " +
                              valid);
}

std::atomic<const Isa*> chosen{nullptr};

}  // namespace

std::vector<const Isa*> compiled_isas() {
  std::vector<const Isa*> isas;
  for (const Level& level : levels()) isas.push_back(level.isa);
  return isas;
}

std::vector<const Isa*> available_isas() {
  std::vector<const Isa*> isas;
  for (const Level& level : levels()) {
    if (level.runs_here) isas.push_back(level.isa);
  }
  return isas;
}

const Isa& current_isa() {
  if (const Isa* isa = chosen.load(std::memory_order_acquire)) return *isa;
  const std::string name = requested_isa();
  const Isa& isa = name.empty() ? *available_isas().front() : find_isa(name, "CPUATTN_ISA");
  chosen.store(&isa, std::memory_order_release);
  return isa;
}

void use_isa(const std::string& name) { chosen = &find_isa(name, "isa"); }

}  // namespace cpuattn
