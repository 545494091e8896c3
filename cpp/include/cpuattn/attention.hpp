// cpuattn: exact softmax attention in blocks, for CPUs. The public C++ API.
//
//   output = softmax(mask(softcap(scale * query . key^T) + bias)) . value
//
// Dimension letters: B batch, Hq query heads, Hkv key/value heads (Hq % Hkv == 0; query head h
// reads key head h / (Hq / Hkv)), Lq and Lk lengths, D head_dim, Dv head_dim of value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "cpuattn/export.hpp"

namespace cpuattn {

enum class DType : unsigned char { kBool, kInt8, kInt64, kFloat16, kBFloat16, kFloat32, kFloat64 };

constexpr std::ptrdiff_t element_size(DType dtype) {
  switch (dtype) {
    case DType::kBool:
    case DType::kInt8:
      return 1;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kFloat32:
      return 4;
    default:
      return 8;
  }
}

// What a call computes and accumulates in, and the type of its lse: float32 but for queries of
// float64.
constexpr DType compute_dtype(DType query) {
  return query == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

constexpr int kMaxRank = 16;

// An array in memory that somebody else owns. Strides are in bytes and may be 0 or negative;
// data and strides must be multiples of the element's size.
struct View {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int rank = 0;
  std::ptrdiff_t shape[kMaxRank] = {};
  std::ptrdiff_t stride[kMaxRank] = {};
};

// Threads that the caller brings along. run(pool, count, body, context) calls body(context, i) for
// each i in [0, count), on any threads at once or one after the other, and returns when all calls
// have returned. A call of body that begins late finds nothing left to do.
struct ParallelFor {
  void (*run)(void* pool, int count, void (*body)(void* context, int i), void* context) = nullptr;
  void* pool = nullptr;
};

// Every option of one call; what is not set is off. Shapes in brackets may be broadcast.
struct Options {
  std::optional<View> mask;                  // bool [..., Hq, Lq, Lk]: true = may attend
  std::optional<View> bias;                  // float [..., Hq, Lq, Lk]: added to the scaled scores
  bool causal = false;                       // query i sees key j only if j <= i + query_offset
  std::optional<std::int64_t> window_left;   // and only if j >= i + query_offset - window_left
  std::optional<std::int64_t> window_right;  // and only if j <= i + query_offset + window_right
  std::optional<View> query_offset;          // int64 [...]: default (key_lengths or Lk) - Lq
  std::optional<View> key_lengths;           // int64 [...]: only keys [0, n) take part
  std::optional<View> query_segments;        // int64 [..., Lq] and
  std::optional<View> key_segments;          // int64 [..., Lk]: attend only within equal ids
  std::optional<View> alibi_slopes;  // [Hq] or [..., Hq], compute_dtype: adds -slope * |distance|
  std::optional<View> sinks;         // [Hq], compute_dtype: one more logit in the denominator
  std::optional<double> softcap;     // s -> softcap * tanh(s / softcap)
  std::optional<double> scale;       // default 1 / sqrt(D)
  int num_threads = 0;               // of this call; 0: get_num_threads()

  // Keys and values of int8: a number is its integer times the scale of its token. float32
  // [..., Hkv, Lk]; with pages [num_pages, Hkv, page_size].
  std::optional<View> key_scale, value_scale;

  // Paged caches: key and value are [num_pages, Hkv, page_size, D or Dv], and token t of a batch
  // entry lies in row t % page_size of page block_table[..., t / page_size]. int64 [..., P]; Lk is
  // P * page_size, and only pages that key_lengths leaves in are looked up.
  std::optional<View> block_table;

  // Packed sequences: query and output are [total, Hq, ...], key and value [total, Hkv, ...], and
  // sequence b has the rows [cu_seqlens[b], cu_seqlens[b + 1]). int64 [B + 1], given together, but
  // with block_table only cu_seqlens_q. Other options have the shapes of a batch of B padded to the
  // longest sequences; lse is [total, Hq].
  std::optional<View> cu_seqlens_q, cu_seqlens_k;

  // Runs the work on the caller's threads instead of the library's own; count is num_threads or
  // less. should_stop is then asked only while the calling thread is in body.
  ParallelFor parallel_for;

  // Asked about every 50 ms on the calling thread; true ends the call with Interrupted.
  bool (*should_stop)(void*) = nullptr;
  void* stop_context = nullptr;
};

// Thrown when should_stop returned true. The output is then undefined.
struct CPUATTN_API Interrupted : std::exception {
  const char* what() const noexcept override { return "interrupted"; }
};

// The shapes that follow from query, key and value.
struct Shapes {
  int rank = 0;  // of the output: the largest of the three
  int batch_rank = 0;
  std::ptrdiff_t batch_shape[kMaxRank] = {};  // broadcast leading dimensions
  std::ptrdiff_t batch = 1;                   // their product
  std::ptrdiff_t query_heads = 1, kv_heads = 1, group = 1;
  std::ptrdiff_t query_length = 0, key_length = 0;  // of packed sequences: the longest
  std::ptrdiff_t head_dim = 0, value_dim = 0;
};

// Which parts of the scores attention_weights returns; see docs/semantics.md for the order.
enum class WeightStage { kScores, kSoftcapped, kMasked, kWeights };

// How a call, or one of two passes of a call, would run.
struct Explanation {
  std::string kernel;  // "forward": queries in the lanes; "decode": head_dim in the lanes
  std::string isa;
  std::string products;  // the type that is multiplied; sums are at least float32
  std::ptrdiff_t query_block = 0;
  std::ptrdiff_t key_block = 0;
  std::ptrdiff_t key_chunk = 0;  // keys of one work item
  std::ptrdiff_t num_chunks = 0;
  std::ptrdiff_t work_items = 0;
  int threads = 0;
  std::size_t scratch_bytes = 0;  // beyond the output, for all threads together
};

// All functions throw std::invalid_argument, with the name of the argument, before any work is
// done; std::bad_alloc; and Interrupted. They may be called from many threads at once.

// `value` may be null for attention_weights.
CPUATTN_API Shapes infer_shapes(const View& query, const View& key, const View* value,
                                const Options& options);

// query: float64, or float32, float16 or bfloat16. key and value, both of one type: float64 if
// query is, else any other float type or int8.
// output: [..., Hq, Lq, Dv] of Shapes::rank dimensions, any strides, not overlapping an input;
// float64 if query is, else any other float type.
// lse: [..., Hq, Lq] of compute_dtype, or null; natural logarithm, -inf on an empty row.
CPUATTN_API void attention(const View& query, const View& key, const View& value,
                           const View& output, const View* lse, const Options& options);

// output: [..., Hq, Lq, Lk], of any float type if query is not float64. Takes no packed sequences.
// Keys behind key_lengths in pages are not looked up: they have the score -inf at every stage.
CPUATTN_API void attention_weights(const View& query, const View& key, const View& output,
                                   WeightStage stage, const Options& options);

// One entry; of packed sequences one for those with few rows per key/value head and one for the
// others, as they are run apart, without one that has nothing to do. output: null if it has query's
// dtype.
CPUATTN_API std::vector<Explanation> explain(const View& query, const View& key, const View& value,
                                             const View* output, const Options& options);

// CPUATTN_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs that the process may use: its affinity,
// or the quota of its container if that is smaller. What set_num_threads said takes precedence.
CPUATTN_API int get_num_threads();
CPUATTN_API void set_num_threads(int threads);
// OMP_NUM_THREADS as it is set, if it is no number of threads and therefore ignored; else empty.
CPUATTN_API std::string ignored_num_threads();

CPUATTN_API std::vector<std::string> compiled_isa_names();
CPUATTN_API std::vector<std::string> isa_names();  // that this CPU can run, best first
CPUATTN_API std::string isa_name();                // in use
CPUATTN_API void use_isa_name(const std::string& name);

// Floating-point operations per second of one thread, the most that the ISA in use reaches with
// multiply-adds: the yardstick of the benchmark. Of narrow types those of float32, if it does not
// multiply them as they are.
CPUATTN_API double measure_peak(DType dtype, double seconds);

// Bytes per second that one thread reads of so many floats, again and again: with more of them than
// the caches hold, the limit of decode.
CPUATTN_API double measure_reads(const float* data, std::ptrdiff_t count, double seconds);

// What runs the threads: "own pool", or the OpenMP runtime of a build with CPUATTN_OPENMP.
CPUATTN_API std::string threads_name();

}  // namespace cpuattn
