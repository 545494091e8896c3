// The checks of all arguments, done before any work. Every message names the argument, what it
// is and what is allowed.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "kernel.hpp"
#include "problem/checks.hpp"
#include "problem/integers.hpp"
#include "problem/layout.hpp"
#include "problem/problem.hpp"

namespace cpuattn {
namespace {

// The view with its last `tail` dimensions as they are and the others broadcast to the batch.
// `expected` (of the tail) may be broadcast too where broadcast_tail is set.
Operand broadcast(const char* name, const View& view, const Shapes& shapes, int tail,
                  const std::ptrdiff_t* expected, bool broadcast_tail, const char* hint = "") {
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
  const bool empty = is_empty(view);  // its strides mean nothing
  for (int i = 1; fits && i <= rank; ++i) {
    // NOLINTNEXTLINE(clang-analyzer-security.ArrayBound): infer_shapes bounds batch_rank
    const std::ptrdiff_t wanted = full[rank - i];
    const std::ptrdiff_t got = size(view, i);
    const bool may_broadcast = i > tail || broadcast_tail;
    fits = got == wanted || (may_broadcast && got == 1);
    const bool moves = i <= view.rank && got == wanted && !empty;
    const std::ptrdiff_t stride = moves ? view.stride[view.rank - i] : 0;
    if (i > tail) {
      operand.batch_stride[rank - i] = stride;
    } else {
      operand.stride[tail - i] = stride;
    }
  }
  if (!fits) {
    fail(std::string(name) + " has shape " + text(view) + ", which does not broadcast to " +
         text(full, rank) + hint);
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
  return broadcast(name, view, shapes, tail, expected, false);
}

Operand place_integers(const char* name, const View& view, const Shapes& shapes, int tail,
                       std::ptrdiff_t length) {
  check_array(name, view);
  if (view.dtype != DType::kInt64) fail_type(name, view, "int64");
  // A batch of one may be given where the call has no batch dimension.
  View trimmed = view;
  while (trimmed.rank > shapes.batch_rank + tail && trimmed.shape[0] == 1) {
    --trimmed.rank;
    std::copy(trimmed.shape + 1, trimmed.shape + 1 + trimmed.rank, trimmed.shape);
    std::copy(trimmed.stride + 1, trimmed.stride + 1 + trimmed.rank, trimmed.stride);
  }
  return broadcast(name, trimmed, shapes, tail, &length, true);
}

// What to try with a mask or bias that has a batch, but no axis of heads; or that would fit if the
// axes of heads and lengths of query and key were exchanged.
const char* axes_hint(const View& view, const Shapes& shapes) {
  if (view.rank > 1 && shapes.kv_heads > 1 && size(view, 1) == shapes.kv_heads &&
      size(view, 2) == shapes.query_heads) {
    return "; pass query, key and value of shape (B, L, H, D) as x.swapaxes(1, 2)";
  }
  if (view.rank < 2 || view.shape[0] != shapes.batch || size(view, 1) != shapes.key_length) {
    return "";
  }
  if (view.rank == 2) return "; pass one of shape (B, Lk) as x[:, None, None, :]";
  if (view.rank != 3 || size(view, 2) != shapes.query_length) return "";
  return "; pass one of shape (B, Lq, Lk) as x[:, None]";
}

Operand place_scores(const char* name, const View& view, const Shapes& shapes, bool is_mask) {
  check_array(name, view);
  if (is_mask && view.dtype != DType::kBool) fail_type(name, view, "bool");
  if (!is_mask && !is_float(view.dtype)) fail_type(name, view, "a float type");
  const std::ptrdiff_t tail[3] = {shapes.query_heads, shapes.query_length, shapes.key_length};
  return broadcast(name, view, shapes, 3, tail, true, axes_hint(view, shapes));
}

Operand place_per_head(const char* name, const View& view, const Shapes& shapes, DType dtype) {
  check_array(name, view);
  if (view.dtype != dtype) fail_type(name, view, type_name(dtype));
  if (view.rank < 1) fail(std::string(name) + " has shape (); it must have a number per head");
  return broadcast(name, view, shapes, 1, &shapes.query_heads, false);
}

std::optional<std::int64_t> checked_side(const char* name, std::optional<std::int64_t> side) {
  if (side && *side < 0) {
    fail(std::string("window has ") + name + " = " + std::to_string(*side) +
         "; it must be a non-negative integer or None");
  }
  return side;
}

void check_length(std::int64_t length, std::ptrdiff_t keys) {
  if (length >= 0 && length <= keys) return;
  fail("key_lengths contains " + std::to_string(length) + "; each must be in [0, " +
       std::to_string(keys) + "], the number of keys");
}

void check_lengths(const Call& call) {
  const Shapes& shapes = call.shapes;
  if (!call.key_offsets) {
    for (std::ptrdiff_t i = 0; i < call.key_lengths.count; ++i) {
      check_length(call.key_lengths.memory[i], shapes.key_length);
    }
    return;
  }
  const bool equal = call.key_offsets.stride == 0 && call.key_lengths.count <= 1;
  const std::ptrdiff_t entries = equal ? std::min<std::ptrdiff_t>(1, shapes.batch) : shapes.batch;
  for (std::ptrdiff_t b = 0; b < entries; ++b) {
    check_length(integer_at(call.key_lengths, shapes, b),
                 call.key_offsets[b + 1] - call.key_offsets[b]);
  }
}

void resolve_options(Call& call, const Options& options) {
  const Shapes& shapes = call.shapes;
  call.left = checked_side("left", options.window_left);
  call.right = checked_side("right", options.window_right);
  if (options.causal) call.right = 0;
  if (options.mask) call.mask = place_scores("mask", *options.mask, shapes, true);
  if (options.bias) call.bias = place_scores("bias", *options.bias, shapes, false);
  if (options.query_offset) {
    const Operand offset = place_integers("query_offset", *options.query_offset, shapes, 0, 0);
    call.query_offset = copy_integers(offset, shapes, options);
  }
  if (options.key_lengths) {
    const Operand lengths = place_integers("key_lengths", *options.key_lengths, shapes, 0, 0);
    call.key_lengths = copy_integers(lengths, shapes, options);
    check_lengths(call);
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

void check_tokens(const char* name, const View& view, DType query, const std::optional<View>& scale,
                  const char* scale_name) {
  const bool quantised = view.dtype == DType::kInt8;
  if (quantised && query == DType::kFloat64) fail_type(name, view, "float64, like query");
  if (!quantised) check_float_type(name, view, query);
  if (quantised != scale.has_value()) {
    fail(quantised ? std::string(scale_name) + " is missing; " + name + " is int8"
                   : std::string(scale_name) + " is given, but " + name + " is not int8 but " +
                         type_name(view.dtype));
  }
}

Operand place_scale(const char* name, const View& view, const Shapes& shapes, const View& tokens,
                    const Options& options) {
  check_array(name, view);
  if (view.dtype != DType::kFloat32) fail_type(name, view, "float32");
  const std::ptrdiff_t tail[2] = {shapes.kv_heads, shapes.key_length};
  return broadcast(name, plain_scales(name, view, tokens, shapes, options), shapes, 2, tail, true);
}

void resolve_tokens(Call& call, const Inputs& inputs, const View& key, const View* value,
                    const Options& options) {
  const DType query = inputs.query.dtype;
  check_tokens("key", key, query, options.key_scale, "key_scale");
  call.key = place("key", inputs.key, call.shapes);
  if (options.key_scale) {
    call.key_scale = place_scale("key_scale", *options.key_scale, call.shapes, key, options);
  }
  if (value) {
    check_tokens("value", *value, query, options.value_scale, "value_scale");
    if (value->dtype != key.dtype) {
      fail_type("value", *value, std::string("that of key, ") + type_name(key.dtype));
    }
    call.value = place("value", inputs.value, call.shapes);
    if (options.value_scale) {
      call.value_scale =
          place_scale("value_scale", *options.value_scale, call.shapes, *value, options);
    }
  } else if (options.value_scale) {
    fail("value_scale is given, but there is no value");
  }
}

// After key_lengths, which say what is looked up.
void resolve_pages(Call& call, const View& block_table, const View& key, const View* value,
                   const Options& options) {
  const std::ptrdiff_t pages = size(block_table, 1);
  const Operand table = place_integers("block_table", block_table, call.shapes, 1, pages);
  call.pages.size = key.shape[2];
  const auto strides = [](const View* rows, const std::optional<View>& scales) {
    return PageStrides{rows ? rows->stride[0] : 0, scales ? scales->stride[0] : 0};
  };
  call.pages.key = strides(&key, options.key_scale);
  call.pages.value = strides(value, options.value_scale);
  std::ptrdiff_t num_pages = key.shape[0];
  if (value) num_pages = std::min(num_pages, value->shape[0]);
  for (const auto* scale : {&options.key_scale, &options.value_scale}) {
    if (*scale) num_pages = std::min(num_pages, (*scale)->shape[0]);
  }
  call.pages.table =
      copy_table(table, call.key_lengths, call.pages.size, num_pages, call.shapes, options);
}

}  // namespace

Call resolve(const View& query, const View& key, const View* value, const View* output,
             const View* lse, const Options& options) {
  Call call;
  Inputs inputs(query, key, value, options);
  call.shapes = infer_shapes(inputs);
  call.dtype = compute_dtype(query.dtype);
  check_float_type("query", query, query.dtype);
  call.query = place("query", inputs.query, call.shapes);
  resolve_tokens(call, inputs, key, value, options);
  call.query_offsets = std::move(inputs.query_offsets);
  call.key_offsets = std::move(inputs.key_offsets);
  resolve_options(call, options);
  if (options.block_table) resolve_pages(call, *options.block_table, key, value, options);
  const Shapes& s = call.shapes;
  const std::ptrdiff_t columns = value ? s.value_dim : s.key_length;
  const std::ptrdiff_t tail[3] = {s.query_heads, s.query_length, columns};
  const auto result = [&](const char* name, const View& view, int rank) {
    return options.cu_seqlens_q ? plain_result(name, view, s, query.shape[0], rank - 1) : view;
  };
  if (output) {
    check_floats("out", *output, query.dtype);
    check_distinct("out", *output);
    call.output = place_result("out", result("out", *output, s.rank), s, 3, tail, s.rank);
  }
  if (lse) {
    check_array("lse", *lse);
    check_distinct("lse", *lse);
    if (lse->dtype != call.dtype) fail_type("lse", *lse, type_name(call.dtype));
    call.lse = place_result("lse", result("lse", *lse, s.rank - 1), s, 2, tail, s.rank - 1);
  }
  return call;
}

}  // namespace cpuattn
