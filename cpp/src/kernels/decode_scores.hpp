// The scores of few rows: head_dim in the lanes, several keys at once, so that one reduction in
// registers gives a whole vector of scores.
#pragma once

#include <cstddef>

#include "scratch.hpp"

namespace cpuattn {
namespace {

constexpr int kDecodeRows = 8;
constexpr int kDecodeBlock = 256;
constexpr int kDecodePiece = 64;

// Processors prefetch what lies behind each other. Keys and values whose rows do not, as in a
// (B, L, H, D) cache, are asked for so many keys ahead (16, 32 and 64 were tried).
constexpr int kPrefetchKeys = 16;

template <class V>
void prefetch_rows(const DenseRows<typename V::Element>& rows, std::ptrdiff_t begin,
                   std::ptrdiff_t end, std::ptrdiff_t dims) {
  constexpr std::ptrdiff_t kLine = 64 / sizeof(typename V::Element);
  for (std::ptrdiff_t row = begin; row < end; ++row) {
    for (std::ptrdiff_t d = 0; d < dims; d += kLine) V::prefetch(rows.data + row * rows.stride + d);
  }
}

template <class V, int kRows>
struct DecodeShape {
  using T = typename V::Element;
  static constexpr int kTile = V::kLanes > kRows ? V::kLanes : kRows;  // scores of one step
  static constexpr int kKeys = kTile / kRows;                          // keys of one step
  // Values are read key by key, in the order of memory; with so many rows that their sums could not
  // be loaded and stored as fast, two keys at a time, for as many rows as half the registers hold
  // weights of.
  static constexpr int kValueKeys = kRows < 8 ? 1 : 2;
  static constexpr int kWeights = V::kAccumulators < 16 ? 8 : 16;
  static constexpr int kValueRows = kRows < kWeights / kValueKeys ? kRows : kWeights / kValueKeys;

  static std::ptrdiff_t padded(std::ptrdiff_t dims) {
    return (dims + V::kLanes - 1) / V::kLanes * V::kLanes;
  }
};

// scores[t][r] = key[t] . query[r] for kKeys keys
template <class V, int kRows>
[[gnu::always_inline]] inline void score_keys(
    const typename V::Element* const (&key)[DecodeShape<V, kRows>::kKeys], std::ptrdiff_t head_dim,
    const typename V::Element* queries, typename V::Element* scores) {
  using Shape = DecodeShape<V, kRows>;
  const std::ptrdiff_t row_stride = Shape::padded(head_dim);
  typename V::Vec sum[Shape::kTile];
#pragma GCC unroll 16
  for (int i = 0; i < Shape::kTile; ++i) sum[i] = V::zero();
#pragma GCC unroll 16
  for (int t = 0; t < Shape::kKeys; ++t) {
    const auto add_column = [&](std::ptrdiff_t d, typename V::Vec k) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        sum[t * kRows + r] = V::fma(k, V::load(queries + r * row_stride + d), sum[t * kRows + r]);
      }
    };
    std::ptrdiff_t d = 0;
    for (; d + V::kLanes <= head_dim; d += V::kLanes) add_column(d, V::load(key[t] + d));
    if (d < head_dim) add_column(d, V::load_partial(key[t] + d, head_dim - d));
  }
#pragma GCC unroll 16
  for (int i = 0; i < Shape::kTile; i += V::kLanes) {
    typename V::Vec part[V::kLanes];
#pragma GCC unroll 16
    for (int k = 0; k < V::kLanes; ++k) part[k] = sum[i + k];
    V::store(scores + i, V::sum_each(part));
  }
}

template <class V, int kRows>
[[gnu::noinline]] void score_decode_block(const DenseRows<typename V::Element>& keys,
                                          std::ptrdiff_t count, std::ptrdiff_t head_dim,
                                          const typename V::Element* queries,
                                          typename V::Element* scores) {
  constexpr int kKeys = DecodeShape<V, kRows>::kKeys;
  const bool scattered = keys.stride != head_dim;
  for (std::ptrdiff_t j = 0; j < count; j += kKeys) {
    if (scattered) prefetch_rows<V>(keys, j + kPrefetchKeys, j + kPrefetchKeys + kKeys, head_dim);
    const typename V::Element* key[kKeys];
#pragma GCC unroll 16
    for (int t = 0; t < kKeys; ++t) {  // behind the last key, the last key again
      key[t] = keys.data + (j + t < count ? j + t : count - 1) * keys.stride;
    }
    score_keys<V, kRows>(key, head_dim, queries, scores + j * kRows);
  }
}

}  // namespace
}  // namespace cpuattn
