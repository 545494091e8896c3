// Cuts the scratch memory of a work item into aligned arrays, and copies keys or values there
// when their head_dim is not contiguous.
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

// `dims` dims from `dim` on of the rows [begin, end) of a matrix, read where they lie or, if
// head_dim is strided, from a copy.
template <class T>
DenseRows<T> dense_rows(const Matrix& matrix, std::ptrdiff_t begin, std::ptrdiff_t end,
                        std::ptrdiff_t dim, std::ptrdiff_t dims, T* copy) {
  const T* first =
      static_cast<const T*>(matrix.data) + begin * matrix.row_stride + dim * matrix.dim_stride;
  if (matrix.dim_stride == 1 || dims == 1) return {first, matrix.row_stride};
  for (std::ptrdiff_t row = 0; row < end - begin; ++row) {
    for (std::ptrdiff_t d = 0; d < dims; ++d) {
      copy[row * dims + d] = first[row * matrix.row_stride + d * matrix.dim_stride];
    }
  }
  return {copy, dims};
}

}  // namespace
}  // namespace cpuattn
