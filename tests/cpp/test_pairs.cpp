// The operations on pairs of bfloat16 numbers against plain C++, one number at a time.
#include <cmath>
#include <cstring>

#include "check.hpp"
#include "isa.hpp"

namespace {

using cpuattn::BFloat16;
using cpuattn::BFloat16Pair;
using V = cpuattn::BFloat16Products;
constexpr int kLanes = V::kLanes;

bool same(float a, float b) {
  return std::memcmp(&a, &b, sizeof(a)) == 0 || (std::isnan(a) && std::isnan(b));
}
bool same(BFloat16 a, BFloat16 b) { return same(to_float(a), to_float(b)); }

// What the instructions make of subnormal numbers.
float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

struct Numbers {
  unsigned state;

  float next() {
    const float special[] = {0, -0.0f, 1, -1, INFINITY, -INFINITY, NAN, 0x1p-130f, 0x1p60f};
    state = state * 1664525u + 1013904223u;
    const unsigned r = state >> 8;
    return r % 7 == 0 ? special[r / 7 % 9]
                      : std::ldexp(float(r % 20011) / 10007.0f - 1.0f, int(r / 7 % 13) - 6);
  }
  BFloat16 next_narrow() {
    BFloat16 x;
    cpuattn::convert(next(), &x);
    return x;
  }
};

void products(unsigned seed) {
  Numbers numbers{seed};
  BFloat16Pair a[kLanes], b[kLanes];
  float sum[kLanes], result[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    a[i] = {numbers.next_narrow(), numbers.next_narrow()};
    b[i] = {numbers.next_narrow(), numbers.next_narrow()};
    sum[i] = flushed(numbers.next());
  }
  V::store(result, V::fma(V::load(a), V::load(b), V::load(sum)));
  for (int i = 0; i < kLanes; ++i) {
    const auto wide = [](BFloat16 x) { return flushed(to_float(x)); };
    const float odd = std::fma(wide(a[i].second), wide(b[i].second), sum[i]);
    const float expected = std::fma(wide(a[i].first), wide(b[i].first), flushed(odd));
    test::check(same(result[i], flushed(expected)), "fma of pairs");
  }
  V::store(result, V::fma(V::set1(a[3]), V::load(b), V::load(sum)));
  BFloat16Pair all[kLanes];
  for (BFloat16Pair& pair : all) pair = a[3];
  float expected[kLanes];
  V::store(expected, V::fma(V::load(all), V::load(b), V::load(sum)));
  for (int i = 0; i < kLanes; ++i) test::check(same(result[i], expected[i]), "set1 of a pair");
  BFloat16Pair loaded[kLanes];
  V::store(loaded, V::load_halves(a));
  test::check(std::memcmp(loaded, a, sizeof(a)) == 0, "load_halves");
}

void moves(unsigned seed) {
  Numbers numbers{seed};
  float first[kLanes], second[kLanes];
  BFloat16 narrow_first[kLanes], narrow_second[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    cpuattn::convert(first[i] = flushed(numbers.next()), narrow_first + i);
    cpuattn::convert(second[i] = flushed(numbers.next()), narrow_second + i);
  }
  BFloat16Pair rounded[kLanes], interleaved[kLanes], turned[kLanes];
  V::store(rounded, V::pair(V::load(first), V::load(second)));
  const V::Pairs pairs = V::pair(narrow_first, narrow_second);
  V::store(interleaved, pairs);
  V::store(turned, V::as_pairs(V::as_vec(pairs)));
  BFloat16Pair without_first[kLanes], without_second[kLanes];
  const V::Mask mask = V::less(V::load(first), V::load(second));
  V::store(without_first, V::clear_first(mask, pairs));
  V::store(without_second, V::clear_second(mask, pairs));
  for (int i = 0; i < kLanes; ++i) {
    test::check(same(rounded[i].first, narrow_first[i]), "pair of floats, first");
    test::check(same(rounded[i].second, narrow_second[i]), "pair of floats, second");
    test::check(interleaved[i].first.bits == narrow_first[i].bits, "pair of rows, first");
    test::check(interleaved[i].second.bits == narrow_second[i].bits, "pair of rows, second");
    test::check(std::memcmp(&turned[i], &interleaved[i], sizeof(turned[i])) == 0, "as_vec");
    const bool cleared = first[i] < second[i];
    const auto zero = std::uint16_t{0};
    test::check(without_first[i].first.bits == (cleared ? zero : narrow_first[i].bits) &&
                    without_first[i].second.bits == narrow_second[i].bits,
                "clear_first");
    test::check(without_second[i].second.bits == (cleared ? zero : narrow_second[i].bits) &&
                    without_second[i].first.bits == narrow_first[i].bits,
                "clear_second");
  }
}

}  // namespace

int main() {
  if (!test::runs_here()) return test::kSkipped;
  for (unsigned seed = 1; seed < 2000; ++seed) {
    products(seed);
    moves(seed);
  }
  return test::finish();
}
