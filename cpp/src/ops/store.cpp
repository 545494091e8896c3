#include <cstring>
#include <string>

#include "cpuattn/cache.hpp"
#include "isa/registry.hpp"
#include "kernel.hpp"
#include "problem/checks.hpp"
#include "problem/element_type.hpp"
#include "threads/float_state.hpp"

namespace cpuattn {
namespace {

// `rank` dimensions, of the sizes of source's first ones.
void check_shape(const char* name, const View& view, int rank, const View& source) {
  bool same = view.rank == rank;
  for (int i = 0; same && i < rank; ++i) same = view.shape[i] == source.shape[i];
  if (same) return;
  fail(std::string(name) + " has shape " + text(view) + "; it must be " + text(source.shape, rank) +
       ", as source has shape " + text(source));
}

void check(const View& source, const View& target, const View* scale) {
  check_array("source", source);
  check_array("target", target);
  const bool quantised = target.dtype == DType::kInt8;
  if (!is_float(source.dtype)) fail_type("source", source, "a float type");
  if (!is_float(target.dtype) && !quantised) fail_type("target", target, "a float type or int8");
  if (source.rank < 1) fail("source has no dimension; it must have at least one");
  check_shape("target", target, source.rank, source);
  check_distinct("target", target);
  const int last = source.rank - 1;
  const bool gaps = target.shape[last] > 1 && target.stride[last] != element_size(target.dtype);
  if (gaps && !is_empty(target)) {
    fail("target has gaps between the numbers of a row; they must lie next to each other");
  }
  if (quantised != (scale != nullptr)) {
    fail("scale must be given for a target of int8, and for no other");
  }
  if (!scale) return;
  check_array("scale", *scale);
  check_distinct("scale", *scale);
  if (scale->dtype != DType::kFloat32) fail_type("scale", *scale, "float32");
  check_shape("scale", *scale, last, source);
}

// Both of one type: the bits as they are, also those of a NaN.
void copy_rows(const Conversion& rows, std::ptrdiff_t size) {
  for (std::ptrdiff_t r = 0; r < rows.num_rows; ++r) {
    const char* from = static_cast<const char*>(rows.source) + r * rows.source_row_stride * size;
    char* to = static_cast<char*>(rows.target) + r * rows.target_row_stride * size;
    if (rows.source_stride == 1) {
      std::memcpy(to, from, static_cast<std::size_t>(rows.size * size));
      continue;
    }
    for (std::ptrdiff_t i = 0; i < rows.size; ++i) {
      const char* number = from + i * rows.source_stride * size;
      std::memcpy(to + i * size, number, static_cast<std::size_t>(size));
    }
  }
}

// The walk over the dimensions before those of a block.
class Walk {
 public:
  Walk(const View& source, const View& target, const View* scale)
      : source_(source), target_(target), scale_(scale) {}

  // f(block) for the first block and all others, which lie like it; true if one of them is.
  template <class F>
  bool any(Conversion block, F f) const {
    const int outer_rank = source_.rank < 2 ? 0 : source_.rank - 2;
    std::ptrdiff_t index[kMaxRank] = {};
    bool result = false;
    while (true) {
      result |= f(block);
      int dim = outer_rank - 1;
      for (; dim >= 0 && index[dim] + 1 == source_.shape[dim]; --dim) {
        move(block, dim, -index[dim]);
        index[dim] = 0;
      }
      if (dim < 0) return result;
      move(block, dim, 1);
      ++index[dim];
    }
  }

 private:
  void move(Conversion& block, int dim, std::ptrdiff_t steps) const {
    block.source = static_cast<const char*>(block.source) + steps * source_.stride[dim];
    block.target = static_cast<char*>(block.target) + steps * target_.stride[dim];
    if (scale_) block.scale += steps * (scale_->stride[dim] / element_size(DType::kFloat32));
  }

  const View& source_;
  const View& target_;
  const View* scale_;
};

// The last two dimensions; of less dimensions one row.
Conversion block_of(const View& source, const View& target, const View* scale) {
  const int last = source.rank - 1;
  const std::ptrdiff_t source_size = element_size(source.dtype);
  Conversion block;
  block.source = source.data;
  block.source_stride = source.shape[last] > 1 ? source.stride[last] / source_size : 1;
  block.source_type = element_type(source.dtype);
  block.target = target.data;
  block.target_type = element_type(target.dtype);
  block.size = source.shape[last];
  if (scale) block.scale = static_cast<float*>(scale->data);
  if (last == 0) return block;
  block.num_rows = source.shape[last - 1];
  block.source_row_stride = source.stride[last - 1] / source_size;
  block.target_row_stride = target.stride[last - 1] / element_size(target.dtype);
  if (scale) block.scale_stride = scale->stride[last - 1] / element_size(DType::kFloat32);
  return block;
}

// Rows that lie behind each other in both arrays are one long row; each of int8 has its own scale.
void join_rows(Conversion& block) {
  if (block.scale) return;
  const bool joined = block.source_stride == 1 && block.source_row_stride == block.size &&
                      block.target_row_stride == block.size;
  if (!joined) return;
  block.size *= block.num_rows;
  block.num_rows = 1;
}

}  // namespace

bool store(const View& source, const View& target, const View* scale) {
  const DefaultFloatState floats;
  check(source, target, scale);
  if (is_empty(source)) return false;
  Conversion block = block_of(source, target, scale);
  join_rows(block);
  const Walk blocks(source, target, scale);
  if (source.dtype == target.dtype) {
    return blocks.any(block, [size = element_size(source.dtype)](const Conversion& rows) {
      copy_rows(rows, size);
      return false;
    });
  }
  const Isa& isa = current_isa();
  return blocks.any(
      block, source.dtype == DType::kFloat64 ? isa.float64.convert_rows : isa.float32.convert_rows);
}

}  // namespace cpuattn
