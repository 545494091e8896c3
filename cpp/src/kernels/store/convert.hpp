// Rows of numbers as a cache stores them: rounded to another type, or quantised to int8.
//
//   for each row x:
//     int8:  scale  = max|x| / 127
//            target = round(x / scale)
//     else:  target = round(x)
//
// A row is read in pieces that stay in the first-level cache. Narrow or scattered numbers become an
// array of the kernel's type first, so that all the rest are plain loops over arrays, which the
// compiler turns into vectors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "half.hpp"
#include "kernel.hpp"
#include "kernels/common/elements.hpp"

namespace cpuattn {
namespace {

constexpr std::ptrdiff_t kPiece = 512;  // numbers; a multiple of every kLanes

// The numbers as they lie where the kernel can use them there, or their copies in `piece`.
template <class V, class S>
const typename V::Element* read_piece(const S* from, std::ptrdiff_t stride, std::ptrdiff_t count,
                                      typename V::Element* piece) {
  if constexpr (std::is_same_v<S, typename V::Element>) {
    if (stride == 1) return from;
  }
  std::ptrdiff_t i = 0;
  if (stride == 1) {
    for (; i + V::kLanes <= count; i += V::kLanes) V::store(piece + i, V::load(from + i));
  }
  for (; i < count; i += V::kLanes) {
    const std::ptrdiff_t rest = count - i < V::kLanes ? count - i : V::kLanes;
    V::store_partial(piece + i, load_strided<V>(from + i * stride, stride, rest), rest);
  }
  return piece;
}

// f(numbers, first, count) for each piece of a row of S.
template <class V, class S, class F>
void for_pieces(const S* row, const Conversion& rows, F f) {
  typename V::Element piece[kPiece];
  for (std::ptrdiff_t first = 0; first < rows.size; first += kPiece) {
    const std::ptrdiff_t rest = rows.size - first, count = rest < kPiece ? rest : kPiece;
    const S* from = row + first * rows.source_stride;
    f(read_piece<V>(from, rows.source_stride, count, piece), first, count);
  }
}

// From where on a finite number overflows on its way; 0: nowhere. float64 goes to bfloat16 by way
// of float32; bfloat16 itself knows no overflow.
template <class S, class To>
constexpr double overflow_limit() {
  if (std::is_same_v<To, Float16> && !std::is_same_v<S, BFloat16>) return 65520;
  return sizeof(S) == 8 && sizeof(To) < 8 ? 0x1.ffffffp127 : 0;
}

// Whether a result is infinite or NaN, as few are: only then it is worth to look at the sources.
template <class To>
bool any_not_finite(const To* x, std::ptrdiff_t count) {
  using Bits = std::conditional_t<sizeof(To) == 2, std::uint16_t, std::uint32_t>;
  constexpr Bits kExponent = std::is_same_v<To, Float16>    ? Bits{0x7c00}
                             : std::is_same_v<To, BFloat16> ? Bits{0x7f80}
                                                            : static_cast<Bits>(0x7f800000u);
  Bits any = 0;
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    Bits bits;
    __builtin_memcpy(&bits, x + i, sizeof(bits));
    any |= static_cast<Bits>((bits & kExponent) == kExponent);
  }
  return any != 0;
}

template <class T>
bool any_overflows(const T* x, std::ptrdiff_t count, T limit) {
  constexpr T kLargest = sizeof(T) == 4 ? T(__FLT_MAX__) : T(__DBL_MAX__);
  int any = 0;
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    const T magnitude = x[i] < 0 ? -x[i] : x[i];
    any |= (magnitude >= limit) & (magnitude <= kLargest);
  }
  return any != 0;
}

template <class V, class To>
void round_piece(const typename V::Element* x, std::ptrdiff_t count, To* __restrict to) {
  if constexpr (sizeof(typename V::Element) == 4 && sizeof(To) == 2) {
    std::ptrdiff_t i = 0;
    for (; i + V::kLanes <= count; i += V::kLanes) V::store(to + i, V::load(x + i));
    if (i < count) store_strided<V>(to + i, 1, load_first<V>(x + i, count - i), count - i);
  } else {
    for (std::ptrdiff_t i = 0; i < count; ++i) convert(x[i], to + i);
  }
}

template <class V, class S, class To>
bool round_row(const S* row, const Conversion& rows, To* to) {
  using T = typename V::Element;
  if constexpr (std::is_same_v<T, To> && !std::is_same_v<S, T>) {
    read_piece<V>(row, rows.source_stride, rows.size, to);
    return false;
  } else {
    constexpr T kLimit = static_cast<T>(overflow_limit<S, To>());
    bool overflows = false;
    for_pieces<V>(row, rows, [&](const T* x, std::ptrdiff_t first, std::ptrdiff_t count) {
      round_piece<V>(x, count, to + first);
      if constexpr (kLimit > 0) {
        if (any_not_finite(to + first, count)) overflows |= any_overflows(x, count, kLimit);
      }
    });
    return overflows;
  }
}

inline std::int32_t magnitude_bits(float x) {
  return static_cast<std::int32_t>(bits_of(x) & 0x7fffffffu);
}
inline std::int64_t magnitude_bits(double x) {
  std::int64_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits & INT64_MAX;
}

// The largest magnitude of a row, NaN if it holds one: magnitudes are ordered like their bits, and
// NaN is beyond infinity.
template <class V, class S>
typename V::Element largest_magnitude(const S* row, const Conversion& rows) {
  using T = typename V::Element;
  decltype(magnitude_bits(T(0))) largest = 0;
  for_pieces<V>(row, rows, [&](const T* x, std::ptrdiff_t, std::ptrdiff_t count) {
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      const auto bits = magnitude_bits(x[i]);
      largest = bits > largest ? bits : largest;
    }
  });
  T magnitude;
  __builtin_memcpy(&magnitude, &largest, sizeof(magnitude));
  return magnitude;
}

// The integer nearest to |x| <= 127, ties to even: the sum has no digits behind the point, and its
// last byte is the integer.
inline std::int8_t nearest_int8(float x) {
  return static_cast<std::int8_t>(bits_of(x + 0x1.8p23f));
}
inline std::int8_t nearest_int8(double x) {
  const double sum = x + 0x1.8p52;
  std::uint64_t bits;
  __builtin_memcpy(&bits, &sum, sizeof(bits));
  return static_cast<std::int8_t>(bits);
}

template <class V, class S>
void quantize_row(const S* row, const Conversion& rows, std::int8_t* target, float* scale) {
  using T = typename V::Element;
  const auto largest = static_cast<float>(largest_magnitude<V>(row, rows) / 127);
  *scale = largest <= __FLT_MAX__ ? largest : __builtin_nanf("");
  if (!(*scale > 0)) {
    __builtin_memset(target, 0, static_cast<std::size_t>(rows.size));
    return;
  }
  const T divisor = *scale;
  for_pieces<V>(row, rows, [&](const T* x, std::ptrdiff_t first, std::ptrdiff_t count) {
    std::int8_t* __restrict to = target + first;
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      // Beyond 127 only where the scale is subnormal, rounded to few digits.
      T quotient = x[i] / divisor;
      quotient = quotient < 127 ? quotient : T(127);
      to[i] = nearest_int8(quotient > -127 ? quotient : T(-127));
    }
  });
}

template <class V, class To, class S>
bool convert_each(const S* source, const Conversion& rows) {
  bool overflows = false;
  for (std::ptrdiff_t r = 0; r < rows.num_rows; ++r) {
    const S* row = rows.size > 0 ? source + r * rows.source_row_stride : source;
    To* to = static_cast<To*>(rows.target) + r * rows.target_row_stride;
    if constexpr (std::is_same_v<To, std::int8_t>) {
      quantize_row<V>(row, rows, to, rows.scale + r * rows.scale_stride);
    } else {
      overflows |= round_row<V>(row, rows, to);
    }
  }
  return overflows;
}

template <class V, class S>
bool convert_from(const S* source, const Conversion& rows) {
  switch (rows.target_type) {
    case ElementType::kFloat16:
      return convert_each<V, Float16>(source, rows);
    case ElementType::kBFloat16:
      return convert_each<V, BFloat16>(source, rows);
    case ElementType::kFloat32:
      return convert_each<V, float>(source, rows);
    case ElementType::kFloat64:
      return convert_each<V, double>(source, rows);
    default:
      return convert_each<V, std::int8_t>(source, rows);
  }
}

template <class V>
bool convert_rows(const Conversion& rows) {
  using T = typename V::Element;
  if constexpr (sizeof(T) == 4) {
    if (rows.source_type == ElementType::kFloat16) {
      return convert_from<V>(static_cast<const Float16*>(rows.source), rows);
    }
    if (rows.source_type == ElementType::kBFloat16) {
      return convert_from<V>(static_cast<const BFloat16*>(rows.source), rows);
    }
  }
  return convert_from<V>(static_cast<const T*>(rows.source), rows);
}

}  // namespace
}  // namespace cpuattn
