// The rows of a work item: which query of which head each one is, and which keys it may see.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../kernel.hpp"

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

inline const unsigned char* row_of(const ScoreArray& array, std::ptrdiff_t head,
                                   std::ptrdiff_t query) {
  return array.data + head * array.head_stride_bytes + query * array.row_stride_bytes;
}

template <class T, int kRows>
void describe_row(const Work& work, RowBlock<T, kRows>& rows, int r) {
  const std::ptrdiff_t own = r < work.num_rows ? r : work.num_rows - 1;
  const std::ptrdiff_t index = work.first_row + own;
  const std::ptrdiff_t query = work.group == 1 ? index : index / work.group;
  const std::ptrdiff_t head = index - query * work.group;
  const std::int64_t first = query + work.first_seen, last = query + work.last_seen;
  rows.query[r] = static_cast<const unsigned char*>(row_pointer(work, work.query, own));
  rows.index[r] = query;
  rows.lo[r] = first > work.key_begin ? first : work.key_begin;
  const std::ptrdiff_t end = work.key_length < work.key_end ? work.key_length : work.key_end;
  rows.hi[r] = last < end ? last + 1 : end;
  rows.mask[r] = work.mask.data ? row_of(work.mask, head, query) : nullptr;
  rows.bias[r] = work.bias.data ? row_of(work.bias, head, query) : nullptr;
  rows.segment[r] =
      work.query_segments.data ? work.query_segments.data[query * work.query_segments.stride] : 0;
  rows.slope[r] =
      work.alibi_slopes ? static_cast<const T*>(work.alibi_slopes)[head * work.alibi_stride] : T(0);
}

// How far the query of row r stands behind the key, negative if it stands before it. Sums of
// doubles: exact below 2^53, and far offsets round instead of overflowing.
template <class T, int kRows>
T distance_from(const Work& work, const RowBlock<T, kRows>& rows, int r, std::ptrdiff_t key) {
  return static_cast<T>(static_cast<double>(work.query_offset) +
                        static_cast<double>(rows.index[r] - key));
}

// The bounds are gathered in registers: short calls notice the way through memory.
template <class T, int kRows>
void describe_rows(const Work& work, RowBlock<T, kRows>& rows) {
  std::ptrdiff_t lo_min = PTRDIFF_MAX, lo_max = PTRDIFF_MIN, hi_min = lo_min, hi_max = lo_max;
  for (int r = 0; r < kRows; ++r) {
    describe_row(work, rows, r);
    const std::ptrdiff_t lo = rows.lo[r], hi = rows.hi[r];
    lo_min = lo < lo_min ? lo : lo_min;
    lo_max = lo > lo_max ? lo : lo_max;
    hi_min = hi < hi_min ? hi : hi_min;
    hi_max = hi > hi_max ? hi : hi_max;
  }
  rows.lo_min = lo_min;
  rows.lo_max = lo_max;
  rows.hi_min = hi_min;
  rows.hi_max = hi_max;

  std::int64_t id_min = rows.segment[0], id_max = id_min;
  bool shared_mask = true, shared_bias = true;
  for (int r = 1; r < kRows; ++r) {
    const std::int64_t id = rows.segment[r];
    id_min = id < id_min ? id : id_min;
    id_max = id > id_max ? id : id_max;
    shared_mask &= rows.mask[r] == rows.mask[0];
    shared_bias &= rows.bias[r] == rows.bias[0];
  }
  rows.segment_min = id_min;
  rows.segment_max = id_max;
  rows.shared_mask = shared_mask;
  rows.shared_bias = shared_bias;
}

}  // namespace
}  // namespace cpuattn
