// Public functions: check the arguments, plan, and carry the plan out.
#include "cpuattn/attention.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "isa/environment.hpp"
#include "isa/registry.hpp"
#include "kernel.hpp"
#include "problem/checks.hpp"
#include "problem/problem.hpp"
#include "problem/sizes.hpp"
#include "run/passes.hpp"
#include "run/plan.hpp"
#include "run/scratch.hpp"
#include "threads/float_state.hpp"
#include "threads/loop.hpp"
#include "threads/team.hpp"

namespace cpuattn {
namespace {

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

// The ISA of a call is read once: another thread may choose another one while it runs.
const Kernels& kernels_of(const Isa& isa, DType dtype) {
  return dtype == DType::kFloat64 ? isa.float64 : isa.float32;
}

// bfloat16 throughout is multiplied as it is where the ISA can: weights of as many digits as the
// result has. A wider `out` asks for more of them.
bool has_bfloat16_products(const Isa& isa, const Call& call) {
  constexpr DType kNarrow = DType::kBFloat16;
  return isa.bfloat16 && call.query.dtype == kNarrow && call.key.dtype == kNarrow &&
         call.value.dtype == kNarrow && (!call.output || call.output.dtype == kNarrow);
}

// Few rows over an int8 cache likewise.
bool has_int8_products(const Isa& isa, const Call& call, const Plan& plan) {
  return isa.int8 && plan.decode && call.key.dtype == DType::kInt8 &&
         call.shapes.head_dim <= isa.int8->most_head_dim;
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
PlanLimits plan_limits(const Kernels& kernels, const Call& call, const PlanShape& shape) {
  const bool converts = call.key.dtype != call.dtype || call.pages.table;
  const bool pairs = converts && shape.rows() >= kernels.pair_block;
  return plan_limits(kernels, shape, pairs ? kernels.pair_block : kernels.query_block);
}

int threads_for(const Options& options) {
  const int wanted = options.num_threads > 0 ? options.num_threads : default_threads();
  return options.parallel_for.run ? wanted : usable_threads(wanted);
}

// The sums of attention_weights, pairs of a base and a sum, are those of its own products.
void choose_kernel(Run& run, const Isa& isa, bool raw_sums) {
  const bool decode = run.plan.decode;
  run.raw_sums = raw_sums;
  run.kernel = decode ? run.kernels.decode : run.kernels.forward;
  run.kernel_scratch = decode ? run.kernels.decode_scratch : run.kernels.forward_scratch;
  if (raw_sums) return;
  if (has_bfloat16_products(isa, run.call)) {
    run.kernel = decode ? isa.bfloat16->decode : isa.bfloat16->forward;
  } else if (has_int8_products(isa, run.call, run.plan)) {
    run.kernel = isa.int8->decode;
    run.kernel_scratch = isa.int8->decode_scratch;
    run.least_rows = isa.int8->least_rows;
  }
}

// What one kernel is to do: all of a call, or of packed sequences those with few rows or the
// others. `parts`: of entries of unequal lengths.
struct Pass {
  PlanShape shape;
  std::vector<Part> parts;
};

// The scratch of all threads.
std::size_t thread_memory(const Run& run) {
  const auto one = static_cast<std::ptrdiff_t>(run.thread_bytes);
  return static_cast<std::size_t>(product(one, run.plan.threads));
}

void attend(const Call& call, const Isa& isa, Pass pass, const Options& options, bool raw_sums) {
  const Kernels& kernels = kernels_of(isa, call.dtype);
  const PlanShape& shape = pass.shape;
  const Plan plan = make_plan(shape, plan_limits(kernels, call, shape), threads_for(options),
                              std::move(pass.parts));
  if (plan.work_items == 0) return;
  Run run{call, kernels, plan, shape};
  choose_kernel(run, isa, raw_sums);
  lay_out(run);
  const std::size_t own = thread_memory(run);
  const Scratch scratch(own + plan.partial_bytes);
  run.scratch = scratch.data();
  run.partials = run.scratch + own;
  execute_attention(run, options);
}

// Entry by entry: entries of equal lengths next to each other make one part.
class PassOf {
 public:
  explicit PassOf(const Call& call) : pass_{plan_shape(call), {}} {
    pass_.shape.query_length = pass_.shape.key_length = 0;
    pass_.parts.reserve(static_cast<std::size_t>(std::min<std::ptrdiff_t>(call.shapes.batch, 64)));
  }
  void add(std::ptrdiff_t entry, std::ptrdiff_t queries, std::ptrdiff_t keys) {
    if (queries == 0) return;
    PlanShape& shape = pass_.shape;
    shape.query_length = std::max(shape.query_length, queries);
    shape.key_length = std::max(shape.key_length, keys);
    const std::ptrdiff_t head = entry * shape.kv_heads, rows = queries * shape.group;
    std::vector<Part>& parts = pass_.parts;
    if (!parts.empty()) {
      Part& last = parts.back();
      if (last.rows == rows && last.key_length == keys &&
          last.first_head + last.num_heads == head) {
        last.num_heads += shape.kv_heads;
        return;
      }
    }
    parts.push_back({head, shape.kv_heads, rows, keys});
  }
  Pass take() { return std::move(pass_); }

 private:
  Pass pass_;
};

std::ptrdiff_t keys_of(const Call& call, std::ptrdiff_t entry) {
  if (call.key_lengths) {
    return static_cast<std::ptrdiff_t>(integer_at(call.key_lengths, call.shapes, entry));
  }
  return call.key_offsets ? call.key_offsets[entry + 1] - call.key_offsets[entry]
                          : call.shapes.key_length;
}

// Of packed sequences those with few rows, or the others.
Pass packed_pass(const Call& call, const Kernels& kernels, bool few) {
  PassOf pass(call);
  if (call.shapes.query_length == 0) return pass.take();
  for (std::ptrdiff_t entry = 0; entry < call.shapes.batch; ++entry) {
    const std::ptrdiff_t queries = call.query_offsets[entry + 1] - call.query_offsets[entry];
    if ((queries * call.shapes.group <= kernels.decode_rows) != few) continue;
    pass.add(entry, queries, keys_of(call, entry));
  }
  return pass.take();
}

// More entries than these are items enough for any number of threads, whatever their lengths.
constexpr std::ptrdiff_t kMostUnequalEntries = 1 << 20;

Pass plain_pass(const Call& call) {
  const Shapes& s = call.shapes;
  PlanShape shape = plan_shape(call);
  if (!call.key_lengths || s.batch > kMostUnequalEntries || s.batch == 0) return {shape, {}};
  if (call.key_lengths.count == 1) {
    shape.key_length = keys_of(call, 0);
    return {shape, {}};
  }
  PassOf pass(call);
  for (std::ptrdiff_t entry = 0; entry < s.batch; ++entry) {
    pass.add(entry, s.query_length, keys_of(call, entry));
  }
  return pass.take();
}

// The base and the sum of every row, as pairs in memory that `call.lse` then names: the
// forward pass over values of no dimensions.
Memory find_sums(Call& call, const Isa& isa, const Options& options) {
  const Shapes shapes = call.shapes;
  const std::ptrdiff_t pair = 2 * element_size(call.dtype);
  const std::ptrdiff_t head = product(pair, shapes.query_length);
  const std::ptrdiff_t entry = product(head, shapes.query_heads);
  Memory sums = allocate(static_cast<std::size_t>(product(entry, shapes.batch)));
  call.lse = Operand{};
  call.lse.data = reinterpret_cast<char*>(sums.get());
  call.lse.stride[1] = pair;
  call.lse.stride[0] = head;
  std::ptrdiff_t stride = entry;
  for (int i = shapes.batch_rank - 1; i >= 0; --i) {
    call.lse.batch_stride[i] = stride;
    stride *= shapes.batch_shape[i];
  }
  call.value = call.key;
  call.value_scale = call.key_scale;
  call.pages.value = call.pages.key;
  call.shapes.value_dim = 0;
  attend(call, isa, plain_pass(call), options, true);
  return sums;
}

const char* products_of(const Isa& isa, const Call& call, const PlanShape& shape,
                        const Plan& plan) {
  if (call.dtype == DType::kFloat64) return "float64";
  if (has_bfloat16_products(isa, call)) return "bfloat16";
  const bool int8 = has_int8_products(isa, call, plan);
  return int8 && shape.rows() >= isa.int8->least_rows ? "int8" : "float32";
}

Explanation explain_pass(const Call& call, const Isa& isa, Pass pass, const Options& options) {
  const Kernels& kernels = kernels_of(isa, call.dtype);
  const PlanShape& shape = pass.shape;
  const Plan plan = make_plan(shape, plan_limits(kernels, call, shape), threads_for(options),
                              std::move(pass.parts));
  Explanation e;
  e.isa = isa.name;
  e.products = products_of(isa, call, shape, plan);
  e.kernel = plan.work_items == 0 ? "empty" : plan.decode ? "decode" : "forward";
  if (plan.work_items == 0) return e;
  Run run{call, kernels, plan, shape};
  choose_kernel(run, isa, false);
  lay_out(run);
  e.query_block = plan.query_block;
  e.key_block = plan.decode ? kernels.decode_block : kernels.key_block;
  e.key_chunk = plan.key_chunk;
  e.num_chunks = plan.num_chunks;
  e.work_items = plan.work_items;
  e.threads = plan.threads;
  e.scratch_bytes = thread_memory(run) + plan.partial_bytes;
  return e;
}

}  // namespace

void attention(const View& query, const View& key, const View& value, const View& output,
               const View* lse, const Options& options) {
  const DefaultFloatState floats;
  const Call call = resolve(query, key, &value, &output, lse, options);
  if (is_empty(output) && !lse) return;
  const Isa& isa = current_isa();
  if (!call.query_offsets) {
    attend(call, isa, plain_pass(call), options, false);
    return;
  }
  const Kernels& kernels = kernels_of(isa, call.dtype);
  for (const bool few : {true, false}) {
    attend(call, isa, packed_pass(call, kernels, few), options, false);
  }
}

void attention_weights(const View& query, const View& key, const View& output, WeightStage stage,
                       const Options& options) {
  const DefaultFloatState floats;
  if (options.cu_seqlens_q) fail("attention_weights takes no packed sequences");
  if (stage < WeightStage::kScores || stage > WeightStage::kWeights) {
    fail("stage is " + std::to_string(static_cast<int>(stage)) + "; it is none of WeightStage");
  }
  Call call = resolve(query, key, nullptr, &output, nullptr, options);
  if (is_empty(output)) return;
  const Isa& isa = current_isa();
  Memory sums;
  if (stage == WeightStage::kWeights) sums = find_sums(call, isa, options);
  const Kernels& kernels = kernels_of(isa, call.dtype);
  const PlanShape shape = plan_shape(call);
  PlanLimits limits = plan_limits(kernels, shape, kernels.query_block);
  limits.decode_rows = 0;    // always queries in the lanes
  limits.partial_bytes = 0;  // and all keys of a row at once
  const Plan plan = make_plan(shape, limits, threads_for(options));
  Run run{call, kernels, plan, shape};
  run.kernel = kernels.weights;
  run.kernel_scratch = kernels.forward_scratch;
  run.stage = static_cast<Stage>(stage);
  lay_out(run);
  const Scratch scratch(thread_memory(run));
  run.scratch = scratch.data();
  execute_weights(run, options);
}

std::vector<Explanation> explain(const View& query, const View& key, const View& value,
                                 const View* output, const Options& options) {
  const Call call = resolve(query, key, &value, output, nullptr, options);
  const Isa& isa = current_isa();
  if (!call.query_offsets) return {explain_pass(call, isa, plain_pass(call), options)};
  const Kernels& kernels = kernels_of(isa, call.dtype);
  const Explanation few = explain_pass(call, isa, packed_pass(call, kernels, true), options);
  const Explanation others = explain_pass(call, isa, packed_pass(call, kernels, false), options);
  if (others.work_items == 0) return {few};
  if (few.work_items == 0) return {others};
  return {few, others};
}

int get_num_threads() { return default_threads(); }
void set_num_threads(int threads) { set_default_threads(threads); }
std::string ignored_num_threads() { return ignored_threads(); }

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
  const Isa& isa = current_isa();
  const auto multiply_add = dtype == DType::kBFloat16 && isa.bfloat16
                                ? isa.bfloat16->multiply_add
                                : kernels_of(isa, dtype).multiply_add;
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
  if (count < 0 || (!data && count > 0)) fail("data is null, or count negative");
  const Kernels& kernels = current_isa().float32;
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

std::string threads_name() { return std::string(team_name()); }

}  // namespace cpuattn
