// Merging results over disjoint ranges of keys, in the order of keys.
#pragma once

#include <cstddef>

#include "../kernel.hpp"
#include "exp.hpp"
#include "softmax.hpp"

namespace cpuattn {
namespace {

template <class V>
void merge(const Partial& total, const Partial& part, std::ptrdiff_t num_rows,
           std::ptrdiff_t value_dim) {
  using T = typename V::Element;
  for (std::ptrdiff_t r = 0; r < num_rows; ++r) {
    T* max = static_cast<T*>(total.row_max) + r;
    T* sum = static_cast<T*>(total.row_sum) + r;
    const auto old_max = V::set1(*max), part_max = V::set1(static_cast<T*>(part.row_max)[r]);
    const auto new_max = V::max(old_max, part_max);
    const auto base = softmax_base<V>(new_max);
    const auto keep = exp<V>(V::sub(old_max, base)), take = exp<V>(V::sub(part_max, base));
    const auto part_sum = V::set1(static_cast<T*>(part.row_sum)[r]);
    V::store_partial(sum, V::fma(V::set1(*sum), keep, V::mul(part_sum, take)), 1);
    V::store_partial(max, new_max, 1);
    T* to = static_cast<T*>(total.output) + r * value_dim;
    const T* from = static_cast<const T*>(part.output) + r * value_dim;
    for (std::ptrdiff_t d = 0; d < value_dim; d += V::kLanes) {
      const std::ptrdiff_t rest = value_dim - d;
      const std::ptrdiff_t count = rest < V::kLanes ? rest : V::kLanes;
      const auto added = V::mul(V::load_partial(from + d, count), take);
      V::store_partial(to + d, V::fma(V::load_partial(to + d, count), keep, added), count);
    }
  }
}

}  // namespace
}  // namespace cpuattn
