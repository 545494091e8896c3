// Public functions: check the arguments, plan, and carry the plan out.
#include "cpuattn/attention.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>

#include "call.hpp"
#include "execute.hpp"
#include "kernel.hpp"
#include "plan.hpp"
#include "registry.hpp"
#include "threads.hpp"

namespace cpuattn {
namespace {

struct FreeMemory {
  void operator()(unsigned char* p) const { std::free(p); }
};
using Memory = std::unique_ptr<unsigned char, FreeMemory>;

Memory allocate(std::size_t bytes) {
  Memory memory(static_cast<unsigned char*>(std::aligned_alloc(64, align(bytes))));
  if (!memory) throw std::bad_alloc();
  return memory;
}

// Memory that a thread keeps from call to call: small calls would spend most of their time in
// malloc and page faults otherwise. A call from within should_stop (a signal handler, say) finds
// it in use and gets memory of its own.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) : owner_(!kept.in_use) {
    if (!owner_) {
      own_ = allocate(bytes);
      return;
    }
    if (bytes > kept.capacity) {
      kept.memory.reset();
      kept.capacity = 0;
      kept.memory = allocate(bytes);
      kept.capacity = bytes;
    }
    kept.in_use = true;
  }
  ~Scratch() {
    if (owner_) kept.in_use = false;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  unsigned char* data() const { return owner_ ? kept.memory.get() : own_.get(); }

 private:
  struct Kept {
    Memory memory;
    std::size_t capacity = 0;
    bool in_use = false;
  };
  static thread_local Kept kept;
  bool owner_;
  Memory own_;
};
thread_local Scratch::Kept Scratch::kept;

PlanShape plan_shape(const Call& call) {
  const Shapes& s = call.shapes;
  return {s.batch,
          s.kv_heads,
          s.group,
          s.query_length,
          s.key_length,
          s.head_dim,
          s.value_dim,
          static_cast<std::size_t>(element_size(call.dtype)),
          call.right && *call.right < s.key_length};
}

const Kernels& kernels_for(DType dtype) {
  const Isa& isa = current_isa();
  return dtype == DType::kFloat64 ? isa.float64 : isa.float32;
}

// bfloat16 throughout is multiplied as it is where the ISA can: weights of as many digits as the
// result has. A wider `out` asks for more of them.
bool has_bfloat16_products(const Call& call) {
  constexpr DType kNarrow = DType::kBFloat16;
  return current_isa().bfloat16 && call.query.dtype == kNarrow && call.key.dtype == kNarrow &&
         call.value.dtype == kNarrow && (!call.output || call.output.dtype == kNarrow);
}

// Few rows over an int8 cache likewise.
bool has_int8_products(const Call& call, const Plan& plan) {
  const Int8Kernels* const int8 = current_isa().int8;
  return int8 && plan.decode && call.key.dtype == DType::kInt8 &&
         call.shapes.head_dim <= int8->most_head_dim;
}

// What a thread may use: half of it for its own work, and what is left for results that wait.
constexpr std::size_t kThreadBytes = std::size_t{2} << 20;

// Wide heads take fewer rows at a time. Some 2000 dims fit with the fewest.
PlanLimits plan_limits(const Kernels& kernels, const PlanShape& shape, int query_block) {
  PlanLimits limits{kernels.lanes, query_block, kernels.decode_rows, kernels.key_block,
                    kernels.decode_block};
  const auto own_bytes = [&](int rows, auto scratch) {
    return scratch(shape.head_dim, shape.value_dim, rows) +
           static_cast<std::size_t>(rows * (shape.value_dim + 2)) * shape.element_size + 64;
  };
  std::size_t own = own_bytes(limits.query_block, kernels.forward_scratch);
  while (own > kThreadBytes / 2 && limits.query_block > limits.lanes) {
    limits.query_block /= 2;
    own = own_bytes(limits.query_block, kernels.forward_scratch);
  }
  if (shape.rows() <= limits.decode_rows) {
    own = own_bytes(static_cast<int>(shape.rows()), kernels.decode_scratch);
  }
  const std::size_t rest = own < kThreadBytes ? kThreadBytes - own : 0;
  limits.partial_bytes = std::min(limits.partial_bytes, rest);
  return limits;
}

// Two blocks of queries share what is made for them: keys and values of a narrow type are
// converted, or pairs of them interleaved, and pages copied.
PlanLimits plan_limits(const Call& call, const PlanShape& shape) {
  const Kernels& kernels = kernels_for(call.dtype);
  const bool converts = call.key.dtype != call.dtype || call.pages.table;
  const bool pairs = converts && shape.rows() >= kernels.pair_block;
  return plan_limits(kernels, shape, pairs ? kernels.pair_block : kernels.query_block);
}

int threads_for(const Options& options) {
  return usable_threads(options.num_threads > 0 ? options.num_threads : default_threads());
}

// The sums of attention_weights, pairs of a base and a sum, are those of its own products.
void choose_kernel(Run& run, bool raw_sums) {
  const Isa& isa = current_isa();
  const bool decode = run.plan.decode;
  run.raw_sums = raw_sums;
  run.kernel = decode ? run.kernels.decode : run.kernels.forward;
  run.kernel_scratch = decode ? run.kernels.decode_scratch : run.kernels.forward_scratch;
  if (raw_sums) return;
  if (has_bfloat16_products(run.call)) {
    run.kernel = decode ? isa.bfloat16->decode : isa.bfloat16->forward;
  } else if (has_int8_products(run.call, run.plan)) {
    run.kernel = isa.int8->decode;
    run.kernel_scratch = isa.int8->decode_scratch;
    run.least_rows = isa.int8->least_rows;
  }
}

void attend(const Call& call, const PlanShape& shape, const Options& options, bool raw_sums) {
  const Kernels& kernels = kernels_for(call.dtype);
  const Plan plan = make_plan(shape, plan_limits(call, shape), threads_for(options));
  if (plan.work_items == 0) return;
  Run run{call, kernels, plan, shape};
  choose_kernel(run, raw_sums);
  lay_out(run);
  const std::size_t own = run.thread_bytes * static_cast<std::size_t>(plan.threads);
  const Scratch scratch(own + plan.partial_bytes);
  run.scratch = scratch.data();
  run.partials = run.scratch + own;
  execute_attention(run, options);
}

// Sequences with few rows, or the others, padded to the longest of them.
PlanShape packed_shape(const Call& call, bool few) {
  const std::ptrdiff_t decode_rows = kernels_for(call.dtype).decode_rows;
  PlanShape shape = plan_shape(call);
  shape.query_length = shape.key_length = 0;
  for (std::ptrdiff_t b = 0; b < shape.batch; ++b) {
    const std::ptrdiff_t queries = call.query_offsets[b + 1] - call.query_offsets[b];
    const std::ptrdiff_t keys =
        call.key_offsets ? call.key_offsets[b + 1] - call.key_offsets[b] : call.shapes.key_length;
    if ((queries * shape.group <= decode_rows) != few) continue;
    shape.query_length = std::max(shape.query_length, queries);
    shape.key_length = std::max(shape.key_length, keys);
  }
  return shape;
}

// The base and the sum of every row, as pairs in memory that `call.lse` then names: the
// forward pass over values of no dimensions.
std::vector<unsigned char> find_sums(Call& call, const Options& options) {
  const Shapes shapes = call.shapes;
  const Operand weights = call.output;
  const std::ptrdiff_t pair = 2 * element_size(call.dtype);
  std::vector<unsigned char> sums(
      static_cast<std::size_t>(shapes.batch * shapes.query_heads * shapes.query_length * pair));
  call.lse = Operand{};
  call.lse.data = reinterpret_cast<char*>(sums.data());
  call.lse.stride[1] = pair;
  call.lse.stride[0] = pair * shapes.query_length;
  std::ptrdiff_t stride = call.lse.stride[0] * shapes.query_heads;
  for (int i = shapes.batch_rank - 1; i >= 0; --i) {
    call.lse.batch_stride[i] = stride;
    stride *= shapes.batch_shape[i];
  }
  call.value = call.key;
  call.value_scale = call.key_scale;
  call.pages.value = call.pages.key;
  call.shapes.value_dim = 0;
  attend(call, plan_shape(call), options, true);
  call.output = weights;
  return sums;
}

const char* products_of(const Call& call, const PlanShape& shape, const Plan& plan) {
  if (call.dtype == DType::kFloat64) return "float64";
  if (has_bfloat16_products(call)) return "bfloat16";
  const bool int8 = has_int8_products(call, plan);
  return int8 && shape.rows() >= current_isa().int8->least_rows ? "int8" : "float32";
}

Explanation explain_pass(const Call& call, const PlanShape& shape, const Options& options) {
  const Kernels& kernels = kernels_for(call.dtype);
  const Plan plan = make_plan(shape, plan_limits(call, shape), threads_for(options));
  Explanation e;
  e.isa = current_isa().name;
  e.products = products_of(call, shape, plan);
  e.kernel = plan.work_items == 0 ? "empty" : plan.decode ? "decode" : "forward";
  if (plan.work_items == 0) return e;
  Run run{call, kernels, plan, shape};
  choose_kernel(run, false);
  lay_out(run);
  e.query_block = plan.query_block;
  e.key_block = plan.decode ? kernels.decode_block : kernels.key_block;
  e.key_chunk = plan.key_chunk;
  e.num_chunks = plan.num_chunks;
  e.work_items = plan.work_items;
  e.threads = plan.threads;
  e.scratch_bytes = run.thread_bytes * static_cast<std::size_t>(plan.threads) + plan.partial_bytes;
  return e;
}

}  // namespace

void attention(const View& query, const View& key, const View& value, const View& output,
               const View* lse, const Options& options) {
  const Call call = resolve(query, key, &value, &output, lse, options);
  if (call.query_offsets) {
    for (const bool few : {true, false}) attend(call, packed_shape(call, few), options, false);
  } else {
    attend(call, plan_shape(call), options, false);
  }
}

void attention_weights(const View& query, const View& key, const View& output, WeightStage stage,
                       const Options& options) {
  if (options.cu_seqlens_q) {
    throw std::invalid_argument("attention_weights takes no packed sequences");
  }
  Call call = resolve(query, key, nullptr, &output, nullptr, options);
  std::vector<unsigned char> sums;
  if (stage == WeightStage::kWeights) sums = find_sums(call, options);
  const Kernels& kernels = kernels_for(call.dtype);
  const PlanShape shape = plan_shape(call);
  PlanLimits limits = plan_limits(kernels, shape, kernels.query_block);
  limits.decode_rows = 0;  // always queries in the lanes
  Plan plan = make_plan(shape, limits, threads_for(options));
  if (plan.work_items == 0) return;
  if (plan.split) plan = unsplit(plan);
  Run run{call, kernels, plan, shape};
  run.kernel = kernels.weights;
  run.kernel_scratch = kernels.forward_scratch;
  run.stage = static_cast<Stage>(stage);
  lay_out(run);
  const Scratch scratch(run.thread_bytes * static_cast<std::size_t>(plan.threads));
  run.scratch = scratch.data();
  execute_weights(run, options);
}

std::vector<Explanation> explain(const View& query, const View& key, const View& value,
                                 const View* output, const Options& options) {
  const Call call = resolve(query, key, &value, output, nullptr, options);
  if (!call.query_offsets) return {explain_pass(call, plan_shape(call), options)};
  const Explanation few = explain_pass(call, packed_shape(call, true), options);
  const Explanation others = explain_pass(call, packed_shape(call, false), options);
  if (others.work_items == 0) return {few};
  if (few.work_items == 0) return {others};
  return {few, others};
}

int get_num_threads() { return default_threads(); }
void set_num_threads(int threads) { set_default_threads(threads); }

namespace {
std::vector<std::string> names(const std::vector<const Isa*>& isas) {
  std::vector<std::string> result;
  result.reserve(isas.size());
  for (const Isa* isa : isas) result.emplace_back(isa->name);
  return result;
}
}  // namespace

std::vector<std::string> compiled_isa_names() { return names(compiled_isas()); }
std::vector<std::string> isa_names() { return names(available_isas()); }
std::string isa_name() { return current_isa().name; }
void use_isa_name(const std::string& name) { use_isa(name); }
double measure_peak(DType dtype, double seconds) {
  using Clock = std::chrono::steady_clock;
  const BFloat16Kernels* const bfloat16 = current_isa().bfloat16;
  const auto multiply_add = dtype == DType::kBFloat16 && bfloat16 ? bfloat16->multiply_add
                                                                  : kernels_for(dtype).multiply_add;
  double best = 0;
  volatile double sink = 0;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  do {
    const auto start = Clock::now();
    std::ptrdiff_t operations = 0;
    sink = sink + multiply_add(100000, &operations);
    const std::chrono::duration<double> took = Clock::now() - start;
    best = std::max(best, static_cast<double>(operations) / took.count());
  } while (Clock::now() < end);
  return best;
}

double measure_reads(const float* data, std::ptrdiff_t count, double seconds) {
  using Clock = std::chrono::steady_clock;
  const Kernels& kernels = kernels_for(DType::kFloat32);
  volatile double sink = 0;
  std::ptrdiff_t passes = 0;
  const auto start = Clock::now();
  std::chrono::duration<double> took{};
  // All passes and not the best one: threads share the memory, and the best pass of each would be
  // one that another thread left alone.
  do {
    sink = sink + kernels.sum_elements(data, count);
    ++passes;
    took = Clock::now() - start;
  } while (took.count() < seconds);
  return static_cast<double>(passes) * static_cast<double>(count) * sizeof(float) / took.count();
}

std::string openmp_name() { return openmp_runtime(); }

}  // namespace cpuattn
