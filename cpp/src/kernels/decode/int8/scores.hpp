// The scores of few rows and int8 keys by products of bytes: keys in the lanes, so that nothing has
// to be summed across them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/decode/int8/digits.hpp"
#include "kernels/decode/scores.hpp"

namespace cpuattn {
namespace {

template <class V, int kRows>
using Int8Rows = BlockRows<V, std::int8_t, kRows>;

constexpr int kDigitRows = 4;               // whose sums, one for each digit, are in registers
constexpr std::ptrdiff_t kColumnDims = 16;  // read of kLanes keys at a time

// Signed digits. As keys are read with 128 added, a sum of products with a digit starts from -128 ·
// the sum of that digit.
template <int kRows>
struct QueryDigits : DigitRows<kRows> {
  std::int32_t start[kRows][kDigits];
};

// Numbers of a query that become digits: whole vectors, at least one, as the first column is always
// multiplied.
template <class V>
std::ptrdiff_t query_numbers(std::ptrdiff_t head_dim) {
  return head_dim == 0 ? V::kLanes : DecodeShape<V, 1>::padded(head_dim);
}

template <class V, int kRows>
struct Int8Scores {
  const Int8Rows<V, kRows>& keys;
  std::ptrdiff_t head_dim;
  const QueryDigits<kRows>& queries;
  float* scores;  // of the first row and key of the block
  std::ptrdiff_t row_stride;
};

// The dims of kLanes keys from `dim` on.
template <class V>
[[gnu::always_inline]] inline void load_columns(const std::int8_t* const* keys, std::ptrdiff_t dim,
                                                std::ptrdiff_t head_dim,
                                                typename V::Quads (&quads)[4]) {
  if (dim + kColumnDims <= head_dim) {
    V::load_columns(keys, dim, kColumnDims, quads);
  } else {
    V::load_columns(keys, dim, head_dim - dim, quads);
  }
}

// The scores of kLanes keys, of which `index` is the first one's in the block, and of kDigitRows
// rows. Columns are read while those before are multiplied; meanwhile the first rows ask, bit by
// bit, for the keys of the next piece.
template <class V, int kRows>
[[gnu::always_inline]] inline void score_key_lanes(const Int8Scores<V, kRows>& block,
                                                   const std::int8_t* const* keys,
                                                   std::ptrdiff_t index, int first_row,
                                                   typename V::Vec key_scale) {
  const std::ptrdiff_t numbers = query_numbers<V>(block.head_dim);
  typename V::Integers sum[kDigitRows][kDigits];
#pragma GCC unroll 16
  for (int r = 0; r < kDigitRows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kDigits; ++i) {
      sum[r][i] = V::set1_integer(block.queries.start[first_row + r][i]);
    }
  }
  std::ptrdiff_t asked = first_row == 0 ? 0 : V::kLanes;
  const auto add_column = [&](const typename V::Quads(&quads)[4], std::ptrdiff_t dim) {
    for (; asked * numbers < (dim + kColumnDims) * V::kLanes; ++asked) {
      prefetch_row(block.keys, index + kDecodePiece + asked, block.head_dim);
    }
    const FourDigits(*const four)[kRows] = block.queries.four + dim / 4;
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
#pragma GCC unroll 16
      for (int r = 0; r < kDigitRows; ++r) {
#pragma GCC unroll 16
        for (int i = 0; i < kDigits; ++i) {
          sum[r][i] = V::dot(quads[q], V::set1_quad(four[q][first_row + r].digit[i]), sum[r][i]);
        }
      }
    }
  };
  typename V::Quads quads[4];
  std::ptrdiff_t d = 0;
  load_columns<V>(keys, d, block.head_dim, quads);
  for (; d + kColumnDims < block.head_dim; d += kColumnDims) {
    typename V::Quads next[4];
    load_columns<V>(keys, d + kColumnDims, block.head_dim, next);
    add_column(quads, d);
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) quads[q] = next[q];
  }
  add_column(quads, d);
#pragma GCC unroll 16
  for (int r = 0; r < kDigitRows; ++r) {
    const auto products = from_digits<V>(sum[r], block.queries.scale[first_row + r]);
    V::store(block.scores + (first_row + r) * block.row_stride + index,
             V::mul(products, key_scale));
  }
}

// The scores of the keys [begin, end) of the block; up to kLanes - 1 behind them are overwritten.
template <class V, int kRows>
[[gnu::noinline]] void score_int8(const Int8Scores<V, kRows>& block, std::ptrdiff_t begin,
                                  std::ptrdiff_t end) {
  for (std::ptrdiff_t j = begin; j < end; j += V::kLanes) {
    const std::int8_t* const* keys = block.keys.row + j;
    const std::int8_t* last[V::kLanes];
    if (end - j < V::kLanes) {
      for (std::ptrdiff_t k = 0; k < V::kLanes; ++k) last[k] = keys[j + k < end ? k : end - 1 - j];
      keys = last;
    }
    const auto scale = load_up_to<V>(block.keys.scale + j, end - j);
    for (int row = 0; row < kRows; row += kDigitRows) {
      score_key_lanes(block, keys, j, row, scale);
    }
  }
}

}  // namespace
}  // namespace cpuattn
