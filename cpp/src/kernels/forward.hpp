// The forward kernel for many query rows. Start reading here. For one block of queries it is
//
//   m = -inf; l = 0; O = 0
//   for each block of keys:
//     S = K · Qᵀ                        scores, one query per lane        score_block
//     S = mask(S)                       only where some row may not see   mask_block
//     if max S > m + 8:                 over the keys; rarely true        raise_base
//       l, O = l, O · exp(m - max S);  m = max S
//     P = exp(S - m);  l = l + sum P                                      add_weights
//     O = O + Vᵀ · P                                                      accumulate_values
//   output = O / l                      transposed back                   store_output
//
// and everything else is how to do that well (Dao et al., arXiv:2205.14135 and 2307.08691, with
// the roles of lanes exchanged). Because the queries lie in the lanes,
// - both products read K and V where they lie and broadcast single elements: no packing (but for
//   crowded values, narrow numbers and pages, see tokens.hpp), and strided or broadcast keys cost
//   nothing extra;
// - the softmax is vertical: no horizontal maximum or sum anywhere;
// - the heads of a group are just more lanes, so K and V are read once per group.
// Cost per block of R queries and C keys: R·C·(D + Dv) multiply-adds, R·C exponentials (as long as
// 8 multiply-adds each: 6 % at D = Dv = 64), reads of C·(D + Dv) elements.
#pragma once

#include <cstddef>

#include "../kernel.hpp"
#include "block.hpp"
#include "mask.hpp"
#include "rows.hpp"
#include "scratch.hpp"
#include "softmax.hpp"
#include "tile.hpp"
#include "values.hpp"

namespace cpuattn {
namespace {

template <class V, int kVecs>
struct ForwardScratch {
  using T = typename V::Element;
  static constexpr int kRows = kVecs * V::kLanes;

  ForwardScratch(ScratchCutter& cut, std::ptrdiff_t head_dim, std::ptrdiff_t value_dim)
      : queries(cut.take<Operand<V>>(operands<V>(head_dim) * kRows)),
        outputs(cut.take<T>(value_dim * kRows)),
        chunk_outputs(cut.take<T>(value_dim * kRows)),
        scores(cut.take<T>(kKeyBlock * kRows)),
        visible(cut.take<T>(kKeyBlock * kRows)),
        copy(cut.take<Operand<V>>(kKeyBlock * copy_stride<Operand<V>>(slice_dims(
                                                  head_dim > value_dim ? head_dim : value_dim)))) {}

  Operand<V>* queries;  // [head_dim][rows]
  T* outputs;           // [value_dim][rows]
  T* chunk_outputs;     // likewise, of a chunk that will be merged
  T* scores;            // [key][rows]
  T* visible;           // [key][rows]: -inf where hidden; only to trace a NaN or inf
  Operand<V>* copy;     // [key][dim]: only for keys and values that are not multiplied in place
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

  void clear() {
    for (int r = 0; r < kRows; ++r) {
      state.base[r] = -T(INFINITY);
      state.sum[r] = 0;
    }
    for (std::ptrdiff_t i = 0; i < value_dim * kRows; ++i) outputs[i] = 0;
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
      V::store(state.sum + n, merged(V::load(state.sum + n), V::set1(T(kWeightScale))));
      V::store(state.base + n, merged.base);
      V::store(state.rescale + n, merged.keep);
    }
    rescale();
  }
};

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
    for (std::ptrdiff_t d = 0; d < work.value_dim; d += V::kLanes) {
      const std::ptrdiff_t rest = work.value_dim - d;
      const std::ptrdiff_t count = rest < V::kLanes ? rest : V::kLanes;
      typename V::Vec columns[V::kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < V::kLanes; ++i) {
        columns[i] = i < count
                         ? V::mul(V::load(sums.outputs + (d + i) * kRows + n * V::kLanes), factor)
                         : V::zero();
      }
      store(columns, d, count);
    }
  }
}

// Scores of one span of keys as the softmax needs them: scaled, soft-capped, masked; and their
// largest.
template <class V, int kVecs>
void score_span(const Work& work, const RowBlock<typename V::Element, kVecs * V::kLanes>& rows,
                KeySpan span, const ForwardScratch<V, kVecs>& scratch,
                SoftmaxState<V, kVecs>& state) {
  const bool plain = work.softcap == 0 && work.bias.type == ElementType::kNone &&
                     !work.alibi_slopes && span.cover == Cover::kAll;
  score_block<V, kVecs>(work, span.begin, span.size(), scratch.queries, scratch.copy,
                        scratch.scores, plain ? state.block_max : nullptr);
  if (plain) return;
  if (work.softcap != 0) apply_softcap<V, kVecs>(scratch.scores, span.size(), work.softcap);
  clear_block_max(state);
  if (mask_block<V, kVecs>(work, rows, span, scratch.scores, state.block_max)) return;
  find_block_max(state, scratch.scores, span.size());
}

// The sums over the keys [begin, end), block by block; false: interrupted. Blocks start at
// multiples of kKeyBlock, so that no row can shift those of another.
template <class V, int kVecs>
bool sum_keys(const Work& work, const RowBlock<typename V::Element, kVecs * V::kLanes>& rows,
              std::ptrdiff_t begin, std::ptrdiff_t end, const ForwardScratch<V, kVecs>& scratch,
              Sums<V, kVecs>& sums) {
  sums.clear();
  bool empty = true;
  if (begin < rows.lo_min) begin += (rows.lo_min - begin) / kKeyBlock * kKeyBlock;
  for (; begin < end; begin += kKeyBlock) {
    if (work.should_stop && work.should_stop(work.stop_context)) return false;
    const KeySpan span =
        cover_block(work, rows, begin, begin + kKeyBlock < end ? begin + kKeyBlock : end);
    if (span.cover == Cover::kNone) continue;
    const std::ptrdiff_t offset = span.begin - begin;
    score_span(work, rows, span, scratch, sums.state);
    if (raise_base(sums.state) && !empty) sums.rescale();
    if constexpr (kBlockBase<V>) find_block_factor(sums.state);
    const Operand<V>* weights = add_weights(sums.state, scratch.scores, offset, span.size());
    ValueBlock<V, kVecs> block{
        work, rows, span, offset, {}, weights, sums.state.block_factor, scratch.visible};
    accumulate_values(block, scratch.copy, sums.outputs);
    empty = false;
  }
  return true;
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

template <class V, int kVecs>
void forward_block(const Work& work, void* memory) {
  using T = typename V::Element;
  ScratchCutter cut(memory);
  const ForwardScratch<V, kVecs> scratch(cut, work.head_dim, work.value_dim);
  RowBlock<T, kVecs * V::kLanes> rows;
  describe_rows(work, rows);
  if constexpr (V::kPack == 1) {
    load_queries<V, kVecs>(work, rows, query_factor<T>(work), scratch.queries);
  } else {
    load_query_pairs<V, kVecs>(work, rows, scratch.queries);
  }

  prefetch_output<V>(work);
  Sums<V, kVecs> total(scratch.outputs, work.value_dim);
  Sums<V, kVecs> chunk(scratch.chunk_outputs, work.value_dim);
  bool any = false;
  for (std::ptrdiff_t begin = work.key_begin; begin < rows.hi_max; begin += work.key_chunk) {
    const std::ptrdiff_t chunk_end = begin + work.key_chunk;
    const std::ptrdiff_t end = chunk_end < rows.hi_max ? chunk_end : rows.hi_max;
    if (end <= rows.lo_min) continue;
    if (!sum_keys(work, rows, begin, end, scratch, any ? chunk : total)) return;
    if (any) total.add(chunk);
    any = true;
  }
  if (!any) total.clear();
  if (work.sinks && work.normalise) total.add_sinks(work);
  store_output(work, total);
}

// The narrowest block that holds the rows: the last rows of a head do not cost a full one.
template <class V, int kVecs = 1>
void forward(const Work& work, void* scratch) {
  if constexpr (kVecs < V::kBlockVecs) {
    if (work.num_rows > kVecs * V::kLanes) return forward<V, kVecs * 2>(work, scratch);
  }
  forward_block<V, kVecs>(work, scratch);
}

template <class V, int kVecs = 1>
std::size_t forward_scratch(std::ptrdiff_t head_dim, std::ptrdiff_t value_dim, int num_rows) {
  if constexpr (kVecs < V::kBlockVecs) {
    if (num_rows > kVecs * V::kLanes) {
      return forward_scratch<V, kVecs * 2>(head_dim, value_dim, num_rows);
    }
  }
  ScratchCutter count(nullptr);
  ForwardScratch<V, kVecs>(count, head_dim, value_dim);
  return count.used();
}

}  // namespace
}  // namespace cpuattn
