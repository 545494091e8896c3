#include "kernels/vec/avx2.hpp"

#include "kernels/isa/bind.hpp"

namespace cpuattn {
extern const Isa avx2_isa;
const Isa avx2_isa = bind_isa<Float32, Float64>("avx2");
}  // namespace cpuattn
