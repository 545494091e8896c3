#include "bind.hpp"
#include "vec_scalar.hpp"

namespace cpuattn {
extern const Isa scalar_isa;
const Isa scalar_isa = bind_isa<ScalarVec<float>, ScalarVec<double>>("scalar");
}  // namespace cpuattn
