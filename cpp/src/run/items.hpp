// From a call and an item of its plan to the pointers and strides that a kernel is given.
#pragma once

#include <cstddef>

#include "kernel.hpp"
#include "problem/problem.hpp"
#include "run/plan.hpp"

namespace cpuattn {

// Where the operands of one (batch entry, key/value head) start, and how many queries and keys the
// entry has.
class HeadIndex {
 public:
  HeadIndex(const Call& call, std::ptrdiff_t head);

  char* batch(const Operand& operand) const;
  char* query_head(const Operand& o) const { return batch(o) + query_head_ * o.stride[0]; }
  char* kv_head(const Operand& o) const { return batch(o) + kv_head_ * o.stride[0]; }
  // Of operands with a row per query, or per key: the entry's first one.
  char* queries(const Operand& o) const { return query_head(o) + first_query_ * o.stride[1]; }
  char* keys(const Operand& o) const { return kv_head(o) + first_key_ * o.stride[1]; }

  std::ptrdiff_t num_queries() const { return num_queries_; }
  std::ptrdiff_t num_keys() const { return num_keys_; }

 private:
  int rank_;
  std::ptrdiff_t kv_head_, query_head_;
  std::ptrdiff_t batch_[kMaxRank];
  std::ptrdiff_t first_query_ = 0, num_queries_;
  std::ptrdiff_t first_key_ = 0, num_keys_;
};

// The operand, which has a row per query, as a matrix of one head.
Matrix matrix(const HeadIndex& index, const Operand& operand);

// The work of one item, but for its range of keys, its results and stop check. It has no rows if
// they lie behind the end of a packed sequence.
Work make_work(const Call& call, const HeadIndex& index, const Item& item);

// The keys of the chunks [first_chunk, end_chunk).
void set_keys(const Call& call, const Plan& plan, Work& work, std::ptrdiff_t first_chunk,
              std::ptrdiff_t end_chunk);

// Results into a contiguous partial, not divided by the sums: row r of the item is its row r.
void aim_at(Work& work, const Partial& partial, DType dtype);

// Whether any row of the item may see keys of its range, by causal, window and lengths.
bool sees_keys(const Work& work);

}  // namespace cpuattn
