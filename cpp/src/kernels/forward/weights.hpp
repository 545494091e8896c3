// The kernel of attention_weights: the scores of a block of queries, up to the stage asked for,
// written out as rows of the full (query, key) matrix. It shares every step with forward.hpp;
// the softmax of a row is exp(score - base) / sum, with the base and sum of the forward kernel.
#pragma once

#include <math.h>

#include <cstddef>

#include "kernels/forward/forward.hpp"

namespace cpuattn {
namespace {

// The bases and sums of the rows, as the forward kernel found them. (Their logarithm in one
// number, the lse, would lose digits where scores are large.)
template <class T, int kRows>
struct RowSums {
  T base[kRows] = {};
  T factor[kRows] = {};  // 1 / sum; 0 for a row that sees nothing

  explicit RowSums(const Work& work) {
    if (work.stage != Stage::kWeights) return;
    for (int r = 0; r < work.num_rows; ++r) {
      const T sum = static_cast<const T*>(work.row_sum)[r];
      base[r] = static_cast<const T*>(work.row_base)[r];
      factor[r] = sum == 0 ? T(0) : T(1) / sum;
    }
  }
};

template <class V, int kVecs>
void store_scores(const Work& work, KeySpan span, const typename V::Element* scores,
                  const RowSums<typename V::Element, kVecs * V::kLanes>& sums) {
  constexpr int kRows = kVecs * V::kLanes;
  for (int n = 0; n < kRows; n += V::kLanes) {
    if (n >= work.num_rows) return;
    const RowStore<V> store(work, n);
    for (std::ptrdiff_t j = 0; j < span.size(); j += V::kLanes) {
      const std::ptrdiff_t rest = span.size() - j;
      const std::ptrdiff_t count = rest < V::kLanes ? rest : V::kLanes;
      typename V::Vec columns[V::kLanes];
      for (int i = 0; i < V::kLanes; ++i) {
        columns[i] = i < count ? V::load(scores + (j + i) * kRows + n) : V::zero();
        if (work.stage == Stage::kWeights) {
          const auto base = softmax_base<V>(V::load(sums.base + n));
          // Products of another kernel may differ, by more than exp can take if they are huge.
          const auto above = V::min(V::set1(70), V::sub(columns[i], base));
          const auto weight = exp<V>(above);
          columns[i] = V::mul(weight, V::load(sums.factor + n));
        }
      }
      store(columns, span.begin + j, count);
    }
  }
}

// How many keys of the span can be looked up: pages behind the length need not exist.
inline std::ptrdiff_t known_keys(const Work& work, KeySpan span) {
  if (!work.key.pages || work.key_length >= span.end) return span.size();
  return work.key_length > span.begin ? work.key_length - span.begin : 0;
}

// Keys that no row sees are given their score of -inf (or weight of 0) like any other. What is not
// known has the score -inf at every stage.
template <class V, int kVecs>
void weights_block(const Work& work, void* memory) {
  using T = typename V::Element;
  constexpr int kRows = kVecs * V::kLanes;
  ScratchCutter cut(memory);
  const SharedScratch<V, kVecs> scratch(cut, work.head_dim, 0);
  const BlockScratch<V, kVecs> own(cut, work.head_dim, 0);
  SharedRows<V> keys(scratch.copy);
  RowBlock<T, kRows> rows;
  describe_rows(work, rows);
  ScoreFactors<T, kRows> factors;
  load_queries<V, kVecs>(work, rows, own.queries, factors);
  const RowSums<T, kRows> sums(work);

  for (std::ptrdiff_t begin = work.key_begin; begin < work.key_end; begin += kKeyBlock) {
    if (work.should_stop && work.should_stop(work.stop_context)) return;
    const std::ptrdiff_t end = begin + kKeyBlock < work.key_end ? begin + kKeyBlock : work.key_end;
    const KeySpan span{begin, end, Cover::kSome};
    const std::ptrdiff_t known = known_keys(work, span);
    score_block<V, kVecs>(work, begin, known, own.queries, keys, own.scores, nullptr);
    if (factors.any) multiply_scores<V, kVecs>(factors, known, own.scores);
    if (work.softcap != 0 && work.stage != Stage::kScores) {
      apply_softcap<V, kVecs>(own.scores, known, work.softcap);
    }
    for (std::ptrdiff_t i = known * kRows; i < span.size() * kRows; ++i) {
      own.scores[i] = -T(INFINITY);
    }
    if (work.stage >= Stage::kMasked) mask_block<V, kVecs>(work, rows, span, own.scores);
    store_scores<V, kVecs>(work, span, own.scores, sums);
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
