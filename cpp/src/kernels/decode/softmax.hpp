// The softmax of few rows over a block of keys, whose scores lie as [key][row].
#pragma once

#include <math.h>

#include <cstddef>

#include "kernels/common/mask.hpp"
#include "kernels/common/query_scale.hpp"
#include "kernels/common/rows.hpp"
#include "kernels/common/softmax.hpp"
#include "kernels/decode/scores.hpp"

namespace cpuattn {
namespace {

// Softcap, bias and masks over the span, for kRows rows from first_row on; -inf for the keys of the
// block around it. `offset` keys lie before the span. Returns how many scores there are, a multiple
// of kTile.
template <class V, int kRows, int kBlockRows>
std::ptrdiff_t finish_scores(const Work& work,
                             const RowBlock<typename V::Element, kBlockRows>& rows,
                             const ScoreFactors<typename V::Element, kBlockRows>& factors,
                             int first_row, KeySpan span, std::ptrdiff_t offset,
                             typename V::Element* scores) {
  using T = typename V::Element;
  constexpr int kTile = DecodeShape<V, kRows>::kTile;
  const std::ptrdiff_t begin = offset * kRows, end = begin + span.size() * kRows;
  const std::ptrdiff_t filled = (end + kTile - 1) / kTile * kTile;
  for (std::ptrdiff_t i = begin; factors.any && i < end; ++i) {
    const int row = first_row + static_cast<int>(i % kRows);
    scores[i] = scores[i] * factors.first[row] * factors.second[row];
  }
  if (work.softcap != 0) {  // in whole vectors, whatever lies around the span
    for (std::ptrdiff_t i = 0; i < begin; ++i) scores[i] = 0;
    for (std::ptrdiff_t i = end; i < filled; ++i) scores[i] = 0;
    apply_softcap<V, 1>(scores, filled / V::kLanes, work.softcap);
  }
  if (span.cover != Cover::kAll || work.bias.type != ElementType::kNone || work.alibi_slopes) {
    for (std::ptrdiff_t i = begin; i < end; ++i) {
      const std::ptrdiff_t key = span.begin + (i - begin) / kRows;
      const int row = first_row + static_cast<int>(i % kRows);
      scores[i] = masked_score(work, rows, row, key, scores[i]);
    }
  }
  for (std::ptrdiff_t i = 0; i < begin; ++i) scores[i] = -T(INFINITY);
  for (std::ptrdiff_t i = end; i < filled; ++i) scores[i] = -T(INFINITY);
  return filled;
}

// max[row] = its largest score; NaN is passed over.
template <class V, int kRows>
void find_largest(const typename V::Element* scores, std::ptrdiff_t filled,
                  typename V::Element* max) {
  using T = typename V::Element;
  constexpr int kTile = DecodeShape<V, kRows>::kTile;
  alignas(64) T largest[kTile];
  for (int lane = 0; lane < kTile; lane += V::kLanes) {
    auto tile_max = V::set1(-T(INFINITY));
    for (std::ptrdiff_t i = lane; i < filled; i += kTile) {
      tile_max = V::max(tile_max, V::load(scores + i));
    }
    V::store(largest + lane, tile_max);
  }
  for (int r = 0; r < kRows; ++r) max[r] = largest[r];
  for (int lane = kRows; lane < kTile; ++lane) {
    T& row_max = max[lane % kRows];
    row_max = row_max > largest[lane] ? row_max : largest[lane];
  }
}

// Turns the scores of a block into weights relative to max[row], and sums them up. The weights of a
// row are summed in as many classes of keys as a vector has lanes, whatever kRows is: key j of a
// block belongs to class j mod kLanes. So the bits of a row do not depend on the rows beside it.
// Keys are summed in pieces, the pieces in the block: equal weights are all rounded alike, and a
// long plain sum of them would drift.
template <class V, int kRows>
void weigh_scores(typename V::Element* scores, std::ptrdiff_t filled,
                  const typename V::Element* max, typename V::Element* sum) {
  using T = typename V::Element;
  constexpr int kTile = DecodeShape<V, kRows>::kTile;
  constexpr int kClassTiles = V::kLanes * kRows / kTile;
  alignas(64) T tile_max[kTile];
  alignas(64) T class_sum[V::kLanes * kRows];  // [class][row]
  for (int lane = 0; lane < kTile; ++lane) tile_max[lane] = max[lane % kRows];
  for (int lane = 0; lane < kTile; lane += V::kLanes) {
    const auto base = softmax_base<V>(V::load(tile_max + lane));
    typename V::Vec total[kClassTiles];
#pragma GCC unroll 16
    for (auto& x : total) x = V::zero();
    for (std::ptrdiff_t i = lane; i < filled;) {
      const std::ptrdiff_t piece_end = (i / kRows / kDecodePiece + 1) * kDecodePiece * kRows;
      const std::ptrdiff_t end = piece_end < filled ? piece_end : filled;
      typename V::Vec piece[kClassTiles];
#pragma GCC unroll 16
      for (auto& x : piece) x = V::zero();
      while (i < end) {
#pragma GCC unroll 16
        for (int c = 0; c < kClassTiles; ++c, i += kTile) {
          if (i >= end) break;
          const auto weight = exp<V>(V::sub(V::load(scores + i), base));
          piece[c] = V::add(piece[c], weight);
          V::store(scores + i, weight);
        }
      }
#pragma GCC unroll 16
      for (int c = 0; c < kClassTiles; ++c) total[c] = V::add(total[c], piece[c]);
    }
#pragma GCC unroll 16
    for (int c = 0; c < kClassTiles; ++c) V::store(class_sum + c * kTile + lane, total[c]);
  }
  for (int r = 0; r < kRows; ++r) {
    sum[r] = 0;
    for (int k = r; k < V::kLanes * kRows; k += kRows) sum[r] += class_sum[k];
  }
}

// A second run: rows start from a known base, and values are multiplied with smaller weights.
template <int kRows, class T>
void raise_to_start(const Work& work, T* max) {
  for (int r = 0; r < kRows; ++r) {
    const T base =
        static_cast<const T*>(work.start_base)[r < work.num_rows ? r : work.num_rows - 1];
    max[r] = max[r] > base ? max[r] : base;
  }
}
template <int kRows, class T>
void shrink_weights(const Work& work, std::ptrdiff_t filled, T* weights) {
  for (std::ptrdiff_t i = 0; i < filled; ++i) {
    const std::ptrdiff_t row = i % kRows;
    weights[i] *=
        static_cast<const T*>(work.weight_factor)[row < work.num_rows ? row : work.num_rows - 1];
  }
}

}  // namespace
}  // namespace cpuattn
