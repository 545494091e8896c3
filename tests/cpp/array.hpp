// Arrays for the tests of the C++ API.
#pragma once

#include <cstddef>
#include <vector>

#include "cpuattn/attention.hpp"

namespace test {

// A contiguous float array (heads, length, dims).
struct Array {
  std::vector<float> data;
  cpuattn::View view;

  Array(std::ptrdiff_t heads, std::ptrdiff_t length, std::ptrdiff_t dims, unsigned seed)
      : data(static_cast<std::size_t>(heads * length * dims)) {
    for (float& x : data) {
      seed = seed * 1664525u + 1013904223u;
      x = static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
    }
    view.data = data.data();
    view.rank = 3;
    const std::ptrdiff_t shape[] = {heads, length, dims};
    for (int i = 2; i >= 0; --i) {
      view.shape[i] = shape[i];
      view.stride[i] = i == 2 ? 4 : view.stride[i + 1] * shape[i + 1];
    }
  }
  float at(std::ptrdiff_t head, std::ptrdiff_t row, std::ptrdiff_t dim) const {
    return data[static_cast<std::size_t>((head * view.shape[1] + row) * view.shape[2] + dim)];
  }
};

}  // namespace test
