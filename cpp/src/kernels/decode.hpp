// The kernel for few query rows over many keys (decoding with a KV cache). It is bound by reading
// K and V, so the lanes lie along head_dim: each key and value is read once, in whole vectors, for
// all rows of the group.
//
// A block of keys is 64 keys. Scores are kept as [key][row], so that one vector holds kLanes / R
// keys of R rows, and the partial sums of kLanes dot products are folded to one vector at once.
// Row counts are 1, 2, 4 and 8; a count between is filled up with copies of the last row.
#pragma once

#include <math.h>

#include <cstddef>

#include "../kernel.hpp"
#include "block.hpp"
#include "exp.hpp"
#include "mask.hpp"
#include "merge.hpp"
#include "rows.hpp"
#include "scratch.hpp"
#include "softmax.hpp"

namespace cpuattn {
namespace {

constexpr int kDecodeRows = 8;
constexpr int kDecodeBlock = 64;

// The hardware prefetcher loses the thread when several rows are read at once: asking for the
// rows this many keys ahead brought GQA 4:1 from 11 to 20 GB/s a core on a Zen 5.
constexpr int kPrefetchKeys = 128;

template <class V, int kRows>
struct DecodeShape {
  using T = typename V::Element;
  static constexpr int kTile = V::kLanes > kRows ? V::kLanes : kRows;  // scores of one step
  static constexpr int kKeys = kTile / kRows;                          // keys of one step
  static constexpr int kAccumulators = V::kRegisters == 32 ? 16 : 8;
  static constexpr int kCols = kAccumulators / kRows < 8 ? kAccumulators / kRows : 8;

  static std::ptrdiff_t padded(std::ptrdiff_t dims) {
    return (dims + V::kLanes - 1) / V::kLanes * V::kLanes;
  }
};

template <class V, int kRows>
struct DecodeScratch {
  using T = typename V::Element;
  using Shape = DecodeShape<V, kRows>;

  DecodeScratch(ScratchCutter& cut, std::ptrdiff_t head_dim, std::ptrdiff_t value_dim)
      : queries(cut.take<T>(kRows * Shape::padded(head_dim))),
        outputs(cut.take<T>(kRows * Shape::padded(value_dim))),
        chunk_outputs(cut.take<T>(kRows * Shape::padded(value_dim))),
        copy(cut.take<T>(kDecodeBlock * (head_dim > value_dim ? head_dim : value_dim))) {}

  T* queries;  // [row][padded head_dim], zeros behind head_dim
  T* outputs;  // [row][padded value_dim]
  T* chunk_outputs;
  T* copy;
};

// Arrays of kTile repeat the kRows values of the rows, to line up with vectors of scores. The weights
// of a row are summed in as many classes of keys as a vector has lanes, whatever kRows is: key j of
// a block belongs to class j mod kLanes. So the bits of a row do not depend on the rows beside it.
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

template <class V>
typename V::Vec load_up_to(const typename V::Element* p, std::ptrdiff_t rest) {
  return rest >= V::kLanes ? V::load(p) : V::load_partial(p, rest);
}

// scores[t][r] = key[t] . query[r] for kKeys keys
template <class V, int kRows>
[[gnu::always_inline]] inline void score_keys(
    const typename V::Element* const (&key)[DecodeShape<V, kRows>::kKeys],
    std::ptrdiff_t prefetch, std::ptrdiff_t head_dim, const typename V::Element* queries,
    typename V::Element* scores) {
  using Shape = DecodeShape<V, kRows>;
  const std::ptrdiff_t row_stride = Shape::padded(head_dim);
  typename V::Vec sum[Shape::kTile];
#pragma GCC unroll 16
  for (int i = 0; i < Shape::kTile; ++i) sum[i] = V::zero();
  const auto add_column = [&](std::ptrdiff_t d, auto load) {
    typename V::Vec query[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) query[r] = V::load(queries + r * row_stride + d);
#pragma GCC unroll 16
    for (int t = 0; t < Shape::kKeys; ++t) {
      const typename V::Vec k = load(key[t] + d);
      V::prefetch(key[t] + d + prefetch);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        sum[t * kRows + r] = V::fma(k, query[r], sum[t * kRows + r]);
      }
    }
  };
  std::ptrdiff_t d = 0;
  for (; d + V::kLanes <= head_dim; d += V::kLanes) {
    add_column(d, [](const typename V::Element* p) { return V::load(p); });
  }
  if (d < head_dim) {
    add_column(d, [&](const typename V::Element* p) { return V::load_partial(p, head_dim - d); });
  }
#pragma GCC unroll 16
  for (int i = 0; i < Shape::kTile; i += V::kLanes) {
    typename V::Vec part[V::kLanes];
#pragma GCC unroll 16
    for (int k = 0; k < V::kLanes; ++k) part[k] = sum[i + k];
    V::store(scores + i, V::sum_each(part));
  }
}

template <class V, int kRows>
[[gnu::noinline]] void score_decode_block(const DenseRows<typename V::Element>& keys,
                                          std::ptrdiff_t count, std::ptrdiff_t head_dim,
                                          const typename V::Element* queries,
                                          typename V::Element* scores) {
  constexpr int kKeys = DecodeShape<V, kRows>::kKeys;
  for (std::ptrdiff_t j = 0; j < count; j += kKeys) {
    const typename V::Element* key[kKeys];
#pragma GCC unroll 16
    for (int t = 0; t < kKeys; ++t) {  // behind the last key, the last key again
      key[t] = keys.data + (j + t < count ? j + t : count - 1) * keys.stride;
    }
    score_keys<V, kRows>(key, kPrefetchKeys * keys.stride, head_dim, queries, scores + j * kRows);
  }
}

// Softcap, bias and masks over the span; -inf for the keys of the block around it. `offset` keys lie
// before the span. Returns how many scores there are, a multiple of kTile.
template <class V, int kRows>
std::ptrdiff_t finish_scores(const Work& work,
                             const RowBlock<typename V::Element, kRows>& rows, KeySpan span,
                             std::ptrdiff_t offset, typename V::Element* scores) {
  using T = typename V::Element;
  constexpr int kTile = DecodeShape<V, kRows>::kTile;
  const std::ptrdiff_t begin = offset * kRows, end = begin + span.size() * kRows;
  const std::ptrdiff_t filled = (end + kTile - 1) / kTile * kTile;
  if (work.softcap != 0) {  // in whole vectors, whatever lies around the span
    for (std::ptrdiff_t i = 0; i < begin; ++i) scores[i] = 0;
    for (std::ptrdiff_t i = end; i < filled; ++i) scores[i] = 0;
    apply_softcap<V, 1>(scores, filled / V::kLanes, work.softcap);
  }
  if (span.cover != Cover::kAll || work.bias.type != ScoreType::kNone || work.alibi_slopes) {
    for (std::ptrdiff_t i = begin; i < end; ++i) {
      const std::ptrdiff_t key = span.begin + (i - begin) / kRows;
      scores[i] = masked_score(work, rows, static_cast<int>(i % kRows), key, scores[i]);
    }
  }
  for (std::ptrdiff_t i = 0; i < begin; ++i) scores[i] = -T(INFINITY);
  for (std::ptrdiff_t i = end; i < filled; ++i) scores[i] = -T(INFINITY);
  return filled;
}

// As update_softmax, with the lanes of a row folded once per block.
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
        const auto weight = weight_of<V>(V::load(state.scores + i), base);
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

template <class V, int kRows>
struct DecodeValues {
  using T = typename V::Element;
  const Work& work;
  const RowBlock<T, kRows>& rows;
  KeySpan span;
  DenseRows<T> values;
  const typename V::Element* weights;  // [key of the span][row]
  const typename V::Element* rescale;
  bool check;  // some rows may not see some of the keys
};

// As accumulate_visible of forward.hpp: hidden keys are left out instead of weighted with 0.
template <class V, int kRows>
[[gnu::noinline]] void decode_visible(const DecodeValues<V, kRows>& block, std::ptrdiff_t dim,
                                      std::ptrdiff_t dims, typename V::Element* outputs) {
  using T = typename V::Element;
  for (int r = 0; r < kRows; ++r) {
    auto sum = V::zero();
    for (std::ptrdiff_t j = 0; j < block.span.size(); ++j) {
      if (masked_score(block.work, block.rows, r, block.span.begin + j, T(0)) == -T(INFINITY)) {
        continue;
      }
      const auto value = load_up_to<V>(block.values.data + j * block.values.stride + dim, dims);
      sum = V::fma(V::set1(block.weights[j * kRows + r]), value, sum);
    }
    T* output = outputs + r * DecodeShape<V, kRows>::padded(block.work.value_dim) + dim;
    V::store(output, V::fma(V::load(output), V::set1(block.rescale[r]), sum));
  }
}

// kCols vectors of value dims from `dim` on; kPartial: the only one has `rest` lanes.
template <class V, int kRows, int kCols, bool kPartial>
[[gnu::noinline]] void decode_columns(const DecodeValues<V, kRows>& block, std::ptrdiff_t dim,
                                      std::ptrdiff_t rest, typename V::Element* outputs) {
  const std::ptrdiff_t row_stride = DecodeShape<V, kRows>::padded(block.work.value_dim);
  const typename V::Element* value = block.values.data + dim;
  const typename V::Element* weight = block.weights;
  typename V::Vec sum[kRows][kCols];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) sum[r][c] = V::zero();
  }
  for (std::ptrdiff_t j = 0; j < block.span.size(); ++j) {
    typename V::Vec v[kCols];
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) {
      v[c] = kPartial ? V::load_partial(value, rest) : V::load(value + c * V::kLanes);
      V::prefetch(value + c * V::kLanes + kPrefetchKeys * block.values.stride);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const auto w = V::set1(weight[r]);
#pragma GCC unroll 16
      for (int c = 0; c < kCols; ++c) sum[r][c] = V::fma(w, v[c], sum[r][c]);
    }
    value += block.values.stride;
    weight += kRows;
  }
  if (block.check) {
    auto probe = V::zero();
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int c = 0; c < kCols; ++c) probe = V::fma(V::zero(), sum[r][c], probe);
    }
    if (V::any(V::is_nan(probe))) {
      for (int c = 0; c < kCols; ++c) {
        decode_visible(block, dim + c * V::kLanes, rest - c * V::kLanes, outputs);
      }
      return;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const auto rescale = V::set1(block.rescale[r]);
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) {
      auto* output = outputs + r * row_stride + dim + c * V::kLanes;
      V::store(output, V::fma(V::load(output), rescale, sum[r][c]));
    }
  }
}

// kCols columns at a time, then half as many, then the part of a vector that may be left.
template <class V, int kRows, int kCols>
void accumulate_decode(const DecodeValues<V, kRows>& block, std::ptrdiff_t dim,
                       typename V::Element* outputs) {
  const std::ptrdiff_t value_dim = block.work.value_dim;
  for (; dim + kCols * V::kLanes <= value_dim; dim += kCols * V::kLanes) {
    decode_columns<V, kRows, kCols, false>(block, dim, value_dim - dim, outputs);
  }
  if (dim == value_dim) return;
  if constexpr (kCols > 1) {
    accumulate_decode<V, kRows, kCols / 2>(block, dim, outputs);
  } else {
    decode_columns<V, kRows, 1, true>(block, dim, value_dim - dim, outputs);
  }
}

template <class V, int kRows>
void load_decode_queries(const Work& work, const RowBlock<typename V::Element, kRows>& rows,
                         typename V::Element* queries) {
  using T = typename V::Element;
  const std::ptrdiff_t padded = DecodeShape<V, kRows>::padded(work.head_dim);
  const T factor = query_factor<T>(work);
  for (int r = 0; r < kRows; ++r) {
    T* query = queries + r * padded;
    for (std::ptrdiff_t d = 0; d < work.head_dim; ++d) {
      query[d] = factor * rows.query[r][d * work.query.dim_stride];
    }
    for (std::ptrdiff_t d = work.head_dim; d < padded; ++d) query[d] = 0;
  }
}

template <class V, int kRows>
void store_decode(const Work& work, const Partial& total, std::ptrdiff_t padded) {
  using T = typename V::Element;
  for (int r = 0; r < work.num_rows; ++r) {
    const T max = static_cast<const T*>(total.row_max)[r];
    const T row_sum = static_cast<const T*>(total.row_sum)[r];
    static_cast<T*>(work.row_max)[r] = max;
    static_cast<T*>(work.row_sum)[r] = row_sum;
    const T factor = work.normalise && row_sum != 0 ? T(1) / row_sum : T(1);
    const T* from = static_cast<const T*>(total.output) + r * padded;
    T* to = row_pointer<T>(work, work.output, r);
    for (std::ptrdiff_t d = 0; d < work.value_dim; ++d) {
      to[d * work.output.dim_stride] = from[d] * factor;
    }
  }
}

// The sums over the keys [begin, end), as sum_keys of forward.hpp.
template <class V, int kRows>
bool sum_decode_keys(const Work& work, const RowBlock<typename V::Element, kRows>& rows,
                     std::ptrdiff_t begin, std::ptrdiff_t end,
                     const DecodeScratch<V, kRows>& scratch, DecodeState<V, kRows>& state,
                     typename V::Element* outputs) {
  using Shape = DecodeShape<V, kRows>;
  state.clear();
  const std::ptrdiff_t size = kRows * Shape::padded(work.value_dim);
  for (std::ptrdiff_t i = 0; i < size; i += V::kLanes) V::store(outputs + i, V::zero());
  if (begin < rows.lo_min) begin += (rows.lo_min - begin) / kDecodeBlock * kDecodeBlock;
  for (; begin < end; begin += kDecodeBlock) {
    if (work.should_stop && work.should_stop(work.stop_context)) return false;
    const KeySpan span =
        cover_block(work, rows, begin, begin + kDecodeBlock < end ? begin + kDecodeBlock : end);
    if (span.cover == Cover::kNone) continue;
    const auto keys = dense_rows(work.key, span.begin, span.end, work.head_dim, scratch.copy);
    const std::ptrdiff_t offset = span.begin - begin;
    score_decode_block<V, kRows>(keys, span.size(), work.head_dim, scratch.queries,
                                 state.scores + offset * kRows);
    const std::ptrdiff_t filled =
        finish_scores<V, kRows>(work, rows, span, offset, state.scores);
    update_decode_softmax(state, filled);
    const auto values =
        dense_rows(work.value, span.begin, span.end, work.value_dim, scratch.copy);
    const bool check = span.cover != Cover::kAll || work.bias.type != ScoreType::kNone;
    const DecodeValues<V, kRows> block{
        work, rows, span, values, state.scores + offset * kRows, state.rescale, check};
    accumulate_decode<V, kRows, Shape::kCols>(block, 0, outputs);
  }
  state.fold_sum();
  return true;
}

template <class V, int kRows>
void decode_rows(const Work& work, void* memory) {
  using T = typename V::Element;
  ScratchCutter cut(memory);
  const DecodeScratch<V, kRows> scratch(cut, work.head_dim, work.value_dim);
  const std::ptrdiff_t padded = DecodeShape<V, kRows>::padded(work.value_dim);
  RowBlock<T, kRows> rows;
  DecodeState<V, kRows> state;
  describe_rows(work, rows);
  load_decode_queries<V, kRows>(work, rows, scratch.queries);

  T max[kRows], sum[kRows];
  for (int r = 0; r < kRows; ++r) {
    max[r] = -T(INFINITY);
    sum[r] = 0;
  }
  const Partial total{scratch.outputs, max, sum};
  bool any = false;
  for (std::ptrdiff_t begin = work.key_begin; begin < rows.hi_max; begin += work.key_chunk) {
    const std::ptrdiff_t chunk_end = begin + work.key_chunk;
    const std::ptrdiff_t end = chunk_end < rows.hi_max ? chunk_end : rows.hi_max;
    if (end <= rows.lo_min) continue;
    T* outputs = any ? scratch.chunk_outputs : scratch.outputs;
    if (!sum_decode_keys(work, rows, begin, end, scratch, state, outputs)) return;
    if (any) {
      merge<V>(total, {outputs, state.max, state.sum}, kRows, padded);
    } else {
      for (int r = 0; r < kRows; ++r) {
        max[r] = state.max[r];
        sum[r] = state.sum[r];
      }
    }
    any = true;
  }
  if (!any) {
    for (std::ptrdiff_t i = 0; i < kRows * padded; ++i) scratch.outputs[i] = 0;
  }
  if (work.sinks && work.normalise) add_sinks<V>(work, total, padded);
  store_decode<V, kRows>(work, total, padded);
}

template <class V, int kRows = 1>
void decode(const Work& work, void* scratch) {
  if constexpr (kRows < kDecodeRows) {
    if (work.num_rows > kRows) return decode<V, kRows * 2>(work, scratch);
  }
  decode_rows<V, kRows>(work, scratch);
}

template <class V, int kRows = 1>
std::size_t decode_scratch(std::ptrdiff_t head_dim, std::ptrdiff_t value_dim, int num_rows) {
  if constexpr (kRows < kDecodeRows) {
    if (num_rows > kRows) return decode_scratch<V, kRows * 2>(head_dim, value_dim, num_rows);
  }
  ScratchCutter count(nullptr);
  DecodeScratch<V, kRows>(count, head_dim, value_dim);
  return count.used();
}

}  // namespace
}  // namespace cpuattn
