// Merging results over disjoint ranges of keys, in the order of keys.
#pragma once

#include <cstddef>

#include "kernel.hpp"
#include "kernels/common/softmax.hpp"

namespace cpuattn {
namespace {

template <class V>
void merge(const Partial& total, const Partial& part, std::ptrdiff_t num_rows,
           std::ptrdiff_t value_dim) {
  using T = typename V::Element;
  for (std::ptrdiff_t r = 0; r < num_rows; ++r) {
    T* base = static_cast<T*>(total.row_base) + r;
    T* sum = static_cast<T*>(total.row_sum) + r;
    const Merge<V> merged(V::set1(*base), V::set1(static_cast<T*>(part.row_base)[r]));
    const auto part_sum = V::set1(static_cast<T*>(part.row_sum)[r]);
    V::store_partial(sum, merged(V::set1(*sum), part_sum), 1);
    V::store_partial(base, merged.base, 1);
    T* to = static_cast<T*>(total.output) + r * value_dim;
    const T* from = static_cast<const T*>(part.output) + r * value_dim;
    for (std::ptrdiff_t d = 0; d < value_dim; d += V::kLanes) {
      const std::ptrdiff_t rest = value_dim - d;
      const std::ptrdiff_t count = rest < V::kLanes ? rest : V::kLanes;
      const auto sums = merged(V::load_partial(to + d, count), V::load_partial(from + d, count));
      V::store_partial(to + d, sums, count);
    }
  }
}

// Sinks are merged last, as a part whose weight is that of exp(0) and whose output is 0.
template <class V>
void add_sinks(const Work& work, const Partial& total, std::ptrdiff_t row_stride) {
  using T = typename V::Element;
  for (std::ptrdiff_t r = 0; r < work.num_rows; ++r) {
    T* base = static_cast<T*>(total.row_base) + r;
    T* sum = static_cast<T*>(total.row_sum) + r;
    const Merge<V> merged(V::set1(*base), V::set1(sink_of<T>(work, r)));
    V::store_partial(sum, merged(V::set1(*sum), V::set1(1)), 1);
    V::store_partial(base, merged.base, 1);
    T* output = static_cast<T*>(total.output) + r * row_stride;
    for (std::ptrdiff_t d = 0; d < row_stride; d += V::kLanes) {
      const std::ptrdiff_t rest = row_stride - d;
      const std::ptrdiff_t count = rest < V::kLanes ? rest : V::kLanes;
      V::store_partial(output + d, merged(V::load_partial(output + d, count), V::zero()), count);
    }
  }
}

}  // namespace
}  // namespace cpuattn
