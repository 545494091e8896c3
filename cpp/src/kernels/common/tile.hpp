// The register tile: the one place where the multiplications of a prefill happen.
//
// A tile is kRows x kCols vectors of accumulators that stay in registers. Each step broadcasts
// kRows elements, read where they lie, and multiplies them with kCols vectors: kRows * kCols
// multiply-adds for kRows + kCols loads. 6 x 4 needs 24 + 4 + 1 of AVX-512's 32 registers,
// 6 x 2 needs 12 + 2 + 1 of AVX2's 16.
#pragma once

#include <cstddef>

namespace cpuattn {
namespace {

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// A stride that is known to be 1, where a runtime stride could stand.
struct UnitStride {
  // NOLINTNEXTLINE(misc-explicit-constructor): it stands where a number does
  constexpr operator std::ptrdiff_t() const { return 1; }
};

// 12 rows are enough to hide the latency of one multiply-add even with a single column.
template <class V, int kCols>
constexpr int kTileRows = V::kAccumulators / kCols < 12 ? V::kAccumulators / kCols : 12;

template <class V, int kRows, int kCols>
struct Tile {
  typename V::Vec at[kRows][kCols];
};

// The broadcast operand: element (m, k) lies at data[m * row_stride + k * depth_stride]. What lies
// `ahead` elements behind those is asked for while they are multiplied.
template <class T, class RowStride, class DepthStride>
struct Left {
  const T* data;
  RowStride row_stride;
  DepthStride depth_stride;
  std::ptrdiff_t ahead;
};
template <class T, class RowStride, class DepthStride>
Left(const T*, RowStride, DepthStride, std::ptrdiff_t) -> Left<T, RowStride, DepthStride>;

// A few lines at a time: many at once would block the loads of the tile.
template <class V, int kRows, class T, class RowStride>
[[gnu::always_inline]] inline void prefetch_step(const Left<T, RowStride, UnitStride>& left,
                                                 std::ptrdiff_t k) {
  constexpr std::ptrdiff_t kLine = 64 / sizeof(T);
  if (k % kLine != 0) return;
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) V::prefetch(left.data + m * left.row_stride + k + left.ahead);
}
template <class V, int kRows, class T>
[[gnu::always_inline]] inline void prefetch_step(const Left<T, UnitStride, std::ptrdiff_t>& left,
                                                 std::ptrdiff_t k) {
  V::prefetch(left.data + k * left.depth_stride + left.ahead);
}

// tile[m][n] = sum over k of left(m, k) * right[k][n], added in the order of k whatever the size of
// the tile. S: an operand of V, its element or a pair.
template <class V, int kRows, int kCols, class S, class RowStride, class DepthStride>
[[gnu::always_inline]] inline void multiply(Tile<V, kRows, kCols>& tile,
                                            const Left<S, RowStride, DepthStride>& left,
                                            const S* right, std::ptrdiff_t right_stride,
                                            std::ptrdiff_t depth) {
  const S* row[kRows];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) row[m] = left.data + m * std::ptrdiff_t(left.row_stride);
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 16
    for (int n = 0; n < kCols; ++n) tile.at[m][n] = V::zero();
  }
#pragma GCC unroll 4
  for (std::ptrdiff_t k = 0; k < depth; ++k) {
    prefetch_step<V, kRows>(left, k);
    decltype(V::load(right)) b[kCols];
#pragma GCC unroll 16
    for (int n = 0; n < kCols; ++n) b[n] = V::load(right + k * right_stride + n * V::kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const auto a = V::set1(row[m][k * std::ptrdiff_t(left.depth_stride)]);
#pragma GCC unroll 16
      for (int n = 0; n < kCols; ++n) tile.at[m][n] = V::fma(a, b[n], tile.at[m][n]);
    }
  }
}

// f(Constant<rows>, first) for tiles that cover [begin, end): full ones, then one smaller.
template <int kRows, class F>
inline void last_tile(std::ptrdiff_t begin, std::ptrdiff_t rows, F f) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      f(Constant<kRows>{}, begin);
    } else {
      last_tile<kRows - 1>(begin, rows, f);
    }
  }
}
template <int kRows, class F>
inline void for_each_tile(std::ptrdiff_t begin, std::ptrdiff_t end, F f) {
  for (; begin + kRows <= end; begin += kRows) f(Constant<kRows>{}, begin);
  last_tile<kRows - 1>(begin, end - begin, f);
}

}  // namespace
}  // namespace cpuattn
