// Keys and values as the kernels read them: rows of contiguous numbers, in place where they lie
// like that, else copied, and converted, some at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernel.hpp"
#include "kernels/common/elements.hpp"

namespace cpuattn {
namespace {

// Tokens whose rows lie row_stride apart: all of them, or those of a page.
template <class S>
struct TokenRun {
  std::ptrdiff_t begin, end;
  const S* row;        // of `begin`
  const float* scale;  // likewise, if there are scales
};

// f(run) for the runs that make up [begin, end); `data` is that of the tokens.
template <class S, class F>
void for_each_run(const S* data, const Tokens& tokens, std::ptrdiff_t begin, std::ptrdiff_t end,
                  F f) {
  if (!tokens.pages) {
    const float* scale = tokens.scales ? tokens.scales + begin * tokens.scale_stride : nullptr;
    return f(TokenRun<S>{begin, end, data + begin * tokens.row_stride, scale});
  }
  while (begin < end) {
    const std::ptrdiff_t index = begin / tokens.page_size;
    const std::ptrdiff_t page = tokens.pages[index * tokens.pages_stride];
    const std::ptrdiff_t first = begin - index * tokens.page_size;
    const std::ptrdiff_t rest = end - begin, left = tokens.page_size - first;
    const std::ptrdiff_t stop = begin + (rest < left ? rest : left);
    const float* scale = tokens.scales ? tokens.scales + page * tokens.scale_page_stride +
                                             first * tokens.scale_stride
                                       : nullptr;
    f(TokenRun<S>{begin, stop, data + page * tokens.page_stride + first * tokens.row_stride,
                  scale});
    begin = stop;
  }
}

// Rows whose elements are contiguous.
template <class T>
struct DenseRows {
  const T* data;
  std::ptrdiff_t stride;
};

// Rows that start a multiple of 8 lines apart share an eighth of the sets of an L1 cache of 64, or
// less: those of a block drive each other out.
template <class T>
bool are_crowded(const Tokens& tokens) {
  return tokens.row_stride * std::ptrdiff_t(sizeof(T)) % 512 == 0;
}

// The rows of a copy start an odd number of lines apart, which spreads them over all sets, and end
// with whole lines, so that whole vectors can be stored.
template <class T>
constexpr std::ptrdiff_t copy_stride(std::ptrdiff_t dims) {
  constexpr std::ptrdiff_t kLine = 64 / sizeof(T);
  return (dims + kLine - 1) / kLine / 2 * 2 * kLine + kLine;
}

template <class V, class S>
void copy_rows(const S* data, const Tokens& tokens, std::ptrdiff_t begin, std::ptrdiff_t end,
               std::ptrdiff_t dim, std::ptrdiff_t dims, typename V::Element* copy) {
  const std::ptrdiff_t copied_stride = copy_stride<typename V::Element>(dims);
  const std::ptrdiff_t stride = tokens.dim_stride;
  for_each_run(data, tokens, begin, end, [&](const TokenRun<S>& run) {
    for (std::ptrdiff_t row = run.begin; row < run.end; ++row) {
      const std::ptrdiff_t index = row - run.begin;
      const S* from = run.row + index * tokens.row_stride + dim * stride;
      auto* to = copy + (row - begin) * copied_stride;
      auto scale = V::set1(1);
      if (run.scale) scale = V::set1(run.scale[index * tokens.scale_stride]);
      const auto store = [&](std::ptrdiff_t d, typename V::Vec numbers) {
        V::store(to + d, sizeof(S) == 1 ? V::mul(numbers, scale) : numbers);
      };
      std::ptrdiff_t d = 0;
      if (stride == 1) {
        for (; d + V::kLanes <= dims; d += V::kLanes) store(d, V::load(from + d));
      }
      for (; d < dims; d += V::kLanes) {
        const std::ptrdiff_t rest = dims - d;
        const std::ptrdiff_t count = rest < V::kLanes ? rest : V::kLanes;
        store(d, load_strided<V>(from + d * stride, stride, count));
      }
    }
  });
}

// `dims` dims from `dim` on of the rows [begin, end), copied where they do not lie as they should,
// or where the caller wants it.
template <class V>
DenseRows<typename V::Element> dense_rows(const Tokens& tokens, std::ptrdiff_t begin,
                                          std::ptrdiff_t end, std::ptrdiff_t dim,
                                          std::ptrdiff_t dims, typename V::Element* copy,
                                          bool copied = false) {
  using T = typename V::Element;
  if (!copied && tokens.type == kTypeOf<T> && !tokens.pages &&
      (tokens.dim_stride == 1 || dims == 1)) {
    return {
        static_cast<const T*>(tokens.data) + begin * tokens.row_stride + dim * tokens.dim_stride,
        tokens.row_stride};
  }
  with_type<V>(tokens.type, tokens.data,
               [&](const auto* data) { copy_rows<V>(data, tokens, begin, end, dim, dims, copy); });
  return {copy, copy_stride<T>(dims)};
}

}  // namespace
}  // namespace cpuattn
