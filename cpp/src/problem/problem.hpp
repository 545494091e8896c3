// A call whose arguments have been checked: shapes, and every operand by its strides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "cpuattn/attention.hpp"
#include "problem/integers.hpp"
#include "problem/operand.hpp"

namespace cpuattn {

// From page to page of a paged cache, in bytes.
struct PageStrides {
  std::ptrdiff_t rows = 0, scales = 0;
};

struct Pages {
  Integers table;  // page
  std::ptrdiff_t size = 0;
  PageStrides key, value;
};

struct Call {
  Shapes shapes;
  DType dtype = DType::kFloat32;           // to compute in
  Operand query, key, value, output, lse;  // stride: head, row, dim (lse: head, row)
  Operand key_scale, value_scale;          // head, row
  Pages pages;
  Offsets query_offsets, key_offsets;    // of packed sequences; over pages only of queries
  Operand mask, bias;                    // head, row, key
  Integers query_offset, key_lengths;    // none
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
