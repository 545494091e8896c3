// The layouts that keys, values and queries may have, as if they were plain arrays (..., heads,
// length, dim): pages laid behind each other, packed sequences padded to the longest.
#pragma once

#include <cstddef>

#include "problem/problem.hpp"

namespace cpuattn {

// The inputs as plain arrays. Where elements lie beyond that is in Call: sequences all seem to
// begin with the first row, pages to follow the first.
struct Inputs {
  View query, key, value;
  bool has_value;
  Offsets query_offsets, key_offsets;  // of packed sequences; over pages only of queries

  Inputs(const View& query, const View& key, const View* value, const Options& options);

 private:
  void unpage(const View& block_table, const Options& options);
  void unpack_queries(const View& cu_seqlens_q);
  void unpack_keys(const View& cu_seqlens_k);
};

Shapes infer_shapes(const Inputs& all);

// The scales of `tokens`, a key or value, as (..., heads, length).
View plain_scales(const char* name, const View& scales, const View& tokens, const Shapes& shapes,
                  const Options& options);

// A result of packed sequences, (total, heads, ...) of `rank` dimensions, as if padded.
View plain_result(const char* name, const View& view, const Shapes& shapes, std::ptrdiff_t total,
                  int rank);

}  // namespace cpuattn
