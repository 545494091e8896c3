// The online softmax (Milakov and Gimelshein, arXiv:1805.02867) with one query per lane:
// everything is vertical, no lane ever looks at its neighbour.
#pragma once

#include <math.h>

#include <cstddef>

#include "../kernel.hpp"
#include "exp.hpp"

namespace cpuattn {
namespace {

// Per row: the largest score so far, the sum of the weights relative to it, and by how much the
// last block shrank what was summed before it.
template <class V, int kVecs>
struct SoftmaxState {
  static constexpr int kRows = kVecs * V::kLanes;
  alignas(64) typename V::Element max[kRows];
  alignas(64) typename V::Element sum[kRows];
  alignas(64) typename V::Element rescale[kRows];
};

// What is subtracted before exp: the maximum, or 0 for a row that has seen no key, so that
// its scores (-inf) become exp(-inf) = 0 and not exp(-inf + inf) = NaN.
template <class V>
inline typename V::Vec softmax_base(typename V::Vec max) {
  return V::select(V::equal(max, V::set1(-INFINITY)), V::zero(), max);
}

template <class V>
inline typename V::Vec weight_of(typename V::Vec score, typename V::Vec base) {
  return exp<V>(V::sub(score, base), static_cast<typename V::Element>(kWeightScale));
}

// How two sums over disjoint keys become one: each is shrunk to the larger maximum. Adding to
// nothing (max = -inf, sum = 0) changes no bit.
template <class V>
struct Merge {
  typename V::Vec max, keep, take;

  Merge(typename V::Vec total_max, typename V::Vec part_max) : max(V::max(total_max, part_max)) {
    const auto base = softmax_base<V>(max);
    keep = exp<V>(V::sub(total_max, base));
    take = exp<V>(V::sub(part_max, base));
  }
  typename V::Vec operator()(typename V::Vec total, typename V::Vec part) const {
    return V::fma(total, keep, V::mul(part, take));
  }
};

// A sink is one more logit in the sum, without a value.
template <class T>
T sink_of(const Work& work, std::ptrdiff_t row) {
  const std::ptrdiff_t head = (work.first_row + row) % work.group;
  return static_cast<const T*>(work.sinks)[head * work.sinks_stride];
}

// Weights are summed in groups of eight keys, the groups in blocks, the blocks in chunks: equal
// weights are all rounded alike, and a long plain sum of them would drift.
constexpr std::ptrdiff_t kSumGroup = 8;

// Turns `count` keys of scores[key][row] into weights in place, and updates the state. `offset`
// keys of the block were left out before the first one: groups start at the same keys for all.
template <class V, int kVecs>
void update_softmax(SoftmaxState<V, kVecs>& state, typename V::Element* scores,
                    std::ptrdiff_t offset, std::ptrdiff_t count) {
  constexpr int kRows = kVecs * V::kLanes;
  constexpr int kStep = kVecs < V::kTileVecs ? kVecs : V::kTileVecs;
  for (int first = 0; first < kRows; first += kStep * V::kLanes) {
    typename V::Vec max[kStep], base[kStep], sum[kStep];
#pragma GCC unroll 4
    for (int n = 0; n < kStep; ++n) max[n] = V::load(state.max + first + n * V::kLanes);
    for (std::ptrdiff_t j = 0; j < count; ++j) {
#pragma GCC unroll 4
      for (int n = 0; n < kStep; ++n) {
        max[n] = V::max(max[n], V::load(scores + j * kRows + first + n * V::kLanes));
      }
    }
#pragma GCC unroll 4
    for (int n = 0; n < kStep; ++n) {
      base[n] = softmax_base<V>(max[n]);
      sum[n] = V::zero();
    }
    for (std::ptrdiff_t j = 0; j < count;) {
      const std::ptrdiff_t next = j + kSumGroup - (offset + j) % kSumGroup;
      const std::ptrdiff_t end = next < count ? next : count;
      typename V::Vec group[kStep];
#pragma GCC unroll 4
      for (int n = 0; n < kStep; ++n) group[n] = V::zero();
      for (; j < end; ++j) {
#pragma GCC unroll 4
        for (int n = 0; n < kStep; ++n) {
          auto* score = scores + j * kRows + first + n * V::kLanes;
          const auto weight = weight_of<V>(V::load(score), base[n]);
          group[n] = V::add(group[n], weight);
          V::store(score, weight);
        }
      }
#pragma GCC unroll 4
      for (int n = 0; n < kStep; ++n) sum[n] = V::add(sum[n], group[n]);
    }
#pragma GCC unroll 4
    for (int n = 0; n < kStep; ++n) {
      const int row = first + n * V::kLanes;
      const auto rescale = exp<V>(V::sub(V::load(state.max + row), base[n]));
      V::store(state.rescale + row, rescale);
      V::store(state.sum + row, V::fma(V::load(state.sum + row), rescale, sum[n]));
      V::store(state.max + row, max[n]);
    }
  }
}

// scores = softcap * tanh(scores), where the scores were scaled by 1 / softcap beforehand.
template <class V, int kVecs>
void apply_softcap(typename V::Element* scores, std::ptrdiff_t count, double softcap) {
  const auto cap = V::set1(static_cast<typename V::Element>(softcap));
  for (std::ptrdiff_t i = 0; i < count * kVecs; ++i) {
    auto* score = scores + i * V::kLanes;
    V::store(score, V::mul(cap, tanh<V>(V::load(score))));
  }
}

}  // namespace
}  // namespace cpuattn
