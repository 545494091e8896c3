// A block of queries with one query per lane: loading it transposed, its scores against a block
// of keys, and storing rows back. Shared by forward.hpp and weights.hpp.
#pragma once

#include <cstddef>

#include "../kernel.hpp"
#include "rows.hpp"
#include "tile.hpp"

namespace cpuattn {
namespace {

template <class V, int kVecs>
constexpr int kTileCols = kVecs < V::kTileVecs ? kVecs : V::kTileVecs;

// Queries carry the scale, and 1 / softcap where there is one, so that scores need neither.
template <class T>
T query_factor(const Work& work) {
  return static_cast<T>(work.softcap != 0 ? work.scale / work.softcap : work.scale);
}

// queries[d][row] = factor * query[row][d]
template <class V, int kVecs>
void load_queries(const Work& work, const RowBlock<typename V::Element, kVecs * V::kLanes>& rows,
                  typename V::Element factor, typename V::Element* queries) {
  using T = typename V::Element;
  constexpr int kRows = kVecs * V::kLanes;
  const auto scale = V::set1(factor);
  for (std::ptrdiff_t d = 0; d < work.head_dim; d += V::kLanes) {
    const std::ptrdiff_t rest = work.head_dim - d;
    const std::ptrdiff_t count = rest < V::kLanes ? rest : V::kLanes;
    for (int n = 0; n < kRows; n += V::kLanes) {
      typename V::Vec square[V::kLanes];
      for (int r = 0; r < V::kLanes; ++r) {
        const T* query = rows.query[n + r] + d * work.query.dim_stride;
        if (work.query.dim_stride == 1) {
          square[r] = count == V::kLanes ? V::load(query) : V::load_partial(query, count);
        } else {
          T gathered[V::kLanes] = {};
          for (int i = 0; i < count; ++i) gathered[i] = query[i * work.query.dim_stride];
          square[r] = V::load(gathered);
        }
      }
      V::transpose(square);
      for (int i = 0; i < count; ++i) {
        V::store(queries + (d + i) * kRows + n, V::mul(square[i], scale));
      }
    }
  }
}

// Stores rows[r][first + i] = columns[i][r] for i in [0, count): the way back.
template <class V>
void store_columns(const Work& work, const Matrix& matrix, int first_row,
                   typename V::Vec (&columns)[V::kLanes], std::ptrdiff_t first,
                   std::ptrdiff_t count) {
  using T = typename V::Element;
  V::transpose(columns);
  for (int r = 0; r < V::kLanes && first_row + r < work.num_rows; ++r) {
    T* out = row_pointer<T>(work, matrix, first_row + r) + first * matrix.dim_stride;
    if (matrix.dim_stride == 1) {
      V::store_partial(out, columns[r], count);
    } else {
      T lane[V::kLanes];
      V::store(lane, columns[r]);
      for (int i = 0; i < count; ++i) out[i * matrix.dim_stride] = lane[i];
    }
  }
}

// Products along head_dim are summed in slices of this length: shorter sums for the largest heads,
// and the queries of a slice (32 KB for 64 rows) stay in the L1 cache.
constexpr std::ptrdiff_t kHeadSlice = 128;

template <class V, int kVecs, int kKeys, bool kFirst>
[[gnu::noinline]] void score_tile(const typename V::Element* keys, std::ptrdiff_t key_stride,
                                  std::ptrdiff_t dims, const typename V::Element* queries,
                                  typename V::Element* scores) {
  constexpr int kCols = kTileCols<V, kVecs>;
  constexpr int kRows = kVecs * V::kLanes;
  for (int first = 0; first < kRows; first += kCols * V::kLanes) {
    Tile<V, kKeys, kCols> tile;
    multiply(tile, keys, key_stride, UnitStride{}, queries + first, kRows, dims);
#pragma GCC unroll 16
    for (int m = 0; m < kKeys; ++m) {
#pragma GCC unroll 16
      for (int n = 0; n < kCols; ++n) {
        auto* score = scores + m * kRows + first + n * V::kLanes;
        V::store(score, kFirst ? tile.at[m][n] : V::add(V::load(score), tile.at[m][n]));
      }
    }
  }
}

// scores[key][row] = key . query for `count` keys
template <class V, int kVecs>
void score_block(const typename V::Element* keys, std::ptrdiff_t key_stride, std::ptrdiff_t count,
                 std::ptrdiff_t head_dim, const typename V::Element* queries,
                 typename V::Element* scores) {
  constexpr int kRows = kVecs * V::kLanes;
  std::ptrdiff_t d = 0;
  do {  // once even if there are no dims: all scores are 0
    const std::ptrdiff_t dims = head_dim - d < kHeadSlice ? head_dim - d : kHeadSlice;
    for_each_tile<kTileRows<V, kTileCols<V, kVecs>>>(0, count, [&](auto size, std::ptrdiff_t j) {
      constexpr int kKeys = decltype(size)::value;
      const auto* key = keys + j * key_stride + d;
      if (d == 0) {
        score_tile<V, kVecs, kKeys, true>(key, key_stride, dims, queries, scores + j * kRows);
      } else {
        score_tile<V, kVecs, kKeys, false>(key, key_stride, dims, queries + d * kRows,
                                           scores + j * kRows);
      }
    });
    d += kHeadSlice;
  } while (d < head_dim);
}

}  // namespace
}  // namespace cpuattn
