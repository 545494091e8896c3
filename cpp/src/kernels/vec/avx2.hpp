// AVX2, FMA and F16C: the interface of scalar.hpp over 32-byte vectors.
#pragma once

#include <immintrin.h>
#include <math.h>

#include <cstddef>
#include <cstdint>

#include "half.hpp"

namespace cpuattn {
namespace {

struct Avx2F32 {
  using Element = float;
  using Vec = __m256;
  using Mask = __m256;  // all bits of a lane set or clear
  static constexpr int kLanes = 8;
  static constexpr int kPack = 1;
  static constexpr int kAccumulators = 12;
  static constexpr int kBlockVecs = 8;
  static constexpr int kTileVecs = 2;

  static __m256i first(std::ptrdiff_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
  }

  static Vec zero() { return _mm256_setzero_ps(); }
  static Vec set1(float x) { return _mm256_set1_ps(x); }
  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
  static Vec load(const Float16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Vec load(const BFloat16* p) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
  static Vec load(const std::int8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
  }
  static void store(Float16* p, Vec v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static void store(BFloat16* p, Vec v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const Vec kept = select(is_nan(v), _mm256_castsi256_ps(quiet), _mm256_castsi256_ps(rounded));
    const __m256i upper = _mm256_srli_epi32(_mm256_castps_si256(kept), 16);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(p),
        _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1)));
  }
  static Vec load_partial(const float* p, std::ptrdiff_t n) {
    return _mm256_maskload_ps(p, first(n));
  }
  static void store_partial(float* p, Vec v, std::ptrdiff_t n) {
    _mm256_maskstore_ps(p, first(n), v);
  }
  static Vec load_bool(const unsigned char* p, std::ptrdiff_t n) {
    unsigned char bytes[8] = {};
    if (n >= kLanes) {
      __builtin_memcpy(bytes, p, 8);
    } else {
      for (std::ptrdiff_t i = 0; i < n; ++i) bytes[i] = p[i];
    }
    const __m128i packed = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
    const __m256i clear = _mm256_cmpeq_epi32(_mm256_cvtepu8_epi32(packed), _mm256_setzero_si256());
    return _mm256_and_ps(_mm256_castsi256_ps(clear), set1(-INFINITY));
  }

  static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  static Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
  static Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
  static Vec round(Vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT); }
  static constexpr float kPow2Unit = 0x1p-24f;
  static Vec mul_pow2(Vec p, Vec n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127 + 24));
    const __m256i power = _mm256_slli_epi32(_mm256_max_epi32(exponent, _mm256_setzero_si256()),
                                            23);  // 2^-151 and less become 0
    return mul(p, _mm256_castsi256_ps(power));
  }
  static Vec split(Vec y, Vec* fraction) {
    const Vec bounded = max(set1(-151), y);
    const Vec n = _mm256_floor_ps(bounded);
    *fraction = sub(bounded, n);
    return n;
  }

  static Mask less(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static Mask equal(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
  static Mask is_nan(Vec v) { return _mm256_cmp_ps(v, v, _CMP_UNORD_Q); }
  static bool any(Mask m) { return _mm256_movemask_ps(m) != 0; }
  static Vec select(Mask m, Vec yes, Vec no) { return _mm256_blendv_ps(no, yes, m); }

  static Vec sum_each(const Vec (&v)[kLanes]) {
    const Vec a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    const Vec b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
    return add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  }
  static void transpose(Vec (&v)[kLanes]) {
    Vec t[8];
#pragma GCC unroll 4
    for (std::ptrdiff_t i = 0; i < 4; ++i) {
      t[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
      t[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
    Vec u[8];
#pragma GCC unroll 2
    for (std::ptrdiff_t i = 0; i < 8;
         i += 4) {  // half h of u[i + k] is column 4h + k of rows i to i + 3
      u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
      u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
      u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (std::ptrdiff_t k = 0; k < 4; ++k) {
      v[k] = _mm256_permute2f128_ps(u[k], u[k + 4], 0x20);
      v[k + 4] = _mm256_permute2f128_ps(u[k], u[k + 4], 0x31);
    }
  }
  static void prefetch(const void* p) {
    __asm__ volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
  }
};

struct Avx2F64 {
  using Element = double;
  using Vec = __m256d;
  using Mask = __m256d;
  static constexpr int kLanes = 4;
  static constexpr int kPack = 1;
  static constexpr int kAccumulators = 12;
  static constexpr int kBlockVecs = 8;
  static constexpr int kTileVecs = 2;

  static __m256i first(std::ptrdiff_t n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
  }

  static Vec zero() { return _mm256_setzero_pd(); }
  static Vec set1(double x) { return _mm256_set1_pd(x); }
  static Vec load(const double* p) { return _mm256_loadu_pd(p); }
  static void store(double* p, Vec v) { _mm256_storeu_pd(p, v); }
  static Vec load_partial(const double* p, std::ptrdiff_t n) {
    return _mm256_maskload_pd(p, first(n));
  }
  static void store_partial(double* p, Vec v, std::ptrdiff_t n) {
    _mm256_maskstore_pd(p, first(n), v);
  }
  static Vec load_bool(const unsigned char* p, std::ptrdiff_t n) {
    double score[4];
    for (std::ptrdiff_t i = 0; i < 4; ++i) score[i] = i < n && p[i] != 0 ? 0.0 : -double(INFINITY);
    return load(score);
  }

  static Vec add(Vec a, Vec b) { return _mm256_add_pd(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm256_sub_pd(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm256_mul_pd(a, b); }
  static Vec div(Vec a, Vec b) { return _mm256_div_pd(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_pd(a, b, c); }
  static Vec max(Vec a, Vec b) { return _mm256_max_pd(a, b); }
  static Vec min(Vec a, Vec b) { return _mm256_min_pd(a, b); }
  static Vec round(Vec v) { return _mm256_round_pd(v, _MM_FROUND_TO_NEAREST_INT); }
  static constexpr double kPow2Unit = 0x1p-53;
  static Vec mul_pow2(Vec p, Vec n) {
    const __m256i n64 = _mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(n));
    const __m256i exponent = _mm256_add_epi64(n64, _mm256_set1_epi64x(1023 + 53));
    const __m256i normal = _mm256_cmpgt_epi64(exponent, _mm256_setzero_si256());
    const __m256i power = _mm256_slli_epi64(_mm256_and_si256(exponent, normal), 52);
    return mul(p, _mm256_castsi256_pd(power));
  }
  static Vec split(Vec y, Vec* fraction) {
    const Vec bounded = max(set1(-1076), y);
    const Vec n = _mm256_floor_pd(bounded);
    *fraction = sub(bounded, n);
    return n;
  }

  static Mask less(Vec a, Vec b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
  static Mask equal(Vec a, Vec b) { return _mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
  static Mask is_nan(Vec v) { return _mm256_cmp_pd(v, v, _CMP_UNORD_Q); }
  static bool any(Mask m) { return _mm256_movemask_pd(m) != 0; }
  static Vec select(Mask m, Vec yes, Vec no) { return _mm256_blendv_pd(no, yes, m); }

  static Vec sum_each(const Vec (&v)[kLanes]) {
    const Vec a = _mm256_hadd_pd(v[0], v[1]);
    const Vec b = _mm256_hadd_pd(v[2], v[3]);
    return add(_mm256_permute2f128_pd(a, b, 0x20), _mm256_permute2f128_pd(a, b, 0x31));
  }
  static void transpose(Vec (&v)[kLanes]) {
    const Vec a = _mm256_unpacklo_pd(v[0], v[1]);
    const Vec b = _mm256_unpackhi_pd(v[0], v[1]);
    const Vec c = _mm256_unpacklo_pd(v[2], v[3]);
    const Vec d = _mm256_unpackhi_pd(v[2], v[3]);
    v[0] = _mm256_permute2f128_pd(a, c, 0x20);
    v[1] = _mm256_permute2f128_pd(b, d, 0x20);
    v[2] = _mm256_permute2f128_pd(a, c, 0x31);
    v[3] = _mm256_permute2f128_pd(b, d, 0x31);
  }
  static void prefetch(const void* p) {
    __asm__ volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
  }
};

using Float32 = Avx2F32;
using Float64 = Avx2F64;

}  // namespace
}  // namespace cpuattn
