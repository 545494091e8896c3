// A call whose arguments have been checked: shapes, and every operand by its strides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "cpuattn/attention.hpp"

namespace cpuattn {

// An operand broadcast to the batch of the call: strides in bytes, 0 where it is broadcast.
struct Operand {
  char* data = nullptr;  // nullptr: not given
  DType dtype = DType::kFloat32;
  std::ptrdiff_t batch_stride[kMaxRank] = {};
  std::ptrdiff_t stride[3] = {};  // of the last dimensions, as many as the operand has

  explicit operator bool() const { return data != nullptr; }
};

// From page to page of a paged cache, in bytes.
struct PageStrides {
  std::ptrdiff_t rows = 0, scales = 0;
};

struct Pages {
  Operand table;  // page
  std::ptrdiff_t size = 0;
  PageStrides key, value;
};

// Where packed sequences begin: B + 1 offsets, or none.
struct Offsets {
  const char* data = nullptr;
  std::ptrdiff_t stride = 0;

  explicit operator bool() const { return data != nullptr; }
  std::ptrdiff_t operator[](std::ptrdiff_t i) const {
    return *reinterpret_cast<const std::int64_t*>(data + i * stride);
  }
};

struct Call {
  Shapes shapes;
  DType dtype = DType::kFloat32;           // to compute in
  Operand query, key, value, output, lse;  // stride: head, row, dim (lse: head, row)
  Operand key_scale, value_scale;          // head, row
  Pages pages;
  Offsets query_offsets, key_offsets;    // of packed sequences; over pages only of queries
  Operand mask, bias;                    // head, row, key
  Operand query_offset, key_lengths;     // none
  Operand query_segments, key_segments;  // row or key
  Operand alibi_slopes, sinks;           // head
  // Of window and causal together; none: not bounded.
  std::optional<std::int64_t> left, right;
  double scale = 1.0;
  double softcap = 0.0;
};

// Throws std::invalid_argument for whatever does not fit together. value, output and lse may be
// null (attention_weights has no value, explain maybe no results).
Call resolve(const View& query, const View& key, const View* value, const View* output,
             const View* lse, const Options& options);

}  // namespace cpuattn
