// The interface that every ISA implements, documented here without intrinsics. The other vec_*.hpp
// files have the same names over intrinsics; tests/cpp/test_vec.cpp holds each against plain C++.
//
// Four floats or two doubles per vector, by the vector extension of GCC and Clang: SSE2 on x86-64,
// and whatever else the compiler makes of it elsewhere.
#pragma once

#include <math.h>  // not <cmath>: its inline overloads could be shared between ISA files

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "half.hpp"

namespace cpuattn {
namespace {

template <class T>
struct ScalarVec {
  using Element = T;
  static constexpr int kLanes = 16 / sizeof(T);
  static constexpr int kPack = 1;          // numbers in an operand of a product (pairs.hpp: 2)
  static constexpr int kAccumulators = 8;  // vectors that a register tile may sum up in
  static constexpr int kBlockVecs = 4;     // query block = kBlockVecs * kLanes rows
  static constexpr int kTileVecs = 2;      // vectors of queries in a register tile

  using Bits = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  using Vec __attribute__((vector_size(16))) = T;
  using Mask __attribute__((vector_size(16))) = Bits;  // all bits of a lane set or clear

  template <class F>
  static Vec map(F f) {
    Vec r;
#pragma GCC unroll 4
    for (int i = 0; i < kLanes; ++i) r[i] = f(i);
    return r;
  }

  static Vec zero() { return set1(0); }
  static Vec set1(T x) {
    return map([&](int) { return x; });
  }
  static Vec load(const T* p) {
    Vec r;
    __builtin_memcpy(&r, p, sizeof(r));
    return r;
  }
  static void store(T* p, Vec v) { __builtin_memcpy(p, &v, sizeof(v)); }
  // float only: kLanes narrower numbers, converted exactly; stored rounded to nearest even.
  static Vec load(const Float16* p) {
    return map([&](int i) { return to_float(p[i]); });
  }
  static Vec load(const BFloat16* p) {
    return map([&](int i) { return to_float(p[i]); });
  }
  static Vec load(const std::int8_t* p) {
    return map([&](int i) { return static_cast<T>(p[i]); });
  }
  static void store(Float16* p, Vec v) {
    for (int i = 0; i < kLanes; ++i) convert(v[i], p + i);
  }
  static void store(BFloat16* p, Vec v) {
    for (int i = 0; i < kLanes; ++i) convert(v[i], p + i);
  }
  // The first n lanes (0 <= n <= kLanes) and nothing else is touched; the others are 0.
  static Vec load_partial(const T* p, std::ptrdiff_t n) {
    return map([&](int i) { return i < n ? p[i] : T(0); });
  }
  static void store_partial(T* p, Vec v, std::ptrdiff_t n) {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }
  // The first n bytes as scores of a bool mask: 0 where set, -inf where not; other lanes -inf.
  static Vec load_bool(const unsigned char* p, std::ptrdiff_t n) {
    return map([&](int i) { return i < n && p[i] != 0 ? T(0) : -T(INFINITY); });
  }

  static Vec add(Vec a, Vec b) { return a + b; }
  static Vec sub(Vec a, Vec b) { return a - b; }
  static Vec mul(Vec a, Vec b) { return a * b; }
  static Vec div(Vec a, Vec b) { return a / b; }
  // a * b + c. Rounded once where the ISA has it; here twice, since fma() without hardware is
  // a slow library call.
  static Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
  // The larger and the smaller; b if either is NaN, so the order of arguments is a choice.
  static Vec max(Vec a, Vec b) { return a > b ? a : b; }
  static Vec min(Vec a, Vec b) { return a < b ? a : b; }
  // To the nearest integer, for |v| < 2^22 (float) or 2^51 (double); ties either way.
  static Vec round(Vec v) {
    const Vec magic = set1(sizeof(T) == 4 ? T(0x1.8p23) : T(0x1.8p52));
    return (v + magic) - magic;
  }
  // p / kPow2Unit * 2^n for an integral n in [-1100, 103 (float) or 970 (double)], and
  // |p| / kPow2Unit in [0.5, 2]. Rounded once, also below the smallest normal number: the unit
  // keeps the power that is multiplied in the normal range. NaN in p stays NaN.
  static constexpr T kPow2Unit = sizeof(T) == 4 ? T(0x1p-24) : T(0x1p-53);
  static Vec mul_pow2(Vec p, Vec n) {
    constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52;
    constexpr int kBias = sizeof(T) == 4 ? 127 + 24 : 1023 + 53;
    // By bits: a conversion of NaN to an integer is undefined, and Clang makes use of it.
    const Vec magic = set1(sizeof(T) == 4 ? T(0x1.8p23) : T(0x1.8p52));
    const Mask integer = reinterpret_cast<Mask>(n + magic) - reinterpret_cast<Mask>(magic);
    const Mask exponent = integer + kBias;
    const Mask power = (exponent & (exponent > 0)) << kMantissa;  // 2^-kBias and less become 0
    return p * reinterpret_cast<Vec>(power);
  }
  // y = n + fraction with fraction in [0, 1): returns n as mul_pow2 takes it. y is at most 103
  // (float) or 970 (double); -inf gives the fraction 0 and a power of 0, NaN the fraction NaN.
  static Vec split(Vec y, Vec* fraction) {
    const Vec bounded = max(set1(sizeof(T) == 4 ? -151 : -1076), y);
    const Vec nearest = round(bounded);
    const Vec n = nearest > bounded ? nearest - 1 : nearest;
    *fraction = bounded - n;
    return n;
  }

  // Comparisons are false where either side is NaN.
  static Mask less(Vec a, Vec b) { return a < b; }
  static Mask equal(Vec a, Vec b) { return a == b; }
  static Mask is_nan(Vec v) { return v != v; }  // NOLINT(misc-redundant-expression)
  static bool any(Mask m) {
    Bits r = 0;
    for (int i = 0; i < kLanes; ++i) r |= m[i];
    return r != 0;
  }
  static Vec select(Mask m, Vec yes, Vec no) { return m ? yes : no; }

  // Lane i is the sum of the lanes of v[i]; the order of additions is fixed.
  static Vec sum_each(const Vec (&v)[kLanes]) {
    return map([&](int i) {
      T sum = v[i][0];
      for (int k = 1; k < kLanes; ++k) sum += v[i][k];
      return sum;
    });
  }
  // Lane i of v[k] changes place with lane k of v[i].
  static void transpose(Vec (&v)[kLanes]) {
    for (int i = 0; i < kLanes; ++i) {
      for (int k = 0; k < i; ++k) {
        const T x = v[i][k];
        v[i][k] = v[k][i];
        v[k][i] = x;
      }
    }
  }
  // Into the L2 cache (the L1 has few miss buffers: on Zen 4 they end at 11 GB/s). A hint; any
  // address is allowed. GCC 12 takes __builtin_prefetch alone in a function for nothing and may
  // drop it, so other ISAs use assembly.
  static void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }
};

using Float32 = ScalarVec<float>;
using Float64 = ScalarVec<double>;

}  // namespace
}  // namespace cpuattn
