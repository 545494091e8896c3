// From a call and an item of its plan to the pointers and strides that a kernel is given.
#pragma once

#include <cstddef>

#include "call.hpp"
#include "kernel.hpp"
#include "plan.hpp"

namespace cpuattn {

// Where the operands of one (batch entry, key/value head) start.
class HeadIndex {
 public:
  HeadIndex(const Shapes& shapes, std::ptrdiff_t head);

  char* batch(const Operand& operand) const;
  char* query_head(const Operand& o) const { return batch(o) + query_head_ * o.stride[0]; }
  char* kv_head(const Operand& o) const { return batch(o) + kv_head_ * o.stride[0]; }

 private:
  int rank_;
  std::ptrdiff_t kv_head_, query_head_;
  std::ptrdiff_t batch_[kMaxRank];
};

// The operand as a matrix of one head that starts at `data`.
Matrix matrix(char* data, const Operand& operand, DType dtype);

// The work of one item, but for its range of keys, its results and stop check.
Work make_work(const Call& call, const HeadIndex& index, const Item& item);

// The keys of the chunks [first_chunk, end_chunk).
void set_keys(const Call& call, const Plan& plan, Work& work, std::ptrdiff_t first_chunk,
              std::ptrdiff_t end_chunk);

// Whether any row of the item may see keys of its range, by causal, window and lengths.
bool sees_keys(const Work& work);

}  // namespace cpuattn
