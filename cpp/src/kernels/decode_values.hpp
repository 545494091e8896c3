// The outputs of few rows: value_dim in the lanes, every value read once for all rows.
#pragma once

#include <math.h>

#include <cstddef>

#include "decode_scores.hpp"
#include "mask.hpp"
#include "rows.hpp"
#include "tile.hpp"
#include "tokens.hpp"

namespace cpuattn {
namespace {

template <class V, class S, int kRows>
struct DecodeValues {
  using T = typename V::Element;
  const Work& work;
  const RowBlock<T, kRows>& rows;
  KeySpan span;
  const PieceRows<S>& values;
  const T* weights;  // [key of the span][row]
  bool check;        // some rows may not see some of the keys
};

// As accumulate_visible of values.hpp: hidden keys are left out instead of weighted with 0.
template <class V, class S, int kRows>
[[gnu::noinline]] void decode_visible(const DecodeValues<V, S, kRows>& block, std::ptrdiff_t dim,
                                      std::ptrdiff_t dims, typename V::Element* outputs) {
  using T = typename V::Element;
  for (int r = 0; r < kRows; ++r) {
    auto sum = V::zero();
    for (std::ptrdiff_t j = 0; j < block.span.size(); ++j) {
      if (masked_score(block.work, block.rows, r, block.span.begin + j, T(0)) == -T(INFINITY)) {
        continue;
      }
      const auto value = load_up_to<V>(block.values.row[j] + dim, dims);
      sum = V::fma(V::set1(block.weights[j * kRows + r]), value, sum);
    }
    T* output = outputs + r * DecodeShape<V, kRows>::padded(block.work.value_dim) + dim;
    V::store(output, V::add(V::load(output), sum));
  }
}

// sums[row][dim] += weight · value for kKeys keys from the `first` on, and as many of the rows from
// `row` on as have their weights in registers.
template <class V, class S, int kRows, int kKeys>
[[gnu::always_inline]] inline void add_values(const DecodeValues<V, S, kRows>& block,
                                              std::ptrdiff_t first, int row,
                                              typename V::Element* sums) {
  constexpr int kPart = DecodeShape<V, kRows>::template kValueRows<S>;
  const std::ptrdiff_t value_dim = block.work.value_dim;
  const std::ptrdiff_t row_stride = DecodeShape<V, kRows>::padded(value_dim);
  sums += row * row_stride;
  typename V::Vec weight[kKeys][kPart];
#pragma GCC unroll 16
  for (int k = 0; k < kKeys; ++k) {
#pragma GCC unroll 16
    for (int r = 0; r < kPart; ++r) {
      weight[k][r] = V::set1(block.weights[(first + k) * kRows + row + r]);
    }
  }
  const S* value[kKeys];  // a store to `sums` could change the table, for all the compiler knows
#pragma GCC unroll 16
  for (int k = 0; k < kKeys; ++k) value[k] = block.values.row[first + k];
  const auto add_column = [&](std::ptrdiff_t d, auto load) {
    typename V::Vec v[kKeys];
#pragma GCC unroll 16
    for (int k = 0; k < kKeys; ++k) v[k] = load(value[k] + d);
#pragma GCC unroll 16
    for (int r = 0; r < kPart; ++r) {
      auto sum = V::load(sums + r * row_stride + d);
#pragma GCC unroll 16
      for (int k = 0; k < kKeys; ++k) sum = V::fma(weight[k][r], v[k], sum);
      V::store(sums + r * row_stride + d, sum);
    }
  };
  std::ptrdiff_t d = 0;
  for (; d + V::kLanes <= value_dim; d += V::kLanes) {
    add_column(d, [](const S* p) { return V::load(p); });
  }
  if (d < value_dim) {
    add_column(d, [&](const S* p) { return load_first<V>(p, value_dim - d); });
  }
}

// outputs += sums, a vector of dims at a time for all rows.
template <class V, class S, int kRows>
void fold_values(const DecodeValues<V, S, kRows>& block, const typename V::Element* sums,
                 typename V::Element* outputs) {
  const std::ptrdiff_t value_dim = block.work.value_dim;
  const std::ptrdiff_t row_stride = DecodeShape<V, kRows>::padded(value_dim);
  for (std::ptrdiff_t d = 0; d < value_dim; d += V::kLanes) {
    auto probe = V::zero();
    for (int r = 0; block.check && r < kRows; ++r) {
      probe = V::fma(V::zero(), V::load(sums + r * row_stride + d), probe);
    }
    if (V::any(V::is_nan(probe))) {
      decode_visible(block, d, value_dim - d, outputs);
      continue;
    }
    for (int r = 0; r < kRows; ++r) {
      auto* output = outputs + r * row_stride + d;
      V::store(output, V::add(V::load(output), V::load(sums + r * row_stride + d)));
    }
  }
}

// A few keys at a time, each from its first dim to its last: memory is read in the order in which
// it lies, which is what a processor prefetches best, and `sums` stay in the L1 cache.
template <class V, class S, int kRows>
[[gnu::noinline]] void accumulate_decode(const DecodeValues<V, S, kRows>& block,
                                         typename V::Element* sums, typename V::Element* outputs) {
  using Shape = DecodeShape<V, kRows>;
  const std::ptrdiff_t size = kRows * Shape::padded(block.work.value_dim);
  for (std::ptrdiff_t i = 0; i < size; i += V::kLanes) V::store(sums + i, V::zero());
  const std::ptrdiff_t value_dim = block.work.value_dim;
  for_each_tile<Shape::template kValueKeys<S>>(
      0, block.span.size(), [&](auto keys, std::ptrdiff_t first) {
        constexpr int kKeys = decltype(keys)::value;
        const std::ptrdiff_t ahead = first + kPrefetchKeys;
        prefetch_rows<V>(block.values, ahead, ahead + kKeys, value_dim);
        for (int row = 0; row < kRows; row += Shape::template kValueRows<S>) {
          add_values<V, S, kRows, kKeys>(block, first, row, sums);
        }
      });
  fold_values(block, sums, outputs);
}

}  // namespace
}  // namespace cpuattn
