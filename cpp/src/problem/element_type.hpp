// The types of the public API by the names that the kernels have for them.
#pragma once

#include "cpuattn/attention.hpp"
#include "kernel.hpp"

namespace cpuattn {

inline ElementType element_type(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return ElementType::kBool;
    case DType::kInt8:
      return ElementType::kInt8;
    case DType::kFloat16:
      return ElementType::kFloat16;
    case DType::kBFloat16:
      return ElementType::kBFloat16;
    case DType::kFloat32:
      return ElementType::kFloat32;
    case DType::kFloat64:
      return ElementType::kFloat64;
    case DType::kInt64:
      break;
  }
  return ElementType::kNone;
}

}  // namespace cpuattn
