// A block of queries with one query per lane: loading it transposed, its scores against a block
// of keys, and storing rows back. Shared by forward.hpp and weights.hpp.
#pragma once

#include <math.h>

#include <cstddef>

#include "kernel.hpp"
#include "kernels/common/elements.hpp"
#include "kernels/common/pairs.hpp"
#include "kernels/common/query_scale.hpp"
#include "kernels/common/rows.hpp"
#include "kernels/common/tile.hpp"
#include "kernels/common/tokens.hpp"

namespace cpuattn {
namespace {

template <class V, int kVecs>
constexpr int kTileCols = kVecs < V::kTileVecs ? kVecs : V::kTileVecs;

// A multiple of every tile height (6, 8 and 12), and scores of 64 queries (24 KB), the queries
// and the outputs (16 KB each at D = 64) are near the size of an L1 cache.
constexpr int kKeyBlock = 96;

// The rows from first_row on whose `squares` are not in the middle of the range.
template <class V, int kVecs>
[[gnu::noinline]] void rescale_queries(
    const Work& work, const RowBlock<typename V::Element, kVecs * V::kLanes>& rows, int first_row,
    typename V::Vec squares, bool all, Operand<V>* queries,
    ScoreFactors<typename V::Element, kVecs * V::kLanes>& factors) {
  using T = typename V::Element;
  constexpr int kRows = kVecs * V::kLanes;
  T lane[V::kLanes];
  V::store(lane, squares);
  for (int r = first_row; r < first_row + V::kLanes; ++r) {
    if (!all && is_middle(lane[r - first_row])) continue;
    const int exponent = rescale_query<V>(work, rows.query[r], [&](std::ptrdiff_t d, T x) {
      if constexpr (V::kPack == 1) {
        queries[d * kRows + r] = x;
      } else {
        BFloat16Pair& pair = queries[d / 2 * kRows + r];
        convert(x, d % 2 == 0 ? &pair.first : &pair.second);
      }
    });
    factors.set(r, exponent);
  }
}

// queries[d][row] = scale * query[row][d], row after row, as they lie in memory.
template <class V, int kVecs>
void load_queries(const Work& work, const RowBlock<typename V::Element, kVecs * V::kLanes>& rows,
                  typename V::Element* queries,
                  ScoreFactors<typename V::Element, kVecs * V::kLanes>& factors) {
  constexpr int kRows = kVecs * V::kLanes;
  const std::ptrdiff_t stride = work.query.dim_stride;
  const std::ptrdiff_t bytes = stride * element_bytes(work.query.type);
  const QueryScale<V> query_scale(work);
  const auto scale = V::set1(query_scale.query);
  for (int n = 0; n < kRows; n += V::kLanes) {
    Squares<V> squares;
    // The rows after these are asked for while these are turned.
    const int next = n + V::kLanes < kRows ? n + V::kLanes : n;
    for (std::ptrdiff_t d = 0; d < work.head_dim; d += V::kLanes) {
#pragma GCC unroll 16
      for (int r = 0; r < V::kLanes; ++r) {
        V::prefetch(rows.query[next + r] + d * bytes);
      }
      const std::ptrdiff_t rest = work.head_dim - d;
      const std::ptrdiff_t count = rest < V::kLanes ? rest : V::kLanes;
      typename V::Vec square[V::kLanes];
      if (stride == 1 && count == V::kLanes) {
        with_float_type<V>(work.query.type, [&](auto tag) {
          using S = typename decltype(tag)::Type;
#pragma GCC unroll 16
          for (int r = 0; r < V::kLanes; ++r) {
            square[r] = V::load(reinterpret_cast<const S*>(rows.query[n + r]) + d);
          }
        });
      } else {
        for (int r = 0; r < V::kLanes; ++r) {
          square[r] = load_row<V>(rows.query[n + r], work.query.type, stride, d, count);
        }
      }
      V::transpose(square);
#pragma GCC unroll 16
      for (int i = 0; i < V::kLanes; ++i) {
        if (i >= count) break;
        const auto scaled = V::mul(square[i], scale);
        squares.add(scaled, i);
        V::store(queries + (d + i) * kRows + n, scaled);
      }
    }
    if (!query_scale.fits || !are_middle<V, true>(squares.get())) {
      rescale_queries<V, kVecs>(work, rows, n, squares.get(), !query_scale.fits, queries, factors);
    }
  }
}

// queries[pair of dims][row]. They carry a power of two only: other factors would be rounded.
template <class V, int kVecs>
void load_query_pairs(const Work& work,
                      const RowBlock<typename V::Element, kVecs * V::kLanes>& rows,
                      BFloat16Pair* queries,
                      ScoreFactors<typename V::Element, kVecs * V::kLanes>& factors) {
  constexpr int kRows = kVecs * V::kLanes;
  const std::ptrdiff_t pairs = operands<V>(work.head_dim);
  const QueryScale<V> query_scale(work);
  const auto scale = V::set1(query_scale.query);
  for (int n = 0; n < kRows; n += V::kLanes) {
    Squares<V> squares;
    for (std::ptrdiff_t d = 0; d < pairs; d += V::kLanes) {
      typename V::Vec square[V::kLanes];
      for (int r = 0; r < V::kLanes; ++r) {
        square[r] = V::as_vec(load_query_pairs<V>(work, rows.query[n + r], 2 * d));
      }
      V::transpose(square);
      for (std::ptrdiff_t i = 0; i < V::kLanes && d + i < pairs; ++i) {
        V::store(queries + (d + i) * kRows + n,
                 scale_pairs<V>(V::as_pairs(square[i]), scale, squares));
      }
    }
    if (!query_scale.fits || !are_middle<V, true>(squares.get())) {
      rescale_queries<V, kVecs>(work, rows, n, squares.get(), !query_scale.fits, queries, factors);
    }
  }
}

// The way back: row[r][dim + i] = columns[i][r] for `count` columns and as many rows as there are,
// of which the work item's row `first_row` is the first.
template <class V>
class RowStore {
 public:
  RowStore(const Work& work, int first_row)
      : type_(work.output.type), dim_stride_(work.output.dim_stride) {
    const std::ptrdiff_t rest = work.num_rows - first_row;
    count_ = rest < V::kLanes ? static_cast<int>(rest) : V::kLanes;
    for (int r = 0; r < count_; ++r) row_[r] = row_pointer(work, work.output, first_row + r);
  }
  void operator()(typename V::Vec (&columns)[V::kLanes], std::ptrdiff_t dim,
                  std::ptrdiff_t count) const {
    V::transpose(columns);
    if (dim_stride_ == 1 && count == V::kLanes && count_ == V::kLanes) {
      return with_float_type<V>(type_, [&](auto tag) {
        using S = typename decltype(tag)::Type;
#pragma GCC unroll 16
        for (int r = 0; r < V::kLanes; ++r) V::store(static_cast<S*>(row_[r]) + dim, columns[r]);
      });
    }
    for (int r = 0; r < count_; ++r) {
      store_row<V>(row_[r], type_, dim_stride_, dim, columns[r], count);
    }
  }

 private:
  ElementType type_;
  std::ptrdiff_t dim_stride_;
  int count_;
  void* row_[V::kLanes];
};

// Products along head_dim are summed in slices of this length: shorter sums for the largest heads,
// and the queries of a slice (32 KB for 64 rows) stay in the L1 cache.
constexpr std::ptrdiff_t kHeadSlice = 128;

inline std::ptrdiff_t slice_dims(std::ptrdiff_t dims) {
  return dims < kHeadSlice ? dims : kHeadSlice;
}

// kFirst: the first slice, else its products are added. `max`, if any: raised to the largest score
// of each row while the tile is in registers; NaN is passed over. Pairs of queries do not carry the
// scale: their scores are multiplied with `factor`.
template <class V, int kVecs, int kKeys, bool kFirst>
[[gnu::noinline]] void score_tile(const DenseRows<Operand<V>>& keys, std::ptrdiff_t first_key,
                                  std::ptrdiff_t depth, const Operand<V>* queries,
                                  typename V::Element factor, typename V::Element* scores,
                                  typename V::Element* max) {
  constexpr int kCols = kTileCols<V, kVecs>;
  constexpr int kRows = kVecs * V::kLanes;
  for (int first = 0; first < kRows; first += kCols * V::kLanes) {
    Tile<V, kKeys, kCols> tile;
    const Left left{keys.data + first_key * keys.stride, keys.stride, UnitStride{},
                    kKeyBlock * keys.stride};
    multiply(tile, left, queries + first, kRows, depth);
#pragma GCC unroll 16
    for (int m = 0; m < kKeys; ++m) {
#pragma GCC unroll 16
      for (int n = 0; n < kCols; ++n) {
        auto* score = scores + m * kRows + first + n * V::kLanes;
        if (!kFirst) tile.at[m][n] = V::add(V::load(score), tile.at[m][n]);
        if (V::kPack > 1) tile.at[m][n] = V::mul(tile.at[m][n], V::set1(factor));
        V::store(score, tile.at[m][n]);
      }
    }
    if (!max) continue;
#pragma GCC unroll 16
    for (int n = 0; n < kCols; ++n) {
      auto largest = V::load(max + first + n * V::kLanes);
#pragma GCC unroll 16
      for (int m = 0; m < kKeys; ++m) largest = V::max(tile.at[m][n], largest);
      V::store(max + first + n * V::kLanes, largest);
    }
  }
}

// Keys or values that were made dense for one block of queries, and serve the next one if it wants
// the same.
template <class V>
class SharedRows {
 public:
  explicit SharedRows(Operand<V>* copy) : copy_(copy) {}

  // make(copy): the rows [begin, end) from `dim` on, of the values or else the keys.
  template <class Make>
  DenseRows<Operand<V>> get(bool values, std::ptrdiff_t begin, std::ptrdiff_t end,
                            std::ptrdiff_t dim, Make make) {
    if (values != values_ || begin != begin_ || end != end_ || dim != dim_) {
      rows_ = make(copy_);
      values_ = values;
      begin_ = begin;
      end_ = end;
      dim_ = dim;
    }
    return rows_;
  }

 private:
  Operand<V>* copy_;
  DenseRows<Operand<V>> rows_{};
  bool values_ = false;
  std::ptrdiff_t begin_ = -1, end_ = -1, dim_ = -1;
};

template <class V>
DenseRows<Operand<V>> key_rows(const Tokens& tokens, std::ptrdiff_t begin, std::ptrdiff_t end,
                               std::ptrdiff_t dim, std::ptrdiff_t dims, Operand<V>* copy) {
  if constexpr (V::kPack == 2)
    return key_pairs(tokens, begin, end, dim, dims, copy);
  else
    return dense_rows<V>(tokens, begin, end, dim, dims, copy);
}

// scores[key][row] = key . query for `count` keys from `begin` on, and the largest score of each
// row in `max`, if it is given.
template <class V, int kVecs>
void score_block(const Work& work, std::ptrdiff_t begin, std::ptrdiff_t count,
                 const Operand<V>* queries, SharedRows<V>& shared, typename V::Element* scores,
                 typename V::Element* max) {
  using T = typename V::Element;
  constexpr int kRows = kVecs * V::kLanes;
  for (int n = 0; max && n < kRows; ++n) max[n] = -T(INFINITY);
  std::ptrdiff_t d = 0;
  do {  // once even if there are no dims: all scores are 0
    const std::ptrdiff_t dims = slice_dims(work.head_dim - d);
    const auto keys = shared.get(false, begin, begin + count, d, [&](Operand<V>* copy) {
      return key_rows<V>(work.key, begin, begin + count, d, dims, copy);
    });
    const bool last = d + dims == work.head_dim;
    const T factor = V::kPack > 1 && last ? QueryScale<V>(work).score : T(1);
    for_each_tile<kTileRows<V, kTileCols<V, kVecs>>>(0, count, [&](auto size, std::ptrdiff_t j) {
      constexpr int kKeys = decltype(size)::value;
      const auto tile =
          d == 0 ? score_tile<V, kVecs, kKeys, true> : score_tile<V, kVecs, kKeys, false>;
      tile(keys, j, operands<V>(dims), queries + operands<V>(d) * kRows, factor, scores + j * kRows,
           last ? max : nullptr);
    });
    d += dims;
  } while (d < work.head_dim);
}

}  // namespace
}  // namespace cpuattn
