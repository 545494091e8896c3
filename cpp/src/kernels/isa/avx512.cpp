#include "kernels/vec/avx512.hpp"

#include "kernels/isa/bind.hpp"

namespace cpuattn {
extern const Isa avx512_isa;
const Isa avx512_isa = bind_isa<Float32, Float64>("avx512");
}  // namespace cpuattn
