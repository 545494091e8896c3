#include "problem/layout.hpp"

#include <algorithm>
#include <initializer_list>
#include <string>

#include "problem/checks.hpp"
#include "problem/sizes.hpp"

namespace cpuattn {
namespace {

View reshaped(View view, std::initializer_list<std::ptrdiff_t> shape,
              std::initializer_list<std::ptrdiff_t> stride) {
  view.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), view.shape);
  std::copy(stride.begin(), stride.end(), view.stride);
  return view;
}

// Pages (num_pages, heads, page_size, dim) as if they lay behind each other: (heads, P * page_size,
// dim). Without dims: their scales (num_pages, heads, page_size).
View unpaged(const char* name, const View& view, const View& table, int dims) {
  if (view.rank != 3 + dims) {
    fail(std::string(name) + " has shape " + text(view) + "; with block_table it must be " +
         (dims ? "(num_pages, heads, page_size, head_dim)" : "(num_pages, heads, page_size)"));
  }
  const std::ptrdiff_t page_size = view.shape[2], pages = size(table, 1);
  if (!fits(page_size, pages)) {
    fail("block_table has shape " + text(table) + " and " + name + " " + text(view) +
         "; pages * page_size must be at most " + std::to_string(kMaxCount));
  }
  const std::ptrdiff_t length = page_size * pages;
  return dims ? reshaped(view, {view.shape[1], length, view.shape[3]},
                         {view.stride[1], view.stride[2], view.stride[3]})
              : reshaped(view, {view.shape[1], length}, {view.stride[1], view.stride[2]});
}

// Offsets of the sequences of a packed array of `total` rows.
Offsets checked_offsets(const char* name, const View& cu_seqlens, std::ptrdiff_t total) {
  check_array(name, cu_seqlens);
  if (cu_seqlens.dtype != DType::kInt64) fail_type(name, cu_seqlens, "int64");
  if (cu_seqlens.rank != 1 || cu_seqlens.shape[0] < 1) {
    fail(std::string(name) + " has shape " + text(cu_seqlens) + "; it must be (B + 1,)");
  }
  Offsets offsets = copy_offsets(cu_seqlens);
  const std::int64_t* const first = offsets.data.get();
  const std::int64_t* const last = first + (cu_seqlens.shape[0] - 1) * offsets.stride;
  if (*first != 0 || *last != total || !std::is_sorted(first, last + 1)) {
    fail(std::string(name) + " must begin with 0, never fall, and end with the number of rows, " +
         std::to_string(total) + "; it begins with " + std::to_string(*first) + " and ends with " +
         std::to_string(*last));
  }
  return offsets;
}

std::ptrdiff_t longest_sequence(const Offsets& offsets, std::ptrdiff_t batch) {
  std::ptrdiff_t longest = 0;
  for (std::ptrdiff_t b = 0; offsets.stride != 0 && b < batch; ++b) {
    longest = std::max(longest, offsets[b + 1] - offsets[b]);
  }
  return longest;
}

void check_packed(const char* name, const View& view) {
  if (view.rank == 3) return;
  fail(std::string(name) + " has shape " + text(view) +
       "; with cu_seqlens_q it must be (total, heads, head_dim)");
}

// Packed (total, heads, dim) as if padded: (B, heads, longest, dim). All sequences seem to begin
// with the first row; make_work adds where they do.
View unpacked(const View& view, std::ptrdiff_t batch, std::ptrdiff_t longest) {
  return reshaped(view, {batch, view.shape[1], longest, view.shape[2]},
                  {0, view.stride[1], view.stride[0], view.stride[2]});
}

// Queries and keys are packed together, or queries alone over pages.
void check_packing(const Options& options) {
  if (options.cu_seqlens_k && options.block_table) {
    fail("cu_seqlens_k must be None with block_table: key_lengths says how many keys there are");
  }
  if (options.cu_seqlens_k && !options.cu_seqlens_q) {
    fail("cu_seqlens_q is missing; cu_seqlens_q and cu_seqlens_k must be given together");
  }
  if (options.cu_seqlens_q && !options.cu_seqlens_k && !options.block_table) {
    fail("cu_seqlens_k is missing; only with block_table it may be None");
  }
}

// What to try if query and key would fit with the axes of heads and lengths exchanged, and key has
// more "heads" than tokens.
const char* order_hint(const View& query, const View& key) {
  const std::ptrdiff_t heads = size(key, 2);
  const bool fits = query.rank > 3 && key.rank > 3 && heads != 0 && heads < size(key, 3) &&
                    size(query, 2) % heads == 0;
  return fits ? " (pass arrays of shape (B, L, H, D) as x.swapaxes(1, 2))" : "";
}

}  // namespace

Inputs::Inputs(const View& query, const View& key, const View* value, const Options& options)
    : query(query), key(key), value(value ? *value : key), has_value(value != nullptr) {
  check_array("query", query);
  check_array("key", key);
  if (value) check_array("value", *value);
  check_packing(options);
  if (options.block_table) unpage(*options.block_table, options);
  if (options.cu_seqlens_q) unpack_queries(*options.cu_seqlens_q);
  if (options.cu_seqlens_k) unpack_keys(*options.cu_seqlens_k);
}

void Inputs::unpage(const View& block_table, const Options& options) {
  if (!options.key_lengths) {
    fail("key_lengths is missing; with block_table it says how many tokens are in use");
  }
  check_array("block_table", block_table);
  if (block_table.rank < 1) fail("block_table has shape (); it must be (..., pages)");
  const View whole = key;
  key = unpaged("key", key, block_table, 1);
  value = has_value ? unpaged("value", value, block_table, 1) : key;
  if (value.shape[1] != key.shape[1]) {
    fail("value has another page_size than key, whose shape is " + text(whole));
  }
}

void Inputs::unpack_queries(const View& cu_seqlens_q) {
  check_packed("query", query);
  query_offsets = checked_offsets("cu_seqlens_q", cu_seqlens_q, query.shape[0]);
  const std::ptrdiff_t batch = cu_seqlens_q.shape[0] - 1;
  query = unpacked(query, batch, longest_sequence(query_offsets, batch));
}

// After the queries, of which there are now as many batch entries as sequences.
void Inputs::unpack_keys(const View& cu_seqlens_k) {
  check_packed("key", key);
  check_packed("value", value);
  key_offsets = checked_offsets("cu_seqlens_k", cu_seqlens_k, key.shape[0]);
  const std::ptrdiff_t batch = cu_seqlens_k.shape[0] - 1;
  if (batch != query.shape[0]) {
    fail("cu_seqlens_k has shape " + text(cu_seqlens_k) + "; it must be that of cu_seqlens_q, (" +
         std::to_string(query.shape[0] + 1) + ",)");
  }
  if (value.shape[0] != key.shape[0]) {
    fail("value has shape " + text(value) + " and key " + text(key) +
         "; their lengths must be equal");
  }
  const std::ptrdiff_t longest = longest_sequence(key_offsets, batch);
  key = unpacked(key, batch, longest);
  value = has_value ? unpacked(value, batch, longest) : key;
}

namespace {

void check_size(const char* name, const View& view, const char* what, std::ptrdiff_t size,
                std::ptrdiff_t most) {
  if (size <= most) return;
  fail(std::string(name) + " has shape " + text(view) + "; " + what + " must be at most " +
       std::to_string(most));
}

// No sum or product of sizes that follows from these overflows.
void check_sizes(const Inputs& all, Shapes& shapes) {
  check_size("query", all.query, "head_dim", shapes.head_dim, kMaxDims);
  if (all.has_value)
    check_size("value", all.value, "its last dimension", shapes.value_dim, kMaxDims);
  check_size("key", all.key, "its length", shapes.key_length, kMaxCount);
  const auto at_least_one = [](std::ptrdiff_t size) { return std::max<std::ptrdiff_t>(size, 1); };
  std::ptrdiff_t rows =
      product(at_least_one(shapes.query_heads), at_least_one(shapes.query_length));
  bool empty = false;
  for (int i = 0; i < shapes.batch_rank; ++i) {
    rows = product(rows, at_least_one(shapes.batch_shape[i]));
    empty |= shapes.batch_shape[i] == 0;
    shapes.batch = empty ? 0 : product(shapes.batch, shapes.batch_shape[i]);
  }
  if (rows <= kMaxCount) return;
  fail("query has shape " + text(all.query) + " and key " + text(all.key) +
       "; all rows of all heads and batch entries together must be at most " +
       std::to_string(kMaxCount));
}

}  // namespace

Shapes infer_shapes(const Inputs& all) {
  struct Named {
    const char* name;
    const View* view;
  };
  const View &query = all.query, &key = all.key;
  const View* value = all.has_value ? &all.value : nullptr;
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
         "; the heads of query must be a multiple of those of key" + order_hint(query, key));
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
  }
  check_sizes(all, shapes);
  return shapes;
}

Shapes infer_shapes(const View& query, const View& key, const View* value, const Options& options) {
  return infer_shapes(Inputs(query, key, value, options));
}

View plain_scales(const char* name, const View& scales, const View& tokens, const Shapes& shapes,
                  const Options& options) {
  if (options.block_table) return unpaged(name, scales, *options.block_table, 0);
  if (!options.cu_seqlens_k) return scales;
  if (scales.rank != 2 || scales.shape[0] != tokens.shape[0]) {
    fail(std::string(name) + " has shape " + text(scales) + "; with cu_seqlens_k it must be (" +
         std::to_string(tokens.shape[0]) + ", " + std::to_string(shapes.kv_heads) + ")");
  }
  return reshaped(scales, {shapes.batch, scales.shape[1], shapes.key_length},
                  {0, scales.stride[1], scales.stride[0]});
}

View plain_result(const char* name, const View& view, const Shapes& shapes, std::ptrdiff_t total,
                  int rank) {
  if (view.rank != rank || view.shape[0] != total) {
    fail(std::string(name) + " has shape " + text(view) + "; its first dimension must be " +
         std::to_string(total) + " of " + std::to_string(rank));
  }
  const std::ptrdiff_t batch = shapes.batch, longest = shapes.query_length;
  return rank == 3
             ? reshaped(view, {batch, view.shape[1], longest, view.shape[2]},
                        {0, view.stride[1], view.stride[0], view.stride[2]})
             : reshaped(view, {batch, view.shape[1], longest}, {0, view.stride[1], view.stride[0]});
}

}  // namespace cpuattn
