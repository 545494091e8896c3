#include "kernels/vec/scalar.hpp"

#include "kernels/isa/bind.hpp"

namespace cpuattn {
extern const Isa scalar_isa;
const Isa scalar_isa = bind_isa<Float32, Float64>("scalar");
}  // namespace cpuattn
