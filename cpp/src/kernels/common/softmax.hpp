// The online softmax (Milakov and Gimelshein, arXiv:1805.02867) with one query per lane:
// everything is vertical, no lane ever looks at its neighbour.
#pragma once

#include <math.h>

#include <cstddef>

#include "kernel.hpp"
#include "kernels/common/elements.hpp"
#include "kernels/common/exp.hpp"

namespace cpuattn {
namespace {

// Weights that are rounded to bfloat16 are relative to the largest score of their block: so is the
// largest weight of each block, 1, exact. Sums over the block are brought to the base of the row.
template <class V>
constexpr bool kBlockBase = V::kPack > 1;

// They are made larger by this power of two, which block_factor takes away again: products of
// bfloat16 below 2^-126 would count as 0.
template <class V>
constexpr typename V::Element kWeightUnit = kBlockBase<V> ? 0x1p24 : 1;

// Per row: the base that is subtracted from its scores, the sum of the weights relative to it, the
// largest score of the block at hand, by how much what was summed before it must shrink, and, where
// the weights of the block are relative to its own maximum, what they are to be multiplied with.
template <class V, int kVecs>
struct SoftmaxState {
  static constexpr int kRows = kVecs * V::kLanes;
  alignas(64) typename V::Element base[kRows];
  alignas(64) typename V::Element sum[kRows];
  alignas(64) typename V::Element block_max[kRows];
  alignas(64) typename V::Element rescale[kRows];
  alignas(64) typename V::Element block_factor[kBlockBase<V> ? kRows : 1];
};

// The base of a row follows its maximum only when that is so much larger: weights are then at most
// exp(8), which loses no digit, and after the first blocks hardly any score makes sums shrink.
// (Weights of 2^-32 · exp would never let a sum of 2^20 values overflow, but small values, and
// values of small weights, lose their digits by them. second_run.hpp has what is done instead.)
// (Lazy rescaling: FlashAttention-4.) The division at the end uses the same base: nothing is
// approximated.
constexpr int kBaseSlack = 8;

// What is subtracted before exp: the base, or 0 for a row that has seen no key, so that
// its scores (-inf) become exp(-inf) = 0 and not exp(-inf + inf) = NaN.
template <class V>
inline typename V::Vec softmax_base(typename V::Vec max) {
  return V::select(V::equal(max, V::set1(-INFINITY)), V::zero(), max);
}

// How two sums over disjoint keys become one: each is shrunk to the larger base. Adding to
// nothing (base = -inf, sum = 0) changes no bit.
template <class V>
struct Merge {
  typename V::Vec base, keep, take;

  Merge(typename V::Vec total_base, typename V::Vec part_base)
      : base(V::max(total_base, part_base)) {
    const auto subtrahend = softmax_base<V>(base);
    keep = exp<V>(V::sub(total_base, subtrahend));
    take = exp<V>(V::sub(part_base, subtrahend));
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

// In a second run: the weights, of which the sums are known, that values are multiplied with.
template <class V, int kVecs>
[[gnu::noinline]] void shrink_weights(const Work& work, typename V::Element* weights,
                                      std::ptrdiff_t count) {
  using T = typename V::Element;
  constexpr int kRows = kVecs * V::kLanes;
  T factor[kRows];
  for (int r = 0; r < kRows; ++r) {
    factor[r] =
        static_cast<const T*>(work.weight_factor)[r < work.num_rows ? r : work.num_rows - 1];
  }
  for (std::ptrdiff_t i = 0; i < count * kRows; i += kRows) {
    for (int n = 0; n < kRows; n += V::kLanes) {
      V::store(weights + i + n, V::mul(V::load(weights + i + n), V::load(factor + n)));
    }
  }
}

template <class V, int kVecs>
void clear_block_max(SoftmaxState<V, kVecs>& state) {
  for (int n = 0; n < state.kRows; n += V::kLanes) {
    V::store(state.block_max + n, V::set1(-INFINITY));
  }
}

// block_max = the largest of `count` keys of scores[key][row]; NaN is passed over.
template <class V, int kVecs>
void find_block_max(SoftmaxState<V, kVecs>& state, const typename V::Element* scores,
                    std::ptrdiff_t count) {
  constexpr int kRows = kVecs * V::kLanes;
  typename V::Vec max[kVecs];
#pragma GCC unroll 8
  for (int n = 0; n < kVecs; ++n) max[n] = V::set1(-INFINITY);
  for (std::ptrdiff_t j = 0; j < count; ++j) {
#pragma GCC unroll 8
    for (int n = 0; n < kVecs; ++n) {
      max[n] = V::max(V::load(scores + j * kRows + n * V::kLanes), max[n]);
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < kVecs; ++n) V::store(state.block_max + n * V::kLanes, max[n]);
}

// Raises the base of rows that met a much larger score; true: what was summed before must be
// multiplied by `rescale`, which is 1 for the other rows.
template <class V, int kVecs>
bool raise_base(SoftmaxState<V, kVecs>& state) {
  const auto is_larger = [&](int n) {
    const auto limit = V::add(V::load(state.base + n), V::set1(kBaseSlack));
    return V::less(limit, V::load(state.block_max + n));
  };
  bool raised = false;
  for (int n = 0; n < state.kRows; n += V::kLanes) raised |= V::any(is_larger(n));
  if (!raised) return false;
  for (int n = 0; n < state.kRows; n += V::kLanes) {
    const auto old = V::load(state.base + n);
    const auto base = V::select(is_larger(n), V::load(state.block_max + n), old);
    const auto rescale = exp<V>(V::sub(old, softmax_base<V>(base)));
    V::store(state.rescale + n, rescale);
    V::store(state.sum + n, V::mul(V::load(state.sum + n), rescale));
    V::store(state.base + n, base);
  }
  return true;
}

// What brings sums of the block's weights to the base of their row.
template <class V, int kVecs>
void find_block_factor(SoftmaxState<V, kVecs>& state) {
  for (int n = 0; n < state.kRows; n += V::kLanes) {
    const auto base = softmax_base<V>(V::load(state.base + n));
    const auto factor = exp<V>(V::sub(V::load(state.block_max + n), base));
    V::store(state.block_factor + n, V::mul(factor, V::set1(1 / kWeightUnit<V>)));
  }
}

// Turns `count` keys of scores[key][row] into weights in place, and adds them to the sums. `offset`
// keys of the block were left out before the first one: groups, and pairs, start at the same keys
// for all. Returns the weights as the products want them: [key][row], or [pair of keys][row], with
// 0 beside a key that lacks its neighbour.
template <class V, int kVecs>
const Operand<V>* add_weights(SoftmaxState<V, kVecs>& state, typename V::Element* scores,
                              std::ptrdiff_t offset, std::ptrdiff_t count) {
  using T = typename V::Element;
  constexpr int kRows = kVecs * V::kLanes;
  constexpr int kStep = kVecs < V::kTileVecs ? kVecs : V::kTileVecs;
  auto* weights = reinterpret_cast<Operand<V>*>(scores);  // never written ahead of what was read
  for (int first = 0; first < kRows; first += kStep * V::kLanes) {
    typename V::Vec base[kStep], sum[kStep], group[kStep];
#pragma GCC unroll 4
    for (int n = 0; n < kStep; ++n) {
      const T* from = kBlockBase<V> ? state.block_max : state.base;
      base[n] = softmax_base<V>(V::load(from + first + n * V::kLanes));
      sum[n] = kBlockBase<V> ? V::zero() : V::load(state.sum + first + n * V::kLanes);
    }
    const auto weigh = [&](std::ptrdiff_t j, int n) {
      const auto score = V::load(scores + j * kRows + first + n * V::kLanes);
      const auto weight = exp_weight<V>(V::sub(score, base[n]), kWeightUnit<V>);
      group[n] = V::add(group[n], weight);
      return weight;
    };
    for (std::ptrdiff_t j = 0; j < count;) {
      const std::ptrdiff_t next = j + kSumGroup - (offset + j) % kSumGroup;
      const std::ptrdiff_t end = next < count ? next : count;
#pragma GCC unroll 4
      for (int n = 0; n < kStep; ++n) group[n] = V::zero();
      while (j < end) {
        auto* weight = weights + ((offset + j) / V::kPack - offset / V::kPack) * kRows + first;
        if constexpr (V::kPack == 1) {
#pragma GCC unroll 4
          for (int n = 0; n < kStep; ++n) V::store(weight + n * V::kLanes, weigh(j, n));
          ++j;
        } else {
          const bool alone = j + 1 == end, second = (offset + j) % 2 != 0;
#pragma GCC unroll 4
          for (int n = 0; n < kStep; ++n) {
            const auto one = weigh(j, n), other = alone || second ? V::zero() : weigh(j + 1, n);
            V::store(weight + n * V::kLanes, second ? V::pair(other, one) : V::pair(one, other));
          }
          j += alone || second ? 1 : 2;
        }
      }
#pragma GCC unroll 4
      for (int n = 0; n < kStep; ++n) sum[n] = V::add(sum[n], group[n]);
    }
#pragma GCC unroll 4
    for (int n = 0; n < kStep; ++n) {
      T* total = state.sum + first + n * V::kLanes;
      if constexpr (kBlockBase<V>) {
        const auto factor = V::load(state.block_factor + first + n * V::kLanes);
        sum[n] = V::fma(sum[n], factor, V::load(total));
      }
      V::store(total, sum[n]);
    }
  }
  return weights;
}

// scores = softcap * tanh(scores / softcap)
template <class V, int kVecs>
void apply_softcap(typename V::Element* scores, std::ptrdiff_t count, double softcap) {
  const Cap<typename V::Element> cap(softcap);
  for (std::ptrdiff_t i = 0; i < count * kVecs; ++i) {
    auto* score = scores + i * V::kLanes;
    V::store(score, soft_cap<V>(V::load(score), cap));
  }
}

}  // namespace
}  // namespace cpuattn
