#include "bind.hpp"
#include "vec_avx512.hpp"

namespace cpuattn {
extern const Isa avx512_isa;
const Isa avx512_isa = bind_isa<Avx512F32, Avx512F64>("avx512");
}  // namespace cpuattn
