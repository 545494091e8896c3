// AVX512_BF16: products of bfloat16 numbers as they are, two at a time. All else is AVX-512's.
#pragma once

#include "kernels/vec/avx512.hpp"

namespace cpuattn {
namespace {

struct Avx512BF16 : Avx512F32 {
  static constexpr int kPack = 2;
  using Pairs = __m512i;  // kLanes pairs

  using Avx512F32::fma;
  using Avx512F32::load;
  using Avx512F32::load_halves;
  using Avx512F32::set1;
  using Avx512F32::store;

  static Pairs set1(BFloat16Pair x) {
    int bits;
    __builtin_memcpy(&bits, &x, sizeof(bits));
    return _mm512_set1_epi32(bits);
  }
  static Pairs load(const BFloat16Pair* p) { return _mm512_loadu_si512(p); }
  static Pairs load_halves(const BFloat16Pair* p) {
    const auto* halves = reinterpret_cast<const __m256i*>(p);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(halves)),
                              _mm256_loadu_si256(halves + 1), 1);
  }
  static void store(BFloat16Pair* p, Pairs v) { _mm512_storeu_si512(p, v); }

  // sum + a.second * b.second + a.first * b.first, rounded after each; subnormal numbers are 0.
  static Vec fma(Pairs a, Pairs b, Vec sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  // Rounded to nearest even.
  static Pairs pair(Vec first, Vec second) {
    const auto halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
    return _mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), halves);
  }
  // The way back.
  static Vec first_of(Pairs v) { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); }
  static Vec second_of(Pairs v) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(v, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
  }
  // kLanes numbers of each row.
  static Pairs pair(const BFloat16* first, const BFloat16* second) {
    return _mm512_permutex2var_epi16(half(first), _mm512_load_si512(kInterleaveTwo), half(second));
  }
  static Pairs clear_first(Mask m, Pairs v) {
    return _mm512_mask_and_epi32(v, m, v, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
  }
  static Pairs clear_second(Mask m, Pairs v) {
    return _mm512_mask_and_epi32(v, m, v, _mm512_set1_epi32(0xffff));
  }
  // kLanes pairs are one vector, to be moved about.
  static Vec as_vec(Pairs v) { return _mm512_castsi512_ps(v); }
  static Pairs as_pairs(Vec v) { return _mm512_castps_si512(v); }

 private:
  static __m512i half(const BFloat16* p) {
    return _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  // 0, 16, 1, 17, ...: one from the lower half of a vector, one from the upper, or (+ 32) from the
  // lower half of a second vector.
  alignas(64) static constexpr std::uint16_t kInterleave[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  alignas(64) static constexpr std::uint16_t kInterleaveTwo[32] = {
      0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
};

using BFloat16Products = Avx512BF16;

}  // namespace
}  // namespace cpuattn
