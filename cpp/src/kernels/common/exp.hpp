// exp and tanh over any vector of vec_*.hpp. Coefficients are minimax fits (Remez exchange) of
// the functions named beside them. Measured over all floats by tests/cpp/test_exp.cpp.
// exp_weight is the one that a prefill spends its time in.
#pragma once

#include <cstddef>

#include "kernel.hpp"

namespace cpuattn {
namespace {

template <class T>
struct ExpCoefficients;

template <>
struct ExpCoefficients<float> {
  // exp(x) is rounded to 0 in float below this; also keeps 2^n in the range of mul_pow2.
  static constexpr float kLowest = -104.0f;
  static constexpr float kLog2e = 0x1.715476p0f;
  // ln 2 in two parts; the first has 16 bits, so that its product with n is exact.
  static constexpr float kLn2High = 0x1.62e4p-1f;
  static constexpr float kLn2Low = 0x1.7f7d1cp-20f;
  // exp(r) on |r| <= ln 2 / 2, highest power first; relative error 3.1e-9.
  static constexpr float kExp[] = {
      0x1.6a244ep-10f, 0x1.1239d4p-7f, 0x1.5558f2p-5f, 0x1.555492p-3f, 0x1.fffffcp-2f, 1.0f, 1.0f};
  // 2^r on [0, 1), exact at 0; relative error 8.3e-8.
  static constexpr float kExp2[] = {0x1.e96912p-10f, 0x1.277c1cp-7f, 0x1.c91c1p-5f,
                                    0x1.ebdb6ap-3f,  0x1.62e4bap-1f, 1.0f};
  // (tanh(y) / y - 1) / y^2 in powers of y^2 on |y| <= 0.625; relative error 4.4e-9.
  static constexpr float kTanh[] = {-0x1.75e1ccp-8f, 0x1.52269cp-6f, -0x1.b83c5ap-5f,
                                    0x1.110726p-3f, -0x1.555532p-2f};
};

template <>
struct ExpCoefficients<double> {
  static constexpr double kLowest = -746.0;
  static constexpr double kLog2e = 0x1.71547652b82fep0;
  static constexpr double kLn2High = 0x1.62e42fefa3000p-1;
  static constexpr double kLn2Low = 0x1.3de6af278ece6p-42;
  // Relative error 3.7e-18.
  static constexpr double kExp[] = {0x1.ad7f75b4eb916p-26,
                                    0x1.28ad6899de2afp-22,
                                    0x1.71df253d2f8d5p-19,
                                    0x1.a0199a16ebe3dp-16,
                                    0x1.a01a012a68843p-13,
                                    0x1.6c16c18426692p-10,
                                    0x1.1111111127b9ep-7,
                                    0x1.555555555088cp-5,
                                    0x1.55555555554fap-3,
                                    0x1.000000000000ap-1,
                                    1.0,
                                    1.0};
  // Relative error 3.4e-18.
  static constexpr double kExp2[] = {
      0x1.58bf6c7d1fde2p-31, 0x1.c280e8eba99dap-28, 0x1.b86899e79bff4p-24, 0x1.628e7bd116010p-20,
      0x1.ffcfd87215ea0p-17, 0x1.4308f9930856dp-13, 0x1.5d87ff5281b7bp-10, 0x1.3b2ab6f7136c9p-7,
      0x1.c6b08d7066659p-5,  0x1.ebfbdff82c01bp-3,  0x1.62e42fefa39f5p-1,  1.0};
  // Relative error 3.8e-19.
  static constexpr double kTanh[] = {
      0x1.9580c1c11c50dp-18, -0x1.fa7517053d2e6p-16, 0x1.800616431ced0p-14, -0x1.f10cb3754ebb6p-13,
      0x1.350ae1870712fp-11, -0x1.7d9c1d5907748p-10, 0x1.d6d3584e2bfc9p-9,  -0x1.226e32c13039ep-7,
      0x1.664f487037633p-6,  -0x1.ba1ba1b9ce665p-5,  0x1.1111111110c03p-3,  -0x1.5555555555552p-2};
};

// Horner's rule, unrolled; `unsigned` length so that the loop bound is a constant. A factor that is
// a power of two costs nothing and changes no digit.
template <class V, unsigned kSize>
inline typename V::Vec polynomial(const typename V::Element (&coefficient)[kSize],
                                  typename V::Vec x, typename V::Element factor = 1) {
  typename V::Vec sum = V::set1(factor * coefficient[0]);
#pragma GCC unroll 16
  for (unsigned i = 1; i < kSize; ++i) sum = V::fma(sum, x, V::set1(factor * coefficient[i]));
  return sum;
}

// exp(x) for x <= 71 (float) or 672 (double): 2^n * exp(r) with n integral and |r| <= ln 2 / 2.
// r = x - n ln 2 in two steps, so that it is exact but for its last bit however large x is.
// exp(-inf) = 0, NaN stays NaN, and subnormal results have the digits that they can have.
template <class V>
inline typename V::Vec exp(typename V::Vec x) {
  using C = ExpCoefficients<typename V::Element>;
  x = V::max(V::set1(C::kLowest), x);
  const auto n = V::round(V::mul(x, V::set1(C::kLog2e)));
  auto r = V::fma(n, V::set1(-C::kLn2High), x);
  r = V::fma(n, V::set1(-C::kLn2Low), r);
  return V::mul_pow2(polynomial<V>(C::kExp, r, V::kPow2Unit), n);
}

// factor · exp(x) as a softmax needs it, x <= 71 (float) or 672 (double) and `factor` a power of
// two: 2^(x log2 e), in 6 multiplications instead of 9. Rounding the exponent costs up to
// 0.7 |x| ULP, most of it where the weight itself is nothing: -x · exp(x) never exceeds 0.37.
// exp(0) is exact, so that a single visible key has exactly its value as output.
template <class V>
inline typename V::Vec exp_weight(typename V::Vec x, typename V::Element factor = 1) {
  using C = ExpCoefficients<typename V::Element>;
  typename V::Vec r;
  const auto n = V::split(V::mul(x, V::set1(C::kLog2e)), &r);
  return V::mul_pow2(polynomial<V>(C::kExp2, r, V::kPow2Unit * factor), n);
}

// A cap as the type T can hold it, however large or small: the nearest that is in range to
// 1 / cap, and cap = part · times. A cap beyond T moves only scores near the end of the range, and
// half of it, which is what can be reached, is in range.
template <class T>
struct Cap {
  T inverse, part, times;

  explicit Cap(double cap) : times(cap > 1 ? 2 : 1) {
    constexpr double kMost = sizeof(T) == 4 ? double(__FLT_MAX__) : __DBL_MAX__;
    constexpr double kLeast = sizeof(T) == 4 ? double(__FLT_DENORM_MIN__) : __DBL_DENORM_MIN__;
    const auto in_range = [](double x) {
      return static_cast<T>(x < kLeast ? kLeast : x > kMost ? kMost : x);
    };
    inverse = in_range(1 / cap);
    part = in_range(cap / times);
  }
};

// cap · tanh(score / cap): score · (1 + an even polynomial) near 0, where 1 - 2 / (exp(2y) + 1)
// would cancel, and where the score keeps its digits even if y = score / cap has none.
template <class V>
inline typename V::Vec soft_cap(typename V::Vec score, const Cap<typename V::Element>& cap) {
  using T = typename V::Element;
  const auto y = V::mul(score, V::set1(cap.inverse)), part = V::set1(cap.part);
  const auto magnitude = V::max(V::sub(V::zero(), y), y);
  const auto square = V::mul(y, y);
  const auto bend = polynomial<V>(ExpCoefficients<T>::kTanh, square);
  const auto near = V::fma(V::mul(score, square), bend, score);
  const auto bounded = V::min(V::set1(20), magnitude);  // tanh(20) = 1 in float and double
  const auto e = exp<V>(V::add(bounded, bounded));
  const auto half = V::set1(T(0.5));
  const auto far = V::sub(part, V::div(part, V::fma(e, half, half)));
  const auto times = V::select(V::less(y, V::zero()), V::set1(-cap.times), V::set1(cap.times));
  return V::select(V::less(magnitude, V::set1(T(0.625))), near, V::mul(far, times));
}

template <class V>
inline typename V::Vec tanh(typename V::Vec y) {
  return soft_cap<V>(y, Cap<typename V::Element>(1));
}

}  // namespace
}  // namespace cpuattn
