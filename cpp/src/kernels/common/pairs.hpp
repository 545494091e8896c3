// Rows of bfloat16 numbers as operands of products that take them in pairs: V::kPack == 2.
//
// Along head_dim the pairs lie in memory as they are wanted. Along the keys they do not: the values
// of two neighbours are interleaved in a copy. Pairs of keys start at even keys of a block, so that
// no row can shift those of another; what lacks its neighbour has 0 beside it.
#pragma once

#include <cstddef>

#include "half.hpp"
#include "kernel.hpp"
#include "kernels/common/query_scale.hpp"
#include "kernels/common/rows.hpp"
#include "kernels/common/tokens.hpp"

namespace cpuattn {
namespace {

// kLanes pairs of the query in `row` from `dim` on, and zeros behind its last number.
template <class V>
typename V::Pairs load_query_pairs(const Work& work, const unsigned char* row, std::ptrdiff_t dim) {
  constexpr std::ptrdiff_t kDims = 2 * V::kLanes;
  const std::ptrdiff_t stride = work.query.dim_stride, rest = work.head_dim - dim;
  const auto* from = reinterpret_cast<const BFloat16*>(row) + dim * stride;
  if (stride == 1 && rest >= kDims) return load_operands<V>(from);
  BFloat16 numbers[kDims] = {};
  for (std::ptrdiff_t i = 0; i < kDims && i < rest; ++i) numbers[i] = from[i * stride];
  return load_operands<V>(static_cast<const BFloat16*>(numbers));
}

// Pairs of a query times a power of two: exact.
template <class V>
typename V::Pairs scale_pairs(typename V::Pairs pairs, typename V::Vec power, Squares<V>& squares) {
  const auto first = V::mul(V::first_of(pairs), power);
  const auto second = V::mul(V::second_of(pairs), power);
  squares.add(first, 0);
  squares.add(second, 1);
  return V::pair(first, second);
}

// `dims` dims from `dim` on of the keys [begin, end), in place where their pairs lie side by side.
inline DenseRows<BFloat16Pair> key_pairs(const Tokens& tokens, std::ptrdiff_t begin,
                                         std::ptrdiff_t end, std::ptrdiff_t dim,
                                         std::ptrdiff_t dims, BFloat16Pair* copy) {
  const auto* data = static_cast<const BFloat16*>(tokens.data);
  if (!tokens.pages && tokens.dim_stride == 1 && tokens.row_stride % 2 == 0 && dims % 2 == 0) {
    const BFloat16* first = data + begin * tokens.row_stride + dim;
    return {reinterpret_cast<const BFloat16Pair*>(first), tokens.row_stride / 2};
  }
  const std::ptrdiff_t copied_stride = copy_stride<BFloat16Pair>((dims + 1) / 2);
  for_each_run(data, tokens, begin, end, [&](const TokenRun<BFloat16>& run) {
    for (std::ptrdiff_t row = run.begin; row < run.end; ++row) {
      const BFloat16* from =
          run.row + (row - run.begin) * tokens.row_stride + dim * tokens.dim_stride;
      BFloat16Pair* to = copy + (row - begin) * copied_stride;
      for (std::ptrdiff_t d = 0; d < dims; d += 2) {
        const BFloat16 second = d + 1 < dims ? from[(d + 1) * tokens.dim_stride] : BFloat16{0};
        to[d / 2] = {from[d * tokens.dim_stride], second};
      }
    }
  });
  return {copy, copied_stride};
}

// copy[dim] = (first[dim], second[dim]); a row that is null counts as zeros.
template <class V>
void interleave(const BFloat16* first, const BFloat16* second, std::ptrdiff_t stride,
                std::ptrdiff_t dims, BFloat16Pair* copy) {
  std::ptrdiff_t d = 0;
  if (stride == 1 && first && second) {
    for (; d + V::kLanes <= dims; d += V::kLanes)
      V::store(copy + d, V::pair(first + d, second + d));
  }
  for (; d < dims; ++d) {
    copy[d] = {first ? first[d * stride] : BFloat16{0}, second ? second[d * stride] : BFloat16{0}};
  }
}

// Likewise of the values [begin, end), two rows in one; `odd`: the first is the second of a pair.
template <class V>
DenseRows<BFloat16Pair> value_pairs(const Tokens& tokens, std::ptrdiff_t begin, std::ptrdiff_t end,
                                    bool odd, std::ptrdiff_t dim, std::ptrdiff_t dims,
                                    BFloat16Pair* copy) {
  const std::ptrdiff_t stride = copy_stride<BFloat16Pair>(dims);
  const BFloat16* first = nullptr;  // of a pair whose second is still to come
  bool waits = odd;
  BFloat16Pair* to = copy;
  const auto* data = static_cast<const BFloat16*>(tokens.data);
  for_each_run(data, tokens, begin, end, [&](const TokenRun<BFloat16>& run) {
    for (std::ptrdiff_t row = run.begin; row < run.end; ++row) {
      const BFloat16* from =
          run.row + (row - run.begin) * tokens.row_stride + dim * tokens.dim_stride;
      if (waits) {
        interleave<V>(first, from, tokens.dim_stride, dims, to);
        to += stride;
      } else {
        first = from;
      }
      waits = !waits;
    }
  });
  if (waits) interleave<V>(first, nullptr, tokens.dim_stride, dims, to);
  return {copy, stride};
}

}  // namespace
}  // namespace cpuattn
