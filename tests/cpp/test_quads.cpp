// The operations on quads of bytes against plain C++, one byte at a time.
#include <cmath>
#include <cstring>

#include "check.hpp"
#include "isa.hpp"

namespace {

using V = cpuattn::Int8Products;
constexpr int kLanes = V::kLanes;

struct Numbers {
  unsigned state;

  unsigned next() {
    state = state * 1664525u + 1013904223u;
    return state >> 8;
  }
  std::int8_t next_byte() { return static_cast<std::int8_t>(next()); }
};

struct Quad {
  std::uint8_t bytes[4];
};

void store(Quad (&to)[kLanes], V::Quads v) { std::memcpy(to, &v, sizeof(to)); }

void products(Numbers numbers) {
  std::uint8_t a[kLanes][4];
  std::int8_t b[4];
  std::int32_t sum[kLanes], result[kLanes];
  for (auto& byte : b) byte = numbers.next() % 3 ? numbers.next_byte() : -128;
  for (int i = 0; i < kLanes; ++i) {
    for (auto& byte : a[i]) byte = numbers.next() % 3 ? numbers.next() : 255;
    sum[i] = static_cast<std::int32_t>(numbers.next()) - (1 << 23);
  }
  V::Quads bytes;
  std::memcpy(&bytes, a, sizeof(a));
  V::store(result, V::dot(bytes, V::set1_quad(b), V::load_integers(sum)));
  float as_float[kLanes];
  V::store(as_float, V::to_float(V::load_integers(sum)));
  for (int i = 0; i < kLanes; ++i) {
    std::int32_t expected = sum[i];
    for (int k = 0; k < 4; ++k) expected += a[i][k] * b[k];
    test::check(result[i] == expected, "dot");
    test::check(as_float[i] == static_cast<float>(sum[i]), "to_float");
  }
  V::store(result, V::set1_integer(sum[0]));
  for (const std::int32_t x : result) test::check(x == sum[0], "set1_integer");
}

// Digits of numbers in [least, most], halves among them, which are rounded to even.
void digits(Numbers numbers, int least, int most, V::Quads (*make)(V::Vec), bool is_signed) {
  float number[kLanes];
  for (float& x : number) {
    const int range = most - least;
    x = static_cast<float>(least + static_cast<int>(numbers.next() % (range + 1)));
    if (numbers.next() % 4 == 0)
      x = numbers.next() % 2 ? static_cast<float>(most) : static_cast<float>(least);
    if (numbers.next() % 4 == 0) x = static_cast<float>(numbers.next() % 100) + 0.5f;
  }
  Quad digit[kLanes];
  store(digit, make(V::load(number)));
  alignas(64) Quad quarters[4][8];
  V::store_quarters(quarters, sizeof(quarters[0]), make(V::load(number)));
  for (int i = 0; i < kLanes; ++i) {
    int sum = 0;
    for (int k = 3; k >= 0; --k) {
      const std::uint8_t byte = digit[i / 4 * 4 + k].bytes[i % 4];
      sum = sum * 256 + (is_signed ? static_cast<std::int8_t>(byte) : byte);
      if (k == 3) test::check(byte == 0, "a fourth digit");
      test::check(byte == quarters[i / 4][k].bytes[i % 4], "store_quarters");
    }
    test::check(sum == static_cast<int>(std::nearbyint(number[i])), "digits");
  }
}

template <int kCount, int kSize>
struct Rows {
  std::int8_t byte[kCount][kSize];
  const std::int8_t* at[kCount];

  explicit Rows(Numbers& numbers) {
    for (int i = 0; i < kCount; ++i) {
      at[i] = byte[i];
      for (auto& x : byte[i]) x = numbers.next_byte();
    }
  }
};

void columns(Numbers numbers, int count) {
  constexpr int kDim = 3;
  const Rows<kLanes, 16 + kDim> rows(numbers);
  V::Quads quads[4];
  V::load_columns(rows.at, kDim, count, quads);
  for (int q = 0; q < 4; ++q) {
    Quad quad[kLanes];
    store(quad, quads[q]);
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int k = 0; k < 4 && 4 * q + k < count; ++k) {
        const int expected = rows.byte[lane][kDim + 4 * q + k] + 128;
        test::check(quad[lane].bytes[k] == expected, "load_columns");
      }
    }
  }
}

void rows_of_four(Numbers numbers, int count) {
  constexpr int kDim = 5;
  const Rows<4, 32 + kDim> rows(numbers);
  V::Quads quads[2];
  V::load_rows(rows.at, kDim, count, quads);
  // The bytes of one row after the other, each as a number, put in order.
  for (int row = 0; row < 4; ++row) {
    V::Vec numbers_of_row[2];
    for (int n = 0; n < 2; ++n) {
      Quad quad[kLanes];
      store(quad, quads[n]);
      float number[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const auto byte = static_cast<std::int8_t>(quad[i].bytes[row]);
        number[i] = static_cast<float>(byte);
      }
      numbers_of_row[n] = V::load(number);
    }
    V::in_order(numbers_of_row);
    float number[2 * kLanes];
    V::store(number, numbers_of_row[0]);
    V::store(number + kLanes, numbers_of_row[1]);
    for (int i = 0; i < count; ++i) {
      test::check(number[i] == static_cast<float>(rows.byte[row][kDim + i]),
                  "load_rows and in_order");
    }
  }
}

}  // namespace

int main() {
  if (!test::runs_here()) return test::kSkipped;
  for (unsigned seed = 1; seed < 2000; ++seed) {
    const Numbers numbers{seed};
    products(numbers);
    digits(numbers, -0x7f7f7f, 0x7f7f7f, V::signed_digits, true);
    digits(numbers, 0, 0xffffff, V::unsigned_digits, false);
    columns(numbers, static_cast<int>(seed % 17));
    rows_of_four(numbers, static_cast<int>(seed % 33));
  }
  return test::finish();
}
