// The scale of the scores, which is multiplied into the query. Where that would leave the range of
// the type, or come near its end, a power of two is multiplied into the scores instead.
//
// A key may be as large or as small as the type allows. So a product with it is safe, while the
// score itself is in range, only if the largest element of the scaled query is near the middle:
//
//   scale · query = scaled · 2^n,  largest |scaled| in [2^-64, 2^64] (doubles: 2^±512)
//   score = (scaled · key) · 2^n
//
// n is 0 but for such rows. Where it is not, scaled · key can only overflow if n >= 0, and then the
// score does so too; what it loses below the smallest number is at most 2^-86 of the scores if
// n < 0, and nothing beside such large scores if n > 0. The same bound keeps products of a query
// with integers of int8 in range before they are multiplied with their scale.
#pragma once

#include <math.h>

#include <cstddef>

#include "kernel.hpp"
#include "kernels/common/elements.hpp"
#include "kernels/common/rows.hpp"

namespace cpuattn {
namespace {

template <class T>
constexpr int kMiddle = sizeof(T) == 4 ? 64 : 512;

// scale = query · score. Pairs of bfloat16 take a power of two exactly, and their scores the rest.
template <class V>
struct QueryScale {
  using T = typename V::Element;
  static constexpr T kLeast = sizeof(T) == 4 ? T(__FLT_MIN__) : T(__DBL_MIN__);
  static constexpr T kMost = sizeof(T) == 4 ? T(__FLT_MAX__) : T(__DBL_MAX__);
  T query, score = 1;
  bool fits;  // in the type, with all digits

  explicit QueryScale(const Work& work) {
    double factor = work.scale;
    if constexpr (V::kPack > 1) {
      int exponent;
      score = static_cast<T>(frexp(work.scale, &exponent));
      factor = ldexp(1.0, exponent);
    }
    const double magnitude = fabs(factor);
    fits = work.scale == 0 || (magnitude >= kLeast && magnitude <= kMost);
    query = magnitude <= kMost ? static_cast<T>(factor) : factor < 0 ? -kMost : kMost;
  }
};

// The squares of scaled elements of queries, summed per lane: one instruction for each vector tells
// both ends of the range. Four sums, as short calls notice one long chain.
template <class V>
class Squares {
 public:
  void add(typename V::Vec x, std::ptrdiff_t slot = 0) {
    auto& sum = sum_[slot % 4];
    sum = V::fma(x, x, sum);
  }
  typename V::Vec get() const { return V::add(V::add(sum_[0], sum_[1]), V::add(sum_[2], sum_[3])); }

 private:
  typename V::Vec sum_[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
};

// Sums of squares of rows in the middle: a largest element from about 2^-60 to 2^64.
template <class T>
constexpr T kLeastSquare = sizeof(T) == 4 ? T(0x1p-120) : T(0x1p-1000);
template <class T>
constexpr T kMostSquare = sizeof(T) == 4 ? T(__FLT_MAX__) : T(__DBL_MAX__);

template <class T>
bool is_middle(T square) {
  return square >= kLeastSquare<T> && square <= kMostSquare<T>;
}

// Whether all lanes are, or if `kEach` is false, some and none is above. NaN is: it stays NaN.
template <class V, bool kEach>
bool are_middle(typename V::Vec square) {
  using T = typename V::Element;
  const auto most = V::set1(kMostSquare<T>), least = V::set1(kLeastSquare<T>);
  if (V::any(V::less(most, square))) return false;
  if (kEach) return !V::any(V::less(square, least));
  return V::any(V::less(least, square));
}

// The powers of two 2^n of the rows, in two steps that are both in range.
template <class T, int kRows>
struct ScoreFactors {
  alignas(64) T first[kRows];
  alignas(64) T second[kRows];
  bool any = false;

  void set(int row, int exponent) {
    if (exponent == 0) return;
    for (int r = 0; !any && r < kRows; ++r) first[r] = second[r] = 1;
    any = true;
    constexpr int kMost = sizeof(T) == 4 ? 252 : 2044;  // beyond it scores are 0 or overflow
    const int bounded = exponent < -kMost ? -kMost : exponent > kMost ? kMost : exponent;
    first[row] = static_cast<T>(ldexp(1.0, bounded / 2));
    second[row] = static_cast<T>(ldexp(1.0, bounded - bounded / 2));
  }
};

// Loads a query once more, scaled to the middle of the range: store(dim, element). Returns n, or 0
// without a store if there is nothing to scale: zeros, infinities, or all in range.
template <class V, class Store>
[[gnu::noinline]] int rescale_query(const Work& work, const void* row, Store store) {
  using T = typename V::Element;
  const auto for_each = [&](auto f) {
    T lane[V::kLanes];
    for (std::ptrdiff_t d = 0; d < work.head_dim; d += V::kLanes) {
      const std::ptrdiff_t rest = work.head_dim - d, count = rest < V::kLanes ? rest : V::kLanes;
      V::store(lane, load_row<V>(row, work.query.type, work.query.dim_stride, d, count));
      for (std::ptrdiff_t i = 0; i < count; ++i) f(d + i, static_cast<double>(lane[i]));
    }
  };
  double largest = 0;
  for_each([&](std::ptrdiff_t, double x) { largest = fabs(x) > largest ? fabs(x) : largest; });
  if (largest == 0 || work.scale == 0 || __builtin_isinf(largest)) return 0;
  int exponent, scale_exponent;
  frexp(largest, &exponent);
  const double fraction = frexp(work.scale, &scale_exponent);
  const int wanted = exponent + scale_exponent;
  const int middle = wanted < -kMiddle<T> ? -kMiddle<T> : wanted > kMiddle<T> ? kMiddle<T> : wanted;
  const int shift = middle - exponent;
  for_each([&](std::ptrdiff_t d, double x) {
    store(d, static_cast<T>(V::kPack == 1 ? ldexp(x, shift) * fraction : ldexp(x, shift)));
  });
  return wanted - middle;
}

// scores[key][row] · 2^n
template <class V, int kVecs>
[[gnu::noinline]] void multiply_scores(
    const ScoreFactors<typename V::Element, kVecs * V::kLanes>& factors, std::ptrdiff_t count,
    typename V::Element* scores) {
  constexpr int kRows = kVecs * V::kLanes;
  for (std::ptrdiff_t i = 0; i < count * kRows; i += kRows) {
    for (int n = 0; n < kRows; n += V::kLanes) {
      const auto once = V::mul(V::load(scores + i + n), V::load(factors.first + n));
      V::store(scores + i + n, V::mul(once, V::load(factors.second + n)));
    }
  }
}

}  // namespace
}  // namespace cpuattn
