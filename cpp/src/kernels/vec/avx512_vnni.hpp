// AVX512_VNNI: products of unsigned and signed bytes, four to a lane, summed as integers. All else
// is AVX-512's.
#pragma once

#include "kernels/vec/avx512.hpp"

namespace cpuattn {
namespace {

struct Avx512Vnni : Avx512F32 {
  using Quads = __m512i;     // kLanes times four bytes
  using Integers = __m512i;  // kLanes of 32 bits

  using Avx512F32::store;

  static Integers set1_integer(std::int32_t x) { return _mm512_set1_epi32(x); }
  static Integers load_integers(const std::int32_t* p) { return _mm512_loadu_si512(p); }
  static void store(std::int32_t* p, Integers v) { _mm512_storeu_si512(p, v); }
  static Vec to_float(Integers v) { return _mm512_cvtepi32_ps(v); }

  // sum + the four products of a lane.
  static Integers dot(Quads unsigned_bytes, Quads signed_bytes, Integers sum) {
    return _mm512_dpbusd_epi32(sum, unsigned_bytes, signed_bytes);
  }
  static Quads set1_quad(const void* bytes) {
    std::int32_t quad;
    __builtin_memcpy(&quad, bytes, sizeof(quad));
    return _mm512_set1_epi32(quad);
  }

  // Numbers, rounded to the nearest integer, as three digits of base 256, signed or not: of each
  // four numbers the four lowest digits, the next ones, the highest ones, and four zeros.
  static Quads signed_digits(Vec numbers) {
    const __m512i half = _mm512_set1_epi32(0x808080);
    const __m512i carried = _mm512_add_epi32(_mm512_cvtps_epi32(numbers), half);
    return digits_of_each_four(_mm512_xor_si512(carried, half));
  }
  static Quads unsigned_digits(Vec numbers) {
    return digits_of_each_four(_mm512_cvtps_epi32(numbers));
  }
  // Its quarters, 16 bytes each, `stride` bytes apart.
  static void store_quarters(void* p, std::ptrdiff_t stride, Quads v) {
    auto* bytes = static_cast<unsigned char*>(p);
    const auto store_quarter = [&](std::ptrdiff_t k, __m128i quarter) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + k * stride), quarter);
    };
    store_quarter(0, _mm512_castsi512_si128(v));
    store_quarter(1, _mm512_extracti32x4_epi32(v, 1));
    store_quarter(2, _mm512_extracti32x4_epi32(v, 2));
    store_quarter(3, _mm512_extracti32x4_epi32(v, 3));
  }

  // The 16 bytes at p[0] to p[15], of which the first `count` are there, with 128 added, which
  // makes them unsigned: quads[i] has in its lane k the bytes 4i to 4i + 3 of p[k].
  [[gnu::always_inline]] static void load_columns(const std::int8_t* const* p, std::ptrdiff_t dim,
                                                  std::ptrdiff_t count, Quads (&quads)[4]) {
    __m512i a[4], b[4];  // a[i]: of the rows i, i + 4, i + 8 and i + 12
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      __m512i rows = _mm512_castsi128_si512(load_quarter(p[i] + dim, count));
      rows = _mm512_mask_broadcast_i32x4(rows, 0x00f0, load_quarter(p[i + 4] + dim, count));
      rows = _mm512_mask_broadcast_i32x4(rows, 0x0f00, load_quarter(p[i + 8] + dim, count));
      rows = _mm512_mask_broadcast_i32x4(rows, 0xf000, load_quarter(p[i + 12] + dim, count));
      a[i] = _mm512_xor_si512(rows, _mm512_set1_epi32(static_cast<int>(0x80808080)));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 4; i += 2) {
      b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 2
    for (std::ptrdiff_t i = 0; i < 2; ++i) {
      quads[2 * i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
      quads[2 * i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    }
  }

  // The 32 bytes at p[0] to p[3], of which the first `count` are there: a lane of the two vectors
  // has a byte of each row, but in an order that in_order puts right.
  [[gnu::always_inline]] static void load_rows(const std::int8_t* const* p, std::ptrdiff_t dim,
                                               std::ptrdiff_t count, Quads (&quads)[2]) {
    __m512i even = _mm512_castsi256_si512(load_half(p[0] + dim, count));
    __m512i odd = _mm512_castsi256_si512(load_half(p[1] + dim, count));
    even = _mm512_mask_broadcast_i64x4(even, 0xf0, load_half(p[2] + dim, count));
    odd = _mm512_mask_broadcast_i64x4(odd, 0xf0, load_half(p[3] + dim, count));
    // Pairs of bytes of the rows 0 and 1 in the lower half, of 2 and 3 in the upper.
    const __m512i interleave = _mm512_load_si512(kInterleave);
    quads[0] = _mm512_permutexvar_epi16(interleave, _mm512_unpacklo_epi8(even, odd));
    quads[1] = _mm512_permutexvar_epi16(interleave, _mm512_unpackhi_epi8(even, odd));
  }
  // What was computed from the two vectors of load_rows: bytes 0 to 15, and 16 to 31.
  static void in_order(Vec (&v)[2]) {
    const Vec first = _mm512_shuffle_f32x4(v[0], v[1], 0x44);
    v[1] = _mm512_shuffle_f32x4(v[0], v[1], 0xee);
    v[0] = first;
  }

 private:
  static Quads digits_of_each_four(__m512i integers) {
    const __m128i transpose = _mm_load_si128(reinterpret_cast<const __m128i*>(kTranspose));
    return _mm512_shuffle_epi8(integers, _mm512_broadcast_i32x4(transpose));
  }
  [[gnu::always_inline]] static __m128i load_quarter(const std::int8_t* p, std::ptrdiff_t count) {
    if (count >= 16) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << count) - 1), p);
  }
  [[gnu::always_inline]] static __m256i load_half(const std::int8_t* p, std::ptrdiff_t count) {
    if (count >= 32) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm256_maskz_loadu_epi8((1u << count) - 1, p);
  }

  alignas(16) static constexpr std::uint8_t kTranspose[16] = {0, 4, 8,  12, 1, 5, 9,  13,
                                                              2, 6, 10, 14, 3, 7, 11, 15};
  // 0, 16, 1, 17, ...: one from the lower half of a vector, one from the upper.
  alignas(64) static constexpr std::uint16_t kInterleave[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
};

using Int8Products = Avx512Vnni;

}  // namespace
}  // namespace cpuattn
