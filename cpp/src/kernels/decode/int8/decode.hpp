// The decode kernel over int8 keys and values where bytes can be multiplied: queries, and the
// weights of a block, become integers of three digits. As exact as products in float32, with three
// products of 64 bytes for four of 16 floats, and nothing to convert. All else is decode.hpp's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/decode/decode.hpp"
#include "kernels/decode/int8/digits.hpp"
#include "kernels/decode/int8/scores.hpp"
#include "kernels/decode/int8/values.hpp"

namespace cpuattn {
namespace {

constexpr std::ptrdiff_t kInt8LeastRows = kDigitRows / 2 + 1;
constexpr std::ptrdiff_t kInt8MostHeadDim = 65536;  // times 2^14, the largest product, is 2^30

template <class V, int kRows>
struct Int8Scratch {
  using Shape = DecodeShape<V, kRows>;
  static constexpr std::ptrdiff_t kScores = kDecodeBlock + V::kLanes;  // whole vectors from any key

  Int8Scratch(ScratchCutter& cut, std::ptrdiff_t head_dim, std::ptrdiff_t value_dim)
      : query(cut.take<float>(query_numbers<V>(head_dim))),
        queries(cut.take<FourDigits[kRows]>(query_numbers<V>(head_dim) / 4)),
        scores(cut.take<float>(kRows * kScores)),
        weights(cut.take<FourDigits[kRows]>(kScores / 4)),
        sums(cut.take<std::int32_t>(count_sums<kRows>(value_dim))),
        outputs(cut.take<float>(kRows * Shape::padded(value_dim))),
        block_outputs(cut.take<float>(kRows * Shape::padded(value_dim))),
        copy(cut.take<std::int8_t>(
            kDecodePiece * copy_stride<std::int8_t>(head_dim > value_dim ? head_dim : value_dim))) {
  }

  float* query;  // one of them, before it is made digits
  FourDigits (*queries)[kRows];
  float* scores;  // [row][key of the block]
  FourDigits (*weights)[kRows];
  std::int32_t* sums;  // of products with the digits of weights
  float* outputs;      // [row][padded value_dim]
  float* block_outputs;
  std::int8_t* copy;
};

template <class V, int kRows>
void load_query_digits(const Work& work, const void* query, int row, float* numbers,
                       QueryDigits<kRows>& queries, ScoreFactors<float, kRows>& factors) {
  const std::ptrdiff_t count = query_numbers<V>(work.head_dim);
  const QueryScale<V> scale(work);
  const auto factor = V::set1(scale.query);
  Extent<V> extent;
  for (std::ptrdiff_t d = 0; d < count; d += V::kLanes) {
    const std::ptrdiff_t rest = work.head_dim - d;
    const auto scaled = V::mul(factor, load_row<V>(query, work.query.type, work.query.dim_stride, d,
                                                   rest < V::kLanes ? rest : V::kLanes));
    V::store(numbers + d, scaled);
    extent.add(scaled);
  }
  if (!scale.fits || !is_middle(extent.magnitude() * extent.magnitude())) {
    factors.set(row,
                rescale_query<V>(work, query, [&](std::ptrdiff_t d, float x) { numbers[d] = x; }));
    extent = Extent<V>();
    for (std::ptrdiff_t d = 0; d < count; d += V::kLanes) extent.add(V::load(numbers + d));
  }
  const auto all_128 = V::set1_integer(static_cast<std::int32_t>(0x80808080));
  auto sums = V::set1_integer(0);
  make_digits<V>(numbers, count, digit_scale(extent.magnitude(), kMostSigned), row, queries,
                 [&](typename V::Vec x) {
                   const auto digits = V::signed_digits(x);
                   sums = V::dot(all_128, digits, sums);
                   return digits;
                 });
  alignas(64) std::int32_t sum[V::kLanes];
  V::store(sum, sums);
  for (int i = 0; i < kDigits; ++i) {
    queries.start[row][i] = 0;
    for (int lane = i; lane < V::kLanes; lane += 4) queries.start[row][i] -= sum[lane];
  }
}

template <class V, int kRows>
bool score_int8_span(const Work& work, KeySpan span, const QueryDigits<kRows>& queries,
                     std::int8_t* copy, Int8Rows<V, kRows>& keys, float* scores) {
  const Int8Scores<V, kRows> block{keys, work.head_dim, queries, scores,
                                   Int8Scratch<V, kRows>::kScores};
  return for_each_piece(work, work.head_dim, span, 0, [&](KeySpan piece, std::ptrdiff_t first) {
    copy_piece(work.key, first, piece.size(), work.head_dim, copy, keys);
    score_int8(block, first, first + piece.size());
  });
}

// outputs += weight · value over the weights of one sign.
template <class V, int kRows>
void add_int8_span(const Work& work, KeySpan span, const float* weights,
                   const DigitScale (&scale)[kRows], const Int8Scratch<V, kRows>& scratch,
                   Int8Rows<V, kRows>& values, float* outputs) {
  DigitRows<kRows> digits;
  digits.four = scratch.weights;
  for (int r = 0; r < kRows; ++r, weights += Int8Scratch<V, kRows>::kScores) {
    make_digits<V>(weights, span.size(), scale[r], r, digits,
                   [](typename V::Vec x) { return V::unsigned_digits(V::max(x, V::zero())); });
    digits.scale[r].exponent -= kScaleUnitExponent;
  }
  for (std::ptrdiff_t i = 0; i < count_sums<kRows>(work.value_dim); i += V::kLanes) {
    V::store(scratch.sums + i, V::set1_integer(0));
  }
  const Int8Values<V, kRows> block{values, digits, work.value_dim, scratch.sums};
  for_each_piece(work, work.value_dim, span, 0, [&](KeySpan piece, std::ptrdiff_t first) {
    copy_piece(work.value, first, piece.size(), work.value_dim, scratch.copy, values);
    accumulate_int8(block, first, first + piece.size());
  });
  fold_sums(block, outputs);
}

// As sum_block of decode.hpp.
template <class V, int kRows>
void sum_int8_block(const Work& work, const RowBlock<float, kRows>& rows,
                    const ScoreFactors<float, kRows>& factors, KeySpan span, std::ptrdiff_t offset,
                    const QueryDigits<kRows>& queries, const Int8Scratch<V, kRows>& scratch,
                    const Partial& sums) {
  constexpr std::ptrdiff_t kStride = Int8Scratch<V, kRows>::kScores;
  float* const weights = scratch.scores + offset;
  auto* const outputs = static_cast<float*>(sums.output);
  Int8Rows<V, kRows> found;
  find_rows(work.key, span.begin, span.end, work.head_dim, found);
  expect_rows(work.value, span.begin, span.end, found);
  if (!score_int8_span<V>(work, span, queries, scratch.copy, found, weights)) return;

  find_rows(work.value, span.begin, span.end, work.value_dim, found);
  expect_rows(work.key, span.end, rows.hi_max, found);
  DigitScale above[kRows], below[kRows];
  bool any_below = false;
  for (int r = 0; r < kRows; ++r) {
    float* const scores = scratch.scores + r * kStride;
    auto* const max = static_cast<float*>(sums.row_base) + r;
    const std::ptrdiff_t filled = finish_scores<V, 1>(work, rows, factors, r, span, offset, scores);
    find_largest<V, 1>(scores, filled, max);
    weigh_scores<V, 1>(scores, filled, max, static_cast<float*>(sums.row_sum) + r);
    const auto extent = scale_weights<V>(work, rows, span, found.scale, r, weights + r * kStride);
    above[r] = digit_scale(extent.above(), kMostUnsigned);
    below[r] = digit_scale(extent.below(), -kMostUnsigned);
    any_below |= extent.below() > 0;
  }
  add_int8_span(work, span, weights, above, scratch, found, outputs);
  if (!any_below) return;
  find_rows(work.value, span.begin, span.end, work.value_dim, found);  // a copy may have moved them
  add_int8_span(work, span, weights, below, scratch, found, outputs);
}

template <class V, int kRows = kDigitRows>
void decode_int8(const Work& work, void* memory) {
  if constexpr (kRows < kDecodeRows) {
    if (work.num_rows > kRows) return decode_int8<V, kRows * 2>(work, memory);
  }
  ScratchCutter cut(memory);
  const Int8Scratch<V, kRows> scratch(cut, work.head_dim, work.value_dim);
  RowBlock<float, kRows> rows;
  describe_rows(work, rows);
  QueryDigits<kRows> queries;
  queries.four = scratch.queries;
  ScoreFactors<float, kRows> factors;
  for (int r = 0; r < kRows; ++r) {
    load_query_digits<V>(work, rows.query[r], r, scratch.query, queries, factors);
  }
  decode_blocks<V, kRows>(work, rows, scratch.outputs, scratch.block_outputs,
                          [&](KeySpan span, std::ptrdiff_t offset, const Partial& sums) {
                            sum_int8_block<V>(work, rows, factors, span, offset, queries, scratch,
                                              sums);
                          });
}

template <class V, int kRows = kDigitRows>
std::size_t int8_scratch(std::ptrdiff_t head_dim, std::ptrdiff_t value_dim, int num_rows) {
  if constexpr (kRows < kDecodeRows) {
    if (num_rows > kRows) return int8_scratch<V, kRows * 2>(head_dim, value_dim, num_rows);
  }
  ScratchCutter count(nullptr);
  Int8Scratch<V, kRows>(count, head_dim, value_dim);
  return count.used();
}

}  // namespace
}  // namespace cpuattn
