// The checks of all arguments, done before any work. Every message names the argument, what it
// is and what is allowed.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "call.hpp"
#include "kernel.hpp"

namespace cpuattn {
namespace {

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

std::string text(const std::ptrdiff_t* shape, int rank) {
  std::string s = "(";
  for (int i = 0; i < rank; ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + (rank == 1 ? ",)" : ")");
}
std::string text(const View& view) { return text(view.shape, view.rank); }

// Size of dimension `from_end` (1 is the last one); dimensions that are not there count as 1.
std::ptrdiff_t size(const View& view, int from_end) {
  return from_end <= view.rank ? view.shape[view.rank - from_end] : 1;
}

void check_array(const char* name, const View& view, bool integers = false) {
  const bool is_integer = view.dtype == DType::kInt64;
  if (integers != is_integer) {
    fail(std::string(name) + " has the wrong element type; expected " +
         (integers ? "int64" : "a floating-point or bool type"));
  }
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] < 0) fail(std::string(name) + " has a negative dimension: " + text(view));
    if (view.stride[i] % element_size(view.dtype) != 0) {
      fail(std::string(name) + " has strides that are not multiples of its element size");
    }
  }
}

// The view with its last `tail` dimensions as they are and the others broadcast to the batch.
// `expected` (of the tail) may be broadcast too where broadcast_tail is set.
Operand broadcast(const char* name, const View& view, const Shapes& shapes, int tail,
                  const std::ptrdiff_t* expected, bool broadcast_tail) {
  std::ptrdiff_t full[kMaxRank + 3];
  std::copy(shapes.batch_shape, shapes.batch_shape + shapes.batch_rank, full);
  std::copy(expected, expected + tail, full + shapes.batch_rank);
  const int rank = shapes.batch_rank + tail;

  Operand operand;
  operand.data = static_cast<char*>(view.data);
  operand.dtype = view.dtype;
  static char nothing;  // an empty array may have no memory, but it is given
  if (!operand.data) operand.data = &nothing;
  bool fits = view.rank <= rank;
  for (int i = 1; fits && i <= rank; ++i) {
    const std::ptrdiff_t wanted = full[rank - i];
    const std::ptrdiff_t got = size(view, i);
    const bool may_broadcast = i > tail || broadcast_tail;
    fits = got == wanted || (may_broadcast && got == 1);
    const bool moves = i <= view.rank && got == wanted && got != 1;
    const std::ptrdiff_t stride = moves ? view.stride[view.rank - i] : 0;
    if (i > tail) {
      operand.batch_stride[rank - i] = stride;
    } else {
      operand.stride[tail - i] = stride;
    }
  }
  if (!fits) {
    fail(std::string(name) + " has shape " + text(view) + ", which does not broadcast to " +
         text(full, rank));
  }
  return operand;
}

// As broadcast(), for the operands whose tail was already checked and defines the shapes.
Operand place(const char* name, const View& view, const Shapes& shapes) {
  const std::ptrdiff_t tail[3] = {size(view, 3), size(view, 2), size(view, 1)};
  return broadcast(name, view, shapes, 3, tail, false);
}

// Results must have exactly the shape of the call, not one that broadcasts to it.
Operand place_result(const char* name, const View& view, const Shapes& shapes, int tail,
                     const std::ptrdiff_t* expected, int rank) {
  std::ptrdiff_t full[kMaxRank + 3];
  std::copy(shapes.batch_shape, shapes.batch_shape + shapes.batch_rank, full);
  std::copy(expected, expected + tail, full + shapes.batch_rank);
  const std::ptrdiff_t* wanted = full + shapes.batch_rank + tail - rank;
  if (view.rank != rank || !std::equal(wanted, wanted + rank, view.shape)) {
    fail(std::string(name) + " has shape " + text(view) + "; it must be " + text(wanted, rank));
  }
  const bool empty = std::find(view.shape, view.shape + rank, 0) != view.shape + rank;
  for (int i = 0; !empty && i < rank; ++i) {
    if (view.shape[i] > 1 && view.stride[i] == 0) {
      fail(std::string(name) +
           " has elements that overlap (a stride of 0); it must be writable "
           "element by element");
    }
  }
  return broadcast(name, view, shapes, tail, expected, false);
}

template <class F>
void for_each_value(const Operand& operand, const Shapes& shapes, F f) {
  for (std::ptrdiff_t b = 0; b < shapes.batch; ++b) {
    std::ptrdiff_t offset = 0, rest = b;
    for (int i = shapes.batch_rank - 1; i >= 0; --i) {
      offset += rest % shapes.batch_shape[i] * operand.batch_stride[i];
      rest /= shapes.batch_shape[i];
    }
    f(*reinterpret_cast<const std::int64_t*>(operand.data + offset));
  }
}

Operand place_integers(const char* name, const View& view, const Shapes& shapes, int tail,
                       std::ptrdiff_t length) {
  check_array(name, view, true);
  // A batch of one may be given where the call has no batch dimension.
  View trimmed = view;
  while (trimmed.rank > shapes.batch_rank + tail && trimmed.shape[0] == 1) {
    --trimmed.rank;
    std::copy(trimmed.shape + 1, trimmed.shape + 1 + trimmed.rank, trimmed.shape);
    std::copy(trimmed.stride + 1, trimmed.stride + 1 + trimmed.rank, trimmed.stride);
  }
  return broadcast(name, trimmed, shapes, tail, &length, true);
}

Operand place_scores(const char* name, const View& view, const Shapes& shapes, bool is_mask) {
  check_array(name, view);
  if (is_mask != (view.dtype == DType::kBool)) {
    fail(std::string(name) + (is_mask ? " must be bool" : " must be float32 or float64"));
  }
  const std::ptrdiff_t tail[3] = {shapes.query_heads, shapes.query_length, shapes.key_length};
  return broadcast(name, view, shapes, 3, tail, true);
}

Operand place_per_head(const char* name, const View& view, const Shapes& shapes, DType dtype) {
  check_array(name, view);
  if (view.dtype != dtype) fail(std::string(name) + " must have the element type of query");
  if (view.rank < 1) fail(std::string(name) + " has shape (); it must have a number per head");
  return broadcast(name, view, shapes, 1, &shapes.query_heads, false);
}

std::ptrdiff_t checked_side(const char* name, std::optional<std::int64_t> side) {
  if (!side) return kUnbounded;
  if (*side < 0) {
    fail(std::string("window has ") + name + " = " + std::to_string(*side) +
         "; it must be a non-negative integer or None");
  }
  return std::min<std::ptrdiff_t>(*side, kUnbounded);
}

void resolve_options(Call& call, const Options& options) {
  const Shapes& shapes = call.shapes;
  call.left = checked_side("left", options.window_left);
  call.right = checked_side("right", options.window_right);
  if (options.causal) call.right = 0;
  if (options.mask) call.mask = place_scores("mask", *options.mask, shapes, true);
  if (options.bias) call.bias = place_scores("bias", *options.bias, shapes, false);
  if (options.query_offset) {
    call.query_offset = place_integers("query_offset", *options.query_offset, shapes, 0, 0);
  }
  if (options.key_lengths) {
    call.key_lengths = place_integers("key_lengths", *options.key_lengths, shapes, 0, 0);
    for_each_value(call.key_lengths, shapes, [&](std::int64_t length) {
      if (length < 0 || length > shapes.key_length) {
        fail("key_lengths contains " + std::to_string(length) + "; each must be in [0, " +
             std::to_string(shapes.key_length) + "], the number of keys");
      }
    });
  }
  if (options.query_segments.has_value() != options.key_segments.has_value()) {
    fail(std::string(options.query_segments ? "key_segments" : "query_segments") +
         " is missing; query_segments and key_segments must be given together");
  }
  if (options.query_segments) {
    call.query_segments =
        place_integers("query_segments", *options.query_segments, shapes, 1, shapes.query_length);
    call.key_segments =
        place_integers("key_segments", *options.key_segments, shapes, 1, shapes.key_length);
  }
  if (options.alibi_slopes) {
    call.alibi_slopes = place_per_head("alibi_slopes", *options.alibi_slopes, shapes, call.dtype);
  }
  if (options.sinks) {
    if (options.sinks->rank != 1) {
      fail("sinks has shape " + text(*options.sinks) + "; it must be (" +
           std::to_string(shapes.query_heads) + ",), a number per query head");
    }
    call.sinks = place_per_head("sinks", *options.sinks, shapes, call.dtype);
  }
  if (options.softcap) {
    call.softcap = *options.softcap;
    if (!(call.softcap > 0) || std::isinf(call.softcap)) {
      fail("softcap is " + std::to_string(call.softcap) + "; it must be positive and finite");
    }
  }
  call.scale =
      options.scale
          ? *options.scale
          : 1.0 / std::sqrt(static_cast<double>(std::max<std::ptrdiff_t>(shapes.head_dim, 1)));
  if (!std::isfinite(call.scale)) {
    fail("scale is " + std::to_string(call.scale) + "; it must be finite");
  }
  if (options.num_threads < 0) {
    fail("num_threads is " + std::to_string(options.num_threads) + "; it must be at least 1");
  }
}

void check_floats(const char* name, const View& view, const View& query) {
  check_array(name, view);
  if (view.dtype != query.dtype || view.dtype == DType::kBool) {
    fail(std::string(name) + " must be float32 or float64, and the same as query");
  }
}

}  // namespace

Shapes infer_shapes(const View& query, const View& key, const View* value) {
  struct Named {
    const char* name;
    const View* view;
  };
  const Named inputs[] = {{"query", &query}, {"key", &key}, {"value", value ? value : &key}};
  Shapes shapes;
  for (const auto& [name, view] : inputs) {
    if (view->rank < 2 || view->rank > kMaxRank) {
      fail(std::string(name) + " has " + std::to_string(view->rank) + " dimensions, shape " +
           text(*view) + "; it must have 2 (length, head_dim) to " + std::to_string(kMaxRank) +
           ": (..., heads, length, head_dim)");
    }
    shapes.rank = std::max(shapes.rank, view->rank);
  }
  shapes.query_heads = size(query, 3);
  shapes.kv_heads = size(key, 3);
  shapes.query_length = size(query, 2);
  shapes.key_length = size(key, 2);
  shapes.head_dim = size(query, 1);
  shapes.value_dim = value ? size(*value, 1) : 0;
  if (size(key, 1) != shapes.head_dim) {
    fail("key has shape " + text(key) + " and query " + text(query) +
         "; their last dimensions, head_dim, must be equal");
  }
  if (value && (size(*value, 2) != shapes.key_length || size(*value, 3) != shapes.kv_heads)) {
    fail("value has shape " + text(*value) + " and key " + text(key) +
         "; their heads and lengths must be equal");
  }
  if (shapes.kv_heads == 0 ? shapes.query_heads != 0 : shapes.query_heads % shapes.kv_heads != 0) {
    fail("query has " + std::to_string(shapes.query_heads) + " heads, shape " + text(query) +
         ", and key " + std::to_string(shapes.kv_heads) + ", shape " + text(key) +
         "; the heads of query must be a multiple of those of key");
  }
  shapes.group = shapes.kv_heads == 0 ? 1 : shapes.query_heads / shapes.kv_heads;
  shapes.batch_rank = std::max(shapes.rank - 3, 0);
  for (int i = 0; i < shapes.batch_rank; ++i) {
    const int from_end = shapes.batch_rank - i + 3;
    std::ptrdiff_t& dim = shapes.batch_shape[i];
    dim = 1;
    for (const auto& [name, view] : inputs) {
      const std::ptrdiff_t got = size(*view, from_end);
      if (got == dim || got == 1) continue;
      if (dim != 1) {
        fail(std::string(name) + " has shape " + text(*view) +
             ", whose leading dimensions do not broadcast with those of query, shape " +
             text(query) + ", and key, shape " + text(key));
      }
      dim = got;
    }
    shapes.batch *= dim;
  }
  return shapes;
}

Call resolve(const View& query, const View& key, const View* value, const View* output,
             const View* lse, const Options& options) {
  Call call;
  call.shapes = infer_shapes(query, key, value);
  call.dtype = query.dtype;
  check_floats("query", query, query);
  check_floats("key", key, query);
  call.query = place("query", query, call.shapes);
  call.key = place("key", key, call.shapes);
  if (value) {
    check_floats("value", *value, query);
    call.value = place("value", *value, call.shapes);
  }
  resolve_options(call, options);
  const Shapes& s = call.shapes;
  const std::ptrdiff_t columns = value ? s.value_dim : s.key_length;
  const std::ptrdiff_t tail[3] = {s.query_heads, s.query_length, columns};
  if (output) {
    check_floats("out", *output, query);
    call.output = place_result("out", *output, s, 3, tail, s.rank);
  }
  if (lse) {
    check_floats("lse", *lse, query);
    call.lse = place_result("lse", *lse, s, 2, tail, s.rank - 1);
  }
  return call;
}

}  // namespace cpuattn
