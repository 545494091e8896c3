// The forward kernel for many query rows. Start reading here. For one block of queries it is
//
//   m = -inf; l = 0; O = 0
//   for each block of keys:
//     S = K · Qᵀ                        scores, one query per lane        score_block
//     S = mask(S)                       only where some row may not see   mask_block
//     m' = max(m, max S)                over the keys                     update_softmax
//     P = exp(S - m')
//     l = l · exp(m - m') + sum P
//     O = O · exp(m - m') + Vᵀ · P      rescaling costs one multiply-add  accumulate_values
//     m = m'
//   output = O / l                      transposed back                   store_output
//
// and everything else is how to do that well (Dao et al., arXiv:2205.14135 and 2307.08691, with
// the roles of lanes exchanged). Because the queries lie in the lanes,
// - both products read K and V where they lie and broadcast single elements: no packing, and
//   strided or broadcast keys cost nothing extra;
// - the softmax is vertical: no horizontal maximum or sum anywhere;
// - the heads of a group are just more lanes, so K and V are read once per group.
// Cost per block of R queries and C keys: R·C·(D + Dv) multiply-adds, R·C exponentials (about
// 12 instructions each, the rest of the time), reads of C·(D + Dv) elements.
#pragma once

#include <cstddef>

#include "../kernel.hpp"
#include "block.hpp"
#include "mask.hpp"
#include "rows.hpp"
#include "scratch.hpp"
#include "softmax.hpp"
#include "tile.hpp"

namespace cpuattn {
namespace {

// A multiple of every tile height (6, 8 and 12), and scores of 64 queries (24 KB), the queries
// and the outputs (16 KB each at D = 64) are near the size of an L1 cache.
constexpr int kKeyBlock = 96;

template <class V, int kVecs>
struct ForwardScratch {
  using T = typename V::Element;
  static constexpr int kRows = kVecs * V::kLanes;

  ForwardScratch(ScratchCutter& cut, std::ptrdiff_t head_dim, std::ptrdiff_t value_dim)
      : queries(cut.take<T>(head_dim * kRows)),
        outputs(cut.take<T>(value_dim * kRows)),
        chunk_outputs(cut.take<T>(value_dim * kRows)),
        scores(cut.take<T>(kKeyBlock * kRows)),
        visible(cut.take<T>(kKeyBlock * kRows)),
        copy(cut.take<T>(kKeyBlock * (head_dim > value_dim ? head_dim : value_dim))) {}

  T* queries;        // [head_dim][rows]
  T* outputs;        // [value_dim][rows]
  T* chunk_outputs;  // likewise, of a chunk that will be merged
  T* scores;         // [key][rows]
  T* visible;        // [key][rows]: -inf where hidden; only to trace a NaN or inf
  T* copy;           // [key][dim]: only for keys or values that are strided along head_dim
};

// Products along the keys are summed in groups that start at fixed keys of a block, for the same
// reason as the weights: equal terms are all rounded alike.
constexpr std::ptrdiff_t kValueGroup = 48;

// One block of keys: what its values are to be multiplied with, and who may see them.
template <class V, int kVecs>
struct ValueBlock {
  using T = typename V::Element;
  const Work& work;
  const RowBlock<T, kVecs * V::kLanes>& rows;
  KeySpan span;
  std::ptrdiff_t offset;  // keys of the block before the span
  DenseRows<T> values;
  const T* weights;  // [key][rows]
  const T* rescale;  // [rows]
  T* visible;        // [key][rows], valid once `traced`
  bool traced = false;
};

// Keys [begin, end) of a block, the first or a later group of it.
struct KeyGroup {
  std::ptrdiff_t begin, end;
};

// In the first group of a block output · rescale + sum, in the others output + sum.
template <class V, int kVecs, int kDims, int kCols>
[[gnu::always_inline]] inline void add_tile(const Tile<V, kDims, kCols>& tile, bool first_group,
                                            const typename V::Element* rescale,
                                            typename V::Element* outputs) {
  constexpr int kRows = kVecs * V::kLanes;
  typename V::Vec factor[kCols];
#pragma GCC unroll 16
  for (int n = 0; n < kCols; ++n) {
    factor[n] = first_group ? V::load(rescale + n * V::kLanes) : V::set1(1);
  }
#pragma GCC unroll 16
  for (int m = 0; m < kDims; ++m) {
#pragma GCC unroll 16
    for (int n = 0; n < kCols; ++n) {
      auto* output = outputs + m * kRows + n * V::kLanes;
      V::store(output, V::fma(V::load(output), factor[n], tile.at[m][n]));
    }
  }
}

// A hidden key has weight 0, but 0 · NaN is NaN. Where a sum over a partly hidden block came out
// as NaN or inf, it is done again with the hidden keys left out: an unmasked NaN stays exactly
// where it belongs. What is hidden is found by masking a block of zeros.
template <class V, int kVecs>
[[gnu::noinline]] void accumulate_visible(ValueBlock<V, kVecs>& block, KeyGroup group,
                                          std::ptrdiff_t dim, int dims, int first, int cols,
                                          typename V::Element* outputs) {
  constexpr int kRows = kVecs * V::kLanes;
  if (!block.traced) {
    for (std::ptrdiff_t i = 0; i < block.span.size() * kRows; ++i) block.visible[i] = 0;
    mask_block<V, kVecs>(block.work, block.rows, block.span, block.visible);
    block.traced = true;
  }
  const auto hidden = V::set1(-INFINITY);
  for (std::ptrdiff_t d = dim; d < dim + dims; ++d) {
    for (int row = first; row < first + cols * V::kLanes; row += V::kLanes) {
      auto sum = V::zero();
      for (std::ptrdiff_t j = group.begin; j < group.end; ++j) {
        const auto value = V::set1(block.values.data[j * block.values.stride + d]);
        const auto next = V::fma(value, V::load(block.weights + j * kRows + row), sum);
        const auto is_hidden = V::equal(V::load(block.visible + j * kRows + row), hidden);
        sum = V::select(is_hidden, sum, next);
      }
      const Tile<V, 1, 1> tile{{{sum}}};
      add_tile<V, kVecs>(tile, group.begin == 0, block.rescale + row, outputs + d * kRows + row);
    }
  }
}

template <class V, int kRows, int kCols>
bool all_finite(const Tile<V, kRows, kCols>& tile) {
  auto probe = V::zero();  // 0 · x is NaN where x is NaN or inf
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 16
    for (int n = 0; n < kCols; ++n) probe = V::fma(V::zero(), tile.at[m][n], probe);
  }
  return !V::any(V::is_nan(probe));
}

// outputs[d][row] = outputs[d][row] · rescale[row] + sum over keys of value[d] · weight[row],
// for kDims dims. kCheck: some rows may not see some of the keys.
template <class V, int kVecs, int kDims, bool kCheck>
[[gnu::noinline]] void value_tile(ValueBlock<V, kVecs>& block, std::ptrdiff_t dim,
                                  typename V::Element* outputs) {
  constexpr int kCols = kTileCols<V, kVecs>;
  constexpr int kRows = kVecs * V::kLanes;
  const std::ptrdiff_t count = block.span.size();
  for (int first = 0; first < kRows; first += kCols * V::kLanes) {
    KeyGroup group{0, kValueGroup - block.offset % kValueGroup};
    for (; group.begin < count; group = {group.end, group.end + kValueGroup}) {
      group.end = group.end < count ? group.end : count;
      Tile<V, kDims, kCols> tile;
      multiply(tile, block.values.data + group.begin * block.values.stride + dim, UnitStride{},
               block.values.stride, block.weights + group.begin * kRows + first, kRows,
               group.end - group.begin);
      if (kCheck && !all_finite(tile)) {
        accumulate_visible(block, group, dim, kDims, first, kCols, outputs);
        continue;
      }
      add_tile<V, kVecs>(tile, group.begin == 0, block.rescale + first,
                         outputs + dim * kRows + first);
    }
  }
}

template <class V, int kVecs>
void accumulate_values(ValueBlock<V, kVecs>& block, typename V::Element* outputs) {
  const bool check = block.span.cover != Cover::kAll || block.work.bias.type != ScoreType::kNone;
  for_each_tile<kTileRows<V, kTileCols<V, kVecs>>>(
      0, block.work.value_dim, [&](auto size, std::ptrdiff_t dim) {
        constexpr int kDims = decltype(size)::value;
        if (check) {
          value_tile<V, kVecs, kDims, true>(block, dim, outputs);
        } else {
          value_tile<V, kVecs, kDims, false>(block, dim, outputs);
        }
      });
}

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
      state.max[r] = -T(INFINITY);
      state.sum[r] = 0;
    }
    for (std::ptrdiff_t i = 0; i < value_dim * kRows; ++i) outputs[i] = 0;
  }
  void add(const Sums& part) {
    for (int n = 0; n < kRows; n += V::kLanes) {
      const Merge<V> merged(V::load(state.max + n), V::load(part.state.max + n));
      V::store(state.sum + n, merged(V::load(state.sum + n), V::load(part.state.sum + n)));
      V::store(state.max + n, merged.max);
      for (std::ptrdiff_t i = n; i < value_dim * kRows; i += kRows) {
        V::store(outputs + i, merged(V::load(outputs + i), V::load(part.outputs + i)));
      }
    }
  }
  void add_sinks(const Work& work) {
    T sink[kRows];
    for (int r = 0; r < kRows; ++r) {
      sink[r] = sink_of<T>(work, r < work.num_rows ? r : work.num_rows - 1);
    }
    for (int n = 0; n < kRows; n += V::kLanes) {
      const Merge<V> merged(V::load(state.max + n), V::load(sink + n));
      V::store(state.sum + n, merged(V::load(state.sum + n), V::set1(T(kWeightScale))));
      V::store(state.max + n, merged.max);
      for (std::ptrdiff_t i = n; i < value_dim * kRows; i += kRows) {
        V::store(outputs + i, merged(V::load(outputs + i), V::zero()));
      }
    }
  }
};

template <class V, int kVecs>
void store_output(const Work& work, const Sums<V, kVecs>& sums) {
  using T = typename V::Element;
  const SoftmaxState<V, kVecs>& state = sums.state;
  constexpr int kRows = kVecs * V::kLanes;
  T* row_max = static_cast<T*>(work.row_max);
  T* row_sum = static_cast<T*>(work.row_sum);
  for (int r = 0; r < work.num_rows; ++r) {
    row_max[r] = state.max[r];
    row_sum[r] = state.sum[r];
  }
  for (int n = 0; n < kVecs; ++n) {
    const auto sum = V::load(state.sum + n * V::kLanes);
    const auto empty = V::equal(sum, V::zero());
    const auto divisor = work.normalise ? V::select(empty, V::set1(1), sum) : V::set1(1);
    const auto factor = V::div(V::set1(1), divisor);
    for (std::ptrdiff_t d = 0; d < work.value_dim; d += V::kLanes) {
      const std::ptrdiff_t rest = work.value_dim - d;
      const std::ptrdiff_t count = rest < V::kLanes ? rest : V::kLanes;
      typename V::Vec columns[V::kLanes];
      for (int i = 0; i < V::kLanes; ++i) {
        columns[i] = i < count
                         ? V::mul(V::load(sums.outputs + (d + i) * kRows + n * V::kLanes), factor)
                         : V::zero();
      }
      store_columns<V>(work, work.output, n * V::kLanes, columns, d, count);
    }
  }
}

// Scores of one span of keys as the softmax needs them: scaled, soft-capped, masked.
template <class V, int kVecs>
void score_span(const Work& work, const RowBlock<typename V::Element, kVecs * V::kLanes>& rows,
                KeySpan span, const ForwardScratch<V, kVecs>& scratch) {
  const auto keys = dense_rows(work.key, span.begin, span.end, work.head_dim, scratch.copy);
  score_block<V, kVecs>(keys.data, keys.stride, span.size(), work.head_dim, scratch.queries,
                        scratch.scores);
  if (work.softcap != 0) {
    apply_softcap<V, kVecs>(scratch.scores, span.size(), work.softcap);
  }
  mask_block<V, kVecs>(work, rows, span, scratch.scores);
}

// The sums over the keys [begin, end), block by block; false: interrupted. Blocks start at
// multiples of kKeyBlock, so that no row can shift those of another.
template <class V, int kVecs>
bool sum_keys(const Work& work, const RowBlock<typename V::Element, kVecs * V::kLanes>& rows,
              std::ptrdiff_t begin, std::ptrdiff_t end, const ForwardScratch<V, kVecs>& scratch,
              Sums<V, kVecs>& sums) {
  sums.clear();
  if (begin < rows.lo_min) begin += (rows.lo_min - begin) / kKeyBlock * kKeyBlock;
  for (; begin < end; begin += kKeyBlock) {
    if (work.should_stop && work.should_stop(work.stop_context)) return false;
    const KeySpan span =
        cover_block(work, rows, begin, begin + kKeyBlock < end ? begin + kKeyBlock : end);
    if (span.cover == Cover::kNone) continue;
    score_span(work, rows, span, scratch);
    update_softmax(sums.state, scratch.scores, span.begin - begin, span.size());
    const auto values = dense_rows(work.value, span.begin, span.end, work.value_dim, scratch.copy);
    ValueBlock<V, kVecs> block{
        work,           rows, span, span.begin - begin, values, scratch.scores, sums.state.rescale,
        scratch.visible};
    accumulate_values(block, sums.outputs);
  }
  return true;
}

template <class V, int kVecs>
void forward_block(const Work& work, void* memory) {
  using T = typename V::Element;
  ScratchCutter cut(memory);
  const ForwardScratch<V, kVecs> scratch(cut, work.head_dim, work.value_dim);
  RowBlock<T, kVecs * V::kLanes> rows;
  describe_rows(work, rows);
  load_queries<V, kVecs>(work, rows, query_factor<T>(work), scratch.queries);

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
