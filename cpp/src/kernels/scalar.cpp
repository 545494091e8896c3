#include "bind.hpp"
#include "vec_scalar.hpp"

namespace cpuattn {
extern const Isa scalar_isa;
const Isa scalar_isa = bind_isa<Float32, Float64>("scalar");
}  // namespace cpuattn
