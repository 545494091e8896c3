// Cuts the scratch memory of a work item into aligned arrays.
#pragma once

#include <cstddef>

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

}  // namespace
}  // namespace cpuattn
