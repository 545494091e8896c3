// The kernel for few query rows over many keys (decoding with a KV cache). It is bound by reading
// K and V, so the lanes lie along head_dim: each key and value is read once, in whole vectors, for
// all rows of the group.
//
// A chunk of keys is one block, long enough that the two streams, keys and values, change seldom;
// its softmax is that of a textbook, and chunks are merged. Weights and values are summed in pieces
// of 64 keys (which is also what is copied at once where head_dim is strided). Scores are kept as
// [key][row], so that one vector holds kLanes / R keys of R rows, and the partial sums of kLanes
// dot products are folded to one vector at once. Row counts are 1, 2, 4 and 8; a count between is
// filled up with copies of the last row.
#pragma once

#include <math.h>

#include <cstddef>

#include "kernel.hpp"
#include "kernels/common/mask.hpp"
#include "kernels/common/merge.hpp"
#include "kernels/common/pairs.hpp"
#include "kernels/common/rows.hpp"
#include "kernels/common/scratch.hpp"
#include "kernels/common/tokens.hpp"
#include "kernels/decode/scores.hpp"
#include "kernels/decode/softmax.hpp"
#include "kernels/decode/values.hpp"

namespace cpuattn {
namespace {

template <class V, int kRows>
struct DecodeScratch {
  using T = typename V::Element;
  using Shape = DecodeShape<V, kRows>;

  DecodeScratch(ScratchCutter& cut, std::ptrdiff_t head_dim, std::ptrdiff_t value_dim)
      : queries(cut.take<Operand<V>>(kRows * Shape::padded(operands<V>(head_dim)))),
        outputs(cut.take<T>(kRows * Shape::padded(value_dim))),
        block_outputs(cut.take<T>(kRows * Shape::padded(value_dim))),
        sums(cut.take<T>(kRows * Shape::padded(value_dim))),
        copy(cut.take<T>(kDecodePiece *
                         copy_stride<T>(head_dim > value_dim ? head_dim : value_dim))),
        scores(cut.take<T>(kDecodeBlock * kRows + Shape::kTile)) {}

  Operand<V>* queries;  // [vector of dims][row], zeros behind head_dim
  T* outputs;           // [row][padded value_dim]
  T* block_outputs;
  T* sums;  // of a piece of keys, [vector of dims][row]
  T* copy;
  T* scores;  // [key of the block][row]; the last step may write a tile behind the last key
};

template <class V, int kRows>
void load_decode_queries(const Work& work, const RowBlock<typename V::Element, kRows>& rows,
                         Operand<V>* queries, ScoreFactors<typename V::Element, kRows>& factors) {
  using T = typename V::Element;
  const std::ptrdiff_t padded = DecodeShape<V, kRows>::padded(operands<V>(work.head_dim));
  const QueryScale<V> scale(work);
  const auto factor = V::set1(scale.query);
  for (int r = 0; r < kRows; ++r) {
    Squares<V> squares;
    for (std::ptrdiff_t d = 0; d < padded; d += V::kLanes) {
      if constexpr (V::kPack == 2) {
        const auto pairs = load_query_pairs<V>(work, rows.query[r], 2 * d);
        V::store(queries + d * kRows + r * V::kLanes, scale_pairs<V>(pairs, factor, squares));
      } else {
        const std::ptrdiff_t rest = work.head_dim - d;
        const auto query = load_row<V>(rows.query[r], work.query.type, work.query.dim_stride, d,
                                       rest < V::kLanes ? rest : V::kLanes);
        const auto scaled = V::mul(query, factor);
        squares.add(scaled);
        V::store(queries + d * kRows + r * V::kLanes, scaled);
      }
    }
    if (scale.fits && are_middle<V, false>(squares.get())) continue;
    factors.set(r, rescale_query<V>(work, rows.query[r], [&](std::ptrdiff_t d, T x) {
                  const std::ptrdiff_t at = d / V::kPack;
                  auto* to =
                      queries + at / V::kLanes * V::kLanes * kRows + r * V::kLanes + at % V::kLanes;
                  if constexpr (V::kPack == 1) {
                    *to = x;
                  } else {
                    convert(x, d % 2 == 0 ? &to->first : &to->second);
                  }
                }));
  }
}

template <class V, int kRows>
void store_decode(const Work& work, const Partial& total, std::ptrdiff_t padded) {
  using T = typename V::Element;
  for (int r = 0; r < work.num_rows; ++r) {
    const T row_sum = static_cast<const T*>(total.row_sum)[r];
    static_cast<T*>(work.row_base)[r] = static_cast<const T*>(total.row_base)[r];
    static_cast<T*>(work.row_sum)[r] = row_sum;
    const T factor = work.normalise && row_sum != 0 ? T(1) / row_sum : T(1);
    const T* from = static_cast<const T*>(total.output) + r * padded;
    void* to = row_pointer(work, work.output, r);
    auto probe = V::zero();  // 0 · x is NaN where x is NaN or inf
    for (std::ptrdiff_t d = 0; d < work.value_dim; d += V::kLanes) {
      const std::ptrdiff_t rest = work.value_dim - d;
      const auto output = V::mul(V::load(from + d), V::set1(factor));
      probe = V::fma(V::zero(), output, probe);
      store_row<V>(to, work.output.type, work.output.dim_stride, d, output,
                   rest < V::kLanes ? rest : V::kLanes);
    }
    if (work.not_finite) work.not_finite[r] = V::any(V::is_nan(probe));
  }
}

// Heads from here on take milliseconds for a piece of keys, and a block of them may take seconds.
constexpr std::ptrdiff_t kWideHead = std::ptrdiff_t(1) << 16;

// f(piece, keys of the span before it), for rows of `dims`; false: interrupted, which is asked for
// wide ones. Pieces end at fixed keys, wherever the span begins: `offset` keys of the block lie
// before it.
template <class F>
bool for_each_piece(const Work& work, std::ptrdiff_t dims, KeySpan span, std::ptrdiff_t offset,
                    F f) {
  const bool asks = work.should_stop && dims >= kWideHead;
  for (std::ptrdiff_t first = 0, size; first < span.size(); first += size) {
    if (asks && work.should_stop(work.stop_context)) return false;
    const std::ptrdiff_t rest = span.size() - first;
    size = kDecodePiece - (offset + first) % kDecodePiece;
    size = size < rest ? size : rest;
    f(KeySpan{span.begin + first, span.begin + first + size, span.cover}, first);
  }
  return true;
}

template <class V, int kRows>
void clear(const Partial& sums, std::ptrdiff_t padded) {
  using T = typename V::Element;
  for (std::ptrdiff_t i = 0; i < kRows * padded; i += V::kLanes) {
    V::store(static_cast<T*>(sums.output) + i, V::zero());
  }
  for (int r = 0; r < kRows; ++r) {
    static_cast<T*>(sums.row_base)[r] = -T(INFINITY);
    static_cast<T*>(sums.row_sum)[r] = 0;
  }
}

// The largest scores, the sums of weights and the weighted values of the keys of a block that some
// row may see, before which `offset` others lie. Nothing of use where the call was interrupted.
template <class V, class S, int kRows>
void sum_block(const Work& work, const RowBlock<typename V::Element, kRows>& rows,
               const ScoreFactors<typename V::Element, kRows>& factors, KeySpan span,
               std::ptrdiff_t offset, const DecodeScratch<V, kRows>& scratch, const Partial& sums) {
  using T = typename V::Element;
  BlockRows<V, S, kRows> found;
  T* const scores = scratch.scores + offset * kRows;
  T* const max = static_cast<T*>(sums.row_base);
  const T pair_factor = V::kPack > 1 ? QueryScale<V>(work).score : T(1);
  find_rows(work.key, span.begin, span.end, work.head_dim, found);
  expect_rows(work.value, span.begin, span.end, found);
  const auto score = [&](KeySpan piece, std::ptrdiff_t first) {
    copy_piece(work.key, first, piece.size(), work.head_dim, scratch.copy, found);
    score_piece<V, S, kRows>(found, first, piece.size(), work.head_dim, scratch.queries,
                             pair_factor, scores + first * kRows);
  };
  if (!for_each_piece(work, work.head_dim, span, offset, score)) return;
  const std::ptrdiff_t filled =
      finish_scores<V, kRows>(work, rows, factors, 0, span, offset, scratch.scores);
  find_largest<V, kRows>(scratch.scores, filled, max);
  if (work.start_base) raise_to_start<kRows>(work, max);
  weigh_scores<V, kRows>(scratch.scores, filled, max, static_cast<T*>(sums.row_sum));
  if (work.weight_factor) shrink_weights<kRows>(work, filled, scratch.scores);
  const bool check = span.cover != Cover::kAll || work.bias.type != ElementType::kNone;
  find_rows(work.value, span.begin, span.end, work.value_dim, found);
  expect_rows(work.key, span.end, rows.hi_max, found);
  const std::ptrdiff_t ahead = rows_ahead<S>(work.value_dim);
  for_each_piece(work, work.value_dim, span, offset, [&](KeySpan piece, std::ptrdiff_t first) {
    copy_piece(work.value, first, piece.size(), work.value_dim, scratch.copy, found);
    T* const weights = scores + first * kRows;
    if (sizeof(S) == 1) scale_keys(found, first, piece.size(), T(scale_unit(work)), weights);
    const DecodeValues<V, S, kRows> block{
        work, rows, piece, found, first, weights, ahead, check, T(1) / T(scale_unit(work))};
    accumulate_decode(block, scratch.sums, static_cast<T*>(sums.output));
  });
}

// All blocks of the work in order: sum_block(begin of a block, its results), false if stopped. The
// results of a block wait in block_outputs to be merged into outputs.
template <class V, int kRows, class SumBlock>
void decode_blocks(const Work& work, const RowBlock<typename V::Element, kRows>& rows,
                   typename V::Element* outputs, typename V::Element* block_outputs,
                   SumBlock sum_block) {
  using T = typename V::Element;
  const std::ptrdiff_t padded = DecodeShape<V, kRows>::padded(work.value_dim);
  T total_max[kRows], total_sum[kRows], block_max[kRows], block_sum[kRows];
  const Partial total{outputs, total_max, total_sum};
  const Partial block{block_outputs, block_max, block_sum};
  bool any = false;
  std::ptrdiff_t begin = work.key_begin;  // or the first block that a row sees
  if (rows.lo_min > begin) begin += (rows.lo_min - begin) / kDecodeBlock * kDecodeBlock;
  for (; begin < rows.hi_max; begin += kDecodeBlock) {
    if (work.should_stop && work.should_stop(work.stop_context)) return;
    const Partial& sums = any ? block : total;
    const KeySpan span = cover_block(work, rows, begin, begin + kDecodeBlock);
    clear<V, kRows>(sums, padded);
    if (span.cover != Cover::kNone) sum_block(span, span.begin - begin, sums);
    if (any) merge<V>(total, block, kRows, padded);
    any = true;
  }
  if (!any) clear<V, kRows>(total, padded);
  if (work.sinks && work.normalise) add_sinks<V>(work, total, padded);
  store_decode<V, kRows>(work, total, padded);
}

template <class V, class S, int kRows>
void decode_rows(const Work& work, void* memory) {
  using T = typename V::Element;
  ScratchCutter cut(memory);
  const DecodeScratch<V, kRows> scratch(cut, work.head_dim, work.value_dim);
  RowBlock<T, kRows> rows;
  describe_rows(work, rows);
  ScoreFactors<T, kRows> factors;
  load_decode_queries<V, kRows>(work, rows, scratch.queries, factors);
  decode_blocks<V, kRows>(work, rows, scratch.outputs, scratch.block_outputs,
                          [&](KeySpan span, std::ptrdiff_t offset, const Partial& sums) {
                            sum_block<V, S, kRows>(work, rows, factors, span, offset, scratch,
                                                   sums);
                          });
}

template <class V, int kRows = 1, class S>
void decode_tokens(const S* keys, const Work& work, void* scratch) {
  if constexpr (kRows < kDecodeRows) {
    if (work.num_rows > kRows) return decode_tokens<V, kRows * 2>(keys, work, scratch);
  }
  decode_rows<V, S, kRows>(work, scratch);
}

// Keys and values, which are of one type, are converted where they are read.
template <class V>
void decode(const Work& work, void* scratch) {
  if constexpr (V::kPack == 2) {
    decode_tokens<V>(static_cast<const BFloat16*>(work.key.data), work, scratch);
  } else {
    with_type<V>(work.key.type, work.key.data,
                 [&](const auto* keys) { decode_tokens<V>(keys, work, scratch); });
  }
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
