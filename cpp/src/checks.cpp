#include "checks.hpp"

#include <stdexcept>

namespace cpuattn {

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

std::string text(const std::ptrdiff_t* shape, int rank) {
  std::string s = "(";
  for (int i = 0; i < rank; ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + (rank == 1 ? ",)" : ")");
}
std::string text(const View& view) { return text(view.shape, view.rank); }

std::ptrdiff_t size(const View& view, int from_end) {
  return from_end <= view.rank ? view.shape[view.rank - from_end] : 1;
}

const char* type_name(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return "bool";
    case DType::kInt8:
      return "int8";
    case DType::kInt64:
      return "int64";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
  }
  return "unknown";
}

bool is_float(DType dtype) {
  return dtype == DType::kFloat16 || dtype == DType::kBFloat16 || dtype == DType::kFloat32 ||
         dtype == DType::kFloat64;
}

[[noreturn]] void fail_type(const char* name, const View& view, const std::string& allowed) {
  fail(std::string(name) + " has element type " + type_name(view.dtype) + "; it must be " +
       allowed);
}

void check_array(const char* name, const View& view) {
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] < 0) fail(std::string(name) + " has a negative dimension: " + text(view));
    if ((view.stride[i] & (element_size(view.dtype) - 1)) != 0) {  // a power of two
      fail(std::string(name) + " has strides that are not multiples of its element size");
    }
  }
}

void check_floats(const char* name, const View& view, DType query) {
  check_array(name, view);
  if (query == DType::kFloat64 ? view.dtype != DType::kFloat64
                               : !is_float(view.dtype) || view.dtype == DType::kFloat64) {
    fail_type(name, view,
              query == DType::kFloat64 ? "float64, like query"
                                       : "float32, float16 or bfloat16, as query is not float64");
  }
}

}  // namespace cpuattn
