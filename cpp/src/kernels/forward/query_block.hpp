// A block of queries on its way over the keys: its scores, its softmax, its sums, its results.
#pragma once

#include <math.h>

#include <cstddef>

#include "kernel.hpp"
#include "kernels/common/mask.hpp"
#include "kernels/common/rows.hpp"
#include "kernels/common/scratch.hpp"
#include "kernels/common/softmax.hpp"
#include "kernels/common/tile.hpp"
#include "kernels/forward/scores.hpp"
#include "kernels/forward/values.hpp"

namespace cpuattn {
namespace {

// Of one block of queries.
template <class V, int kVecs>
struct BlockScratch {
  using T = typename V::Element;
  static constexpr int kRows = kVecs * V::kLanes;

  BlockScratch(ScratchCutter& cut, std::ptrdiff_t head_dim, std::ptrdiff_t value_dim)
      : queries(cut.take<Operand<V>>(operands<V>(head_dim) * kRows)),
        outputs(cut.take<T>(value_dim * kRows)),
        chunk_outputs(cut.take<T>(value_dim * kRows)),
        scores(cut.take<T>(kKeyBlock * kRows)) {}

  Operand<V>* queries;  // [head_dim][rows]
  T* outputs;           // [value_dim][rows]
  T* chunk_outputs;     // likewise, of a chunk that will be merged
  T* scores;            // [key][rows]
};

// Of all of them, one after the other.
template <class V, int kVecs>
struct SharedScratch {
  using T = typename V::Element;

  SharedScratch(ScratchCutter& cut, std::ptrdiff_t head_dim, std::ptrdiff_t value_dim)
      : visible(cut.take<T>(kKeyBlock * kVecs * V::kLanes)),
        copy(cut.take<Operand<V>>(kKeyBlock * copy_stride<Operand<V>>(slice_dims(
                                                  head_dim > value_dim ? head_dim : value_dim)))) {}

  T* visible;        // [key][rows]: -inf where hidden; only to trace a NaN or inf
  Operand<V>* copy;  // [key][dim]: only for keys and values that are not multiplied in place
};

// What a block of queries has summed up so far: outputs[value_dim][row] and their weights.
template <class V, int kVecs>
struct Sums {
  using T = typename V::Element;
  static constexpr int kRows = kVecs * V::kLanes;
  SoftmaxState<V, kVecs> state;
  T* outputs;
  std::ptrdiff_t value_dim;

  Sums(T* memory, std::ptrdiff_t dims) : outputs(memory), value_dim(dims) {}

  // The outputs are written by the first keys.
  void start() {
    for (int r = 0; r < kRows; ++r) {
      state.base[r] = -T(INFINITY);
      state.sum[r] = 0;
    }
  }
  void clear_outputs() {
    for (std::ptrdiff_t i = 0; i < value_dim * kRows; ++i) outputs[i] = 0;
  }
  void start_from(const Work& work) {
    for (int r = 0; r < kRows; ++r) {
      state.base[r] =
          static_cast<const T*>(work.start_base)[r < work.num_rows ? r : work.num_rows - 1];
    }
  }
  void rescale() {
    for (std::ptrdiff_t i = 0; i < value_dim * kRows; i += kRows) {
      for (int n = 0; n < kRows; n += V::kLanes) {
        V::store(outputs + i + n, V::mul(V::load(outputs + i + n), V::load(state.rescale + n)));
      }
    }
  }
  void add(const Sums& part) {
    T keep[kRows], take[kRows];
    for (int n = 0; n < kRows; n += V::kLanes) {
      const Merge<V> merged(V::load(state.base + n), V::load(part.state.base + n));
      V::store(state.sum + n, merged(V::load(state.sum + n), V::load(part.state.sum + n)));
      V::store(state.base + n, merged.base);
      V::store(keep + n, merged.keep);
      V::store(take + n, merged.take);
    }
    for (std::ptrdiff_t i = 0; i < value_dim * kRows; i += kRows) {
      for (int n = 0; n < kRows; n += V::kLanes) {
        const auto taken = V::mul(V::load(part.outputs + i + n), V::load(take + n));
        V::store(outputs + i + n, V::fma(V::load(outputs + i + n), V::load(keep + n), taken));
      }
    }
  }
  void add_sinks(const Work& work) {
    for (int r = 0; r < kRows; ++r) {
      state.block_max[r] = sink_of<T>(work, r < work.num_rows ? r : work.num_rows - 1);
    }
    for (int n = 0; n < kRows; n += V::kLanes) {
      const Merge<V> merged(V::load(state.base + n), V::load(state.block_max + n));
      V::store(state.sum + n, merged(V::load(state.sum + n), V::set1(1)));
      V::store(state.base + n, merged.base);
      V::store(state.rescale + n, merged.keep);
    }
    rescale();
  }
};

// The rows from first_row on whose lane is NaN.
template <class V>
[[gnu::noinline]] void mark_rows(const Work& work, int first_row, typename V::Vec probe) {
  typename V::Element lane[V::kLanes];
  V::store(lane, probe);
  for (int i = 0; i < V::kLanes && first_row + i < work.num_rows; ++i) {
    work.not_finite[first_row + i] = __builtin_isnan(lane[i]);
  }
}

template <class V, int kVecs>
void store_output(const Work& work, const Sums<V, kVecs>& sums) {
  using T = typename V::Element;
  const SoftmaxState<V, kVecs>& state = sums.state;
  constexpr int kRows = kVecs * V::kLanes;
  T* row_base = static_cast<T*>(work.row_base);
  T* row_sum = static_cast<T*>(work.row_sum);
  for (int r = 0; r < work.num_rows; ++r) {
    row_base[r] = state.base[r];
    row_sum[r] = state.sum[r];
  }
  for (int n = 0; n < kVecs && n * V::kLanes < work.num_rows; ++n) {
    const RowStore<V> store(work, n * V::kLanes);
    const auto sum = V::load(state.sum + n * V::kLanes);
    const auto empty = V::equal(sum, V::zero());
    const auto divisor = work.normalise ? V::select(empty, V::set1(1), sum) : V::set1(1);
    const auto factor = V::div(V::set1(1), divisor);
    // 0 · x is NaN where x is NaN or inf. Four of them: short calls notice one long chain.
    typename V::Vec probe[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
    for (std::ptrdiff_t d = 0; d < work.value_dim; d += V::kLanes) {
      const std::ptrdiff_t rest = work.value_dim - d;
      const std::ptrdiff_t count = rest < V::kLanes ? rest : V::kLanes;
      typename V::Vec columns[V::kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < V::kLanes; ++i) {
        columns[i] = i < count
                         ? V::mul(V::load(sums.outputs + (d + i) * kRows + n * V::kLanes), factor)
                         : V::zero();
        probe[i % 4] = V::fma(V::zero(), columns[i], probe[i % 4]);
      }
      store(columns, d, count);
    }
    if (!work.not_finite) continue;
    const auto all = V::add(V::add(probe[0], probe[1]), V::add(probe[2], probe[3]));
    if (V::any(V::is_nan(all))) mark_rows<V>(work, n * V::kLanes, all);
  }
}

// Scores of one span of keys as the softmax needs them: scaled, soft-capped, masked; and their
// largest.
template <class V, int kVecs>
void score_span(const Work& work, const RowBlock<typename V::Element, kVecs * V::kLanes>& rows,
                const ScoreFactors<typename V::Element, kVecs * V::kLanes>& factors, KeySpan span,
                const BlockScratch<V, kVecs>& scratch, SharedRows<V>& shared,
                SoftmaxState<V, kVecs>& state) {
  const bool plain = work.softcap == 0 && work.bias.type == ElementType::kNone &&
                     !work.alibi_slopes && span.cover == Cover::kAll && !factors.any;
  score_block<V, kVecs>(work, span.begin, span.size(), scratch.queries, shared, scratch.scores,
                        plain ? state.block_max : nullptr);
  if (plain) return;
  if (factors.any) multiply_scores<V, kVecs>(factors, span.size(), scratch.scores);
  if (work.softcap != 0) apply_softcap<V, kVecs>(scratch.scores, span.size(), work.softcap);
  clear_block_max(state);
  if (mask_block<V, kVecs>(work, rows, span, scratch.scores, state.block_max)) return;
  find_block_max(state, scratch.scores, span.size());
}

// The rows that will be written lie in the L2 cache by then.
template <class V>
void prefetch_output(const Work& work) {
  const std::ptrdiff_t bytes = work.value_dim * element_bytes(work.output.type);
  for (int r = 0; r < work.num_rows; ++r) {
    const auto* row = static_cast<const unsigned char*>(row_pointer(work, work.output, r));
    for (std::ptrdiff_t at = 0; at < bytes; at += 64) V::prefetch(row + at);
  }
}

// A block of queries on its way over the keys. Where keys and values must be converted, two blocks
// go side by side: what was converted for one serves the other.
template <class V, int kVecs>
struct QueryBlock {
  using T = typename V::Element;
  static constexpr int kRows = kVecs * V::kLanes;

  [[gnu::noinline]] QueryBlock(const Work& block, const BlockScratch<V, kVecs>& memory)
      : total(memory.outputs, block.value_dim),
        chunk(memory.chunk_outputs, block.value_dim),
        scratch(memory),
        work(block) {
    describe_rows(work, rows);
    if constexpr (V::kPack == 1) {
      load_queries<V, kVecs>(work, rows, scratch.queries, factors);
    } else {
      load_query_pairs<V, kVecs>(work, rows, scratch.queries, factors);
    }
    prefetch_output<V>(work);
  }

  Sums<V, kVecs>& sums() { return any ? chunk : total; }

  void start_chunk(std::ptrdiff_t begin, std::ptrdiff_t end) {
    sees = begin < rows.hi_max && (end < rows.hi_max ? end : rows.hi_max) > rows.lo_min;
    empty = true;
    if (!sees) return;
    sums().start();
    if (work.start_base) sums().start_from(work);
  }
  [[gnu::noinline]] void end_chunk() {
    if (sees && empty) sums().clear_outputs();
    if (sees && any) total.add(chunk);
    any |= sees;
  }
  // Of the block of keys from `begin` on.
  [[gnu::noinline]] void find_scores(std::ptrdiff_t begin, std::ptrdiff_t end,
                                     SharedRows<V>& shared) {
    span = sees ? cover_block(work, rows, begin, end) : KeySpan{begin, begin, Cover::kNone};
    if (span.cover == Cover::kNone) return;
    score_span(work, rows, factors, span, scratch, shared, sums().state);
  }
  [[gnu::noinline]] void add_values(std::ptrdiff_t begin, SharedRows<V>& shared, T* visible) {
    if (span.cover == Cover::kNone) return;
    SoftmaxState<V, kVecs>& state = sums().state;
    const std::ptrdiff_t offset = span.begin - begin;
    if (raise_base(state) && !empty) sums().rescale();
    if constexpr (kBlockBase<V>) find_block_factor(state);
    const Operand<V>* weights = add_weights(state, scratch.scores, offset, span.size());
    if constexpr (V::kPack == 1) {
      if (work.weight_factor) shrink_weights<V, kVecs>(work, scratch.scores, span.size());
    }
    ValueBlock<V, kVecs> block{work,    rows, span, offset, {}, weights, state.block_factor,
                               visible, empty};
    accumulate_values(block, shared, sums().outputs);
    empty = false;
  }
  [[gnu::noinline]] void store() {
    if (!any) {
      total.start();
      total.clear_outputs();
    }
    if (work.sinks && work.normalise) total.add_sinks(work);
    store_output(work, total);
  }

  ScoreFactors<T, kRows> factors;
  Sums<V, kVecs> total, chunk;
  KeySpan span{};  // of the block of keys at hand
  BlockScratch<V, kVecs> scratch;
  const Work& work;
  RowBlock<T, kRows> rows;
  bool any = false;   // the total has a chunk
  bool sees = false;  // some key of the chunk at hand
  bool empty = true;  // of which none is summed up yet
};

}  // namespace
}  // namespace cpuattn
