// What this CPU and its operating system can run.
#pragma once

namespace cpuattn {

// Instructions that exist and registers that the operating system saves.
struct CpuFeatures {
  bool avx2_fma = false;
  bool avx512 = false;  // F, VL, BW and DQ: what avx512.cpp is compiled for
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool neon = false;
};

const CpuFeatures& cpu_features();

}  // namespace cpuattn
