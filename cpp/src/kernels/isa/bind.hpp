// Binds the vectors of one ISA to the algorithms. Included by the ISA files and nothing else.
#pragma once

#include "kernels/common/merge.hpp"
#include "kernels/common/peak.hpp"
#include "kernels/decode/decode.hpp"
#include "kernels/decode/int8/decode.hpp"
#include "kernels/forward/forward.hpp"
#include "kernels/forward/weights.hpp"
#include "kernels/store/convert.hpp"

namespace cpuattn {
namespace {

template <class V>
constexpr Kernels bind_kernels() {
  Kernels kernels{};
  kernels.lanes = V::kLanes;
  kernels.query_block = V::kBlockVecs * V::kLanes;
  kernels.pair_block = 2 * kernels.query_block;
  kernels.decode_rows = kDecodeRows;
  kernels.key_block = kKeyBlock;
  kernels.decode_block = kDecodeBlock;
  kernels.forward = forward<V>;
  kernels.decode = decode<V>;
  kernels.weights = weights<V>;
  kernels.merge = merge<V>;
  kernels.add_sinks = add_sinks<V>;
  kernels.convert_rows = convert_rows<V>;
  kernels.multiply_add = multiply_add<V>;
  kernels.sum_elements = sum_elements<V>;
  kernels.forward_scratch = forward_scratch<V>;
  kernels.decode_scratch = decode_scratch<V>;
  return kernels;
}

template <class F32, class F64>
constexpr Isa bind_isa(const char* name) {
  return {name, bind_kernels<F32>(), bind_kernels<F64>()};
}

template <class V>
constexpr BFloat16Kernels bind_bfloat16() {
  return {forward<V>, decode<V>, multiply_add<V>};
}

template <class V>
constexpr Int8Kernels bind_int8() {
  return {kInt8LeastRows, kInt8MostHeadDim, decode_int8<V>, int8_scratch<V>};
}

}  // namespace
}  // namespace cpuattn
