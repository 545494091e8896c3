// Public functions: check the arguments, plan, and run the kernel over the work items.
#include "cpuattn/attention.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>

#include "call.hpp"
#include "kernel.hpp"
#include "plan.hpp"
#include "registry.hpp"
#include "threads.hpp"

namespace cpuattn {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::ptrdiff_t kMaxBlockRows = 64;  // of any kernel

std::size_t align(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Memory that a thread keeps from call to call: small calls would spend most of their time in
// malloc and page faults otherwise.
unsigned char* reserve(std::size_t bytes) {
  struct Free {
    void operator()(unsigned char* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<unsigned char, Free> memory;
  thread_local std::size_t capacity = 0;
  if (bytes > capacity) {
    memory.reset();
    capacity = 0;
    memory.reset(static_cast<unsigned char*>(std::aligned_alloc(kAlignment, align(bytes))));
    if (!memory) throw std::bad_alloc();
    capacity = align(bytes);
  }
  return memory.get();
}

// Everything that the items of one call share.
struct Run {
  const Call& call;
  const Kernels& kernels;
  const Plan& plan;
  const PlanShape& shape;
  Stage stage = Stage::kWeights;
  bool raw_sums = false;              // for attention_weights: lse holds pairs (max, sum)
  unsigned char* scratch = nullptr;   // of all threads
  std::size_t kernel_bytes = 0;       // per thread: what the kernel asks for,
  std::size_t part_bytes = 0;         // the results of one item,
  std::size_t thread_bytes = 0;       // and all together
  unsigned char* partials = nullptr;  // results of all chunks, where chunks are items

  std::ptrdiff_t element() const { return static_cast<std::ptrdiff_t>(shape.element_size); }
};

PlanShape plan_shape(const Call& call) {
  const Shapes& s = call.shapes;
  return {s.batch,
          s.kv_heads,
          s.group,
          s.query_length,
          s.key_length,
          s.head_dim,
          s.value_dim,
          call.dtype == DType::kFloat32 ? 4u : 8u,
          call.right < s.key_length};
}

const Kernels& kernels_for(DType dtype) {
  const Isa& isa = current_isa();
  return dtype == DType::kFloat32 ? isa.float32 : isa.float64;
}

PlanLimits plan_limits(const Kernels& kernels) {
  return {kernels.lanes, kernels.query_block, kernels.decode_rows, kernels.key_block};
}

int threads_for(const Options& options) {
  return usable_threads(options.num_threads > 0 ? options.num_threads : default_threads());
}

std::size_t partial_size(const PlanShape& shape, std::ptrdiff_t rows) {
  return align(static_cast<std::size_t>(rows * (shape.value_dim + 2)) * shape.element_size);
}

// Sizes the memory of a run: per thread the kernel's scratch and the results of its item.
void lay_out(Run& run) {
  const Plan& plan = run.plan;
  const int rows = static_cast<int>(std::min(plan.query_block, run.shape.rows()));
  const auto scratch = plan.decode ? run.kernels.decode_scratch : run.kernels.forward_scratch;
  run.kernel_bytes = align(scratch(run.shape.head_dim, run.shape.value_dim, rows));
  run.part_bytes = partial_size(run.shape, rows);
  run.thread_bytes = run.kernel_bytes + run.part_bytes;
}

std::size_t split_bytes(const Run& run) {
  if (!run.plan.split) return 0;
  const Plan& plan = run.plan;
  const auto blocks = run.shape.batch * run.shape.kv_heads * plan.num_query_blocks;
  return static_cast<std::size_t>(blocks * plan.num_chunks) * run.part_bytes;
}

// Where the operands of one (batch entry, key/value head) start.
class HeadIndex {
 public:
  HeadIndex(const Shapes& shapes, std::ptrdiff_t head)
      : rank_(shapes.batch_rank),
        kv_head_(head % shapes.kv_heads),
        query_head_(kv_head_ * shapes.group) {
    std::ptrdiff_t rest = head / shapes.kv_heads;
    for (int i = rank_ - 1; i >= 0; --i) {
      batch_[i] = rest % shapes.batch_shape[i];
      rest /= shapes.batch_shape[i];
    }
  }
  char* batch(const Operand& operand) const {
    char* p = operand.data;
    for (int i = 0; i < rank_; ++i) p += batch_[i] * operand.batch_stride[i];
    return p;
  }
  char* query_head(const Operand& o) const { return batch(o) + query_head_ * o.stride[0]; }
  char* kv_head(const Operand& o) const { return batch(o) + kv_head_ * o.stride[0]; }

 private:
  int rank_;
  std::ptrdiff_t kv_head_, query_head_;
  std::ptrdiff_t batch_[kMaxRank];
};

Matrix matrix(char* data, const Operand& operand, std::ptrdiff_t element) {
  return {data, operand.stride[0] / element, operand.stride[1] / element,
          operand.stride[2] / element};
}

ScoreArray score_array(const HeadIndex& index, const Operand& operand) {
  if (!operand) return {};
  const ScoreType type = operand.dtype == DType::kBool      ? ScoreType::kBool
                         : operand.dtype == DType::kFloat32 ? ScoreType::kFloat32
                                                            : ScoreType::kFloat64;
  return {type, reinterpret_cast<unsigned char*>(index.query_head(operand)), operand.stride[0],
          operand.stride[1], operand.stride[2]};
}

Segments segments(const HeadIndex& index, const Operand& operand) {
  if (!operand) return {};
  return {reinterpret_cast<const std::int64_t*>(index.batch(operand)),
          operand.stride[0] / static_cast<std::ptrdiff_t>(sizeof(std::int64_t))};
}

std::int64_t integer(const HeadIndex& index, const Operand& operand, std::int64_t otherwise) {
  return operand ? *reinterpret_cast<const std::int64_t*>(index.batch(operand)) : otherwise;
}

// The work of one item, but for its range of keys and its results.
Work make_work(const Run& run, const HeadIndex& index, const Item& item) {
  const Call& call = run.call;
  const std::ptrdiff_t element = run.element();
  Work work;
  work.head_dim = call.shapes.head_dim;
  work.value_dim = call.shapes.value_dim;
  work.group = call.shapes.group;
  work.first_row = item.first_row;
  work.num_rows = item.num_rows;
  work.query = matrix(index.query_head(call.query), call.query, element);
  work.key = matrix(index.kv_head(call.key), call.key, element);
  if (call.value) work.value = matrix(index.kv_head(call.value), call.value, element);
  work.key_length = integer(index, call.key_lengths, call.shapes.key_length);
  const std::int64_t offset =
      integer(index, call.query_offset, work.key_length - call.shapes.query_length);
  work.query_offset = std::clamp<std::int64_t>(offset, -kUnbounded, kUnbounded);
  work.left = call.left;
  work.right = call.right;
  work.mask = score_array(index, call.mask);
  work.bias = score_array(index, call.bias);
  work.query_segments = segments(index, call.query_segments);
  work.key_segments = segments(index, call.key_segments);
  work.scale = call.scale;
  work.softcap = call.softcap;
  if (call.alibi_slopes) {
    work.alibi_slopes = index.query_head(call.alibi_slopes);
    work.alibi_stride = call.alibi_slopes.stride[0] / element;
  }
  if (call.sinks) {
    work.sinks = index.query_head(call.sinks);
    work.sinks_stride = call.sinks.stride[0] / element;
  }
  return work;
}

void set_keys(const Run& run, Work& work, std::ptrdiff_t first_chunk, std::ptrdiff_t end_chunk) {
  work.key_chunk = run.plan.key_chunk;
  work.key_begin = first_chunk * run.plan.key_chunk;
  work.key_end = std::min(end_chunk * run.plan.key_chunk, run.call.shapes.key_length);
}

// Whether any row of the item may see keys of the range, by causal, window and lengths.
bool sees_keys(const Work& work) {
  const std::ptrdiff_t first = work.first_row / work.group + work.query_offset;
  const std::ptrdiff_t last =
      (work.first_row + work.num_rows - 1) / work.group + work.query_offset;
  return last + work.right >= work.key_begin && first - work.left < work.key_end &&
         work.key_length > work.key_begin;
}

Partial partial_at(unsigned char* memory, const Run& run, std::ptrdiff_t rows) {
  unsigned char* max = memory + rows * run.shape.value_dim * run.element();
  return {memory, max, max + rows * run.element()};
}

// Results into a contiguous partial: row r of the item is its row r. The kernel counts rows from
// the first one of the head, so the matrix starts that much earlier.
void aim_at(Work& work, const Partial& partial, std::ptrdiff_t element) {
  const std::ptrdiff_t dims = work.value_dim;
  char* first = static_cast<char*>(partial.output) - work.first_row * dims * element;
  work.output = {first, dims, work.group * dims, 1};
  work.row_max = partial.row_max;
  work.row_sum = partial.row_sum;
  work.normalise = false;
}

template <class T>
void start_total(const Work& work, const Partial& total) {
  T* max = static_cast<T*>(total.row_max);
  T* sum = static_cast<T*>(total.row_sum);
  T* output = static_cast<T*>(total.output);
  std::fill(max, max + work.num_rows, -std::numeric_limits<T>::infinity());
  std::fill(sum, sum + work.num_rows, T(0));
  std::fill(output, output + work.num_rows * work.value_dim, T(0));
}

template <class T>
void store_total(const Work& work, const Matrix& output, const Partial& total) {
  for (std::ptrdiff_t r = 0; r < work.num_rows; ++r) {
    const std::ptrdiff_t row = work.first_row + r;
    const T sum = static_cast<T*>(total.row_sum)[r];
    const T factor = T(1) / (sum == 0 ? T(1) : sum);
    const T* from = static_cast<const T*>(total.output) + r * work.value_dim;
    T* to = static_cast<T*>(output.data) + row % work.group * output.head_stride +
            row / work.group * output.row_stride;
    for (std::ptrdiff_t d = 0; d < work.value_dim; ++d) to[d * output.dim_stride] = from[d] * factor;
  }
}

char* lse_at(const Run& run, const Work& work, const HeadIndex& index, std::ptrdiff_t r) {
  const std::ptrdiff_t row = work.first_row + r;
  return index.query_head(run.call.lse) + row % work.group * run.call.lse.stride[0] +
         row / work.group * run.call.lse.stride[1];
}

// lse = max + log(sum): -inf on an empty row, NaN where the row is NaN.
template <class T>
void store_lse(const Run& run, const Work& work, const HeadIndex& index, const Partial& state) {
  if (!run.call.lse) return;
  for (std::ptrdiff_t r = 0; r < work.num_rows; ++r) {
    const T max = static_cast<const T*>(state.row_max)[r];
    const T sum = static_cast<const T*>(state.row_sum)[r];
    T* to = reinterpret_cast<T*>(lse_at(run, work, index, r));
    if (run.raw_sums) {
      to[0] = max;
      to[1] = sum;
    } else {
      to[0] = sum == 0 ? -std::numeric_limits<T>::infinity()
                       : max + std::log(sum / static_cast<T>(kWeightScale));
    }
  }
}

void run_kernel(const Run& run, const Work& work, unsigned char* scratch) {
  (run.plan.decode ? run.kernels.decode : run.kernels.forward)(work, scratch);
}

// One query block of one head over all of its keys.
template <class T>
void run_block(const Run& run, int thread, const Item& item, const StopCheck& stop) {
  const HeadIndex index(run.call.shapes, item.head);
  Work work = make_work(run, index, item);
  work.should_stop = stop.ask;
  work.stop_context = stop.context;
  set_keys(run, work, item.first_chunk, item.end_chunk);
  unsigned char* scratch = run.scratch + static_cast<std::size_t>(thread) * run.thread_bytes;
  const Partial total = partial_at(scratch + run.kernel_bytes, run, item.num_rows);
  work.output = matrix(index.query_head(run.call.output), run.call.output, run.element());
  work.row_max = total.row_max;
  work.row_sum = total.row_sum;
  run_kernel(run, work, scratch);
  store_lse<T>(run, work, index, total);
}

Partial split_partial(const Run& run, const Item& item, std::ptrdiff_t chunk) {
  const std::ptrdiff_t block = item.head * run.plan.num_query_blocks + item.block;
  const std::ptrdiff_t slot = block * run.plan.num_chunks + chunk;
  return partial_at(run.partials + static_cast<std::size_t>(slot) * run.part_bytes, run,
                    item.num_rows);
}

// One chunk of keys; the results wait to be merged.
void run_chunk(const Run& run, int thread, const Item& item, const StopCheck& stop) {
  const HeadIndex index(run.call.shapes, item.head);
  Work work = make_work(run, index, item);
  work.should_stop = stop.ask;
  work.stop_context = stop.context;
  set_keys(run, work, item.first_chunk, item.end_chunk);
  if (!sees_keys(work)) return;
  aim_at(work, split_partial(run, item, item.first_chunk), run.element());
  run_kernel(run, work, run.scratch + static_cast<std::size_t>(thread) * run.thread_bytes);
}

// The same merges in the same order as in the kernel over all chunks: the same bits.
template <class T>
void merge_block(const Run& run, int thread, const Item& item) {
  const HeadIndex index(run.call.shapes, item.head);
  Work work = make_work(run, index, item);
  unsigned char* scratch = run.scratch + static_cast<std::size_t>(thread) * run.thread_bytes;
  const Partial total = partial_at(scratch + run.kernel_bytes, run, item.num_rows);
  start_total<T>(work, total);
  for (std::ptrdiff_t chunk = 0; chunk < run.plan.num_chunks; ++chunk) {
    set_keys(run, work, chunk, chunk + 1);
    if (!sees_keys(work)) continue;
    run.kernels.merge(total, split_partial(run, item, chunk), item.num_rows, work.value_dim);
  }
  if (work.sinks) run.kernels.add_sinks(work, total, work.value_dim);
  store_total<T>(work, matrix(index.query_head(run.call.output), run.call.output, run.element()),
                 total);
  store_lse<T>(run, work, index, total);
}

template <class T>
void run_weights(const Run& run, int thread, const Item& item, const StopCheck& stop) {
  const HeadIndex index(run.call.shapes, item.head);
  Work work = make_work(run, index, item);
  work.should_stop = stop.ask;
  work.stop_context = stop.context;
  work.key_end = run.call.shapes.key_length;
  work.stage = run.stage;
  if (run.stage == Stage::kScores) work.softcap = 0;
  work.output = matrix(index.query_head(run.call.output), run.call.output, run.element());
  unsigned char* scratch = run.scratch + static_cast<std::size_t>(thread) * run.thread_bytes;
  T max[kMaxBlockRows], sum[kMaxBlockRows];
  for (std::ptrdiff_t r = 0; run.call.lse && r < item.num_rows; ++r) {
    const T* from = reinterpret_cast<const T*>(lse_at(run, work, index, r));
    max[r] = from[0];
    sum[r] = from[1];
  }
  work.row_max = max;
  work.row_sum = sum;
  run.kernels.weights(work, scratch);
}

template <class Body>
void parallel_for(const Run& run, const Options& options, const Plan& plan, const Body& body) {
  struct Context {
    const Run& run;
    const Plan& plan;
    const Body& body;
  } context{run, plan, body};
  ParallelFor loop;
  loop.items = plan.work_items;
  loop.threads = plan.threads;
  loop.should_stop = options.should_stop;
  loop.stop_context = options.stop_context;
  loop.context = &context;
  loop.body = [](void* p, int thread, std::ptrdiff_t index, const StopCheck& stop) {
    const Context& c = *static_cast<const Context*>(p);
    c.body(thread, item_at(c.plan, c.run.shape, index), stop);
  };
  if (!cpuattn::run(loop)) throw Interrupted{};
}

// The same plan with all chunks of a block in one item.
Plan unsplit(Plan plan) {
  plan.split = false;
  plan.work_items /= plan.num_chunks;
  plan.threads = static_cast<int>(std::min<std::ptrdiff_t>(plan.threads, plan.work_items));
  return plan;
}

template <class T>
void run_attention(Run& run, const Options& options) {
  if (!run.plan.split) {
    parallel_for(run, options, run.plan, [&](int thread, const Item& item, const StopCheck& stop) {
      run_block<T>(run, thread, item, stop);
    });
    return;
  }
  parallel_for(run, options, run.plan, [&](int thread, const Item& item, const StopCheck& stop) {
    run_chunk(run, thread, item, stop);
  });
  parallel_for(run, options, unsplit(run.plan), [&](int thread, const Item& item, const StopCheck&) {
    merge_block<T>(run, thread, item);
  });
}

}  // namespace

namespace {

void attend(const Call& call, const Options& options, bool raw_sums) {
  const Kernels& kernels = kernels_for(call.dtype);
  const PlanShape shape = plan_shape(call);
  const Plan plan = make_plan(shape, plan_limits(kernels), threads_for(options));
  if (plan.work_items == 0) return;
  Run run{call, kernels, plan, shape};
  run.raw_sums = raw_sums;
  lay_out(run);
  const std::size_t own = run.thread_bytes * static_cast<std::size_t>(plan.threads);
  run.scratch = reserve(own + split_bytes(run));
  run.partials = run.scratch + own;
  call.dtype == DType::kFloat32 ? run_attention<float>(run, options)
                                : run_attention<double>(run, options);
}

// The largest score and the sum of every row, as pairs in memory that `call.lse` then names: the
// forward pass over values of no dimensions.
std::vector<unsigned char> find_sums(Call& call, const Options& options) {
  const Shapes shapes = call.shapes;
  const Operand weights = call.output;
  const std::ptrdiff_t pair = call.dtype == DType::kFloat32 ? 8 : 16;
  std::vector<unsigned char> sums(static_cast<std::size_t>(
      shapes.batch * shapes.query_heads * shapes.query_length * pair));
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
  call.shapes.value_dim = 0;
  attend(call, options, true);
  call.output = weights;
  return sums;
}

}  // namespace

void attention(const View& query, const View& key, const View& value, const View& output,
               const View* lse, const Options& options) {
  attend(resolve(query, key, &value, &output, lse, options), options, false);
}

void attention_weights(const View& query, const View& key, const View& output, WeightStage stage,
                       const Options& options) {
  Call call = resolve(query, key, nullptr, &output, nullptr, options);
  std::vector<unsigned char> sums;
  if (stage == WeightStage::kWeights) sums = find_sums(call, options);
  const Kernels& kernels = kernels_for(call.dtype);
  const PlanShape shape = plan_shape(call);
  PlanLimits limits = plan_limits(kernels);
  limits.decode_rows = 0;  // always queries in the lanes
  Plan plan = make_plan(shape, limits, threads_for(options));
  if (plan.work_items == 0) return;
  if (plan.split) plan = unsplit(plan);
  Run run{call, kernels, plan, shape};
  run.stage = static_cast<Stage>(stage);
  lay_out(run);
  run.scratch = reserve(run.thread_bytes * static_cast<std::size_t>(plan.threads));
  parallel_for(run, options, plan, [&](int thread, const Item& item, const StopCheck& stop) {
    call.dtype == DType::kFloat32 ? run_weights<float>(run, thread, item, stop)
                                  : run_weights<double>(run, thread, item, stop);
  });
}

Explanation explain(const View& query, const View& key, const View& value,
                    const Options& options) {
  const Call call = resolve(query, key, &value, nullptr, nullptr, options);
  const Kernels& kernels = kernels_for(call.dtype);
  const PlanShape shape = plan_shape(call);
  const Plan plan = make_plan(shape, plan_limits(kernels), threads_for(options));
  Explanation e;
  e.isa = current_isa().name;
  e.kernel = plan.work_items == 0 ? "empty" : plan.decode ? "decode" : "forward";
  if (plan.work_items == 0) return e;
  Run run{call, kernels, plan, shape};
  lay_out(run);
  e.query_block = plan.query_block;
  e.key_block = plan.decode ? kernels.decode_block : kernels.key_block;
  e.key_chunk = plan.key_chunk;
  e.num_chunks = plan.num_chunks;
  e.work_items = plan.work_items;
  e.threads = plan.threads;
  e.scratch_bytes =
      run.thread_bytes * static_cast<std::size_t>(plan.threads) + split_bytes(run);
  return e;
}

int get_num_threads() { return default_threads(); }
void set_num_threads(int threads) { set_default_threads(threads); }

namespace {
std::vector<std::string> names(const std::vector<const Isa*>& isas) {
  std::vector<std::string> result;
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
  const Kernels& kernels = kernels_for(dtype);
  double best = 0;
  volatile double sink = 0;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  do {
    const auto start = Clock::now();
    std::ptrdiff_t operations = 0;
    sink = sink + kernels.multiply_add(100000, &operations);
    const std::chrono::duration<double> took = Clock::now() - start;
    best = std::max(best, static_cast<double>(operations) / took.count());
  } while (Clock::now() < end);
  return best;
}

int openmp_version() { return openmp_version_macro(); }

}  // namespace cpuattn
