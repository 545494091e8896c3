// The 16-bit floating-point numbers as they lie in memory, and their conversions in plain C++: what
// the kernels do in whole vectors, one number at a time. Rounding is to the nearest, ties to even.
#pragma once

#include <cstdint>

namespace cpuattn {
namespace {

struct Float16 {  // IEEE 754 binary16
  std::uint16_t bits;
};
struct BFloat16 {  // the upper half of a float
  std::uint16_t bits;
};

// Two neighbours, as the instructions that multiply bfloat16 numbers take them.
struct BFloat16Pair {
  BFloat16 first, second;
};

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float float_of(std::uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

inline float to_float(BFloat16 x) { return float_of(std::uint32_t{x.bits} << 16); }

inline float to_float(Float16 x) {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16;
  const std::uint32_t exponent = x.bits & 0x7c00u, magnitude = x.bits & 0x7fffu;
  std::uint32_t bits = (magnitude << 13) + (112u << 23);  // the exponents' biases are 112 apart
  if (exponent == 0x7c00u) {
    bits = 0x7f800000u | magnitude << 13;  // inf and NaN
  } else if (exponent == 0) {
    bits = bits_of(static_cast<float>(magnitude) * 0x1p-24f);  // subnormal numbers and 0
  }
  return float_of(sign | bits);
}

inline void convert(float x, float* to) { *to = x; }
inline void convert(double x, double* to) { *to = x; }

inline void convert(float x, BFloat16* to) {
  const std::uint32_t bits = bits_of(x);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const std::uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  to->bits = static_cast<std::uint16_t>((is_nan ? bits | 0x400000u : rounded) >> 16);
}

inline void convert(float x, Float16* to) {
  const std::uint32_t sign = bits_of(x) >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits_of(x) & 0x7fffffffu;
  std::uint32_t bits;
  if (magnitude > 0x7f800000u) {
    bits = 0x7e00u | (magnitude >> 13 & 0x3ffu);  // NaN
  } else if (magnitude >= 0x477ff000u) {
    bits = 0x7c00u;  // from 65520 on: inf
  } else if (magnitude < 0x38800000u) {
    // Below 2^-14 numbers are multiples of 2^-24, the last digit of those from 0.5 to 1.
    bits = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  } else {
    bits = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  to->bits = static_cast<std::uint16_t>(sign | bits);
}

// The float that is x, or of the two beside x the one whose last bit is 1. It is a tie of a shorter
// type only if x is, and on the same side of it otherwise: rounded once more, it is x rounded once.
inline float rounded_to_odd(double x) {
  const auto nearest = static_cast<float>(x);
  const double back = nearest;
  const std::uint32_t bits = bits_of(nearest);
  const bool moves = back != x && x == x && (bits & 1u) == 0;
  const bool outwards = __builtin_fabs(back) < __builtin_fabs(x);
  return float_of(moves ? (outwards ? bits + 1u : bits - 1u) : bits);
}

inline void convert(double x, float* to) { *to = static_cast<float>(x); }
inline void convert(double x, Float16* to) { convert(rounded_to_odd(x), to); }
inline void convert(double x, BFloat16* to) { convert(rounded_to_odd(x), to); }
inline void convert(float x, double* to) { *to = x; }

}  // namespace
}  // namespace cpuattn
