// The contract between the framework (attention.cpp) and the kernels (kernels/*.hpp).
//
// Plain structs only: an ISA file that includes this header must not emit code that another
// translation unit could share, or the linker might keep its AVX-512 copy for every CPU.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cpuattn {

// Beyond every row and key: distances from a row to the keys that it sees are clamped to this
// magnitude, which hides or shows the same keys and never overflows when a row is added.
constexpr std::int64_t kFarthest = std::int64_t{1} << 62;

enum class ElementType : unsigned char {
  kNone,
  kBool,
  kInt8,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64
};

// The kernels of one type T, float or double, compute and keep their results in it. Where "of any
// type" is said, memory may hold narrower numbers, which are converted as they are read or written.

// Queries or outputs of one (batch entry, key/value head), of any type: element (head, row, dim)
// lies at data[head * head_stride + row * row_stride + dim * dim_stride]; strides in elements.
// The head counts from the first query head of the group.
struct Matrix {
  void* data = nullptr;
  std::ptrdiff_t head_stride = 0;
  std::ptrdiff_t row_stride = 0;
  std::ptrdiff_t dim_stride = 0;
  ElementType type = ElementType::kNone;
};

// Keys or values of one (batch entry, key/value head), of any type, and of int8 with a scale per
// token. If there are pages, token t lies in row t % page_size of page pages[t / page_size].
// Strides in elements.
struct Tokens {
  const void* data = nullptr;
  std::ptrdiff_t row_stride = 0;
  std::ptrdiff_t dim_stride = 0;
  ElementType type = ElementType::kNone;

  const std::int64_t* pages = nullptr;  // nullptr: all rows lie row_stride apart
  std::ptrdiff_t pages_stride = 0;
  std::ptrdiff_t page_size = 0;
  std::ptrdiff_t page_stride = 0;

  const float* scales = nullptr;  // int8 only: a number is its integer times the token's scale
  std::ptrdiff_t scale_stride = 0;
  std::ptrdiff_t scale_page_stride = 0;
};

// A mask or bias of one (batch entry, key/value head); strides in bytes, 0 where broadcast.
struct ScoreArray {
  ElementType type = ElementType::kNone;
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
// a kernel of doubles is given doubles only;
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
  std::ptrdiff_t key_chunk = 0;   // a multiple of the forward kernel's key block; decode: its block
  std::ptrdiff_t key_length = 0;  // keys at and beyond it are padding, seen by no row

  Matrix query;
  Tokens key;
  Tokens value;

  // Row i sees key j where i + first_seen <= j <= i + last_seen, by causal and window.
  std::int64_t first_seen = -kFarthest;
  std::int64_t last_seen = kFarthest;
  std::int64_t query_offset = 0;  // for ALiBi: row i stands at position i + query_offset
  ScoreArray mask;
  ScoreArray bias;
  Segments query_segments;
  Segments key_segments;

  double scale = 1.0;
  double softcap = 0.0;                // 0: off
  const void* alibi_slopes = nullptr;  // one per head of the group, of the kernel's type
  std::ptrdiff_t alibi_stride = 0;     // elements
  const void* sinks = nullptr;         // likewise; added where normalise is set
  std::ptrdiff_t sinks_stride = 0;

  // Results: row r of the output (divided by the sum if normalise), its base (a number not far
  // below its largest score, -inf if it saw no key) and the sum of exp(score - base), both of the
  // kernel's type.
  Matrix output;
  bool normalise = true;
  void* row_base = nullptr;  // [num_rows]
  void* row_sum = nullptr;
  // Where normalise is set, or null: rows with an element that is not finite are set to true.
  bool* not_finite = nullptr;

  // A second run (see second_run.hpp), else null: the bases that rows start from, and powers of two
  // that weights are multiplied with before values are; row_sum stays without them.
  const void* start_base = nullptr;
  const void* weight_factor = nullptr;

  // attention_weights only: `output` is (row, key), and row_base and row_sum are read, to turn
  // scores into weights.
  Stage stage = Stage::kWeights;

  // Asked once per key block, in wide heads more often; true: leave at once, the results will not
  // be used.
  bool (*should_stop)(void*) = nullptr;
  void* stop_context = nullptr;
};

// Results of some rows over some of the keys, not yet divided by the sum, of the kernel's type.
struct Partial {
  void* output = nullptr;  // [num_rows][value_dim]
  void* row_base = nullptr;
  void* row_sum = nullptr;
};

// Rows of numbers to be stored as another type, each with a scale if that is int8. A row is `size`
// numbers, source_stride apart, to be written next to each other. Strides in elements.
//
// Assumptions: source and target do not overlap, and are aligned to their elements; the kernel of
// doubles is given doubles, that of floats any narrower floating-point type.
struct Conversion {
  const void* source = nullptr;
  std::ptrdiff_t source_row_stride = 0;
  std::ptrdiff_t source_stride = 0;
  ElementType source_type = ElementType::kNone;

  void* target = nullptr;
  std::ptrdiff_t target_row_stride = 0;
  ElementType target_type = ElementType::kNone;

  float* scale = nullptr;
  std::ptrdiff_t scale_stride = 0;

  std::ptrdiff_t num_rows = 1;
  std::ptrdiff_t size = 0;
};

// The kernels of one ISA for one type to compute in.
struct Kernels {
  int lanes;         // elements per vector
  int query_block;   // most rows of a weights item, or of a forward one that converts nothing
  int pair_block;    // most rows of a forward item: two blocks share what is converted
  int decode_rows;   // most rows of a decode item
  int key_block;     // keys per softmax update of the forward kernel
  int decode_block;  // keys in a chunk of the decode kernel
  void (*forward)(const Work&, void* scratch);
  void (*decode)(const Work&, void* scratch);
  void (*weights)(const Work&, void* scratch);
  // Adds the results over later keys to those over earlier ones.
  void (*merge)(const Partial& total, const Partial& part, std::ptrdiff_t num_rows,
                std::ptrdiff_t value_dim);
  // Adds the sinks of the work's rows, once all keys are merged.
  void (*add_sinks)(const Work& work, const Partial& total, std::ptrdiff_t value_dim);
  // Rounds or quantises as cpuattn/cache.hpp defines it, and tells whether a number overflowed.
  bool (*convert_rows)(const Conversion&);
  // Does floating-point operations at the highest rate and says how many.
  double (*multiply_add)(std::ptrdiff_t rounds, std::ptrdiff_t* operations);
  // Reads elements at the highest rate.
  double (*sum_elements)(const void* data, std::ptrdiff_t count);
  std::size_t (*forward_scratch)(std::ptrdiff_t head_dim, std::ptrdiff_t value_dim, int rows);
  std::size_t (*decode_scratch)(std::ptrdiff_t head_dim, std::ptrdiff_t value_dim, int rows);
};

// Kernels for query, key and value of bfloat16, multiplied as they are. The forward kernel rounds
// the weights to bfloat16 too. They take no more scratch than those of float32, and no second runs.
struct BFloat16Kernels {
  void (*forward)(const Work&, void* scratch);
  void (*decode)(const Work&, void* scratch);
  double (*multiply_add)(std::ptrdiff_t rounds, std::ptrdiff_t* operations);
};

// The decode kernel for int8 keys and values, multiplied as they are with numbers of three digits.
// It takes no second runs.
struct Int8Kernels {
  std::ptrdiff_t least_rows;     // of an item; fewer are bound by reading
  std::ptrdiff_t most_head_dim;  // over which integers of 32 bits hold the sums
  void (*decode)(const Work&, void* scratch);
  std::size_t (*decode_scratch)(std::ptrdiff_t head_dim, std::ptrdiff_t value_dim, int rows);
};

// What an ISA file exports: its one symbol. (Or the kernels of a narrow type, which complete those
// of another ISA.)
struct Isa {
  const char* name;
  Kernels float32;
  Kernels float64;
  const BFloat16Kernels* bfloat16 = nullptr;  // none: bfloat16 is converted to float32
  const Int8Kernels* int8 = nullptr;          // none: so is int8
};

}  // namespace cpuattn
