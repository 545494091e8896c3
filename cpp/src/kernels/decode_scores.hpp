// The scores of few rows: head_dim in the lanes, several keys at once, so that one reduction in
// registers gives a whole vector of scores.
#pragma once

#include <cstddef>

#include "scratch.hpp"

namespace cpuattn {
namespace {

constexpr int kDecodeRows = 8;
constexpr int kDecodeBlock = 64;

// The hardware prefetcher loses the thread when several rows are read at once, so the rows this
// many keys ahead are asked for. 32 to 256 were tried: 1 query over 4096 x 128
// took 1.62, 1.52, 1.27 and 1.42 ms.
constexpr int kPrefetchKeys = 128;

template <class V, int kRows>
struct DecodeShape {
  using T = typename V::Element;
  static constexpr int kTile = V::kLanes > kRows ? V::kLanes : kRows;  // scores of one step
  static constexpr int kKeys = kTile / kRows;                          // keys of one step
  static constexpr int kSums = V::kAccumulators < 16 ? 8 : 16;  // vectors of outputs at a time
  static constexpr int kCols = kSums / kRows < 8 ? kSums / kRows : 8;

  static std::ptrdiff_t padded(std::ptrdiff_t dims) {
    return (dims + V::kLanes - 1) / V::kLanes * V::kLanes;
  }
};

// scores[t][r] = key[t] . query[r] for kKeys keys
template <class V, int kRows>
[[gnu::always_inline]] inline void score_keys(
    const typename V::Element* const (&key)[DecodeShape<V, kRows>::kKeys], std::ptrdiff_t prefetch,
    std::ptrdiff_t head_dim, const typename V::Element* queries, typename V::Element* scores) {
  using Shape = DecodeShape<V, kRows>;
  const std::ptrdiff_t row_stride = Shape::padded(head_dim);
  typename V::Vec sum[Shape::kTile];
#pragma GCC unroll 16
  for (int i = 0; i < Shape::kTile; ++i) sum[i] = V::zero();
  const auto add_column = [&](std::ptrdiff_t d, auto load) {
    typename V::Vec query[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) query[r] = V::load(queries + r * row_stride + d);
#pragma GCC unroll 16
    for (int t = 0; t < Shape::kKeys; ++t) {
      const typename V::Vec k = load(key[t] + d);
      V::prefetch(key[t] + d + prefetch);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        sum[t * kRows + r] = V::fma(k, query[r], sum[t * kRows + r]);
      }
    }
  };
  std::ptrdiff_t d = 0;
  for (; d + V::kLanes <= head_dim; d += V::kLanes) {
    add_column(d, [](const typename V::Element* p) { return V::load(p); });
  }
  if (d < head_dim) {
    add_column(d, [&](const typename V::Element* p) { return V::load_partial(p, head_dim - d); });
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
  for (std::ptrdiff_t j = 0; j < count; j += kKeys) {
    const typename V::Element* key[kKeys];
#pragma GCC unroll 16
    for (int t = 0; t < kKeys; ++t) {  // behind the last key, the last key again
      key[t] = keys.data + (j + t < count ? j + t : count - 1) * keys.stride;
    }
    score_keys<V, kRows>(key, kPrefetchKeys * keys.stride, head_dim, queries, scores + j * kRows);
  }
}

}  // namespace
}  // namespace cpuattn
