// AVX-512 for a CPU that has AVX2 only: stands before the compiler's own header when the AVX-512
// kernels are built with -DCPUATTN_EMULATE_AVX512=ON. SIMDe has most operations under their own
// names; those that it lacks are written here, lane by lane. For tests: slow, and of no other use.
#pragma once

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

#include <cmath>
#include <cstring>

namespace emulated {
namespace {

using Floats = simde__m512;
using Doubles = simde__m512d;
using Integers = simde__m512i;

template <class T, class V>
struct Lanes {
  static constexpr int kCount = sizeof(V) / sizeof(T);
  T at[kCount];

  Lanes() : at{} {}
  explicit Lanes(const V& v) { std::memcpy(at, &v, sizeof(v)); }
  V vec() const {
    V v;
    std::memcpy(&v, at, sizeof(v));
    return v;
  }
};

template <class V, class T, class Mask>
V load_masked(Mask mask, const T* p) {
  Lanes<T, V> lanes;
  for (int i = 0; i < lanes.kCount; ++i) {
    if (mask >> i & 1) lanes.at[i] = p[i];
  }
  return lanes.vec();
}

template <class V, class T, class Mask>
void store_masked(T* p, Mask mask, V v) {
  const Lanes<T, V> lanes(v);
  for (int i = 0; i < lanes.kCount; ++i) {
    if (mask >> i & 1) p[i] = lanes.at[i];
  }
}

// vreduceps towards -inf: what is left of x without its integral part; 0 of an infinity.
template <class T, class V>
V reduce(V v) {
  Lanes<T, V> lanes(v);
  for (T& x : lanes.at) x = std::isinf(x) ? T(0) : x - std::floor(x);
  return lanes.vec();
}

// vscalefps: x · 2^floor(n), rounded once, also where the power has no place among the numbers.
template <class T, class V>
V scale_lanes(V x, V n) {
  Lanes<T, V> lanes(x);
  const Lanes<T, V> powers(n);
  for (int i = 0; i < lanes.kCount; ++i) {
    const T power = std::floor(powers.at[i]);
    lanes.at[i] = std::fabs(power) < 10000 ? std::ldexp(lanes.at[i], static_cast<int>(power))
                                           : lanes.at[i] * std::exp2(power);
  }
  return lanes.vec();
}

template <class V>
V shuffle_quarters(V a, V b, int order) {
  const Lanes<__m128i, V> from[2] = {Lanes<__m128i, V>(a), Lanes<__m128i, V>(b)};
  Lanes<__m128i, V> to;
  for (int i = 0; i < 4; ++i) to.at[i] = from[i / 2].at[order >> 2 * i & 3];
  return to.vec();
}

template <class To, class From, class ToVec, class FromVec>
ToVec convert_lanes(FromVec v) {
  const Lanes<From, FromVec> from(v);
  Lanes<To, ToVec> to;
  for (int i = 0; i < to.kCount; ++i) to.at[i] = static_cast<To>(from.at[i]);
  return to.vec();
}

// To the nearest, ties to even; what has no place in 32 bits becomes the lowest number.
inline Integers round_lanes(Floats v) {
  const Lanes<float, Floats> from(v);
  Lanes<std::int32_t, Integers> to;
  for (int i = 0; i < to.kCount; ++i) {
    const float rounded = std::nearbyint(from.at[i]);
    to.at[i] = std::fabs(rounded) < 0x1p31f ? static_cast<std::int32_t>(rounded) : INT32_MIN;
  }
  return to.vec();
}

inline Floats widen_halves(__m256i v) {
  const Lanes<__m128i, __m256i> from(v);
  Lanes<__m256, Floats> to;
  for (int i = 0; i < 2; ++i) to.at[i] = _mm256_cvtph_ps(from.at[i]);
  return to.vec();
}
inline __m256i narrow_to_halves(Floats v) {
  const Lanes<__m256, Floats> from(v);
  Lanes<__m128i, __m256i> to;
  for (int i = 0; i < 2; ++i) to.at[i] = _mm256_cvtps_ph(from.at[i], _MM_FROUND_TO_NEAREST_INT);
  return to.vec();
}

inline simde__mmask16 test_bytes(__m128i a, __m128i b) {
  const Lanes<unsigned char, __m128i> x(a), y(b);
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) mask |= unsigned((x.at[i] & y.at[i]) != 0) << i;
  return static_cast<simde__mmask16>(mask);
}

inline float without_subnormal(float x) {
  return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x;
}
inline float widen_bfloat16(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t{bits} << 16;
  float x;
  std::memcpy(&x, &wide, sizeof(x));
  return without_subnormal(x);
}
inline std::uint16_t narrow_to_bfloat16(float x) {
  x = without_subnormal(x);
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const std::uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
  return static_cast<std::uint16_t>((std::isnan(x) ? bits | 0x400000 : rounded) >> 16);
}

// The second product of a pair is added first; each sum is rounded.
template <class Narrow>
Floats multiply_pairs(Floats sum, Narrow a, Narrow b) {
  Lanes<float, Floats> total(sum);
  const Lanes<std::uint16_t, Narrow> x(a), y(b);
  for (int i = 0; i < 32; ++i) {
    float& to = total.at[i / 2];
    const int k = i ^ 1;
    to = without_subnormal(std::fma(widen_bfloat16(x.at[k]), widen_bfloat16(y.at[k]), to));
  }
  return total.vec();
}
inline Integers narrow_two(Floats high, Floats low) {
  const Lanes<float, Floats> from[2] = {Lanes<float, Floats>(low), Lanes<float, Floats>(high)};
  Lanes<std::uint16_t, Integers> to;
  for (int i = 0; i < 32; ++i) to.at[i] = narrow_to_bfloat16(from[i / 16].at[i % 16]);
  return to.vec();
}

}  // namespace
}  // namespace emulated

#undef _mm512_shuffle_f32x4
#undef _mm512_shuffle_f64x2
#define _mm512_shuffle_f32x4(a, b, order) emulated::shuffle_quarters(a, b, order)
#define _mm512_shuffle_f64x2(a, b, order) emulated::shuffle_quarters(a, b, order)
#define _mm512_maskz_loadu_ps(mask, p) emulated::load_masked<emulated::Floats>(mask, p)
#define _mm512_maskz_loadu_pd(mask, p) emulated::load_masked<emulated::Doubles>(mask, p)
#define _mm512_mask_storeu_ps(p, mask, v) emulated::store_masked(p, mask, v)
#define _mm512_mask_storeu_pd(p, mask, v) emulated::store_masked(p, mask, v)
#define _mm_maskz_loadu_epi8(mask, p) emulated::load_masked<__m128i>(mask, p)
#define _mm256_maskz_loadu_epi8(mask, p) emulated::load_masked<__m256i>(mask, p)
#define _mm_test_epi8_mask(a, b) emulated::test_bytes(a, b)
#undef _mm512_scalef_ps
#undef _mm512_scalef_pd
#define _mm512_scalef_ps(x, n) emulated::scale_lanes<float>(x, n)
#define _mm512_scalef_pd(x, n) emulated::scale_lanes<double>(x, n)
#define _mm512_reduce_ps(v, rounding) emulated::reduce<float>(v)
#define _mm512_reduce_pd(v, rounding) emulated::reduce<double>(v)
#define _mm512_cvtph_ps(v) emulated::widen_halves(v)
#define _mm512_cvtps_ph(v, rounding) emulated::narrow_to_halves(v)
#define _mm512_cvtepu16_epi32(v) \
  emulated::convert_lanes<std::uint32_t, std::uint16_t, emulated::Integers>(v)
#define _mm512_cvtepi8_epi32(v) \
  emulated::convert_lanes<std::int32_t, std::int8_t, emulated::Integers>(v)
#define _mm512_cvtepi32_ps(v) emulated::convert_lanes<float, std::int32_t, emulated::Floats>(v)
#define _mm512_cvtps_epi32(v) emulated::round_lanes(v)
#define _mm512_cvtepi32_epi16(v) emulated::convert_lanes<std::uint16_t, std::uint32_t, __m256i>(v)
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps(sum, a, b) emulated::multiply_pairs(sum, a, b)
#define _mm512_cvtne2ps_pbh(high, low) emulated::narrow_two(high, low)
