#include "kernels/vec/neon.hpp"

#include "kernels/isa/bind.hpp"

namespace cpuattn {
extern const Isa neon_isa;
const Isa neon_isa = bind_isa<Float32, Float64>("neon");
}  // namespace cpuattn
