// store(): what it refuses, with nothing written then, and one array of every rank.
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "cpuattn/cache.hpp"

namespace {

using cpuattn::DType;
using cpuattn::View;

template <class T>
View view_of(std::vector<T>& x, DType dtype, std::vector<std::ptrdiff_t> shape) {
  View view;
  view.data = x.data();
  view.dtype = dtype;
  view.rank = static_cast<int>(shape.size());
  std::ptrdiff_t stride = sizeof(T);
  for (int i = view.rank - 1; i >= 0; --i) {
    view.shape[i] = shape[static_cast<std::size_t>(i)];
    view.stride[i] = stride;
    stride *= view.shape[i];
  }
  return view;
}

std::string refusal(const View& source, const View& target, const View* scale) {
  try {
    cpuattn::store(source, target, scale);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

void test_refusals() {
  std::vector<float> x(6, 1.0f), scales(3, 9.0f);
  std::vector<std::int8_t> q(6, 9);
  const View source = view_of(x, DType::kFloat32, {2, 3});
  const View target = view_of(q, DType::kInt8, {2, 3});
  const View scale = view_of(scales, DType::kFloat32, {2});
  const auto refused = [](const std::string& got, const std::string& wanted) {
    test::check(got == wanted, "got '" + got + "' for '" + wanted + "'");
  };
  refused(refusal(view_of(q, DType::kInt8, {2, 3}), source, nullptr),
          "source has element type int8; it must be a float type");
  refused(refusal(source, view_of(q, DType::kBool, {2, 3}), nullptr),
          "target has element type bool; it must be a float type or int8");
  refused(refusal(source, view_of(q, DType::kInt8, {3, 2}), &scale),
          "target has shape (3, 2); it must be (2, 3), as source has shape (2, 3)");
  refused(refusal(source, target, nullptr),
          "scale must be given for a target of int8, and for no other");
  const View three = view_of(scales, DType::kFloat32, {3});
  refused(refusal(source, target, &three),
          "scale has shape (3,); it must be (2,), as source has shape (2, 3)");
  std::vector<std::uint16_t> half(2);
  const View narrow = view_of(half, DType::kFloat16, {2});
  refused(refusal(source, target, &narrow), "scale has element type float16; it must be float32");
  View gaps = view_of(q, DType::kInt8, {2, 3});
  gaps.stride[1] = 2;
  refused(refusal(source, gaps, &scale),
          "target has gaps between the numbers of a row; they must lie next to each other");
  refused(refusal(view_of(x, DType::kFloat32, {}), view_of(q, DType::kInt8, {}), &scale),
          "source has no dimension; it must have at least one");
  test::check(q == std::vector<std::int8_t>(6, 9), "a refused call wrote numbers");
  test::check(scales == std::vector<float>(3, 9.0f), "a refused call wrote scales");
}

void test_every_rank() {
  std::vector<std::ptrdiff_t> shape;
  for (int rank = 1; rank <= cpuattn::kMaxRank; ++rank) {
    shape.insert(shape.begin(), rank <= 6 ? 2 : 1);
    std::size_t rows = 1;
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= static_cast<std::size_t>(shape[i]);
    std::vector<float> x(rows * 2), scales(rows);
    std::vector<double> copy(rows * 2);
    std::vector<std::int8_t> q(rows * 2);
    for (std::size_t r = 0; r < rows; ++r) {
      x[2 * r] = 127 * static_cast<float>(r + 1);
      x[2 * r + 1] = -x[2 * r];
    }
    const std::vector<std::ptrdiff_t> outer(shape.begin(), shape.end() - 1);
    const View source = view_of(x, DType::kFloat32, shape);
    const View scale = view_of(scales, DType::kFloat32, outer);
    cpuattn::store(source, view_of(q, DType::kInt8, shape), &scale);
    cpuattn::store(source, view_of(copy, DType::kFloat64, shape), nullptr);
    for (std::size_t r = 0; r < rows; ++r) {
      const std::string where = "row " + std::to_string(r) + " of rank " + std::to_string(rank);
      test::check(q[2 * r] == 127 && q[2 * r + 1] == -127, where);
      test::check(scales[r] == static_cast<float>(r + 1), "scale of " + where);
      test::check(copy[2 * r] == x[2 * r] && copy[2 * r + 1] == x[2 * r + 1], "copy of " + where);
    }
  }
}

void test_overflow_is_told() {
  std::vector<float> x = {1.0f, 65520.0f, INFINITY};
  std::vector<std::uint16_t> half(3);
  const View target = view_of(half, DType::kFloat16, {3});
  test::check(cpuattn::store(view_of(x, DType::kFloat32, {3}), target, nullptr), "65520 overflows");
  test::check(half == std::vector<std::uint16_t>({0x3c00, 0x7c00, 0x7c00}), "1, inf, inf");
  x[1] = 65519.9f;
  test::check(!cpuattn::store(view_of(x, DType::kFloat32, {3}), target, nullptr), "65519.9 does");
  test::check(half[1] == 0x7bff, "the largest float16");
}

}  // namespace

int main() {
  test_refusals();
  test_every_rank();
  test_overflow_is_told();
  return test::finish();
}
