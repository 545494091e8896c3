// The error of exp and tanh in units in the last place (ULP), over all floats of the range.
// CPUATTN_EXP_STRIDE=n looks at every n-th float only, for slow emulators.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "check.hpp"
#include "isa.hpp"
#include "kernels/common/exp.hpp"

namespace {

using cpuattn::Float32;
using cpuattn::Float64;

// Distance from the exact value, in units of the spacing of numbers of type T around it.
template <class T, class Exact>
double ulps(T got, Exact exact) {
  int exponent;
  std::frexp(static_cast<double>(exact), &exponent);
  constexpr int kDigits = std::numeric_limits<T>::digits;
  const int lowest = std::numeric_limits<T>::min_exponent;
  const int place = (exponent < lowest ? lowest : exponent) - kDigits;
  return static_cast<double>(std::fabs(static_cast<Exact>(got) - exact) /
                             std::ldexp(Exact(1), place));
}

// Whether the C library's functions of long double know more than those of double. They do not
// where the two types are one (macOS on ARM), nor in musl for those of 128 bits.
bool knows_more_than_double() {
  const volatile long double one = 1;  // computed here, not by the compiler
  const long double e = std::exp(one);
  return e != static_cast<long double>(static_cast<double>(e));
}

float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

// The largest error of f over the floats sign * [from, to], and where.
template <class F, class Exact>
double worst(F f, Exact exact, float sign, float from, float to, std::uint32_t stride) {
  constexpr int kLanes = Float32::kLanes;
  double largest = 0;
  for (std::uint32_t bits = bits_of(from); bits <= bits_of(to); bits += stride * kLanes) {
    float x[kLanes], y[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const std::uint32_t b = bits + static_cast<std::uint32_t>(i) * stride;
      x[i] = sign * float_of(b < bits_of(to) ? b : bits_of(to));
    }
    Float32::store(y, f(Float32::load(x)));
    for (int i = 0; i < kLanes; ++i) {
      largest = std::fmax(largest, ulps(y[i], exact(static_cast<double>(x[i]))));
    }
  }
  return largest;
}

void expect(const std::string& what, double error, double bound) {
  std::printf("%-34s %7.2f ULP (bound %g)\n", what.c_str(), error, bound);
  test::check(error <= bound, what);
}

void exp_float(std::uint32_t stride) {
  const auto f = [](Float32::Vec x) { return cpuattn::exp<Float32>(x); };
  const auto exact = [](double x) { return std::exp(x); };
  expect("exp, -2^-26 to -0", worst(f, exact, -1, 0, 0x1p-26f, stride * 1009), 0.5);
  expect("exp, -110 to -2^-26", worst(f, exact, -1, 0x1p-26f, 110, stride), 1.5);
  expect("exp, 2^-26 to 71", worst(f, exact, 1, 0x1p-26f, 71, stride), 1.5);
}

// The softmax's exp rounds its exponent: its error grows with |x| relative to itself, but hardly
// relative to exp(0).
void exp_weight_float(std::uint32_t stride) {
  const auto f = [](Float32::Vec x) { return cpuattn::exp_weight<Float32>(x); };
  const auto exact = [](double x) { return std::exp(x); };
  expect("weight, -1 to -0", worst(f, exact, -1, 0x1p-40f, 1, stride), 3.5);
  expect("weight, 0 to 8", worst(f, exact, 1, 0x1p-40f, 8, stride), 10);
  expect("weight, -110 to -1", worst(f, exact, -1, 1, 110, stride), 70);
}

// The error of exp_weight in units of the last place of 1, the largest weight.
template <class V>
double worst_beside_one() {
  using T = typename V::Element;
  double largest = 0;
  for (int i = 0; i < 200000; ++i) {
    const T x = T(-5e-4) * T(i);
    T y[V::kLanes];
    V::store(y, cpuattn::exp_weight<V>(V::set1(x)));
    const long double error = std::fabs(y[0] - std::exp(static_cast<long double>(x)));
    largest = std::fmax(largest, double(error) / double(std::numeric_limits<T>::epsilon()));
  }
  return largest;
}

// Caps near both ends of the range and beyond it, to 4 units in the last place.
template <class V>
void soft_caps() {
  using T = typename V::Element;
  const auto most = double(std::numeric_limits<T>::max());
  for (const double cap : {1e-300, 1e-46, 1e-40, 1e-30, 0.5, 1.0, 30.0, 1e30, 1e38, 3e38, 4e38,
                           5e38, 1e39, 1e60, 1e300, 1.7e308}) {
    const cpuattn::Cap<T> rounded(cap);
    for (int i = -60; i <= 60; ++i) {
      const double y = i == 0 ? 0 : std::ldexp(i < 0 ? -0.7 : 0.7, std::abs(i) / 2 - 25);
      for (const double wanted : {cap * y, y * 1e-3, y * 100, y * 1e30}) {
        const T score = static_cast<T>(std::fmin(std::fmax(wanted, -most), most));
        T got[V::kLanes];
        V::store(got, cpuattn::soft_cap<V>(V::set1(score), rounded));
        const long double wide_cap = cap, wide_score = score;
        const long double exact = wide_cap * std::tanh(wide_score / wide_cap);
        // 1 / cap overflows for a subnormal cap: scores below the normal numbers are not capped.
        const auto normal = double(std::numeric_limits<T>::min());
        const double lowest = double(std::numeric_limits<T>::denorm_min()) * 4;
        const long double floor = cap < normal ? normal : lowest;
        const long double allowed = std::fabs(exact) * 4 * std::numeric_limits<T>::epsilon();
        test::check(std::fabs(got[0] - exact) <= std::fmax(allowed, floor),
                    "soft cap of " + std::to_string(cap) + " at " + std::to_string(double(score)));
      }
    }
  }
}

void tanh_float(std::uint32_t stride) {
  const auto f = [](Float32::Vec x) { return cpuattn::tanh<Float32>(x); };
  const auto exact = [](double x) { return std::tanh(x); };
  expect("tanh, 2^-26 to 30", worst(f, exact, 1, 0x1p-26f, 30, stride), 2);
  expect("tanh, -30 to -2^-26", worst(f, exact, -1, 0x1p-26f, 30, stride * 7), 2);
}

// The weights of hidden keys are exactly 0, NaN stays NaN, and nothing is below 0.
template <class V>
void edges() {
  using T = typename V::Element;
  const auto value = [](T x) {
    T lane[V::kLanes];
    V::store(lane, cpuattn::exp<V>(V::set1(x)));
    T weight[V::kLanes];
    V::store(weight, cpuattn::exp_weight<V>(V::set1(x)));
    test::check(std::isnan(weight[0]) == std::isnan(lane[0]) && (x != 0 || weight[0] == 1) &&
                    !(weight[0] < 0),
                "exp_weight at the edges");
    return lane[V::kLanes - 1];
  };
  const T inf = std::numeric_limits<T>::infinity(), most = std::numeric_limits<T>::max();
  test::check(value(-inf) == 0 && value(-most) == 0, "exp(-inf) and exp(lowest) are 0");
  for (const T x : {-inf, -most}) {
    T weight[V::kLanes];
    V::store(weight, cpuattn::exp_weight<V>(V::set1(x)));
    test::check(weight[0] == 0, "exp_weight of -inf and the lowest are 0");
  }
  test::check(value(T(0)) == 1 && value(-T(0)) == 1, "exp(0) is 1");
  test::check(std::isnan(value(T(std::nan("")))), "exp(NaN) is NaN");
  for (int i = 0; i < 2000; ++i) test::check(value(T(-0.37) * T(i)) >= 0, "exp is not negative");
}

void exp_double() {
  double largest_exp = 0, largest_tanh = 0;
  for (int i = 0; i < 400000; ++i) {
    const double x = -750.0 * (i * 0x9e3779b9u % 1000003) / 1000003.0 * (i % 2 ? 1.0 : 0.002);
    double e[Float64::kLanes], t[Float64::kLanes];
    Float64::store(e, cpuattn::exp<Float64>(Float64::set1(x)));
    Float64::store(t, cpuattn::tanh<Float64>(Float64::set1(x)));
    largest_exp = std::fmax(largest_exp, ulps(e[0], std::exp(static_cast<long double>(x))));
    largest_tanh = std::fmax(largest_tanh, ulps(t[0], std::tanh(static_cast<long double>(x))));
  }
  expect("exp, double, -750 to 0", largest_exp, 1.5);
  expect("tanh, double, -750 to 0", largest_tanh, 2);
}

}  // namespace

int main() {
  if (!test::runs_here()) return test::kSkipped;
  const char* text = std::getenv("CPUATTN_EXP_STRIDE");
  const auto stride = static_cast<std::uint32_t>(text ? std::atoi(text) : 1);
  exp_float(stride);
  exp_weight_float(stride);
  expect("weight beside 1, float", worst_beside_one<Float32>(), 1.5);
  expect("weight beside 1, double", worst_beside_one<Float64>(), 1.5);
  tanh_float(stride);
  if (knows_more_than_double()) {
    soft_caps<Float32>();
    soft_caps<Float64>();
    exp_double();
  } else {
    std::printf("skipped: soft caps and exp of double, which std::exp(long double) cannot judge\n");
  }
  edges<Float32>();
  edges<Float64>();
  return test::finish();
}
