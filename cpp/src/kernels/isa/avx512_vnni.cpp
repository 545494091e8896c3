#include "kernels/vec/avx512_vnni.hpp"

#include "kernels/isa/bind.hpp"

namespace cpuattn {
extern const Int8Kernels avx512_vnni_kernels;
const Int8Kernels avx512_vnni_kernels = bind_int8<Int8Products>();
}  // namespace cpuattn
