// The second product: outputs[value_dim][row] += valuesᵀ · weights, for one block of keys, in
// register tiles of dims x queries; and what to do about a NaN behind a mask.
#pragma once

#include <math.h>

#include <cstddef>

#include "kernel.hpp"
#include "kernels/common/mask.hpp"
#include "kernels/common/pairs.hpp"
#include "kernels/common/rows.hpp"
#include "kernels/common/softmax.hpp"
#include "kernels/common/tile.hpp"
#include "kernels/common/tokens.hpp"
#include "kernels/forward/scores.hpp"

namespace cpuattn {
namespace {

// Products along the keys (or pairs of them) are summed in groups that start at fixed keys of a
// block, for the same reason as the weights: equal terms are all rounded alike.
constexpr std::ptrdiff_t kValueGroup = 48;

// Keys, or pairs of them, [begin, end) of a block, the first or a later group of it.
struct KeyGroup {
  std::ptrdiff_t begin, end;
};

// One block of keys: what its values are to be multiplied with, and who may see them.
template <class V, int kVecs>
struct ValueBlock {
  using T = typename V::Element;
  const Work& work;
  const RowBlock<T, kVecs * V::kLanes>& rows;
  KeySpan span;
  std::ptrdiff_t offset;         // keys of the block before the span
  DenseRows<Operand<V>> values;  // of the slice of dims at hand
  const Operand<V>* weights;     // [key or pair of keys][rows]
  const T* factors;              // of the rows, where kBlockBase
  T* visible;                    // [key][rows], valid once `traced`
  bool nothing_yet;              // no key was summed up before: outputs are not even zeros
  bool traced = false;

  // What lies before the span, in keys or pairs, and the first key of one of them.
  std::ptrdiff_t first() const { return offset / V::kPack; }
  std::ptrdiff_t depth() const { return operands<V>(offset + span.size()) - first(); }
  std::ptrdiff_t key(std::ptrdiff_t j) const { return (first() + j) * V::kPack - offset; }
  bool is_first(KeyGroup group) const { return nothing_yet && group.begin == 0; }
};

// outputs and factors: of the first row of the tile. is_first: nothing was summed up before.
template <class V, int kVecs, int kDims, int kCols>
[[gnu::always_inline]] inline void add_tile(const Tile<V, kDims, kCols>& tile,
                                            const typename V::Element* factors, bool is_first,
                                            typename V::Element* outputs) {
  constexpr int kRows = kVecs * V::kLanes;
  const auto add = [&](int n, typename V::Vec output, typename V::Vec sum) {
    if constexpr (!kBlockBase<V>) return V::add(output, sum);
    return V::fma(sum, V::load(factors + n * V::kLanes), output);
  };
#pragma GCC unroll 16
  for (int m = 0; m < kDims; ++m) {
#pragma GCC unroll 16
    for (int n = 0; n < kCols; ++n) {
      auto* output = outputs + m * kRows + n * V::kLanes;
      V::store(output, add(n, is_first ? V::zero() : V::load(output), tile.at[m][n]));
    }
  }
}

template <class V, int kVecs>
typename V::Mask is_hidden(const ValueBlock<V, kVecs>& block, std::ptrdiff_t key, int row) {
  const auto visible = V::load(block.visible + key * kVecs * V::kLanes + row);
  return V::equal(visible, V::set1(-INFINITY));
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
  for (std::ptrdiff_t d = dim; d < dim + dims; ++d) {
    for (int row = first; row < first + cols * V::kLanes; row += V::kLanes) {
      auto sum = V::zero();
      for (std::ptrdiff_t j = group.begin; j < group.end; ++j) {
        const auto value = V::set1(block.values.data[j * block.values.stride + d]);
        const auto weight = V::load(block.weights + j * kRows + row);
        if constexpr (V::kPack == 1) {
          sum = V::select(is_hidden(block, j, row), sum, V::fma(value, weight, sum));
        } else {
          const std::ptrdiff_t key = block.key(j);
          auto seen = value;
          if (key >= 0) seen = V::clear_first(is_hidden(block, key, row), seen);
          if (key + 1 < block.span.size()) {
            seen = V::clear_second(is_hidden(block, key + 1, row), seen);
          }
          sum = V::fma(seen, weight, sum);
        }
      }
      add_tile<V, kVecs>(Tile<V, 1, 1>{{{sum}}}, block.factors + row, block.is_first(group),
                         outputs + d * kRows + row);
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

// outputs[d][row] += sum over the keys of the group of value[d] · weight[row], for kDims dims.
// kCheck: some rows may not see some of the keys.
template <class V, int kVecs, int kDims, bool kCheck>
[[gnu::noinline]] void value_tile(ValueBlock<V, kVecs>& block, KeyGroup group, std::ptrdiff_t dim,
                                  typename V::Element* outputs) {
  constexpr int kCols = kTileCols<V, kVecs>;
  constexpr int kRows = kVecs * V::kLanes;
  for (int first = 0; first < kRows; first += kCols * V::kLanes) {
    Tile<V, kDims, kCols> tile;
    const std::ptrdiff_t stride = block.values.stride;
    const Left left{block.values.data + group.begin * stride + dim, UnitStride{}, stride,
                    kKeyBlock * stride};
    multiply(tile, left, block.weights + group.begin * kRows + first, kRows,
             group.end - group.begin);
    if (kCheck && !all_finite(tile)) {
      accumulate_visible(block, group, dim, kDims, first, kCols, outputs);
    } else {
      add_tile<V, kVecs>(tile, block.factors + first, block.is_first(group),
                         outputs + dim * kRows + first);
    }
  }
}

// Group by group, so that its values and weights stay in the L1 cache while all dims are
// multiplied.
template <class V, int kVecs>
void accumulate_slice(ValueBlock<V, kVecs>& block, std::ptrdiff_t dims,
                      typename V::Element* outputs) {
  const bool check = block.span.cover != Cover::kAll || block.work.bias.type != ElementType::kNone;
  const std::ptrdiff_t depth = block.depth();
  KeyGroup group{0, kValueGroup - block.first() % kValueGroup};
  for (; group.begin < depth; group = {group.end, group.end + kValueGroup}) {
    group.end = group.end < depth ? group.end : depth;
    for_each_tile<kTileRows<V, kTileCols<V, kVecs>>>(0, dims, [&](auto size, std::ptrdiff_t dim) {
      constexpr int kDims = decltype(size)::value;
      const auto tile =
          check ? value_tile<V, kVecs, kDims, true> : value_tile<V, kVecs, kDims, false>;
      tile(block, group, dim, outputs);
    });
  }
}

// All dims at once where values are read in place, else in slices that fit the copy. Crowded values
// are copied if several tiles beside each other read them, pairs of values always.
template <class V, int kVecs>
void accumulate_values(ValueBlock<V, kVecs>& block, SharedRows<V>& shared,
                       typename V::Element* outputs) {
  using T = typename V::Element;
  const Tokens& value = block.work.value;
  const KeySpan span = block.span;
  const std::ptrdiff_t value_dim = block.work.value_dim;
  const bool crowded = kVecs > V::kTileVecs && are_crowded<T>(value);
  const bool copied = V::kPack > 1 || crowded || value.dim_stride != 1 ||
                      value.type != kTypeOf<T> || value.pages != nullptr;
  for (std::ptrdiff_t d = 0, dims; d < value_dim; d += dims) {
    dims = copied ? slice_dims(value_dim - d) : value_dim;
    block.values = shared.get(true, span.begin, span.end, d, [&](Operand<V>* copy) {
      if constexpr (V::kPack == 1) {
        return dense_rows<V>(value, span.begin, span.end, d, dims, copy, crowded);
      } else {
        return value_pairs<V>(value, span.begin, span.end, block.offset % 2 != 0, d, dims, copy);
      }
    });
    accumulate_slice(block, dims, outputs + d * kVecs * V::kLanes);
  }
}

}  // namespace
}  // namespace cpuattn
