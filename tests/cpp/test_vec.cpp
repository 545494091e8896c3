// Every operation of an ISA's vectors against the plain C++ of the same operation, lane by lane,
// on numbers that include zeros, NaN, infinities and neighbours of every edge.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "check.hpp"
#include "isa.hpp"

namespace {

template <class T>
bool same(T a, T b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0 || (std::isnan(a) && std::isnan(b));
}

// Where vectors are whole cache lines, they can also be loaded in two steps.
template <class V, class T>
auto load_halves(const T* p, int) -> decltype(V::load_halves(p)) {
  return V::load_halves(p);
}
template <class V, class T>
auto load_halves(const T* p, long) {
  return V::load(p);
}

template <class V>
struct VecTest {
  using T = typename V::Element;
  using Vec = typename V::Vec;
  static constexpr int kLanes = V::kLanes;
  const std::string type = sizeof(T) == 4 ? "float32 " : "float64 ";

  // Pseudo-random numbers of many magnitudes, with every special value mixed in.
  std::vector<T> numbers(int count, unsigned seed) const {
    const T inf = std::numeric_limits<T>::infinity();
    const T special[] = {T(0), -T(0), T(1), T(-1), inf, -inf, T(std::nan("")), T(1e-30), T(-1e30)};
    std::vector<T> x(static_cast<std::size_t>(count));
    for (T& value : x) {
      seed = seed * 1664525u + 1013904223u;
      const unsigned r = seed >> 8;
      value = r % 5 == 0 ? special[r / 5 % 9]
                         : std::ldexp(T(r % 20011) / T(10007) - T(1), int(r / 7 % 13) - 6);
    }
    return x;
  }

  template <class F, class G>
  void each(const std::string& name, F vector, G scalar) const {
    for (unsigned seed = 1; seed < 200; ++seed) {
      const auto a = numbers(kLanes, seed), b = numbers(kLanes, seed + 1000),
                 c = numbers(kLanes, seed + 2000);
      T result[kLanes];
      V::store(result, vector(V::load(a.data()), V::load(b.data()), V::load(c.data())));
      bool ok = true;
      for (int i = 0; i < kLanes; ++i) ok &= same(result[i], scalar(a[i], b[i], c[i]));
      test::check(ok, type + name);
    }
  }

  void arithmetic() const {
    each("add", [](Vec a, Vec b, Vec) { return V::add(a, b); }, [](T a, T b, T) { return a + b; });
    each("sub", [](Vec a, Vec b, Vec) { return V::sub(a, b); }, [](T a, T b, T) { return a - b; });
    each("mul", [](Vec a, Vec b, Vec) { return V::mul(a, b); }, [](T a, T b, T) { return a * b; });
    each("div", [](Vec a, Vec b, Vec) { return V::div(a, b); }, [](T a, T b, T) { return a / b; });
    const bool fused = std::string(CPUATTN_TEST_ISA) != "scalar";
    each(
        "fma", [](Vec a, Vec b, Vec c) { return V::fma(a, b, c); },
        [&](T a, T b, T c) { return fused ? std::fma(a, b, c) : a * b + c; });
    each(
        "max", [](Vec a, Vec b, Vec) { return V::max(a, b); },
        [](T a, T b, T) { return a > b ? a : b; });
    each(
        "min", [](Vec a, Vec b, Vec) { return V::min(a, b); },
        [](T a, T b, T) { return a < b ? a : b; });
  }

  void comparisons() const {
    each(
        "less", [](Vec a, Vec b, Vec c) { return V::select(V::less(a, b), a, c); },
        [](T a, T b, T c) { return a < b ? a : c; });
    each(
        "equal", [](Vec a, Vec b, Vec c) { return V::select(V::equal(a, b), b, c); },
        [](T a, T b, T c) { return a == b ? b : c; });
    each(
        "is_nan", [](Vec a, Vec b, Vec c) { return V::select(V::is_nan(a), b, c); },
        [](T a, T b, T c) { return std::isnan(a) ? b : c; });
    for (int lane = 0; lane <= kLanes; ++lane) {
      std::vector<T> x(kLanes, T(0));
      if (lane < kLanes) x[static_cast<std::size_t>(lane)] = std::nan("");
      test::check(V::any(V::is_nan(V::load(x.data()))) == (lane < kLanes), type + "any");
    }
  }

  void rounding() const {
    for (int quarters = -4400; quarters < 4400; ++quarters) {
      const T x = T(0.25) * T(quarters);
      T result[kLanes];
      V::store(result, V::round(V::set1(x)));
      const T distance = std::fabs(result[0] - x);
      test::check(result[0] == std::rint(result[0]) && distance <= T(0.5), type + "round");
    }
    const int most = std::numeric_limits<T>::max_exponent - 1 - std::numeric_limits<T>::digits;
    for (int quarters = -4800; quarters <= 4 * most; ++quarters) {
      T power[kLanes], fraction[kLanes];
      Vec rest;
      const Vec n = V::split(V::set1(T(0.25) * T(quarters)), &rest);
      V::store(power, V::mul_pow2(V::set1(V::kPow2Unit), n));
      V::store(fraction, rest);
      const T whole = std::floor(T(0.25) * T(quarters));
      const T exact = std::ldexp(T(1), static_cast<int>(whole));
      test::check(power[0] == exact, type + "split");
      test::check(exact == 0 || fraction[0] == T(0.25) * T(quarters) - whole, type + "fraction");
    }
    Vec rest;
    T lane[kLanes];
    const Vec nothing = V::split(V::set1(-std::numeric_limits<T>::infinity()), &rest);
    V::store(lane, V::mul_pow2(V::add(V::set1(V::kPow2Unit), rest), nothing));
    test::check(lane[0] == T(0), type + "split of -inf");
    V::split(V::set1(T(std::nan(""))), &rest);
    V::store(lane, rest);
    test::check(std::isnan(lane[0]), type + "split of NaN");
    for (int n = -1100; n <= most; ++n) {
      T result[kLanes];
      for (const T p : {T(0.75), T(0.6875), T(1.40625)}) {
        V::store(result, V::mul_pow2(V::set1(p * V::kPow2Unit), V::set1(T(n))));
        test::check(same(result[0], std::ldexp(p, n)), type + "mul_pow2 " + std::to_string(n));
      }
      V::store(result, V::mul_pow2(V::set1(T(std::nan(""))), V::set1(T(n))));
      test::check(std::isnan(result[0]), type + "mul_pow2 of NaN");
    }
  }

  // Lanes beyond n are neither read (the array ends there) nor written.
  void partial() const {
    for (int n = 0; n <= kLanes; ++n) {
      const std::vector<T> from = numbers(n, unsigned(n));
      std::vector<T> to(kLanes + 1, T(7));
      T loaded[kLanes];
      V::store(loaded, V::load_partial(from.data(), n));
      V::store_partial(to.data(), V::load(loaded), n);
      std::vector<unsigned char> bytes(static_cast<std::size_t>(n));
      for (int i = 0; i < n; ++i) bytes[std::size_t(i)] = static_cast<unsigned char>(i % 3 * 127);
      T scores[kLanes];
      V::store(scores, V::load_bool(bytes.data(), n));
      for (int i = 0; i < kLanes; ++i) {
        const auto k = std::size_t(i);
        test::check(same(loaded[i], i < n ? from[k] : T(0)), type + "load_partial");
        test::check(same(to[k], i < n ? from[k] : T(7)), type + "store_partial");
        const bool set = i < n && bytes[k] != 0;
        test::check(same(scores[i], set ? T(0) : -std::numeric_limits<T>::infinity()),
                    type + "load_bool");
      }
    }
  }

  void halves() const {
    const auto in = numbers(kLanes + 1, 6);
    T loaded[kLanes];
    V::store(loaded, load_halves<V>(in.data() + 1, 0));
    for (int i = 0; i < kLanes; ++i) {
      test::check(same(loaded[i], in[std::size_t(i) + 1]), type + "load_halves");
    }
  }

  void squares() const {
    const auto in = numbers(kLanes * kLanes, 5);
    Vec rows[kLanes];
    for (int i = 0; i < kLanes; ++i) rows[i] = V::load(in.data() + i * kLanes);
    V::transpose(rows);
    T lane[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      V::store(lane, rows[i]);
      for (int k = 0; k < kLanes; ++k) {
        test::check(same(lane[k], in[std::size_t(k) * kLanes + std::size_t(i)]),
                    type + "transpose");
      }
    }
    for (int i = 0; i < kLanes; ++i) {  // whole numbers: sums are exact in any order
      for (int k = 0; k < kLanes; ++k) lane[k] = T(i * 1000 + k * k);
      rows[i] = V::load(lane);
    }
    V::store(lane, V::sum_each(rows));
    for (int i = 0; i < kLanes; ++i) {
      T sum = 0;
      for (int k = 0; k < kLanes; ++k) sum += T(i * 1000 + k * k);
      test::check(lane[i] == sum, type + "sum_each");
    }
    V::prefetch(nullptr);
  }

  // Every 16-bit number, and every byte, read by vectors against one at a time.
  template <class S, class Bits>
  void read_all() const {
    for (int first = 0; first < 1 << 8 * sizeof(Bits); first += kLanes) {
      S elements[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const auto bits = static_cast<Bits>(first + i);
        std::memcpy(&elements[i], &bits, sizeof(bits));
      }
      T lane[kLanes];
      V::store(lane, V::load(elements));
      for (int i = 0; i < kLanes; ++i) {
        test::check(same(lane[i], widened(elements[i])), type + "load of narrower numbers");
      }
    }
  }
  static T widened(std::int8_t x) { return x; }
  template <class S>
  static T widened(S x) {
    return cpuattn::to_float(x);
  }

  // All exponents and signs, with fractions around every tie, inf and NaN.
  template <class S>
  void write_all() const {
    for (unsigned exponent = 0; exponent < 512; ++exponent) {
      for (unsigned fraction = 0; fraction < 1 << 23; fraction += 0xff1) {
        T lane[kLanes];
        S elements[kLanes], expected;
        for (int i = 0; i < kLanes; ++i) {
          const unsigned tie = fraction >> 12 << 12;  // a half of the last digit, or whole digits
          const unsigned near[] = {fraction, tie, tie + 1, tie - 1};
          lane[i] = cpuattn::float_of(exponent << 23 | (near[i % 4] & 0x7fffff));
        }
        V::store(elements, V::load(lane));
        for (int i = 0; i < kLanes; ++i) {
          cpuattn::convert(lane[i], &expected);
          const bool equal = elements[i].bits == expected.bits;
          const bool both_nan = std::isnan(cpuattn::to_float(elements[i])) &&
                                std::isnan(cpuattn::to_float(expected)) && std::isnan(lane[i]);
          test::check(equal || both_nan, type + "store of narrower numbers");
        }
      }
    }
  }

  void narrow() const {
    if constexpr (sizeof(T) == 4) {
      read_all<cpuattn::Float16, std::uint16_t>();
      read_all<cpuattn::BFloat16, std::uint16_t>();
      read_all<std::int8_t, std::uint8_t>();
      write_all<cpuattn::Float16>();
      write_all<cpuattn::BFloat16>();
    }
  }

  void all() const {
    narrow();
    arithmetic();
    comparisons();
    rounding();
    partial();
    halves();
    squares();
  }
};

}  // namespace

int main() {
  if (!test::runs_here()) return test::kSkipped;
  VecTest<cpuattn::Float32>().all();
  VecTest<cpuattn::Float64>().all();
  return test::finish();
}
