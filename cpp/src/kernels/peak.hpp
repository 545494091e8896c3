// The most multiply-adds that this ISA does: the yardstick of the benchmark, not a part of
// attention.
#pragma once

#include <cstddef>

namespace cpuattn {
namespace {

// `rounds` times as many multiply-adds as fit into the registers, none waiting for another:
// 12 chains hide a latency of 4 cycles on up to 3 units. Returns their sum, so that the
// compiler must do them.
template <class V>
double multiply_add(std::ptrdiff_t rounds, std::ptrdiff_t* operations) {
  constexpr int kChains = V::kAccumulators;
  using T = typename V::Element;
  const auto a = V::set1(T(1.0001)), b = V::set1(T(-0.0001));
  typename V::Vec sum[kChains];
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) sum[i] = V::set1(T(1) / T(i + 1));
  for (std::ptrdiff_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) sum[i] = V::fma(sum[i], a, b);
  }
  auto total = V::zero();
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) total = V::add(total, sum[i]);
  T lane[V::kLanes];
  V::store(lane, total);
  double result = 0;
  for (int i = 0; i < V::kLanes; ++i) result += lane[i];
  *operations = rounds * 2 * kChains * V::kLanes;
  return result;
}

}  // namespace
}  // namespace cpuattn
