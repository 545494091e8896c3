// The meaning of masks: which keys a row may see, and what is added to the scores of those.
//
// A key that a row may not see gets the score -inf, whatever the score was (NaN included); its
// weight is then exactly 0. A bias of -inf hides a key just so.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>

#include "half.hpp"
#include "kernel.hpp"
#include "kernels/common/elements.hpp"
#include "kernels/common/rows.hpp"

namespace cpuattn {
namespace {

enum class Cover { kNone, kSome, kAll };

// The keys of a block that some row may see; kAll: every row sees every one of them.
struct KeySpan {
  std::ptrdiff_t begin;
  std::ptrdiff_t end;
  Cover cover;
  std::ptrdiff_t size() const { return end - begin; }
};

inline Cover cover_segments(const Work& work, std::int64_t row_min, std::int64_t row_max,
                            std::ptrdiff_t begin, std::ptrdiff_t end) {
  const std::int64_t* id = work.key_segments.data;
  const std::ptrdiff_t stride = work.key_segments.stride;
  std::int64_t min = id[begin * stride], max = min;
  for (std::ptrdiff_t j = begin; j < end; ++j) {
    const std::int64_t x = id[j * stride];
    min = x < min ? x : min;
    max = x > max ? x : max;
  }
  if (max < row_min || min > row_max) return Cover::kNone;
  return min == max && row_min == row_max ? Cover::kAll : Cover::kSome;
}

inline Cover cover_mask_row(const unsigned char* row, std::ptrdiff_t stride, std::ptrdiff_t begin,
                            std::ptrdiff_t end) {
  unsigned char any = 0, all = 1;
  for (std::ptrdiff_t j = begin; j < end; ++j) {
    any |= row[j * stride];
    all &= row[j * stride] != 0;
  }
  return !any ? Cover::kNone : all ? Cover::kAll : Cover::kSome;
}

// Rows of the mask are read once here, to skip the block or the work of masking it.
template <class T, int kRows>
Cover cover_mask(const Work& work, const RowBlock<T, kRows>& rows, KeySpan& span) {
  const std::ptrdiff_t stride = work.mask.key_stride_bytes;
  if (rows.shared_mask) {
    const unsigned char* row = rows.mask[0];
    while (span.begin < span.end && !row[span.begin * stride]) ++span.begin;
    while (span.begin < span.end && !row[(span.end - 1) * stride]) --span.end;
    return cover_mask_row(row, stride, span.begin, span.end);
  }
  bool any = false, all = true;
  for (int r = 0; r < work.num_rows; ++r) {
    const Cover cover = cover_mask_row(rows.mask[r], stride, span.begin, span.end);
    any |= cover != Cover::kNone;
    all &= cover == Cover::kAll;
    if (any && !all) break;
  }
  return !any ? Cover::kNone : all ? Cover::kAll : Cover::kSome;
}

// What the rows see of the keys [begin, end), trimmed to the keys that any row sees.
template <class T, int kRows>
KeySpan cover_block(const Work& work, const RowBlock<T, kRows>& rows, std::ptrdiff_t begin,
                    std::ptrdiff_t end) {
  KeySpan span{begin > rows.lo_min ? begin : rows.lo_min, end < rows.hi_max ? end : rows.hi_max,
               Cover::kAll};
  if (span.begin >= span.end) return {begin, begin, Cover::kNone};
  if (work.key_segments.data) {
    span.cover = cover_segments(work, rows.segment_min, rows.segment_max, span.begin, span.end);
    if (span.cover == Cover::kNone) return span;
  }
  if (work.mask.type != ElementType::kNone) {
    const Cover cover = cover_mask(work, rows, span);
    if (cover != Cover::kAll) span.cover = cover;
    if (cover == Cover::kNone) return span;
  }
  if (span.begin < rows.lo_max || span.end > rows.hi_min) span.cover = Cover::kSome;
  return span;
}

// One element of a mask or bias as a number to add; a mask gives 0 or -inf.
template <class T>
inline T score_at(const ScoreArray& array, const unsigned char* row, std::ptrdiff_t key) {
  const unsigned char* p = row + key * array.key_stride_bytes;
  switch (array.type) {
    case ElementType::kBool:
      return *p ? T(0) : -T(INFINITY);
    case ElementType::kFloat32:
      return static_cast<T>(*reinterpret_cast<const float*>(p));
    case ElementType::kFloat64:
      return static_cast<T>(*reinterpret_cast<const double*>(p));
    case ElementType::kFloat16:
      return to_float(*reinterpret_cast<const Float16*>(p));
    case ElementType::kBFloat16:
      return to_float(*reinterpret_cast<const BFloat16*>(p));
    case ElementType::kInt8:
    case ElementType::kNone:
      break;
  }
  return T(0);
}

// The masked score of one row and key: the whole contract in one place. The vector passes
// below do the same steps in the same order for a block of rows.
template <class T, int kRows>
T masked_score(const Work& work, const RowBlock<T, kRows>& rows, int r, std::ptrdiff_t key,
               T score) {
  T hidden = -T(INFINITY);
  if (work.bias.type != ElementType::kNone) {
    const T bias = score_at<T>(work.bias, rows.bias[r], key);
    score = bias == hidden ? hidden : score + bias;
  }
  if (work.alibi_slopes) {
    const T distance = distance_from(work, rows, r, key);
    score -= rows.slope[r] * (distance < 0 ? -distance : distance);
  }
  const bool visible = rows.lo[r] <= key && key < rows.hi[r] &&
                       (work.mask.type == ElementType::kNone ||
                        rows.mask[r][key * work.mask.key_stride_bytes] != 0) &&
                       (!work.key_segments.data ||
                        rows.segment[r] == work.key_segments.data[key * work.key_segments.stride]);
  return visible ? score : hidden;
}

// `count` keys of a row of the array as a vector; contiguous elements of the right type are
// loaded, anything else is gathered.
template <class V>
typename V::Vec load_scores(const ScoreArray& array, const unsigned char* row, std::ptrdiff_t key,
                            std::ptrdiff_t count) {
  using T = typename V::Element;
  const unsigned char* p = row + key * array.key_stride_bytes;
  if (array.type == ElementType::kBool && array.key_stride_bytes == 1) {
    return V::load_bool(p, count);
  }
  if (array.type == kTypeOf<T> && array.key_stride_bytes == std::ptrdiff_t(sizeof(T))) {
    return V::load_partial(reinterpret_cast<const T*>(p), count);
  }
  if constexpr (sizeof(T) == 4) {
    if (array.type == ElementType::kFloat16 && array.key_stride_bytes == 2) {
      return load_up_to<V>(reinterpret_cast<const Float16*>(p), count);
    }
    if (array.type == ElementType::kBFloat16 && array.key_stride_bytes == 2) {
      return load_up_to<V>(reinterpret_cast<const BFloat16*>(p), count);
    }
  }
  T gathered[V::kLanes] = {};
  for (std::ptrdiff_t i = 0; i < count; ++i) gathered[i] = score_at<T>(array, row, key + i);
  return V::load(gathered);
}

// square[r] = `count` keys of row[r]
template <class V>
[[gnu::always_inline]] inline void load_square(const ScoreArray& array,
                                               const unsigned char* const* row, std::ptrdiff_t key,
                                               std::ptrdiff_t count,
                                               typename V::Vec (&square)[V::kLanes]) {
  using T = typename V::Element;
  if (count == V::kLanes && array.type == kTypeOf<T> &&
      array.key_stride_bytes == std::ptrdiff_t(sizeof(T))) {  // a bias as it usually is
#pragma GCC unroll 16
    for (int r = 0; r < V::kLanes; ++r) {
      const T* const scores = reinterpret_cast<const T*>(row[r]) + key;
      V::prefetch(scores + 4 * V::kLanes);  // a large bias does not stay in the L2 cache
      square[r] = V::load(scores);
    }
    return;
  }
  for (int r = 0; r < V::kLanes; ++r) square[r] = load_scores<V>(array, row[r], key, count);
}

template <class V>
inline typename V::Vec add_score(typename V::Element* score, typename V::Vec addend) {
  const auto hidden = V::set1(-INFINITY);
  const auto sum = V::add(V::load(score), addend);
  const auto kept = V::select(V::equal(addend, hidden), hidden, sum);
  V::store(score, kept);
  return kept;
}

// Adds a mask or bias to scores[key - span.begin][row]. Its rows lie along the keys, the lanes
// along the rows, so squares of kLanes x kLanes are transposed in registers. `max`, if any, is
// raised to the largest score of each row; NaN is passed over.
template <class V, int kVecs>
void add_array(const ScoreArray& array, const unsigned char* const* row, bool shared, KeySpan span,
               typename V::Element* scores, typename V::Element* max = nullptr) {
  constexpr int kRows = kVecs * V::kLanes;
  if (shared) {
    for (std::ptrdiff_t j = span.begin; j < span.end; ++j) {
      const auto addend = V::set1(score_at<typename V::Element>(array, row[0], j));
      for (int n = 0; n < kRows; n += V::kLanes) {
        const auto sum = add_score<V>(scores + (j - span.begin) * kRows + n, addend);
        if (max) V::store(max + n, V::max(sum, V::load(max + n)));
      }
    }
    return;
  }
  for (std::ptrdiff_t j = span.begin; j < span.end; j += V::kLanes) {
    const std::ptrdiff_t count = span.end - j < V::kLanes ? span.end - j : V::kLanes;
    for (int n = 0; n < kRows; n += V::kLanes) {
      typename V::Vec square[V::kLanes];
      load_square<V>(array, row + n, j, count, square);
      V::transpose(square);
      auto largest = V::set1(-INFINITY);
#pragma GCC unroll 16
      for (int k = 0; k < V::kLanes; ++k) {
        if (k >= count) break;
        const auto sum = add_score<V>(scores + (j - span.begin + k) * kRows + n, square[k]);
        largest = V::max(sum, largest);
      }
      if (max) V::store(max + n, V::max(largest, V::load(max + n)));
    }
  }
}

// Distances are exact in float below 2^24 keys and rounded beyond.
template <class V, int kVecs>
void add_alibi(const Work& work, const RowBlock<typename V::Element, kVecs * V::kLanes>& rows,
               KeySpan span, typename V::Element* scores) {
  using T = typename V::Element;
  for (int n = 0; n < kVecs; ++n) {
    T first[V::kLanes];
    for (int r = 0; r < V::kLanes; ++r) {
      first[r] = distance_from(work, rows, n * V::kLanes + r, span.begin);
    }
    const auto slope = V::sub(V::zero(), V::load(rows.slope + n * V::kLanes));
    for (std::ptrdiff_t j = 0; j < span.size(); ++j) {
      const auto distance = V::sub(V::load(first), V::set1(static_cast<T>(j)));
      auto* score = scores + (j * kVecs + n) * V::kLanes;
      V::store(score, V::fma(slope, V::max(V::sub(V::zero(), distance), distance), V::load(score)));
    }
  }
}

// Causal, window and lengths: keys outside of [lo, hi) of the row.
template <class V, int kVecs>
void hide_outside(const RowBlock<typename V::Element, kVecs * V::kLanes>& rows, KeySpan span,
                  typename V::Element* scores) {
  using T = typename V::Element;
  const auto hidden = V::set1(-INFINITY);
  for (int n = 0; n < kVecs; ++n) {
    T lo[V::kLanes], hi[V::kLanes];  // relative to the span and bounded by it: exact in float
    for (int r = 0; r < V::kLanes; ++r) {
      const std::ptrdiff_t l = rows.lo[n * V::kLanes + r] - span.begin;
      const std::ptrdiff_t h = rows.hi[n * V::kLanes + r] - span.begin;
      lo[r] = static_cast<T>(l < 0 ? 0 : l > span.size() ? span.size() : l);
      hi[r] = static_cast<T>(h < 0 ? 0 : h > span.size() ? span.size() : h);
    }
    for (std::ptrdiff_t j = 0; j < span.size(); ++j) {
      const auto key = V::set1(static_cast<T>(j));
      auto* score = scores + (j * kVecs + n) * V::kLanes;
      const auto kept = V::select(V::less(key, V::load(hi)), V::load(score), hidden);
      V::store(score, V::select(V::less(key, V::load(lo)), hidden, kept));
    }
  }
}

template <class T, int kRows>
void hide_segments(const Work& work, const RowBlock<T, kRows>& rows, KeySpan span, T* scores) {
  for (std::ptrdiff_t j = span.begin; j < span.end; ++j) {
    const std::int64_t id = work.key_segments.data[j * work.key_segments.stride];
    T* score = scores + (j - span.begin) * kRows;
    for (int r = 0; r < kRows; ++r) score[r] = rows.segment[r] == id ? score[r] : -T(INFINITY);
  }
}

// Bias, ALiBi and masks over scores[key - span.begin][row]. True if `max` was raised to the largest
// score of each row: a bias does that, if nothing comes after it.
template <class V, int kVecs>
bool mask_block(const Work& work, const RowBlock<typename V::Element, kVecs * V::kLanes>& rows,
                KeySpan span, typename V::Element* scores, typename V::Element* max = nullptr) {
  if (work.bias.type != ElementType::kNone) {
    const bool last = !work.alibi_slopes && span.cover == Cover::kAll;
    add_array<V, kVecs>(work.bias, rows.bias, rows.shared_bias, span, scores, last ? max : nullptr);
    if (last) return max != nullptr;
  }
  if (work.alibi_slopes) add_alibi<V, kVecs>(work, rows, span, scores);
  if (span.cover == Cover::kAll) return false;
  if (work.mask.type != ElementType::kNone) {
    add_array<V, kVecs>(work.mask, rows.mask, rows.shared_mask, span, scores);
  }
  if (span.begin < rows.lo_max || span.end > rows.hi_min) {
    hide_outside<V, kVecs>(rows, span, scores);
  }
  if (work.key_segments.data) hide_segments(work, rows, span, scores);
  return false;
}

}  // namespace
}  // namespace cpuattn
