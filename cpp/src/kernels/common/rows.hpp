// The rows of a work item: which query of which head each one is, and which keys it may see.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernel.hpp"

namespace cpuattn {
namespace {

// What each row of a block sees. Rows beyond the last repeat it, so that no lane is special.
template <class T, int kRows>
struct RowBlock {
  const unsigned char* query[kRows];
  const unsigned char* mask[kRows];
  const unsigned char* bias[kRows];
  std::ptrdiff_t index[kRows];  // of the query
  std::ptrdiff_t lo[kRows];     // keys in [lo, hi) by causal, window and lengths
  std::ptrdiff_t hi[kRows];
  std::int64_t segment[kRows];
  T slope[kRows];  // ALiBi
  std::ptrdiff_t lo_min, lo_max, hi_min, hi_max;
  std::int64_t segment_min, segment_max;
  bool shared_mask, shared_bias;  // all rows read the same row of the array
};

inline std::ptrdiff_t element_bytes(ElementType type) {
  if (type == ElementType::kFloat64) return 8;
  return type == ElementType::kFloat32 ? 4 : 2;
}

// Where row r of the item starts in a matrix that has a row per query.
inline void* row_pointer(const Work& work, const Matrix& matrix, std::ptrdiff_t r) {
  const std::ptrdiff_t index = work.first_row + r;
  const std::ptrdiff_t query = work.group == 1 ? index : index / work.group;
  const std::ptrdiff_t head = index - query * work.group;
  const std::ptrdiff_t offset = head * matrix.head_stride + query * matrix.row_stride;
  return static_cast<unsigned char*>(matrix.data) + offset * element_bytes(matrix.type);
}

// Calls f(row, head, query) for the rows of a block, and again for the last one beyond it.
template <int kRows, class F>
void for_each_row(const Work& work, F f) {
  std::ptrdiff_t query = work.group == 1 ? work.first_row : work.first_row / work.group;
  std::ptrdiff_t head = work.first_row - query * work.group;
  for (int r = 0; r < kRows; ++r) {
    f(r, head, query);
    if (r + 1 >= work.num_rows || ++head < work.group) continue;
    head = 0;
    ++query;
  }
}

// How far the query of row r stands behind the key, negative if it stands before it. Sums of
// doubles: exact below 2^53, and far offsets round instead of overflowing.
template <class T, int kRows>
T distance_from(const Work& work, const RowBlock<T, kRows>& rows, int r, std::ptrdiff_t key) {
  return static_cast<T>(static_cast<double>(work.query_offset) +
                        static_cast<double>(rows.index[r] - key));
}

// Which keys each row sees by causal, window and lengths. Later rows are of the same query or a
// later one, so the first and the last row have the bounds of all.
template <class T, int kRows>
void find_bounds(const Work& work, RowBlock<T, kRows>& rows) {
  const std::ptrdiff_t end = work.key_length < work.key_end ? work.key_length : work.key_end;
  for (int r = 0; r < kRows; ++r) {
    const std::int64_t first = rows.index[r] + work.first_seen;
    const std::int64_t last = rows.index[r] + work.last_seen;
    rows.lo[r] = first > work.key_begin ? first : work.key_begin;
    rows.hi[r] = last < end ? last + 1 : end;
  }
  rows.lo_min = rows.lo[0];
  rows.lo_max = rows.lo[kRows - 1];
  rows.hi_min = rows.hi[0];
  rows.hi_max = rows.hi[kRows - 1];
}

template <class T, int kRows>
void find_segments(const Work& work, RowBlock<T, kRows>& rows) {
  const Segments& ids = work.query_segments;
  rows.segment_min = rows.segment_max = ids.data[rows.index[0] * ids.stride];
  for (int r = 0; r < kRows; ++r) {
    const std::int64_t id = ids.data[rows.index[r] * ids.stride];
    rows.segment[r] = id;
    if (id < rows.segment_min) rows.segment_min = id;
    if (id > rows.segment_max) rows.segment_max = id;
  }
}

// Where the rows of a mask or bias start; true: all are the same one.
template <int kRows>
bool find_score_rows(const Work& work, const ScoreArray& array, const unsigned char** rows) {
  bool same = true;
  for_each_row<kRows>(work, [&](int r, std::ptrdiff_t head, std::ptrdiff_t query) {
    rows[r] = array.data + head * array.head_stride_bytes + query * array.row_stride_bytes;
    same &= rows[r] == rows[0];
  });
  return same;
}

// What an option needs is only set where it is given.
template <class T, int kRows>
void describe_rows(const Work& work, RowBlock<T, kRows>& rows) {
  const auto* queries = static_cast<const unsigned char*>(work.query.data);
  const std::ptrdiff_t bytes = element_bytes(work.query.type);
  for_each_row<kRows>(work, [&](int r, std::ptrdiff_t head, std::ptrdiff_t query) {
    rows.index[r] = query;
    rows.query[r] =
        queries + (head * work.query.head_stride + query * work.query.row_stride) * bytes;
  });
  find_bounds(work, rows);
  if (work.query_segments.data) find_segments(work, rows);
  if (work.mask.data) rows.shared_mask = find_score_rows<kRows>(work, work.mask, rows.mask);
  if (work.bias.data) rows.shared_bias = find_score_rows<kRows>(work, work.bias, rows.bias);
  if (!work.alibi_slopes) return;
  for_each_row<kRows>(work, [&](int r, std::ptrdiff_t head, std::ptrdiff_t) {
    rows.slope[r] = static_cast<const T*>(work.alibi_slopes)[head * work.alibi_stride];
  });
}

}  // namespace
}  // namespace cpuattn
