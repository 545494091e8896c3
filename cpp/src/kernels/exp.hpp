// exp and tanh over any vector of vec_*.hpp. Coefficients are minimax fits (Remez exchange) of
// the functions named beside them. Measured over all floats by tests/cpp/test_exp.cpp.
#pragma once

#include <cstddef>

namespace cpuattn {
namespace {

template <class T>
struct ExpCoefficients;

template <>
struct ExpCoefficients<float> {
  // exp(x) is 0 in float below this; also keeps 2^n in the range of mul_pow2.
  static constexpr float kLowest = -104.0f;
  static constexpr float kLog2e = 0x1.715476p0f;
  // 2^f - 1 on [-1/2, 1/2], highest power first; relative error 2.6e-9.
  static constexpr float kPow2[] = {0x1.444p-13f,    0x1.5f48cp-10f,  0x1.3b2a1cp-7f,
                                    0x1.c6aeccp-5f, 0x1.ebfbep-3f, 0x1.62e43p-1f};
  // (tanh(y) / y - 1) / y^2 in powers of y^2 on |y| <= 0.625; relative error 4.4e-9.
  static constexpr float kTanh[] = {-0x1.75e1ccp-8f, 0x1.52269cp-6f, -0x1.b83c5ap-5f,
                                    0x1.110726p-3f, -0x1.555532p-2f};
};

template <>
struct ExpCoefficients<double> {
  static constexpr double kLowest = -746.0;
  static constexpr double kLog2e = 0x1.71547652b82fep0;
  // Relative error 1.8e-17.
  static constexpr double kPow2[] = {
      0x1.c063841f3a21dp-32, 0x1.e605f964b639dp-28, 0x1.b54167a1b0034p-24, 0x1.62bfd49ededd3p-20,
      0x1.ffcbee3b0a61cp-17, 0x1.43091309610fcp-13, 0x1.5d87fe7bbbe09p-10, 0x1.3b2ab6fba1e1cp-7,
      0x1.c6b08d7048f31p-5,  0x1.ebfbdff82c598p-3,  0x1.62e42fefa39f3p-1};
  // Relative error 3.8e-19.
  static constexpr double kTanh[] = {
      0x1.9580c1c11c50dp-18,  -0x1.fa7517053d2e6p-16, 0x1.800616431ced0p-14, -0x1.f10cb3754ebb6p-13,
      0x1.350ae1870712fp-11,  -0x1.7d9c1d5907748p-10, 0x1.d6d3584e2bfc9p-9,  -0x1.226e32c13039ep-7,
      0x1.664f487037633p-6,   -0x1.ba1ba1b9ce665p-5,  0x1.1111111110c03p-3,  -0x1.5555555555552p-2};
};

// Horner's rule, unrolled; `unsigned` length so that the loop bound is a constant.
template <class V, unsigned kSize>
inline typename V::Vec polynomial(const typename V::Element (&coefficient)[kSize],
                                  typename V::Vec x) {
  typename V::Vec sum = V::set1(coefficient[0]);
#pragma GCC unroll 16
  for (unsigned i = 1; i < kSize; ++i) sum = V::fma(sum, x, V::set1(coefficient[i]));
  return sum;
}

// exp(x) for x <= 88 (float) or 709 (double): 2^n * 2^f with n integral and |f| <= 1/2.
// n and f come from one fused multiply-add each, so f has no rounding error but that of the
// constant log2(e): 1.3e-8 * |x|, which only matters where exp(x) is tiny.
// exp(-inf) = 0, NaN stays NaN.
template <class V>
inline typename V::Vec exp(typename V::Vec x) {
  using C = ExpCoefficients<typename V::Element>;
  x = V::max(V::set1(C::kLowest), x);
  const auto log2e = V::set1(C::kLog2e);
  const auto n = V::round(V::mul(x, log2e));
  const auto f = V::fma(x, log2e, V::sub(V::zero(), n));
  const auto pow2 = V::fma(polynomial<V>(C::kPow2, f), f, V::set1(1));
  return V::mul_pow2(pow2, n);
}

// tanh(y): an odd polynomial near 0, where 1 - 2 / (exp(2y) + 1) would cancel.
template <class V>
inline typename V::Vec tanh(typename V::Vec y) {
  using C = ExpCoefficients<typename V::Element>;
  const auto magnitude = V::max(V::sub(V::zero(), y), y);
  const auto square = V::mul(y, y);
  const auto near = V::fma(V::mul(y, square), polynomial<V>(C::kTanh, square), y);
  const auto bounded = V::min(V::set1(20), magnitude);  // tanh(20) = 1 in float and double
  const auto e = exp<V>(V::add(bounded, bounded));
  const auto far = V::sub(V::set1(1), V::div(V::set1(2), V::add(e, V::set1(1))));
  const auto signed_far = V::select(V::less(y, V::zero()), V::sub(V::zero(), far), far);
  return V::select(V::less(magnitude, V::set1(typename V::Element(0.625))), near, signed_far);
}

}  // namespace
}  // namespace cpuattn
