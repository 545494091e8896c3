// The online softmax of few rows, whose scores lie as [key][row].
#pragma once

#include <math.h>

#include <cstddef>

#include "decode_scores.hpp"
#include "mask.hpp"
#include "rows.hpp"
#include "softmax.hpp"

namespace cpuattn {
namespace {

// Arrays of kTile repeat the kRows values of the rows, to line up with vectors of scores. The
// weights of a row are summed in as many classes of keys as a vector has lanes, whatever kRows is:
// key j of a block belongs to class j mod kLanes. So the bits of a row do not depend on the rows
// beside it.
template <class V, int kRows>
struct DecodeState {
  using T = typename V::Element;
  static constexpr int kTile = DecodeShape<V, kRows>::kTile;
  static constexpr int kClassTiles = V::kLanes * kRows / kTile;
  // [key of the block][row]; the last step may write up to a tile behind the last key
  alignas(64) T scores[kDecodeBlock * kRows + kTile];
  alignas(64) T max[kTile];
  alignas(64) T class_sum[V::kLanes * kRows];  // [class][row]
  alignas(64) T rescale[kTile];
  T sum[kRows];

  void clear() {
    for (T& x : max) x = -T(INFINITY);
    for (T& x : class_sum) x = 0;
  }
  void fold_sum() {
    for (int r = 0; r < kRows; ++r) {
      sum[r] = 0;
      for (int k = r; k < V::kLanes * kRows; k += kRows) sum[r] += class_sum[k];
    }
  }
};

// Softcap, bias and masks over the span; -inf for the keys of the block around it. `offset` keys
// lie before the span. Returns how many scores there are, a multiple of kTile.
template <class V, int kRows>
std::ptrdiff_t finish_scores(const Work& work, const RowBlock<typename V::Element, kRows>& rows,
                             KeySpan span, std::ptrdiff_t offset, typename V::Element* scores) {
  using T = typename V::Element;
  constexpr int kTile = DecodeShape<V, kRows>::kTile;
  const std::ptrdiff_t begin = offset * kRows, end = begin + span.size() * kRows;
  const std::ptrdiff_t filled = (end + kTile - 1) / kTile * kTile;
  if (work.softcap != 0) {  // in whole vectors, whatever lies around the span
    for (std::ptrdiff_t i = 0; i < begin; ++i) scores[i] = 0;
    for (std::ptrdiff_t i = end; i < filled; ++i) scores[i] = 0;
    apply_softcap<V, 1>(scores, filled / V::kLanes, work.softcap);
  }
  if (span.cover != Cover::kAll || work.bias.type != ElementType::kNone || work.alibi_slopes) {
    for (std::ptrdiff_t i = begin; i < end; ++i) {
      const std::ptrdiff_t key = span.begin + (i - begin) / kRows;
      scores[i] = masked_score(work, rows, static_cast<int>(i % kRows), key, scores[i]);
    }
  }
  for (std::ptrdiff_t i = 0; i < begin; ++i) scores[i] = -T(INFINITY);
  for (std::ptrdiff_t i = end; i < filled; ++i) scores[i] = -T(INFINITY);
  return filled;
}

// The base follows the maximum at once; the lanes of a row are folded once per block.
template <class V, int kRows>
void update_decode_softmax(DecodeState<V, kRows>& state, std::ptrdiff_t filled) {
  using T = typename V::Element;
  using State = DecodeState<V, kRows>;
  constexpr int kTile = State::kTile;
  alignas(64) T largest[kTile];
  for (int lane = 0; lane < kTile; lane += V::kLanes) {
    auto max = V::load(state.max + lane);
    for (std::ptrdiff_t i = lane; i < filled; i += kTile) {
      max = V::max(max, V::load(state.scores + i));
    }
    V::store(largest + lane, max);
  }
  for (int lane = kRows; lane < kTile; ++lane) {
    T& max = largest[lane % kRows];
    max = max > largest[lane] ? max : largest[lane];
  }
  for (int lane = kRows; lane < kTile; ++lane) largest[lane] = largest[lane % kRows];

  for (int lane = 0; lane < kTile; lane += V::kLanes) {
    const auto max = V::load(largest + lane);
    const auto base = softmax_base<V>(max);
    const auto rescale = exp<V>(V::sub(V::load(state.max + lane), base));
    typename V::Vec sum[State::kClassTiles];
#pragma GCC unroll 16
    for (auto& x : sum) x = V::zero();
    for (std::ptrdiff_t i = lane; i < filled;) {
#pragma GCC unroll 16
      for (int c = 0; c < State::kClassTiles; ++c, i += kTile) {
        if (i >= filled) break;
        const auto weight = exp<V>(V::sub(V::load(state.scores + i), base), T(kWeightScale));
        sum[c] = V::add(sum[c], weight);
        V::store(state.scores + i, weight);
      }
    }
#pragma GCC unroll 16
    for (int c = 0; c < State::kClassTiles; ++c) {
      T* total = state.class_sum + c * kTile + lane;
      V::store(total, V::fma(V::load(total), rescale, sum[c]));
    }
    V::store(state.rescale + lane, rescale);
    V::store(state.max + lane, max);
  }
}

}  // namespace
}  // namespace cpuattn
