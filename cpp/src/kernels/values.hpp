// The second product: outputs[value_dim][row] += valuesᵀ · weights, for one block of keys, in
// register tiles of dims x queries; and what to do about a NaN behind a mask.
#pragma once

#include <math.h>

#include <cstddef>

#include "../kernel.hpp"
#include "block.hpp"
#include "mask.hpp"
#include "rows.hpp"
#include "scratch.hpp"
#include "tile.hpp"

namespace cpuattn {
namespace {

// Products along the keys are summed in groups that start at fixed keys of a block, for the same
// reason as the weights: equal terms are all rounded alike.
constexpr std::ptrdiff_t kValueGroup = 48;

// One block of keys: what its values are to be multiplied with, and who may see them.
template <class V, int kVecs>
struct ValueBlock {
  using T = typename V::Element;
  const Work& work;
  const RowBlock<T, kVecs * V::kLanes>& rows;
  KeySpan span;
  std::ptrdiff_t offset;  // keys of the block before the span
  DenseRows<T> values;
  const T* weights;  // [key][rows]
  const T* rescale;  // [rows]
  T* visible;        // [key][rows], valid once `traced`
  bool traced = false;
};

// Keys [begin, end) of a block, the first or a later group of it.
struct KeyGroup {
  std::ptrdiff_t begin, end;
};

// In the first group of a block output · rescale + sum, in the others output + sum.
template <class V, int kVecs, int kDims, int kCols>
[[gnu::always_inline]] inline void add_tile(const Tile<V, kDims, kCols>& tile, bool first_group,
                                            const typename V::Element* rescale,
                                            typename V::Element* outputs) {
  constexpr int kRows = kVecs * V::kLanes;
  typename V::Vec factor[kCols];
#pragma GCC unroll 16
  for (int n = 0; n < kCols; ++n) {
    factor[n] = first_group ? V::load(rescale + n * V::kLanes) : V::set1(1);
  }
#pragma GCC unroll 16
  for (int m = 0; m < kDims; ++m) {
#pragma GCC unroll 16
    for (int n = 0; n < kCols; ++n) {
      auto* output = outputs + m * kRows + n * V::kLanes;
      V::store(output, V::fma(V::load(output), factor[n], tile.at[m][n]));
    }
  }
}

// A hidden key has weight 0, but 0 · NaN is NaN. Where a sum over a partly hidden block came out
// as NaN or inf, it is done again with the hidden keys left out: an unmasked NaN stays exactly
// where it belongs. What is hidden is found by masking a block of zeros.
template <class V, int kVecs>
[[gnu::noinline]] void accumulate_visible(ValueBlock<V, kVecs>& block, KeyGroup group,
                                          std::ptrdiff_t dim, int dims, int first, int cols,
                                          typename V::Element* outputs) {
  constexpr int kRows = kVecs * V::kLanes;
  if (!block.traced) {
    for (std::ptrdiff_t i = 0; i < block.span.size() * kRows; ++i) block.visible[i] = 0;
    mask_block<V, kVecs>(block.work, block.rows, block.span, block.visible);
    block.traced = true;
  }
  const auto hidden = V::set1(-INFINITY);
  for (std::ptrdiff_t d = dim; d < dim + dims; ++d) {
    for (int row = first; row < first + cols * V::kLanes; row += V::kLanes) {
      auto sum = V::zero();
      for (std::ptrdiff_t j = group.begin; j < group.end; ++j) {
        const auto value = V::set1(block.values.data[j * block.values.stride + d]);
        const auto next = V::fma(value, V::load(block.weights + j * kRows + row), sum);
        const auto is_hidden = V::equal(V::load(block.visible + j * kRows + row), hidden);
        sum = V::select(is_hidden, sum, next);
      }
      const Tile<V, 1, 1> tile{{{sum}}};
      add_tile<V, kVecs>(tile, group.begin == 0, block.rescale + row, outputs + d * kRows + row);
    }
  }
}

template <class V, int kRows, int kCols>
bool all_finite(const Tile<V, kRows, kCols>& tile) {
  auto probe = V::zero();  // 0 · x is NaN where x is NaN or inf
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 16
    for (int n = 0; n < kCols; ++n) probe = V::fma(V::zero(), tile.at[m][n], probe);
  }
  return !V::any(V::is_nan(probe));
}

// outputs[d][row] = outputs[d][row] · rescale[row] + sum over keys of value[d] · weight[row],
// for kDims dims. kCheck: some rows may not see some of the keys.
template <class V, int kVecs, int kDims, bool kCheck>
[[gnu::noinline]] void value_tile(ValueBlock<V, kVecs>& block, std::ptrdiff_t dim,
                                  typename V::Element* outputs) {
  constexpr int kCols = kTileCols<V, kVecs>;
  constexpr int kRows = kVecs * V::kLanes;
  const std::ptrdiff_t count = block.span.size();
  for (int first = 0; first < kRows; first += kCols * V::kLanes) {
    KeyGroup group{0, kValueGroup - block.offset % kValueGroup};
    for (; group.begin < count; group = {group.end, group.end + kValueGroup}) {
      group.end = group.end < count ? group.end : count;
      Tile<V, kDims, kCols> tile;
      multiply(tile, block.values.data + group.begin * block.values.stride + dim, UnitStride{},
               block.values.stride, block.weights + group.begin * kRows + first, kRows,
               group.end - group.begin);
      if (kCheck && !all_finite(tile)) {
        accumulate_visible(block, group, dim, kDims, first, kCols, outputs);
        continue;
      }
      add_tile<V, kVecs>(tile, group.begin == 0, block.rescale + first,
                         outputs + dim * kRows + first);
    }
  }
}

template <class V, int kVecs>
void accumulate_values(ValueBlock<V, kVecs>& block, typename V::Element* outputs) {
  const bool check = block.span.cover != Cover::kAll || block.work.bias.type != ScoreType::kNone;
  for_each_tile<kTileRows<V, kTileCols<V, kVecs>>>(
      0, block.work.value_dim, [&](auto size, std::ptrdiff_t dim) {
        constexpr int kDims = decltype(size)::value;
        if (check) {
          value_tile<V, kVecs, kDims, true>(block, dim, outputs);
        } else {
          value_tile<V, kVecs, kDims, false>(block, dim, outputs);
        }
      });
}

}  // namespace
}  // namespace cpuattn
