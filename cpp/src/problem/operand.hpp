// An array of a call, broadcast to its batch.
#pragma once

#include <cstddef>

#include "cpuattn/attention.hpp"

namespace cpuattn {

// An operand broadcast to the batch of the call: strides in bytes, 0 where it is broadcast.
struct Operand {
  char* data = nullptr;  // nullptr: not given
  DType dtype = DType::kFloat32;
  std::ptrdiff_t batch_stride[kMaxRank] = {};
  std::ptrdiff_t stride[3] = {};  // of the last dimensions, as many as the operand has

  explicit operator bool() const { return data != nullptr; }
};

}  // namespace cpuattn
