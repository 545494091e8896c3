// The contract between the framework (attention.cpp) and the kernels (kernels/*.hpp).
//
// Plain structs only: an ISA file that includes this header must not emit code that another
// translation unit could share, or the linker might keep its AVX-512 copy for every CPU.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cpuattn {

// Sides of a window that are not bounded, as a distance. Positions are clamped to the same
// magnitude, so that position + distance never overflows.
constexpr std::ptrdiff_t kUnbounded = std::ptrdiff_t{1} << 60;

// Weights are summed as kWeightScale · exp(score - base), so that a sum of 2^20 values as large
// as the largest number does not overflow before it is divided by the sum of the weights (a weight
// is at most exp(8)). A power of two: no digit changes.
constexpr double kWeightScale = 0x1p-32;

// One (batch entry, key/value head): element (head, row, dim) lies at
// data[head * head_stride + row * row_stride + dim * dim_stride]; strides in elements.
// The head counts from the first query head of the group; keys and values have head 0 only.
struct Matrix {
  void* data = nullptr;
  std::ptrdiff_t head_stride = 0;
  std::ptrdiff_t row_stride = 0;
  std::ptrdiff_t dim_stride = 0;
};

enum class ScoreType : unsigned char { kNone, kBool, kFloat32, kFloat64 };

// A mask or bias of one (batch entry, key/value head); strides in bytes, 0 where broadcast.
struct ScoreArray {
  ScoreType type = ScoreType::kNone;
  const unsigned char* data = nullptr;
  std::ptrdiff_t head_stride_bytes = 0;
  std::ptrdiff_t row_stride_bytes = 0;
  std::ptrdiff_t key_stride_bytes = 0;
};

// Segment ids of one batch entry; stride in elements. data == nullptr: no segments.
struct Segments {
  const std::int64_t* data = nullptr;
  std::ptrdiff_t stride = 0;
};

// What attention_weights writes: how far a score has come (see docs/semantics.md).
enum class Stage : unsigned char { kScores, kSoftcapped, kMasked, kWeights };

// One work item: a block of query rows of one key/value head over one range of keys.
//
// Rows. The query rows of all heads that share the key/value head are numbered together, so
// that keys and values are read once for the whole group: row r is query r / group of head
// r % group. This keeps rows of nearby positions in one block, which causal masks want.
//
// Keys are summed up in chunks of key_chunk keys from key_begin on, and the chunks merged in order.
//
// Assumptions: 1 <= num_rows <= the kernel's largest block; 0 <= key_begin <= key_end, and
// key_begin is a multiple of the kernel's key block; every pointer is aligned to its element;
// scratch is 64-byte aligned and as large as the kernel's *_scratch function says.
// The bits of a row depend only on its own query, the keys and values that it may see, its
// options and the keys of the work: never on the other rows of the block.
struct Work {
  std::ptrdiff_t head_dim = 0;
  std::ptrdiff_t value_dim = 0;
  std::ptrdiff_t group = 1;
  std::ptrdiff_t first_row = 0;
  std::ptrdiff_t num_rows = 0;
  std::ptrdiff_t key_begin = 0;
  std::ptrdiff_t key_end = 0;
  std::ptrdiff_t key_chunk = 0;   // a multiple of the kernel's key block
  std::ptrdiff_t key_length = 0;  // keys at and beyond it are padding, seen by no row

  Matrix query;
  Matrix key;
  Matrix value;

  // Row i sees key j where i + query_offset - left <= j <= i + query_offset + right.
  std::ptrdiff_t query_offset = 0;
  std::ptrdiff_t left = kUnbounded;
  std::ptrdiff_t right = kUnbounded;
  ScoreArray mask;
  ScoreArray bias;
  Segments query_segments;
  Segments key_segments;

  double scale = 1.0;
  double softcap = 0.0;                // 0: off
  const void* alibi_slopes = nullptr;  // one per head of the group, of the query's type
  std::ptrdiff_t alibi_stride = 0;     // elements
  const void* sinks = nullptr;         // likewise; added where normalise is set
  std::ptrdiff_t sinks_stride = 0;

  // Results: row r of the output (divided by the sum if normalise), its base (a number not far
  // below its largest score, -inf if it saw no key) and kWeightScale · the sum of
  // exp(score - base). Types are the query's.
  Matrix output;
  bool normalise = true;
  void* row_base = nullptr;  // [num_rows]
  void* row_sum = nullptr;

  // attention_weights only: `output` is (row, key), and row_base and row_sum are read, to turn
  // scores into weights.
  Stage stage = Stage::kWeights;

  // Asked once per key block; true: leave at once, the results will not be used.
  bool (*should_stop)(void*) = nullptr;
  void* stop_context = nullptr;
};

// Results of some rows over some of the keys, not yet divided by the sum.
struct Partial {
  void* output = nullptr;  // [num_rows][value_dim]
  void* row_base = nullptr;
  void* row_sum = nullptr;
};

// The kernels of one ISA for one element type.
struct Kernels {
  int lanes;         // elements per vector
  int query_block;   // most rows of a forward or weights item
  int decode_rows;   // most rows of a decode item
  int key_block;     // keys per softmax update of the forward kernel
  int decode_block;  // and of the decode kernel
  void (*forward)(const Work&, void* scratch);
  void (*decode)(const Work&, void* scratch);
  void (*weights)(const Work&, void* scratch);
  // Adds the results over later keys to those over earlier ones.
  void (*merge)(const Partial& total, const Partial& part, std::ptrdiff_t num_rows,
                std::ptrdiff_t value_dim);
  // Adds the sinks of the work's rows, once all keys are merged.
  void (*add_sinks)(const Work& work, const Partial& total, std::ptrdiff_t value_dim);
  // Does floating-point operations at the highest rate and says how many.
  double (*multiply_add)(std::ptrdiff_t rounds, std::ptrdiff_t* operations);
  // Reads elements at the highest rate.
  double (*sum_elements)(const void* data, std::ptrdiff_t count);
  std::size_t (*forward_scratch)(std::ptrdiff_t head_dim, std::ptrdiff_t value_dim, int rows);
  std::size_t (*decode_scratch)(std::ptrdiff_t head_dim, std::ptrdiff_t value_dim, int rows);
};

// What an ISA file exports: its one symbol.
struct Isa {
  const char* name;
  Kernels float32;
  Kernels float64;
};

}  // namespace cpuattn
