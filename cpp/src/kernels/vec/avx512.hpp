// AVX-512 (F, VL, BW, DQ): the interface of scalar.hpp over 64-byte vectors.
#pragma once

#include <immintrin.h>
#include <math.h>

#include <cstddef>
#include <cstdint>

#include "half.hpp"

namespace cpuattn {
namespace {

struct Avx512F32 {
  using Element = float;
  using Vec = __m512;
  using Mask = __mmask16;
  static constexpr int kLanes = 16;
  static constexpr int kPack = 1;
  static constexpr int kAccumulators = 24;
  static constexpr int kBlockVecs = 4;
  static constexpr int kTileVecs = 4;

  static Mask first(std::ptrdiff_t n) { return static_cast<Mask>((1u << n) - 1); }

  static Vec zero() { return _mm512_setzero_ps(); }
  static Vec set1(float x) { return _mm512_set1_ps(x); }
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
  static Vec load_halves(const float* p) {  // two loads instead of one
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(p)), _mm256_loadu_ps(p + 8),
                              1);
  }
  static Vec load(const Float16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vec load(const BFloat16* p) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(
        0xaaaaaaaa, _mm512_load_si512(kUpperHalves), _mm512_castsi256_si512(halves)));
  }
  static Vec load(const std::int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
  }
  static void store(Float16* p, Vec v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static void store(BFloat16* p, Vec v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __m512i kept = _mm512_mask_mov_epi32(rounded, is_nan(v), quiet);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
  }
  static Vec load_partial(const float* p, std::ptrdiff_t n) {
    return _mm512_maskz_loadu_ps(first(n), p);
  }
  static void store_partial(float* p, Vec v, std::ptrdiff_t n) {
    _mm512_mask_storeu_ps(p, first(n), v);
  }
  static Vec load_bool(const unsigned char* p, std::ptrdiff_t n) {
    const __m128i bytes = _mm_maskz_loadu_epi8(first(n), p);
    return _mm512_mask_mov_ps(set1(-INFINITY), _mm_test_epi8_mask(bytes, bytes), zero());
  }

  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
  static Vec round(Vec v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT); }
  static constexpr float kPow2Unit = 1;
  static Vec mul_pow2(Vec p, Vec n) { return _mm512_scalef_ps(p, n); }
  static Vec split(Vec y, Vec* fraction) {
    *fraction = _mm512_reduce_ps(y, _MM_FROUND_TO_NEG_INF);  // of -inf: 0
    return y;                                                // scalef takes the floor
  }

  static Mask less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static Mask equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static Mask is_nan(Vec v) { return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q); }
  static bool any(Mask m) { return m != 0; }
  static Vec select(Mask m, Vec yes, Vec no) { return _mm512_mask_blend_ps(m, no, yes); }

  // Four rounds, each halving the vectors: 15 additions for 16 sums.
  static Vec sum_each(const Vec (&v)[kLanes]) {
    Vec pairs[8], quads[4];
#pragma GCC unroll 8
    for (std::ptrdiff_t i = 0; i < 8; ++i) pairs[i] = fold_pairs(v[2 * i], v[2 * i + 1]);
#pragma GCC unroll 4
    for (std::ptrdiff_t i = 0; i < 4; ++i) quads[i] = fold_quads(pairs[2 * i], pairs[2 * i + 1]);
    const Vec low = fold_halves(quads[0], quads[1]);
    const Vec high = fold_halves(quads[2], quads[3]);
    // Each quarter of `low` holds the sums of quads[0] or quads[1] over half of the lanes.
    return fold_halves(low, high);
  }
  static void transpose(Vec (&v)[kLanes]) {
    __m512 t[16];
#pragma GCC unroll 8
    for (std::ptrdiff_t i = 0; i < 8; ++i) {
      t[2 * i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
      t[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (std::ptrdiff_t i = 0; i < 16;
         i += 4) {  // v[i + k] now holds columns k, k + 4, k + 8, k + 12
      v[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
      v[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
      v[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      v[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (std::ptrdiff_t k = 0; k < 4; ++k) {
      const Vec a = _mm512_shuffle_f32x4(v[k], v[k + 4], 0x88);
      const Vec b = _mm512_shuffle_f32x4(v[k], v[k + 4], 0xdd);
      const Vec c = _mm512_shuffle_f32x4(v[k + 8], v[k + 12], 0x88);
      const Vec d = _mm512_shuffle_f32x4(v[k + 8], v[k + 12], 0xdd);
      t[k] = _mm512_shuffle_f32x4(a, c, 0x88);
      t[k + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
      t[k + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
      t[k + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
#pragma GCC unroll 16
    for (std::ptrdiff_t i = 0; i < 16; ++i) v[i] = t[i];
  }
  static void prefetch(const void* p) {
    __asm__ volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
  }

 private:
  alignas(64) static constexpr std::uint16_t kUpperHalves[32] = {
      0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
      0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
  // Sums of neighbours: in each quarter a0+a2, b0+b2, a1+a3, b1+b3 (in that order).
  static Vec fold_pairs(Vec a, Vec b) {
    return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  }
  // From two results of fold_pairs (of a, b and c, d): in each quarter a, b, c, d.
  static Vec fold_quads(Vec ab, Vec cd) {
    return _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  }
  static Vec fold_halves(Vec a, Vec b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }
};

struct Avx512F64 {
  using Element = double;
  using Vec = __m512d;
  using Mask = __mmask8;
  static constexpr int kLanes = 8;
  static constexpr int kPack = 1;
  static constexpr int kAccumulators = 24;
  static constexpr int kBlockVecs = 4;
  static constexpr int kTileVecs = 4;

  static Mask first(std::ptrdiff_t n) { return static_cast<Mask>((1u << n) - 1); }

  static Vec zero() { return _mm512_setzero_pd(); }
  static Vec set1(double x) { return _mm512_set1_pd(x); }
  static Vec load(const double* p) { return _mm512_loadu_pd(p); }
  static void store(double* p, Vec v) { _mm512_storeu_pd(p, v); }
  static Vec load_halves(const double* p) {  // two loads instead of one
    return _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(p)), _mm256_loadu_pd(p + 4),
                              1);
  }
  static Vec load_partial(const double* p, std::ptrdiff_t n) {
    return _mm512_maskz_loadu_pd(first(n), p);
  }
  static void store_partial(double* p, Vec v, std::ptrdiff_t n) {
    _mm512_mask_storeu_pd(p, first(n), v);
  }
  static Vec load_bool(const unsigned char* p, std::ptrdiff_t n) {
    const __m128i bytes = _mm_maskz_loadu_epi8(first(n), p);
    const Mask set = static_cast<Mask>(_mm_test_epi8_mask(bytes, bytes));
    return _mm512_mask_mov_pd(set1(-double(INFINITY)), set, zero());
  }

  static Vec add(Vec a, Vec b) { return _mm512_add_pd(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm512_sub_pd(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm512_mul_pd(a, b); }
  static Vec div(Vec a, Vec b) { return _mm512_div_pd(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_pd(a, b, c); }
  static Vec max(Vec a, Vec b) { return _mm512_max_pd(a, b); }
  static Vec min(Vec a, Vec b) { return _mm512_min_pd(a, b); }
  static Vec round(Vec v) { return _mm512_roundscale_pd(v, _MM_FROUND_TO_NEAREST_INT); }
  static constexpr double kPow2Unit = 1;
  static Vec mul_pow2(Vec p, Vec n) { return _mm512_scalef_pd(p, n); }
  static Vec split(Vec y, Vec* fraction) {
    *fraction = _mm512_reduce_pd(y, _MM_FROUND_TO_NEG_INF);  // of -inf: 0
    return y;                                                // scalef takes the floor
  }

  static Mask less(Vec a, Vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
  static Mask equal(Vec a, Vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
  static Mask is_nan(Vec v) { return _mm512_cmp_pd_mask(v, v, _CMP_UNORD_Q); }
  static bool any(Mask m) { return m != 0; }
  static Vec select(Mask m, Vec yes, Vec no) { return _mm512_mask_blend_pd(m, no, yes); }

  static Vec sum_each(const Vec (&v)[kLanes]) {
    Vec pairs[4];  // pairs[i]: quarters of sums of two lanes of v[2i] and v[2i + 1]
#pragma GCC unroll 4
    for (std::ptrdiff_t i = 0; i < 4; ++i) {
      pairs[i] = _mm512_add_pd(_mm512_unpacklo_pd(v[2 * i], v[2 * i + 1]),
                               _mm512_unpackhi_pd(v[2 * i], v[2 * i + 1]));
    }
    return fold_halves(fold_halves(pairs[0], pairs[1]), fold_halves(pairs[2], pairs[3]));
  }
  static void transpose(Vec (&v)[kLanes]) {
    __m512d t[8];
#pragma GCC unroll 4
    for (std::ptrdiff_t i = 0; i < 4; ++i) {
      t[2 * i] = _mm512_unpacklo_pd(v[2 * i], v[2 * i + 1]);
      t[2 * i + 1] = _mm512_unpackhi_pd(v[2 * i], v[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (std::ptrdiff_t k = 0; k < 2;
         ++k) {  // quarter q of t[2i + k] holds column 2q + k of rows 2i, 2i + 1
      const Vec a = _mm512_shuffle_f64x2(t[k], t[k + 2], 0x88);
      const Vec b = _mm512_shuffle_f64x2(t[k], t[k + 2], 0xdd);
      const Vec c = _mm512_shuffle_f64x2(t[k + 4], t[k + 6], 0x88);
      const Vec d = _mm512_shuffle_f64x2(t[k + 4], t[k + 6], 0xdd);
      v[k] = _mm512_shuffle_f64x2(a, c, 0x88);
      v[k + 4] = _mm512_shuffle_f64x2(a, c, 0xdd);
      v[k + 2] = _mm512_shuffle_f64x2(b, d, 0x88);
      v[k + 6] = _mm512_shuffle_f64x2(b, d, 0xdd);
    }
  }
  static void prefetch(const void* p) {
    __asm__ volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
  }

 private:
  static Vec fold_halves(Vec a, Vec b) {
    return _mm512_add_pd(_mm512_shuffle_f64x2(a, b, 0x88), _mm512_shuffle_f64x2(a, b, 0xdd));
  }
};

using Float32 = Avx512F32;
using Float64 = Avx512F64;

}  // namespace
}  // namespace cpuattn
