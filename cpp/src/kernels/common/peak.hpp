// The most multiply-adds that this ISA does and the most that it reads: the yardsticks of the
// benchmark, not a part of attention.
#pragma once

#include <cstddef>

#include "kernels/common/elements.hpp"

namespace cpuattn {
namespace {

template <class V>
double sum_lanes(typename V::Vec v) {
  typename V::Element lane[V::kLanes];
  V::store(lane, v);
  double sum = 0;
  for (int i = 0; i < V::kLanes; ++i) sum += lane[i];
  return sum;
}

template <class V>
auto set_operands(float x) {
  if constexpr (V::kPack == 1) {
    return V::set1(x);
  } else {
    return V::pair(V::set1(x), V::set1(x));
  }
}

// `rounds` times as many multiply-adds as fit into the registers, none waiting for another:
// 12 chains hide a latency of 4 cycles on up to 3 units. Returns their sum, so that the
// compiler must do them.
template <class V>
double multiply_add(std::ptrdiff_t rounds, std::ptrdiff_t* operations) {
  constexpr int kChains = V::kAccumulators;
  using T = typename V::Element;
  const auto a = set_operands<V>(0.5f), b = set_operands<V>(-0.25f);
  typename V::Vec sum[kChains];
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) sum[i] = V::set1(T(1) / T(i + 1));
  for (std::ptrdiff_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) sum[i] = V::fma(a, b, sum[i]);
  }
  auto total = V::zero();
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) total = V::add(total, sum[i]);
  *operations = rounds * 2 * kChains * V::kLanes * V::kPack;
  return sum_lanes<V>(total);
}

// Reads `count` elements and nothing else, in several streams as decode does (1 to 8 of them read
// alike). Returns their sum, so that the compiler must read them; the few elements beyond whole
// steps are left out.
template <class V>
double sum_elements(const void* data, std::ptrdiff_t count) {
  using T = typename V::Element;
  constexpr int kStreams = 4;
  constexpr int kVecs = V::kAccumulators / kStreams;  // of one stream in one step
  constexpr std::ptrdiff_t kStep = std::ptrdiff_t{kVecs} * V::kLanes;
  const T* first = static_cast<const T*>(data);
  const std::ptrdiff_t length = count / kStreams / kStep * kStep;  // of a stream
  typename V::Vec sum[kStreams * kVecs];
#pragma GCC unroll 32
  for (int i = 0; i < kStreams * kVecs; ++i) sum[i] = V::zero();
  for (std::ptrdiff_t at = 0; at < length; at += kStep) {
#pragma GCC unroll 32
    for (int i = 0; i < kStreams * kVecs; ++i) {
      const T* place = first + i / kVecs * length + at + std::ptrdiff_t{i % kVecs} * V::kLanes;
      sum[i] = V::add(sum[i], V::load(place));
    }
  }
  auto total = V::zero();
#pragma GCC unroll 32
  for (int i = 0; i < kStreams * kVecs; ++i) total = V::add(total, sum[i]);
  return sum_lanes<V>(total);
}

}  // namespace
}  // namespace cpuattn
