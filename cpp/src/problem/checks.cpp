#include "problem/checks.hpp"

#include <algorithm>
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

bool is_empty(const View& view) {
  return std::find(view.shape, view.shape + view.rank, 0) != view.shape + view.rank;
}

void check_array(const char* name, const View& view) {
  if (view.rank < 0 || view.rank > kMaxRank) {
    fail(std::string(name) + " has " + std::to_string(view.rank) +
         " dimensions; it must have 0 to " + std::to_string(kMaxRank));
  }
  if (view.dtype > DType::kFloat64) {
    fail(std::string(name) + " has an unknown element type, " +
         std::to_string(static_cast<int>(view.dtype)));
  }
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] < 0) fail(std::string(name) + " has a negative dimension: " + text(view));
    if ((view.stride[i] & (element_size(view.dtype) - 1)) != 0) {  // a power of two
      fail(std::string(name) + " has strides that are not multiples of its element size");
    }
  }
  if (!view.data && !is_empty(view)) {
    fail(std::string(name) + " has no data, its pointer is null, but shape " + text(view));
  }
}

void check_float_type(const char* name, const View& view, DType query) {
  if (query == DType::kFloat64 ? view.dtype != DType::kFloat64
                               : !is_float(view.dtype) || view.dtype == DType::kFloat64) {
    fail_type(name, view,
              query == DType::kFloat64 ? "float64, like query"
                                       : "float32, float16 or bfloat16, as query is not float64");
  }
}

void check_floats(const char* name, const View& view, DType query) {
  check_array(name, view);
  check_float_type(name, view, query);
}

void check_distinct(const char* name, const View& view) {
  if (is_empty(view)) return;
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] > 1 && view.stride[i] == 0) {
      fail(std::string(name) +
           " has elements that overlap (a stride of 0); it must be writable "
           "element by element");
    }
  }
}

}  // namespace cpuattn
