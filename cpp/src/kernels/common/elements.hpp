// Rows of any element type as vectors of the type that the kernels compute in.
#pragma once

#include <cstddef>
#include <cstdint>

#include "half.hpp"
#include "kernel.hpp"

namespace cpuattn {
namespace {

template <class T>
constexpr ElementType kTypeOf = sizeof(T) == 4 ? ElementType::kFloat32 : ElementType::kFloat64;

// What the products of a kernel multiply: its own numbers, or pairs of narrower ones.
template <class T, int kPack>
struct OperandOf {
  using Type = T;
};
template <class T>
struct OperandOf<T, 2> {
  using Type = BFloat16Pair;
};
template <class V>
using Operand = typename OperandOf<typename V::Element, V::kPack>::Type;

// How many operands hold so many numbers.
template <class V>
constexpr std::ptrdiff_t operands(std::ptrdiff_t numbers) {
  return numbers / V::kPack + (numbers % V::kPack != 0);
}

// f(data) with the pointer's type. Kernels of doubles are given nothing else.
template <class V, class F>
[[gnu::always_inline]] inline auto with_type(ElementType type, const void* data, F f) {
  using T = typename V::Element;
  if constexpr (sizeof(T) == 4) {
    if (type == ElementType::kFloat16) return f(static_cast<const Float16*>(data));
    if (type == ElementType::kBFloat16) return f(static_cast<const BFloat16*>(data));
    if (type == ElementType::kInt8) return f(static_cast<const std::int8_t*>(data));
  }
  return f(static_cast<const T*>(data));
}

template <class S>
struct TypeTag {
  using Type = S;
};

// f(TypeTag of the type) for queries and results, which are no integers.
template <class V, class F>
[[gnu::always_inline]] inline void with_float_type(ElementType type, F f) {
  using T = typename V::Element;
  if constexpr (sizeof(T) == 4) {
    if (type == ElementType::kFloat16) return f(TypeTag<Float16>{});
    if (type == ElementType::kBFloat16) return f(TypeTag<BFloat16>{});
  }
  f(TypeTag<T>{});
}

// The first n elements, 0 <= n <= kLanes, and zeros.
template <class V>
typename V::Vec load_first(const typename V::Element* p, std::ptrdiff_t n) {
  return V::load_partial(p, n);
}
template <class V, class S>
typename V::Vec load_first(const S* p, std::ptrdiff_t n) {
  S elements[V::kLanes] = {};
  for (std::ptrdiff_t i = 0; i < n; ++i) elements[i] = p[i];
  return V::load(elements);
}

// As many elements as are left of a row, at most a vector.
template <class V, class S>
typename V::Vec load_up_to(const S* p, std::ptrdiff_t rest) {
  return rest >= V::kLanes ? V::load(p) : load_first<V>(p, rest);
}

// A row of contiguous numbers as one of operands.
template <class V, class S>
const auto* as_operands(const S* p) {
  if constexpr (V::kPack == 1) {
    return p;
  } else {
    return reinterpret_cast<const BFloat16Pair*>(p);
  }
}

// kLanes of them, or as many as `count` numbers make, and zeros.
template <class V, class S>
auto load_operands(const S* p) {
  return V::load(as_operands<V>(p));
}
template <class V, class S>
auto load_operands(const S* p, std::ptrdiff_t count) {
  if constexpr (V::kPack == 1) {
    return load_first<V>(p, count);
  } else {
    S numbers[V::kPack * V::kLanes] = {};
    for (std::ptrdiff_t i = 0; i < count; ++i) numbers[i] = p[i];
    return load_operands<V>(numbers);
  }
}

template <class V, class S>
typename V::Vec load_strided(const S* p, std::ptrdiff_t stride, std::ptrdiff_t count) {
  if (stride == 1) return load_up_to<V>(p, count);
  S elements[V::kLanes] = {};
  for (std::ptrdiff_t i = 0; i < count; ++i) elements[i] = p[i * stride];
  return V::load(elements);
}

// `count` elements of a row from `dim` on, the other lanes 0. A call: where rows are of the
// kernel's type and contiguous, loops load them by themselves.
template <class V>
[[gnu::noinline]] typename V::Vec load_row(const void* row, ElementType type, std::ptrdiff_t stride,
                                           std::ptrdiff_t dim, std::ptrdiff_t count) {
  return with_type<V>(
      type, row, [&](const auto* p) { return load_strided<V>(p + dim * stride, stride, count); });
}

template <class V, class S>
void store_strided(S* p, std::ptrdiff_t stride, typename V::Vec values, std::ptrdiff_t count) {
  if (stride == 1 && count == V::kLanes) return V::store(p, values);
  S lane[V::kLanes];
  V::store(lane, values);
  for (int i = 0; i < count; ++i) p[i * stride] = lane[i];
}

// The way back.
template <class V>
[[gnu::noinline]] void store_row(void* row, ElementType type, std::ptrdiff_t stride,
                                 std::ptrdiff_t dim, typename V::Vec values, std::ptrdiff_t count) {
  with_float_type<V>(type, [&](auto tag) {
    auto* first = static_cast<typename decltype(tag)::Type*>(row);
    store_strided<V>(first + dim * stride, stride, values, count);
  });
}

}  // namespace
}  // namespace cpuattn
