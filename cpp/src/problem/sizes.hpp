// Products of sizes that anybody may have chosen: a broadcast array names more elements than any
// memory holds.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cpuattn {

// The most rows, keys or work items of a call. A sixteenth of the range leaves room to add
// positions to each other and to round up.
constexpr std::ptrdiff_t kMaxCount = PTRDIFF_MAX / 16;

// The widest head: a kernel takes less than 2^13 bytes of scratch per dim, so its sizes do not
// overflow, and what no memory holds fails when it is allocated.
constexpr std::ptrdiff_t kMaxDims = PTRDIFF_MAX >> 14;

// a * b, or `most` if the product is larger. Neither is negative.
constexpr std::ptrdiff_t product(std::ptrdiff_t a, std::ptrdiff_t b,
                                 std::ptrdiff_t most = PTRDIFF_MAX) {
  std::ptrdiff_t result = 0;  // not by a division, which small calls would notice
  return __builtin_mul_overflow(a, b, &result) || result > most ? most : result;
}

// Whether a * b is a count that a call may have.
constexpr bool fits(std::ptrdiff_t a, std::ptrdiff_t b) { return product(a, b) <= kMaxCount; }

}  // namespace cpuattn
