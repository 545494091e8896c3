// The outputs of few rows: value_dim in the lanes, every value read once for all rows.
#pragma once

#include <math.h>

#include <cstddef>

#include "kernels/common/mask.hpp"
#include "kernels/common/rows.hpp"
#include "kernels/common/tile.hpp"
#include "kernels/common/tokens.hpp"
#include "kernels/decode/scores.hpp"

namespace cpuattn {
namespace {

template <class V, class S, int kRows>
struct DecodeValues {
  using T = typename V::Element;
  const Work& work;
  const RowBlock<T, kRows>& rows;
  KeySpan span;  // a piece of the block
  const BlockRows<V, S, kRows>& values;
  std::ptrdiff_t first;  // row of the first key of the span
  const T* weights;      // [key of the span][row]
  std::ptrdiff_t ahead;  // rows that are asked for so much earlier
  bool check;            // some rows may not see some of the keys
  T factor;              // of sums; 1 but for int8
};

template <class V, class S, int kRows>
[[gnu::always_inline]] inline typename V::Vec add_sum(const DecodeValues<V, S, kRows>& block,
                                                      typename V::Vec output, typename V::Vec sum) {
  if constexpr (sizeof(S) > 1) return V::add(output, sum);
  return V::fma(sum, V::set1(block.factor), output);
}

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
      const auto value = load_up_to<V>(block.values.at(block.first + j) + dim, dims);
      sum = V::fma(V::set1(block.weights[j * kRows + r]), value, sum);
    }
    T* output = outputs + r * DecodeShape<V, kRows>::padded(block.work.value_dim) + dim;
    V::store(output, add_sum(block, V::load(output), sum));
  }
}

// Rows and vectors of dims whose sums stay in registers while some keys are added.
template <class V, int kRows>
struct ValueTile {
  static constexpr int kVecs = V::kAccumulators < 16 ? 12 : 16;  // the rest is for values, weights
  static constexpr int kTileRows = kRows < 4 ? kRows : 4;
  static constexpr int kMostCols = 8;  // 128 dims of AVX-512, where 16 were slower
  static constexpr int kCols = kVecs / kTileRows < kMostCols ? kVecs / kTileRows : kMostCols;
};

// sums[vector of dims][row] += weight · value over the keys [begin, end) of the span, for the rows
// from first_row on and kCols vectors of dims. `count` dims are there: fewer than a vector, if
// kCols is 1. Every `passes`-th key, from the `pass`-th on, asks for a row ahead: each pass has an
// equal share of them.
template <class V, class S, int kRows, int kCols>
[[gnu::always_inline]] inline void add_columns(const DecodeValues<V, S, kRows>& block,
                                               std::ptrdiff_t begin, std::ptrdiff_t end,
                                               int first_row, std::ptrdiff_t dim,
                                               std::ptrdiff_t count, std::ptrdiff_t pass,
                                               std::ptrdiff_t passes, typename V::Element* sums) {
  constexpr int kTileRows = ValueTile<V, kRows>::kTileRows;
  const bool partial = kCols == 1 && count < V::kLanes;
  sums += dim * kRows + first_row * V::kLanes;
  Tile<V, kTileRows, kCols> sum;
#pragma GCC unroll 16
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < kCols; ++n) sum.at[r][n] = V::load(sums + (n * kRows + r) * V::kLanes);
  }
  for (std::ptrdiff_t j = begin; j < end; ++j, --pass) {
    const S* value = block.values.at(block.first + j) + dim;
    if (!kStreamed<V, S, kRows> && pass == 0) {
      prefetch_row(block.values, block.first + j + block.ahead, block.work.value_dim);
      pass = passes;
    }
    typename V::Vec v[kCols];
#pragma GCC unroll 16
    for (int n = 0; n < kCols; ++n) {
      v[n] = partial ? load_first<V>(value, count) : load_token<V, S, kRows>(value + n * V::kLanes);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r) {
      const auto weight = V::set1(block.weights[j * kRows + first_row + r]);
#pragma GCC unroll 16
      for (int n = 0; n < kCols; ++n) sum.at[r][n] = V::fma(weight, v[n], sum.at[r][n]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 16
    for (int n = 0; n < kCols; ++n) V::store(sums + (n * kRows + r) * V::kLanes, sum.at[r][n]);
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
      probe = V::fma(V::zero(), V::load(sums + d * kRows + r * V::kLanes), probe);
    }
    if (V::any(V::is_nan(probe))) {
      decode_visible(block, d, value_dim - d, outputs);
      continue;
    }
    for (int r = 0; r < kRows; ++r) {
      auto* output = outputs + r * row_stride + d;
      const auto sum = V::load(sums + d * kRows + r * V::kLanes);
      V::store(output, add_sum(block, V::load(output), sum));
    }
  }
}

// Some keys are added to all columns, then the next ones: few where memory is the bound, so that it
// is read nearly in the order in which it lies, and one by one where it is read as by a plain loop.
template <class V, class S, int kRows>
[[gnu::noinline]] void accumulate_decode(const DecodeValues<V, S, kRows>& block,
                                         typename V::Element* sums, typename V::Element* outputs) {
  using ValueTile = ValueTile<V, kRows>;
  const std::ptrdiff_t size = kRows * DecodeShape<V, kRows>::padded(block.work.value_dim);
  for (std::ptrdiff_t i = 0; i < size; i += V::kLanes) V::store(sums + i, V::zero());
  const std::ptrdiff_t vectors = block.work.value_dim / V::kLanes;
  const std::ptrdiff_t rest = block.work.value_dim % V::kLanes;
  const std::ptrdiff_t passes =
      (vectors + ValueTile::kCols - 1) / ValueTile::kCols * (kRows / ValueTile::kTileRows);
  const std::ptrdiff_t step = kComputeBound<V, S, kRows> || passes < 2 ? 16
                              : kStreamed<V, S, kRows>                 ? 1
                                                                       : 4;
  const std::ptrdiff_t keys = block.span.size();
  for (std::ptrdiff_t begin = 0; begin < keys; begin += step) {
    const std::ptrdiff_t end = begin + step < keys ? begin + step : keys;
    std::ptrdiff_t pass = 0;
    for (int row = 0; row < kRows; row += ValueTile::kTileRows) {
      for_each_tile<ValueTile::kCols>(0, vectors, [&](auto cols, std::ptrdiff_t vector) {
        add_columns<V, S, kRows, decltype(cols)::value>(block, begin, end, row, vector * V::kLanes,
                                                        V::kLanes, pass++, passes, sums);
      });
      if (rest > 0) {
        add_columns<V, S, kRows, 1>(block, begin, end, row, vectors * V::kLanes, rest, -1, passes,
                                    sums);
      }
    }
  }
  fold_values(block, sums, outputs);
}

}  // namespace
}  // namespace cpuattn
