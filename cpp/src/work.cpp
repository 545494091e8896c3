#include "work.hpp"

#include <algorithm>
#include <cstdint>

namespace cpuattn {
namespace {

ScoreArray score_array(const HeadIndex& index, const Operand& operand) {
  if (!operand) return {};
  const ScoreType type = operand.dtype == DType::kBool      ? ScoreType::kBool
                         : operand.dtype == DType::kFloat32 ? ScoreType::kFloat32
                                                            : ScoreType::kFloat64;
  return {type, reinterpret_cast<unsigned char*>(index.query_head(operand)), operand.stride[0],
          operand.stride[1], operand.stride[2]};
}

Segments segments(const HeadIndex& index, const Operand& operand) {
  if (!operand) return {};
  return {reinterpret_cast<const std::int64_t*>(index.batch(operand)),
          operand.stride[0] / static_cast<std::ptrdiff_t>(sizeof(std::int64_t))};
}

std::int64_t integer(const HeadIndex& index, const Operand& operand, std::int64_t otherwise) {
  return operand ? *reinterpret_cast<const std::int64_t*>(index.batch(operand)) : otherwise;
}

}  // namespace

HeadIndex::HeadIndex(const Shapes& shapes, std::ptrdiff_t head)
    : rank_(shapes.batch_rank),
      kv_head_(head % shapes.kv_heads),
      query_head_(kv_head_ * shapes.group) {
  std::ptrdiff_t rest = head / shapes.kv_heads;
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

Matrix matrix(char* data, const Operand& operand, DType dtype) {
  const std::ptrdiff_t element = element_size(dtype);
  return {data, operand.stride[0] / element, operand.stride[1] / element,
          operand.stride[2] / element};
}

Work make_work(const Call& call, const HeadIndex& index, const Item& item) {
  const std::ptrdiff_t element = element_size(call.dtype);
  Work work;
  work.head_dim = call.shapes.head_dim;
  work.value_dim = call.shapes.value_dim;
  work.group = call.shapes.group;
  work.first_row = item.first_row;
  work.num_rows = item.num_rows;
  work.query = matrix(index.query_head(call.query), call.query, call.dtype);
  work.key = matrix(index.kv_head(call.key), call.key, call.dtype);
  if (call.value) work.value = matrix(index.kv_head(call.value), call.value, call.dtype);
  work.key_length = integer(index, call.key_lengths, call.shapes.key_length);
  const std::int64_t offset =
      integer(index, call.query_offset, work.key_length - call.shapes.query_length);
  work.query_offset = std::clamp<std::int64_t>(offset, -kUnbounded, kUnbounded);
  work.left = call.left;
  work.right = call.right;
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

bool sees_keys(const Work& work) {
  const std::ptrdiff_t first = work.first_row / work.group + work.query_offset;
  const std::ptrdiff_t last = (work.first_row + work.num_rows - 1) / work.group + work.query_offset;
  return last + work.right >= work.key_begin && first - work.left < work.key_end &&
         work.key_length > work.key_begin;
}

}  // namespace cpuattn
