// The outputs of few rows: value_dim in the lanes, every value read once for all rows.
#pragma once

#include <math.h>

#include <cstddef>

#include "decode_scores.hpp"
#include "mask.hpp"
#include "rows.hpp"
#include "scratch.hpp"

namespace cpuattn {
namespace {

template <class V>
typename V::Vec load_up_to(const typename V::Element* p, std::ptrdiff_t rest) {
  return rest >= V::kLanes ? V::load(p) : V::load_partial(p, rest);
}

template <class V, int kRows>
struct DecodeValues {
  using T = typename V::Element;
  const Work& work;
  const RowBlock<T, kRows>& rows;
  KeySpan span;
  DenseRows<T> values;
  const typename V::Element* weights;  // [key of the span][row]
  const typename V::Element* rescale;
  bool check;  // some rows may not see some of the keys
};

// As accumulate_visible of forward.hpp: hidden keys are left out instead of weighted with 0.
template <class V, int kRows>
[[gnu::noinline]] void decode_visible(const DecodeValues<V, kRows>& block, std::ptrdiff_t dim,
                                      std::ptrdiff_t dims, typename V::Element* outputs) {
  using T = typename V::Element;
  for (int r = 0; r < kRows; ++r) {
    auto sum = V::zero();
    for (std::ptrdiff_t j = 0; j < block.span.size(); ++j) {
      if (masked_score(block.work, block.rows, r, block.span.begin + j, T(0)) == -T(INFINITY)) {
        continue;
      }
      const auto value = load_up_to<V>(block.values.data + j * block.values.stride + dim, dims);
      sum = V::fma(V::set1(block.weights[j * kRows + r]), value, sum);
    }
    T* output = outputs + r * DecodeShape<V, kRows>::padded(block.work.value_dim) + dim;
    V::store(output, V::fma(V::load(output), V::set1(block.rescale[r]), sum));
  }
}

// kCols vectors of value dims from `dim` on; kPartial: the only one has `rest` lanes.
template <class V, int kRows, int kCols, bool kPartial>
[[gnu::noinline]] void decode_columns(const DecodeValues<V, kRows>& block, std::ptrdiff_t dim,
                                      std::ptrdiff_t rest, typename V::Element* outputs) {
  const std::ptrdiff_t row_stride = DecodeShape<V, kRows>::padded(block.work.value_dim);
  const typename V::Element* value = block.values.data + dim;
  const typename V::Element* weight = block.weights;
  typename V::Vec sum[kRows][kCols];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) sum[r][c] = V::zero();
  }
  for (std::ptrdiff_t j = 0; j < block.span.size(); ++j) {
    typename V::Vec v[kCols];
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) {
      v[c] = kPartial ? V::load_partial(value, rest) : V::load(value + c * V::kLanes);
      V::prefetch(value + c * V::kLanes + kPrefetchKeys * block.values.stride);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const auto w = V::set1(weight[r]);
#pragma GCC unroll 16
      for (int c = 0; c < kCols; ++c) sum[r][c] = V::fma(w, v[c], sum[r][c]);
    }
    value += block.values.stride;
    weight += kRows;
  }
  if (block.check) {
    auto probe = V::zero();
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int c = 0; c < kCols; ++c) probe = V::fma(V::zero(), sum[r][c], probe);
    }
    if (V::any(V::is_nan(probe))) {
      for (int c = 0; c < kCols; ++c) {
        decode_visible(block, dim + c * V::kLanes, rest - c * V::kLanes, outputs);
      }
      return;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const auto rescale = V::set1(block.rescale[r]);
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) {
      auto* output = outputs + r * row_stride + dim + c * V::kLanes;
      V::store(output, V::fma(V::load(output), rescale, sum[r][c]));
    }
  }
}

// kCols columns at a time, then half as many, then the part of a vector that may be left.
template <class V, int kRows, int kCols>
void accumulate_decode(const DecodeValues<V, kRows>& block, std::ptrdiff_t dim,
                       typename V::Element* outputs) {
  const std::ptrdiff_t value_dim = block.work.value_dim;
  for (; dim + kCols * V::kLanes <= value_dim; dim += kCols * V::kLanes) {
    decode_columns<V, kRows, kCols, false>(block, dim, value_dim - dim, outputs);
  }
  if (dim == value_dim) return;
  if constexpr (kCols > 1) {
    accumulate_decode<V, kRows, kCols / 2>(block, dim, outputs);
  } else {
    decode_columns<V, kRows, 1, true>(block, dim, value_dim - dim, outputs);
  }
}

}  // namespace
}  // namespace cpuattn
