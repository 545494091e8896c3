// Cuts the scratch memory of a work item into aligned arrays, and copies keys or values there
// when their head_dim is not contiguous or their rows crowd in a cache.
#pragma once

#include <cstddef>

#include "../kernel.hpp"

namespace cpuattn {
namespace {

constexpr std::size_t kAlignment = 64;

// With base == nullptr it only counts: *_scratch functions and kernels share the same calls.
class ScratchCutter {
 public:
  explicit ScratchCutter(void* base) : base_(static_cast<unsigned char*>(base)) {}

  template <class T>
  T* take(std::ptrdiff_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    T* const array = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return array;
  }
  std::size_t used() const { return used_; }

 private:
  unsigned char* base_;
  std::size_t used_ = 0;
};

// Rows of keys or values whose elements are contiguous.
template <class T>
struct DenseRows {
  const T* data;
  std::ptrdiff_t stride;
};

// Rows that start a multiple of 8 lines apart share an eighth of the sets of an L1 cache of 64, or
// less: those of a block drive each other out.
template <class T>
bool are_crowded(const Matrix& matrix) {
  return matrix.row_stride * std::ptrdiff_t(sizeof(T)) % 512 == 0;
}

// The rows of a copy start an odd number of lines apart, which spreads them over all sets.
template <class T>
constexpr std::ptrdiff_t copy_stride(std::ptrdiff_t dims) {
  constexpr std::ptrdiff_t kLine = 64 / sizeof(T);
  return (dims + kLine - 1) / kLine / 2 * 2 * kLine + kLine;
}

// `dims` dims from `dim` on of the rows [begin, end) of a matrix, `copied` where rows are strided
// along head_dim, or where the caller wants it.
template <class T>
DenseRows<T> dense_rows(const Matrix& matrix, std::ptrdiff_t begin, std::ptrdiff_t end,
                        std::ptrdiff_t dim, std::ptrdiff_t dims, T* copy, bool copied = false) {
  const T* first =
      static_cast<const T*>(matrix.data) + begin * matrix.row_stride + dim * matrix.dim_stride;
  const bool strided = matrix.dim_stride != 1 && dims != 1;
  if (!strided && !copied) return {first, matrix.row_stride};
  const std::ptrdiff_t stride = copy_stride<T>(dims);
  for (std::ptrdiff_t row = 0; row < end - begin; ++row) {
    const T* from = first + row * matrix.row_stride;
    T* to = copy + row * stride;
    if (strided) {
      for (std::ptrdiff_t d = 0; d < dims; ++d) to[d] = from[d * matrix.dim_stride];
    } else {
      for (std::ptrdiff_t d = 0; d < dims; ++d) to[d] = from[d];
    }
  }
  return {copy, stride};
}

}  // namespace
}  // namespace cpuattn
