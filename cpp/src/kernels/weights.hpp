// The kernel of attention_weights: the scores of a block of queries, up to the stage asked for,
// written out as rows of the full (query, key) matrix. It shares every step with forward.hpp;
// the softmax of a row is exp(score - lse), with the lse that the forward kernel found.
#pragma once

#include <math.h>

#include <cstddef>

#include "forward.hpp"

namespace cpuattn {
namespace {

// Weight of a masked score; a row that sees nothing has lse = -inf and only weights of 0.
template <class V>
typename V::Vec weight_of(typename V::Vec score, typename V::Vec lse) {
  return exp<V>(V::sub(score, softmax_base<V>(lse)));
}

template <class V, int kVecs>
void store_scores(const Work& work, KeySpan span, const typename V::Element* scores,
                  const typename V::Element* lse) {
  constexpr int kRows = kVecs * V::kLanes;
  for (int n = 0; n < kRows; n += V::kLanes) {
    if (n >= work.num_rows) return;
    for (std::ptrdiff_t j = 0; j < span.size(); j += V::kLanes) {
      const std::ptrdiff_t rest = span.size() - j;
      const std::ptrdiff_t count = rest < V::kLanes ? rest : V::kLanes;
      typename V::Vec columns[V::kLanes];
      for (int i = 0; i < V::kLanes; ++i) {
        columns[i] = i < count ? V::load(scores + (j + i) * kRows + n) : V::zero();
        if (work.stage == Stage::kWeights) columns[i] = weight_of<V>(columns[i], V::load(lse + n));
      }
      store_columns<V>(work, work.output, n, columns, span.begin + j, count);
    }
  }
}

// Keys that no row sees are given their score of -inf (or weight of 0) like any other.
template <class V, int kVecs>
void weights_block(const Work& work, void* memory) {
  using T = typename V::Element;
  constexpr int kRows = kVecs * V::kLanes;
  ScratchCutter cut(memory);
  const ForwardScratch<V, kVecs> scratch(cut, work.head_dim, 0);
  RowBlock<T, kRows> rows;
  describe_rows(work, rows);
  load_queries<V, kVecs>(work, rows, query_factor<T>(work), scratch.queries);
  T lse[kRows] = {};
  for (int r = 0; work.lse && r < work.num_rows; ++r) lse[r] = static_cast<const T*>(work.lse)[r];

  for (std::ptrdiff_t begin = work.key_begin; begin < work.key_end; begin += kKeyBlock) {
    if (work.should_stop && work.should_stop(work.stop_context)) return;
    const std::ptrdiff_t end = begin + kKeyBlock < work.key_end ? begin + kKeyBlock : work.key_end;
    const KeySpan span{begin, end, Cover::kSome};
    const auto keys = dense_rows(work.key, begin, end, work.head_dim, scratch.copy);
    score_block<V, kVecs>(keys.data, keys.stride, span.size(), work.head_dim, scratch.queries,
                          scratch.scores);
    if (work.softcap != 0 && work.stage != Stage::kScores) {
      apply_softcap<V, kVecs>(scratch.scores, span.size(), work.softcap);
    }
    if (work.stage >= Stage::kMasked) mask_block<V, kVecs>(work, rows, span, scratch.scores);
    store_scores<V, kVecs>(work, span, scratch.scores, lse);
  }
}

template <class V, int kVecs = 1>
void weights(const Work& work, void* scratch) {
  if constexpr (kVecs < V::kBlockVecs) {
    if (work.num_rows > kVecs * V::kLanes) return weights<V, kVecs * 2>(work, scratch);
  }
  weights_block<V, kVecs>(work, scratch);
}

}  // namespace
}  // namespace cpuattn
