// A call whose arguments have been checked: shapes, and every operand by its strides.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpuattn/attention.hpp"

namespace cpuattn {

inline std::ptrdiff_t element_size(DType dtype) {
  return dtype == DType::kBool ? 1 : dtype == DType::kFloat32 ? 4 : 8;
}

// An operand broadcast to the batch of the call: strides in bytes, 0 where it is broadcast.
struct Operand {
  char* data = nullptr;  // nullptr: not given
  DType dtype = DType::kFloat32;
  std::ptrdiff_t batch_stride[kMaxRank] = {};
  std::ptrdiff_t stride[3] = {};  // of the last dimensions, as many as the operand has

  explicit operator bool() const { return data != nullptr; }
};

struct Call {
  Shapes shapes;
  DType dtype = DType::kFloat32;
  Operand query, key, value, output, lse;  // stride: head, row, dim (lse: head, row)
  Operand mask, bias;                      // head, row, key
  Operand query_offset, key_lengths;       // none
  Operand query_segments, key_segments;    // row or key
  Operand alibi_slopes, sinks;             // head
  std::ptrdiff_t left = 0, right = 0;      // window and causal together
  double scale = 1.0;
  double softcap = 0.0;
};

// Throws std::invalid_argument for whatever does not fit together. value, output and lse may be
// null (attention_weights has no value, explain no results).
Call resolve(const View& query, const View& key, const View* value, const View* output,
             const View* lse, const Options& options);

}  // namespace cpuattn
