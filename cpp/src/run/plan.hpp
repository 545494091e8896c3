// How a call is cut into work items. Pure: shapes and limits in, numbers out.
#pragma once

#include <cstddef>
#include <vector>

namespace cpuattn {

// What the plan needs to know of the problem; `rows` are query rows per key/value head.
struct PlanShape {
  std::ptrdiff_t batch = 1;
  std::ptrdiff_t kv_heads = 1;
  std::ptrdiff_t group = 1;
  std::ptrdiff_t query_length = 0;
  std::ptrdiff_t key_length = 0;
  std::ptrdiff_t head_dim = 0;
  std::ptrdiff_t value_dim = 0;
  std::size_t element_size = 4;
  bool causal = false;  // later rows see more keys

  // Of entries of unequal lengths: the longest.
  std::ptrdiff_t rows() const { return group * query_length; }
};

// What the plan needs to know of the kernels.
struct PlanLimits {
  int lanes = 1;
  int query_block = 1;
  int decode_rows = 1;
  int key_block = 1;
  int decode_block = 1;                              // of few rows: a chunk
  std::size_t partial_bytes = std::size_t{1} << 20;  // of results that wait, per thread
};

// Heads of entries that lie behind each other and have as many rows and keys.
struct Part {
  std::ptrdiff_t first_head = 0;  // batch entry * kv_heads
  std::ptrdiff_t num_heads = 0;
  std::ptrdiff_t rows = 0;  // of each head, at least 1
  std::ptrdiff_t key_length = 0;

  // What make_plan adds.
  std::ptrdiff_t num_blocks = 0;  // of rows of each head
  std::ptrdiff_t num_chunks = 1;
  bool split = false;             // every chunk is a work item of its own
  std::ptrdiff_t first_item = 0;  // of the plan
  std::ptrdiff_t first_slot = 0;  // if split: of the chunks' results

  std::ptrdiff_t blocks() const { return num_heads * num_blocks; }
  std::ptrdiff_t items() const { return split ? blocks() * num_chunks : blocks(); }
};

struct Plan {
  bool decode = false;
  std::ptrdiff_t key_chunk = 0;    // keys that are summed up apart from the others
  std::ptrdiff_t num_chunks = 1;   // of the part with the most keys
  std::ptrdiff_t query_block = 1;  // rows of one work item
  std::ptrdiff_t work_items = 0;
  bool split = false;          // some part is
  bool longest_first = false;  // items of all heads of a part in order of their length
  int threads = 1;
  std::size_t part_bytes = 0;     // results of one item: output, base and sum of its rows
  std::size_t partial_bytes = 0;  // of all items, where chunks wait to be merged

  Part whole;               // all heads, if they are equal:
  std::vector<Part> parts;  // then there are none; else those that are split come first
};

// Order of additions. The keys of a row are summed up in blocks, the blocks in chunks, and the
// chunks are merged in order, whether one thread does all of them or each is an item of its own.
// Chunks therefore depend on the kernel and on the number of keys only; the rest of the plan may
// follow the number of threads without changing a bit of the result.
// `parts`: those of entries of unequal lengths, each with its own rows and keys.
Plan make_plan(const PlanShape& shape, const PlanLimits& limits, int max_threads,
               std::vector<Part> parts = {});

// The merges of the chunks of a split plan, one item for each block.
Plan merges_of(const Plan& plan);

// One work item of the plan: which rows and chunks of which (batch entry, key/value head).
struct Item {
  std::ptrdiff_t head = 0;        // batch entry * kv_heads + key/value head
  bool split = false;             // the results are one of those that will be merged
  std::ptrdiff_t first_slot = 0;  // of the results of the block's chunks, if there are such
  std::ptrdiff_t first_row = 0;
  std::ptrdiff_t num_rows = 0;
  std::ptrdiff_t first_chunk = 0;  // chunks [first_chunk, end_chunk)
  std::ptrdiff_t end_chunk = 1;
};
Item item_at(const Plan& plan, const PlanShape& shape, std::ptrdiff_t index);

}  // namespace cpuattn
