// The scores of few rows: head_dim in the lanes, several keys at once, so that one reduction in
// registers gives a whole vector of scores.
#pragma once

#include <cstddef>

#include "kernels/common/tokens.hpp"

namespace cpuattn {
namespace {

constexpr int kDecodeRows = 8;
// A chunk: long enough that changes between keys and values are few, and short enough that the
// chunks of one head, where splitting the keys is the only way, keep many threads busy.
constexpr int kDecodeBlock = 512;
constexpr int kDecodePiece = 64;

// How a processor is best fed depends on whether it waits for memory or for itself: on the products
// for what is read, as many bytes as a number of the kernel has.
template <class V, class S, int kRows>
constexpr bool kComputeBound = kRows * sizeof(typename V::Element) > 4 * sizeof(S);

// Products for a cache line of keys.
template <class V, class S, int kRows>
constexpr int kLineProducts = kRows * 64 / (V::kLanes * V::kPack * static_cast<int>(sizeof(S)));

// With few of them memory is read as by a plain loop, row after row: the processor's own
// prefetching brings more than instructions can (they share the few buffers of the L1 cache). More
// products leave pauses in which it falls asleep.
template <class V, class S, int kRows>
constexpr bool kStreamed = kLineProducts<V, S, kRows> <= 2;

// With one, keys come sooner if the line that is about to be loaded is also asked for (Zen 4: 5 %
// on one thread, 8 % on two); values gain nothing.
template <class V, class S, int kRows>
constexpr bool kHinted = kLineProducts<V, S, kRows> <= 1;

// A vector of a key or value. What is streamed comes in time if the processor sees two loads in
// each cache line (Zen 4: 32 GB/s instead of 18), and so do pairs for 4 rows (6 %).
template <class V, class S, int kRows, class P>
[[gnu::always_inline]] inline auto load_token(const P* p) {
  constexpr bool kHalves = kLineProducts<V, S, kRows> <= 2 * V::kPack;
  if constexpr (kHalves && V::kLanes * sizeof(P) == 64) {
    return V::load_halves(p);
  } else {
    return V::load(p);
  }
}

// Where it is not streamed, keys and values are asked for so many rows ahead. (Zen 4, where 1 to 48
// rows were tried.)
constexpr std::ptrdiff_t kMostAhead = 64;

template <class S>
std::ptrdiff_t rows_ahead(std::ptrdiff_t dims) {
  constexpr std::ptrdiff_t kBytes = 8192, kFewRows = 4;
  const std::ptrdiff_t bytes = dims * static_cast<std::ptrdiff_t>(sizeof(S));
  if (bytes * kFewRows >= kBytes) return kFewRows;
  return bytes * kMostAhead <= kBytes ? kMostAhead : kBytes / bytes;
}

// The keys or values of a block: where each row lies and, for int8, its scale. Elements of a row
// are contiguous. Where nothing is asked for ahead, and there are no pages, only the first row is
// listed: a list would be read between the numbers, and driven out of the L1 cache by them.
template <class V, class S, int kRows>
struct BlockRows {
  static constexpr bool kListed = !kStreamed<V, S, kRows>;
  const S* at(std::ptrdiff_t j) const { return kListed ? row[j] : row[j & listed] + j * stride; }

  std::ptrdiff_t listed;                    // -1: every row is; 0: the others follow the first
  std::ptrdiff_t stride;                    // of those that follow, else 0
  std::ptrdiff_t known;                     // rows that may be asked for; 0 if they are copied
  const S* row[kDecodeBlock + kMostAhead];  // and behind the block, what will be read next
  float scale[kDecodeBlock];
};

template <class V, class S, int kRows>
void find_rows(const Tokens& tokens, std::ptrdiff_t begin, std::ptrdiff_t end, std::ptrdiff_t dims,
               BlockRows<V, S, kRows>& rows) {
  static_assert(sizeof(S) > 1 || !kStreamed<V, S, kRows>, "rows with scales are all listed");
  const S* data = static_cast<const S*>(tokens.data);
  const bool dense = tokens.dim_stride == 1 || dims == 1;
  const bool follow = kStreamed<V, S, kRows> && dense && !tokens.pages;
  rows.known = dense ? end - begin : 0;
  rows.listed = follow ? 0 : -1;
  rows.stride = follow ? tokens.row_stride : 0;
  const std::ptrdiff_t list_end = follow ? begin + 1 : end;
  for_each_run(data, tokens, begin, list_end, [&](const TokenRun<S>& run) {
    const std::ptrdiff_t first = run.begin - begin, size = run.end - run.begin;
    for (std::ptrdiff_t j = 0; j < size; ++j) rows.row[first + j] = run.row + j * tokens.row_stride;
    if (sizeof(S) > 1 || !run.scale) return;
    for (std::ptrdiff_t j = 0; j < size; ++j) {
      rows.scale[first + j] = run.scale[j * tokens.scale_stride];
    }
  });
}

// The tokens [begin, end) will be read after those of the block.
template <class V, class S, int kRows>
void expect_rows(const Tokens& tokens, std::ptrdiff_t begin, std::ptrdiff_t end,
                 BlockRows<V, S, kRows>& rows) {
  if (kStreamed<V, S, kRows> || rows.known == 0) return;
  end = end < begin + kMostAhead ? end : begin + kMostAhead;
  const S* data = static_cast<const S*>(tokens.data);
  for_each_run(data, tokens, begin, end, [&](const TokenRun<S>& run) {
    for (std::ptrdiff_t j = 0; j < run.end - run.begin; ++j) {
      rows.row[rows.known++] = run.row + j * tokens.row_stride;
    }
  });
}

// Rows of the block whose elements are not contiguous are copied, a piece at a time.
template <class V, class S, int kRows>
void copy_piece(const Tokens& tokens, std::ptrdiff_t first, std::ptrdiff_t size,
                std::ptrdiff_t dims, void* copy, BlockRows<V, S, kRows>& rows) {
  if (rows.known > 0) return;
  S* to = static_cast<S*>(copy);
  for (std::ptrdiff_t j = first; j < first + size; ++j, to += copy_stride<S>(dims)) {
    for (std::ptrdiff_t d = 0; d < dims; ++d) to[d] = rows.row[j][d * tokens.dim_stride];
    rows.row[j] = to;
  }
}

template <class V, class S, int kRows>
[[gnu::always_inline]] inline void prefetch_row(const BlockRows<V, S, kRows>& rows,
                                                std::ptrdiff_t row, std::ptrdiff_t dims) {
  constexpr std::ptrdiff_t kLine = 64 / sizeof(S);
  if (row >= rows.known) return;
  for (std::ptrdiff_t d = 0; d < dims; d += kLine) V::prefetch(rows.row[row] + d);
}

// numbers[key][row] *= unit · the key's scale, for the keys [first, first + size) of the block
template <class V, class S, int kRows, class T>
void scale_keys(const BlockRows<V, S, kRows>& rows, std::ptrdiff_t first, std::ptrdiff_t size,
                T unit, T* numbers) {
  for (std::ptrdiff_t j = 0; j < size; ++j) {
    const T scale = unit * rows.scale[first + j];
    for (int r = 0; r < kRows; ++r) numbers[j * kRows + r] *= scale;
  }
}

// A weight times the scale of an int8 value has this factor too: it keeps the digits that the
// product with an integer of up to 127 would have. Sums over a block are divided by it. A second
// run is about large values and has none.
constexpr int kScaleUnitExponent = 7;
inline float scale_unit(const Work& work) { return work.weight_factor ? 1.0f : 0x1p7f; }

template <class V, int kRows>
struct DecodeShape {
  using T = typename V::Element;
  static constexpr int kTile = V::kLanes > kRows ? V::kLanes : kRows;  // scores of one step
  static constexpr int kKeys = kTile / kRows;                          // keys of one step
  static std::ptrdiff_t padded(std::ptrdiff_t dims) {
    return (dims + V::kLanes - 1) / V::kLanes * V::kLanes;
  }
};

// scores[t][r] = key[t] . query[r] for kKeys keys of the block, the first of which is `first` and
// none behind `last`; pairs of queries do not carry the scale. Where computing is the bound, a
// query is loaded once for several keys; else they are read one after the other.
template <class V, class S, int kRows>
[[gnu::always_inline]] inline void score_keys(const BlockRows<V, S, kRows>& keys,
                                              std::ptrdiff_t first, std::ptrdiff_t last,
                                              std::ptrdiff_t head_dim, const Operand<V>* queries,
                                              typename V::Element factor, std::ptrdiff_t ahead,
                                              typename V::Element* scores) {
  using Shape = DecodeShape<V, kRows>;
  constexpr int kMost = kComputeBound<V, S, kRows> ? 4 : 1;
  constexpr int kTogether = Shape::kKeys < kMost ? Shape::kKeys : kMost;
  constexpr std::ptrdiff_t kNumbers = V::kLanes * V::kPack;  // of a vector of operands
  typename V::Vec sum[Shape::kTile];
#pragma GCC unroll 16
  for (int i = 0; i < Shape::kTile; ++i) sum[i] = V::zero();
#pragma GCC unroll 16
  for (int step = 0; step < Shape::kKeys; step += kTogether) {
    const S* key[kTogether];
#pragma GCC unroll 16
    for (int t = 0; t < kTogether; ++t) {
      const std::ptrdiff_t index = first + step + t;
      if (!kStreamed<V, S, kRows>) prefetch_row(keys, index + ahead, head_dim);
      key[t] = keys.at(index < last ? index : last);
    }
    const auto add_column = [&](std::ptrdiff_t d, auto load) {
      decltype(load(key[0])) k[kTogether];
#pragma GCC unroll 16
      for (int t = 0; t < kTogether; ++t) k[t] = load(key[t] + d);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const auto query = V::load(queries + d / V::kPack * kRows + r * V::kLanes);
#pragma GCC unroll 16
        for (int t = 0; t < kTogether; ++t) {
          auto& total = sum[(step + t) * kRows + r];
          total = V::fma(k[t], query, total);
        }
      }
    };
    std::ptrdiff_t d = 0;
    for (; d + kNumbers <= head_dim; d += kNumbers) {
      add_column(d, [](const S* p) {
        if (kHinted<V, S, kRows>) V::prefetch(p);
        return load_token<V, S, kRows>(as_operands<V>(p));
      });
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

// The scores of the keys [first, first + size) of the block.
template <class V, class S, int kRows>
[[gnu::noinline]] void score_piece(const BlockRows<V, S, kRows>& keys, std::ptrdiff_t first,
                                   std::ptrdiff_t size, std::ptrdiff_t head_dim,
                                   const Operand<V>* queries, typename V::Element factor,
                                   typename V::Element* scores) {
  const std::ptrdiff_t ahead = rows_ahead<S>(head_dim);
  for (std::ptrdiff_t j = 0; j < size; j += DecodeShape<V, kRows>::kKeys) {
    score_keys<V, S, kRows>(keys, first + j, first + size - 1, head_dim, queries, factor, ahead,
                            scores + j * kRows);
  }
  if (sizeof(S) == 1) scale_keys(keys, first, size, typename V::Element(1), scores);
}

}  // namespace
}  // namespace cpuattn
