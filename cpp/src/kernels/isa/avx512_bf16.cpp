#include "kernels/vec/avx512_bf16.hpp"

#include "kernels/isa/bind.hpp"

namespace cpuattn {
extern const BFloat16Kernels avx512_bf16_kernels;
const BFloat16Kernels avx512_bf16_kernels = bind_bfloat16<BFloat16Products>();
}  // namespace cpuattn
