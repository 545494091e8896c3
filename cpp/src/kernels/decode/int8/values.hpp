// The outputs of few rows from int8 values by products of bytes: value_dim in the lanes, four keys
// in each.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>

#include "kernels/common/mask.hpp"
#include "kernels/common/rows.hpp"
#include "kernels/decode/int8/digits.hpp"
#include "kernels/decode/int8/scores.hpp"
#include "kernels/decode/scores.hpp"

namespace cpuattn {
namespace {

constexpr std::ptrdiff_t kByteDims = 32;  // of one pass over the values: half a cache line

// The weights of a row times scale_unit and the scales of the values; behind the last one zeros, to
// a whole vector. Hidden keys are left out instead of weighted with 0 where a scale is not finite.
template <class V, int kRows>
Extent<V> scale_weights(const Work& work, const RowBlock<float, kRows>& rows, KeySpan span,
                        const float* scales, int row, float* weights) {
  Extent<V> extent;
  for (std::ptrdiff_t j = 0; j < span.size(); j += V::kLanes) {
    const std::ptrdiff_t rest = span.size() - j;
    const auto scale = V::mul(load_up_to<V>(scales + j, rest), V::set1(scale_unit(work)));
    const auto weight = V::mul(load_up_to<V>(weights + j, rest), scale);
    V::store(weights + j, weight);
    extent.add(weight);
  }
  if (extent.is_finite()) return extent;
  for (std::ptrdiff_t j = 0; j < span.size(); ++j) {
    if (masked_score(work, rows, row, span.begin + j, 0.0f) == -INFINITY) weights[j] = 0;
  }
  extent = Extent<V>();
  for (std::ptrdiff_t j = 0; j < span.size(); j += V::kLanes) extent.add(V::load(weights + j));
  return extent;
}

// Sums of products with digits, of all rows: [32 dims][row][digit][2 vectors].
template <int kRows>
std::ptrdiff_t count_sums(std::ptrdiff_t value_dim) {
  return (value_dim + kByteDims - 1) / kByteDims * kByteDims * kRows * kDigits;
}

template <class V, int kRows>
struct Int8Values {
  const Int8Rows<V, kRows>& values;
  const DigitRows<kRows>& weights;  // unsigned digits
  std::ptrdiff_t value_dim;
  std::int32_t* sums;
};

// `count` dims from `dim` on of four values; the last one stands for those that are not there.
template <class V, int kRows>
[[gnu::always_inline]] inline void load_values(const Int8Rows<V, kRows>& values, std::ptrdiff_t j,
                                               std::ptrdiff_t end, std::ptrdiff_t dim,
                                               std::ptrdiff_t count,
                                               typename V::Quads (&quads)[2]) {
  const std::int8_t* four[4];
#pragma GCC unroll 4
  for (std::ptrdiff_t k = 0; k < 4; ++k) four[k] = values.at(j + k < end ? j + k : end - 1);
  V::load_rows(four, dim, count, quads);
}

// Adds the keys [begin, end) of the block to the sums of kDigitRows rows and the dims from `dim`
// on, of which `count` are there. Each pass over the same keys asks for its share of those of the
// next piece. `begin` is a multiple of 4; behind the last weight there are zeros.
template <class V, int kRows>
[[gnu::always_inline]] inline void add_values(const Int8Values<V, kRows>& block,
                                              std::ptrdiff_t begin, std::ptrdiff_t end,
                                              int first_row, std::ptrdiff_t dim,
                                              std::ptrdiff_t count) {
  constexpr std::ptrdiff_t kTiles = kRows / kDigitRows;
  const std::ptrdiff_t passes = (block.value_dim + kByteDims - 1) / kByteDims * kTiles;
  const std::ptrdiff_t pass = dim / kByteDims * kTiles + first_row / kDigitRows;
  std::int32_t* const sums = block.sums + (dim * kRows + kByteDims * first_row) * kDigits;
  typename V::Integers sum[kDigitRows * kDigits][2];
#pragma GCC unroll 16
  for (int i = 0; i < kDigitRows * kDigits; ++i) {
    sum[i][0] = V::load_integers(sums + 2 * i * V::kLanes);
    sum[i][1] = V::load_integers(sums + (2 * i + 1) * V::kLanes);
  }
  typename V::Quads quads[2], next[2];
  load_values<V>(block.values, begin, end, dim, count, next);
  for (std::ptrdiff_t j = begin; j < end; j += 4) {
    quads[0] = next[0];
    quads[1] = next[1];
    if (j + 4 < end) load_values<V>(block.values, j + 4, end, dim, count, next);
    for (std::ptrdiff_t k = pass; k < 4; k += passes) {
      prefetch_row(block.values, j + k + kDecodePiece, block.value_dim);
    }
    const FourDigits* const four = block.weights.four[j / 4] + first_row;
#pragma GCC unroll 16
    for (int i = 0; i < kDigitRows * kDigits; ++i) {
      const auto weight = V::set1_quad(four[i / kDigits].digit[i % kDigits]);
      sum[i][0] = V::dot(weight, quads[0], sum[i][0]);
      sum[i][1] = V::dot(weight, quads[1], sum[i][1]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kDigitRows * kDigits; ++i) {
    V::store(sums + 2 * i * V::kLanes, sum[i][0]);
    V::store(sums + (2 * i + 1) * V::kLanes, sum[i][1]);
  }
}

template <class V, int kRows>
[[gnu::noinline]] void accumulate_int8(const Int8Values<V, kRows>& block, std::ptrdiff_t begin,
                                       std::ptrdiff_t end) {
  for (std::ptrdiff_t dim = 0; dim < block.value_dim; dim += kByteDims) {
    for (int row = 0; row < kRows; row += kDigitRows) {
      if (dim + kByteDims <= block.value_dim) {
        add_values(block, begin, end, row, dim, kByteDims);
      } else {
        add_values(block, begin, end, row, dim, block.value_dim - dim);
      }
    }
  }
}

// outputs[row][dim] += what the sums stand for; rows are whole vectors.
template <class V, int kRows>
void fold_sums(const Int8Values<V, kRows>& block, float* outputs) {
  const std::ptrdiff_t row_stride = DecodeShape<V, kRows>::padded(block.value_dim);
  const std::int32_t* sums = block.sums;
  for (std::ptrdiff_t dim = 0; dim < block.value_dim; dim += kByteDims) {
    for (int row = 0; row < kRows; ++row, sums += kByteDims * kDigits) {
      typename V::Vec output[2];
      for (int n = 0; n < 2; ++n) {
        typename V::Integers sum[kDigits];
        for (int i = 0; i < kDigits; ++i) sum[i] = V::load_integers(sums + (2 * i + n) * V::kLanes);
        output[n] = from_digits<V>(sum, block.weights.scale[row]);
      }
      V::in_order(output);
      for (int n = 0; n < 2 && dim + n * V::kLanes < block.value_dim; ++n) {
        float* to = outputs + row * row_stride + dim + n * V::kLanes;
        V::store(to, V::add(V::load(to), output[n]));
      }
    }
  }
}

}  // namespace
}  // namespace cpuattn
