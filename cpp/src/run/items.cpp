#include "run/items.hpp"

#include <algorithm>
#include <cstdint>

#include "problem/element_type.hpp"

namespace cpuattn {
namespace {

ScoreArray score_array(const HeadIndex& index, const Operand& operand) {
  if (!operand) return {};
  return {element_type(operand.dtype), reinterpret_cast<unsigned char*>(index.query_head(operand)),
          operand.stride[0], operand.stride[1], operand.stride[2]};
}

Segments segments(const HeadIndex& index, const Operand& operand) {
  if (!operand) return {};
  return {reinterpret_cast<const std::int64_t*>(index.batch(operand)),
          operand.stride[0] / static_cast<std::ptrdiff_t>(sizeof(std::int64_t))};
}

std::int64_t integer(const HeadIndex& index, const Operand& operand, std::int64_t otherwise) {
  return operand ? *reinterpret_cast<const std::int64_t*>(index.batch(operand)) : otherwise;
}

// offset + side, clamped.
std::int64_t distance(std::int64_t offset, std::int64_t side) {
  std::int64_t sum;
  if (__builtin_add_overflow(offset, side, &sum)) return side < 0 ? -kFarthest : kFarthest;
  return std::clamp(sum, -kFarthest, kFarthest);
}

// Keys or values, and where they lie in pages.
Tokens tokens(const HeadIndex& index, const Operand& operand, const Operand& scale,
              const Pages& pages, const PageStrides& page_strides) {
  const std::ptrdiff_t element = element_size(operand.dtype);
  constexpr auto kFloat = static_cast<std::ptrdiff_t>(sizeof(float));
  Tokens tokens;
  tokens.data = index.keys(operand);
  tokens.row_stride = operand.stride[1] / element;
  tokens.dim_stride = operand.stride[2] / element;
  tokens.type = element_type(operand.dtype);
  if (pages.table) {
    tokens.pages = reinterpret_cast<const std::int64_t*>(index.batch(pages.table));
    tokens.pages_stride = pages.table.stride[0] / static_cast<std::ptrdiff_t>(sizeof(std::int64_t));
    tokens.page_size = pages.size;
    tokens.page_stride = page_strides.rows / element;
  }
  if (scale) {
    tokens.scales = reinterpret_cast<const float*>(index.keys(scale));
    tokens.scale_stride = scale.stride[1] / kFloat;
    tokens.scale_page_stride = page_strides.scales / kFloat;
  }
  return tokens;
}

}  // namespace

HeadIndex::HeadIndex(const Call& call, std::ptrdiff_t head)
    : rank_(call.shapes.batch_rank),
      kv_head_(head % call.shapes.kv_heads),
      query_head_(kv_head_ * call.shapes.group),
      num_queries_(call.shapes.query_length),
      num_keys_(call.shapes.key_length) {
  const Shapes& shapes = call.shapes;
  std::ptrdiff_t rest = head / shapes.kv_heads;
  if (call.query_offsets) {
    first_query_ = call.query_offsets[rest];
    num_queries_ = call.query_offsets[rest + 1] - first_query_;
  }
  if (call.key_offsets) {
    first_key_ = call.key_offsets[rest];
    num_keys_ = call.key_offsets[rest + 1] - first_key_;
  }
  for (int i = rank_ - 1; i >= 0; --i) {
    batch_[i] = rest % shapes.batch_shape[i];
    rest /= shapes.batch_shape[i];
  }
}

char* HeadIndex::batch(const Operand& operand) const {
  char* p = operand.data;
  for (int i = 0; i < rank_; ++i) p += batch_[i] * operand.batch_stride[i];
  return p;
}

Matrix matrix(const HeadIndex& index, const Operand& operand) {
  const std::ptrdiff_t element = element_size(operand.dtype);
  return {index.queries(operand), operand.stride[0] / element, operand.stride[1] / element,
          operand.stride[2] / element, element_type(operand.dtype)};
}

Work make_work(const Call& call, const HeadIndex& index, const Item& item) {
  const std::ptrdiff_t element = element_size(call.dtype);
  Work work;
  work.head_dim = call.shapes.head_dim;
  work.value_dim = call.shapes.value_dim;
  work.group = call.shapes.group;
  work.first_row = item.first_row;
  work.num_rows = std::min(item.num_rows, call.shapes.group * index.num_queries() - item.first_row);
  work.query = matrix(index, call.query);
  work.key = tokens(index, call.key, call.key_scale, call.pages, call.pages.key);
  if (call.value) {
    work.value = tokens(index, call.value, call.value_scale, call.pages, call.pages.value);
  }
  work.key_length = integer(index, call.key_lengths, index.num_keys());
  work.query_offset = integer(index, call.query_offset, work.key_length - index.num_queries());
  if (call.left) work.first_seen = distance(work.query_offset, -*call.left);
  if (call.right) work.last_seen = distance(work.query_offset, *call.right);
  work.mask = score_array(index, call.mask);
  work.bias = score_array(index, call.bias);
  work.query_segments = segments(index, call.query_segments);
  work.key_segments = segments(index, call.key_segments);
  work.scale = call.scale;
  work.softcap = call.softcap;
  if (call.alibi_slopes) {
    work.alibi_slopes = index.query_head(call.alibi_slopes);
    work.alibi_stride = call.alibi_slopes.stride[0] / element;
  }
  if (call.sinks) {
    work.sinks = index.query_head(call.sinks);
    work.sinks_stride = call.sinks.stride[0] / element;
  }
  return work;
}

void set_keys(const Call& call, const Plan& plan, Work& work, std::ptrdiff_t first_chunk,
              std::ptrdiff_t end_chunk) {
  work.key_chunk = plan.key_chunk;
  work.key_begin = first_chunk * plan.key_chunk;
  work.key_end = std::min(end_chunk * plan.key_chunk, call.shapes.key_length);
}

// The kernel counts rows from the first one of the head, so the matrix starts that much earlier.
void aim_at(Work& work, const Partial& partial, DType dtype) {
  const std::ptrdiff_t dims = work.value_dim;
  char* first = static_cast<char*>(partial.output) - work.first_row * dims * element_size(dtype);
  work.output = {first, dims, work.group * dims, 1, element_type(dtype)};
  work.row_base = partial.row_base;
  work.row_sum = partial.row_sum;
  work.normalise = false;
}

bool sees_keys(const Work& work) {
  const std::ptrdiff_t first = work.first_row / work.group;
  const std::ptrdiff_t last = (work.first_row + work.num_rows - 1) / work.group;
  return last + work.last_seen >= work.key_begin && first + work.first_seen < work.key_end &&
         work.key_length > work.key_begin;
}

}  // namespace cpuattn
