// The scores of few rows: head_dim in the lanes, several keys at once, so that one reduction in
// registers gives a whole vector of scores.
#pragma once

#include <cstddef>

#include "tokens.hpp"

namespace cpuattn {
namespace {

constexpr int kDecodeRows = 8;
constexpr int kDecodeBlock = 256;
constexpr int kDecodePiece = 64;

// Keys and values are asked for so many keys ahead (8 to 128 were tried): several rows at once are
// not the order in which processors prefetch.
constexpr int kPrefetchKeys = 16;

// Values are summed for so many keys, about 2 KB at head_dim 128, before the next columns of theirs
// are: sums stay in registers, and memory is still read nearly in the order in which it lies.
template <class S>
constexpr std::ptrdiff_t kValueKeys = 16 / sizeof(S);

// A piece of keys or values: where each row lies and, for int8, its scale. Elements of a row are
// contiguous.
template <class S>
struct PieceRows {
  const S* row[kDecodePiece + kPrefetchKeys + 16];  // those to be asked for, too
  float scale[kDecodePiece];
  std::ptrdiff_t known;  // rows; 0 if they were copied
};

// The tokens [begin, end), and where those up to `last` lie. Strided rows are copied.
template <class S>
void find_rows(const Tokens& tokens, std::ptrdiff_t begin, std::ptrdiff_t end, std::ptrdiff_t last,
               std::ptrdiff_t dims, void* copy, PieceRows<S>& rows) {
  const S* data = static_cast<const S*>(tokens.data);
  const bool strided = tokens.dim_stride != 1 && dims != 1;
  const std::ptrdiff_t most = begin + kDecodePiece + kPrefetchKeys;
  last = strided ? end : last < most ? last : most;
  rows.known = strided ? 0 : last - begin;
  for_each_run(data, tokens, begin, last, [&](const TokenRun<S>& run) {
    for (std::ptrdiff_t j = run.begin; j < run.end; ++j) {
      rows.row[j - begin] = run.row + (j - run.begin) * tokens.row_stride;
    }
    if (sizeof(S) > 1) return;
    for (std::ptrdiff_t j = run.begin; run.scale && j < run.end && j < end; ++j) {
      rows.scale[j - begin] = run.scale[(j - run.begin) * tokens.scale_stride];
    }
  });
  if (!strided) return;
  S* to = static_cast<S*>(copy);
  for (std::ptrdiff_t j = 0; j < end - begin; ++j, to += copy_stride<S>(dims)) {
    for (std::ptrdiff_t d = 0; d < dims; ++d) to[d] = rows.row[j][d * tokens.dim_stride];
    rows.row[j] = to;
  }
}

template <class V, class S>
void prefetch_rows(const PieceRows<S>& rows, std::ptrdiff_t begin, std::ptrdiff_t end,
                   std::ptrdiff_t dims) {
  constexpr std::ptrdiff_t kLine = 64 / sizeof(S);
  for (std::ptrdiff_t row = begin; row < end && row < rows.known; ++row) {
    for (std::ptrdiff_t d = 0; d < dims; d += kLine) V::prefetch(rows.row[row] + d);
  }
}

// numbers[key][row] *= the key's scale
template <int kRows, class S, class T>
void scale_keys(const PieceRows<S>& rows, std::ptrdiff_t count, T* numbers) {
  for (std::ptrdiff_t j = 0; j < count; ++j) {
    for (int r = 0; r < kRows; ++r) numbers[j * kRows + r] *= rows.scale[j];
  }
}

template <class V, int kRows>
struct DecodeShape {
  using T = typename V::Element;
  static constexpr int kTile = V::kLanes > kRows ? V::kLanes : kRows;  // scores of one step
  static constexpr int kKeys = kTile / kRows;                          // keys of one step
  // Keys that are multiplied together, so that a query is loaded once for all of them.
  static constexpr int kTogether = kRows >= 4 ? kKeys : 1;
  // Vectors of sums of values that stay in registers, and for how many columns of kRows they do:
  // the rest of 16 or 32 registers is for values and weights.
  static constexpr int kSums = V::kAccumulators < 16 ? 12 : 16;
  static constexpr int kValueCols = kRows <= kSums / 8 ? 8 : kSums / kRows;

  static std::ptrdiff_t padded(std::ptrdiff_t dims) {
    return (dims + V::kLanes - 1) / V::kLanes * V::kLanes;
  }
};

// scores[t][r] = key[t] . query[r] for kKeys keys; pairs of queries do not carry the scale
template <class V, class S, int kRows>
[[gnu::always_inline]] inline void score_keys(const S* const (&key)[DecodeShape<V, kRows>::kKeys],
                                              std::ptrdiff_t head_dim, const Operand<V>* queries,
                                              typename V::Element factor,
                                              typename V::Element* scores) {
  using Shape = DecodeShape<V, kRows>;
  constexpr std::ptrdiff_t kNumbers = V::kLanes * V::kPack;  // of a vector of operands
  const std::ptrdiff_t row_stride = Shape::padded(operands<V>(head_dim));
  typename V::Vec sum[Shape::kTile];
#pragma GCC unroll 16
  for (int i = 0; i < Shape::kTile; ++i) sum[i] = V::zero();
  constexpr int kTogether = Shape::kTogether;
#pragma GCC unroll 16
  for (int first = 0; first < Shape::kKeys; first += kTogether) {
    const auto add_column = [&](std::ptrdiff_t d, auto load) {
      decltype(load(key[0])) k[kTogether];
#pragma GCC unroll 16
      for (int t = 0; t < kTogether; ++t) k[t] = load(key[first + t] + d);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const auto query = V::load(queries + r * row_stride + d / V::kPack);
#pragma GCC unroll 16
        for (int t = 0; t < kTogether; ++t) {
          auto& total = sum[(first + t) * kRows + r];
          total = V::fma(k[t], query, total);
        }
      }
    };
    std::ptrdiff_t d = 0;
    for (; d + kNumbers <= head_dim; d += kNumbers) {
      add_column(d, [](const S* p) { return load_operands<V>(p); });
    }
    if (d < head_dim) {
      add_column(d, [&](const S* p) { return load_operands<V>(p, head_dim - d); });
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Shape::kTile; i += V::kLanes) {
    typename V::Vec part[V::kLanes];
#pragma GCC unroll 16
    for (int k = 0; k < V::kLanes; ++k) part[k] = sum[i + k];
    const auto sums = V::sum_each(part);
    V::store(scores + i, V::kPack == 1 ? sums : V::mul(sums, V::set1(factor)));
  }
}

template <class V, class S, int kRows>
[[gnu::noinline]] void score_decode_block(const PieceRows<S>& keys, std::ptrdiff_t count,
                                          std::ptrdiff_t head_dim, const Operand<V>* queries,
                                          typename V::Element factor, typename V::Element* scores) {
  constexpr int kKeys = DecodeShape<V, kRows>::kKeys;
  for (std::ptrdiff_t j = 0; j < count; j += kKeys) {
    prefetch_rows<V>(keys, j + kPrefetchKeys, j + kPrefetchKeys + kKeys, head_dim);
    const S* key[kKeys];
#pragma GCC unroll 16
    for (int t = 0; t < kKeys; ++t) {  // behind the last key, the last key again
      key[t] = keys.row[j + t < count ? j + t : count - 1];
    }
    score_keys<V, S, kRows>(key, head_dim, queries, factor, scores + j * kRows);
  }
  if (sizeof(S) == 1) scale_keys<kRows>(keys, count, scores);
}

}  // namespace
}  // namespace cpuattn
