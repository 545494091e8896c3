// Rows of float32 numbers as integers of three digits of base 256, so that products of bytes
// multiply them with int8 rows. Half a unit is 2^-24 of the row's largest number, or 2^-25 where
// none is negative: as exact as float32. Sums of integers are exact, in whatever order.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>

namespace cpuattn {
namespace {

constexpr int kDigits = 3;
// The largest integers, 127 or 255 in each digit, less what rounding may add.
constexpr float kMostSigned = 0x7f7f70, kMostUnsigned = 0xfffff0;

// number · 2^-exponent · to = integer; integer · from · 2^exponent = number. In two steps, so that
// no number is too large or too small for the first.
struct DigitScale {
  float exponent, to, from;
};

// For a row's largest number. If that is not finite, all of the row becomes NaN; if it is 0, all
// digits are 0, as what is left are numbers of the other sign.
inline DigitScale digit_scale(float largest, float most) {
  int exponent;
  const float fraction = frexpf(largest, &exponent);
  if (!__builtin_isfinite(largest)) return {0, 0, NAN};
  if (fraction == 0) return {0, 0, 1};
  return {static_cast<float>(exponent), most / fraction, fraction / most};
}

// Four neighbours of a row.
struct FourDigits {
  std::uint8_t digit[kDigits + 1][4];  // from the lowest one; the last are zeros
};

// Rows of numbers, four[i][row] for numbers 4i to 4i + 3. Behind the last number there are zeros.
template <int kRows>
struct DigitRows {
  FourDigits (*four)[kRows];
  DigitScale scale[kRows];
};

// The digits, by digits(vector of numbers to be rounded), of a row with zeros to a whole vector.
template <class V, int kRows, class Digits>
void make_digits(const float* numbers, std::ptrdiff_t count, const DigitScale& scale, int row,
                 DigitRows<kRows>& rows, Digits digits) {
  const auto shift = V::set1(-scale.exponent), factor = V::set1(scale.to);
  for (std::ptrdiff_t i = 0; i < count; i += V::kLanes) {
    const auto scaled = V::mul(V::mul_pow2(V::load(numbers + i), shift), factor);
    V::store_quarters(&rows.four[i / 4][row], sizeof(rows.four[0]), digits(scaled));
  }
  rows.scale[row] = scale;
}

// The numbers that sums of products with the digits of a row stand for.
template <class V>
typename V::Vec from_digits(const typename V::Integers (&sums)[kDigits], const DigitScale& scale) {
  auto number = V::to_float(sums[kDigits - 1]);
#pragma GCC unroll 4
  for (int digit = kDigits - 2; digit >= 0; --digit) {
    number = V::fma(number, V::set1(256), V::to_float(sums[digit]));
  }
  return V::mul_pow2(V::mul(number, V::set1(scale.from)), V::set1(scale.exponent));
}

// How far numbers go on either side of 0.
template <class V>
class Extent {
 public:
  void add(typename V::Vec x) {
    above_ = V::max(x, above_);
    below_ = V::max(V::sub(V::zero(), x), below_);
    probe_ = V::fma(V::zero(), x, probe_);
  }
  bool is_finite() const { return !V::any(V::is_nan(probe_)); }
  float above() const { return largest(above_); }
  float below() const { return largest(below_); }
  float magnitude() const { return largest(V::max(above_, below_)); }

 private:
  float largest(typename V::Vec v) const {
    if (!is_finite()) return INFINITY;
    alignas(64) float lanes[V::kLanes];
    V::store(lanes, v);
    float result = 0;
    for (const float x : lanes) result = x > result ? x : result;
    return result;
  }

  typename V::Vec above_ = V::zero();
  typename V::Vec below_ = V::zero();
  typename V::Vec probe_ = V::zero();  // NaN where a number is not finite
};

}  // namespace
}  // namespace cpuattn
