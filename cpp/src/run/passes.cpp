#include "run/passes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "half.hpp"
#include "problem/element_type.hpp"
#include "run/items.hpp"
#include "run/scratch.hpp"
#include "run/second_run.hpp"
#include "threads/loop.hpp"

namespace cpuattn {
namespace {

constexpr std::ptrdiff_t kMaxBlockRows = 64;  // of any kernel

Partial partial_at(unsigned char* memory, const Run& run, std::ptrdiff_t rows) {
  unsigned char* max = memory + rows * run.shape.value_dim * run.element();
  return {memory, max, max + rows * run.element()};
}

template <class T>
void start_total(const Work& work, const Partial& total) {
  T* base = static_cast<T*>(total.row_base);
  T* sum = static_cast<T*>(total.row_sum);
  T* output = static_cast<T*>(total.output);
  std::fill(base, base + work.num_rows, -std::numeric_limits<T>::infinity());
  std::fill(sum, sum + work.num_rows, T(0));
  std::fill(output, output + work.num_rows * work.value_dim, T(0));
}

// S: the type of the output. not_finite[row]: whether any element of a row is.
template <class T, class S>
void store_rows(const Work& work, const Matrix& output, const Partial& total, bool* not_finite) {
  for (std::ptrdiff_t r = 0; r < work.num_rows; ++r) {
    const std::ptrdiff_t row = work.first_row + r;
    const T sum = static_cast<T*>(total.row_sum)[r];
    const T factor = T(1) / (sum == 0 ? T(1) : sum);
    const T* from = static_cast<const T*>(total.output) + r * work.value_dim;
    S* to = static_cast<S*>(output.data) + row % work.group * output.head_stride +
            row / work.group * output.row_stride;
    T probe = 0;  // 0 · x is NaN where x is NaN or inf
    for (std::ptrdiff_t d = 0; d < work.value_dim; ++d) {
      const T element = from[d] * factor;
      probe += T(0) * element;
      convert(element, to + d * output.dim_stride);
    }
    not_finite[r] = std::isnan(probe);
  }
}

void store_total(const Work& work, const Matrix& output, const Partial& total, bool* not_finite) {
  switch (output.type) {
    case ElementType::kFloat64:
      store_rows<double, double>(work, output, total, not_finite);
      break;
    case ElementType::kFloat16:
      store_rows<float, Float16>(work, output, total, not_finite);
      break;
    case ElementType::kBFloat16:
      store_rows<float, BFloat16>(work, output, total, not_finite);
      break;
    default:
      store_rows<float, float>(work, output, total, not_finite);
  }
}

char* lse_at(const Run& run, const Work& work, const HeadIndex& index, std::ptrdiff_t r) {
  const std::ptrdiff_t row = work.first_row + r;
  return index.queries(run.call.lse) + row % work.group * run.call.lse.stride[0] +
         row / work.group * run.call.lse.stride[1];
}

// lse = base + log(sum): -inf on an empty row, NaN where the row is NaN.
template <class T>
void store_lse(const Run& run, const Work& work, const HeadIndex& index, const Partial& state) {
  if (!run.call.lse) return;
  for (std::ptrdiff_t r = 0; r < work.num_rows; ++r) {
    const T base = static_cast<const T*>(state.row_base)[r];
    const T sum = static_cast<const T*>(state.row_sum)[r];
    T* to = reinterpret_cast<T*>(lse_at(run, work, index, r));
    if (run.raw_sums) {
      to[0] = base;
      to[1] = sum;
    } else {
      to[0] = sum == 0 ? -std::numeric_limits<T>::infinity() : base + std::log(sum);
    }
  }
}

// Items without keys never ask, so every item does: there may be very many of them.
bool is_stopped(const StopCheck& stop) { return stop.ask && stop.ask(stop.context); }

void run_kernel(const Run& run, const Work& work, void* scratch) {
  (work.num_rows < run.least_rows ? run.kernels.decode : run.kernel)(work, scratch);
}

// One query block of one head over all of its keys.
template <class T>
void run_block(const Run& run, int thread, const Item& item, const StopCheck& stop) {
  if (is_stopped(stop)) return;
  const HeadIndex index(run.call, item.head);
  Work work = make_work(run.call, index, item);
  work.should_stop = stop.ask;
  work.stop_context = stop.context;
  set_keys(run.call, run.plan, work, item.first_chunk, item.end_chunk);
  unsigned char* scratch = run.scratch + static_cast<std::size_t>(thread) * run.thread_bytes;
  const Partial total = partial_at(scratch + run.kernel_bytes, run, work.num_rows);
  work.output = matrix(index, run.call.output);
  work.row_base = total.row_base;
  work.row_sum = total.row_sum;
  bool not_finite[kMaxItemRows];
  std::fill_n(not_finite, work.num_rows, false);
  work.not_finite = not_finite;
  run_kernel(run, work, scratch);
  if (is_stopped(stop)) return;  // the kernel may have left before it had any results
  store_lse<T>(run, work, index, total);
  run_again({run.call, run.plan, run.kernels, scratch}, work, total, not_finite);
}

// The results of one of the block's chunks, counted from the first one.
Partial split_partial(const Run& run, const Work& work, const Item& item, std::ptrdiff_t chunk) {
  const std::ptrdiff_t slot = item.first_slot + chunk;
  return partial_at(run.partials + static_cast<std::size_t>(slot) * run.plan.part_bytes, run,
                    work.num_rows);
}

// One chunk of keys; the results wait to be merged.
void run_chunk(const Run& run, int thread, const Item& item, const StopCheck& stop) {
  if (is_stopped(stop)) return;
  const HeadIndex index(run.call, item.head);
  Work work = make_work(run.call, index, item);
  work.should_stop = stop.ask;
  work.stop_context = stop.context;
  set_keys(run.call, run.plan, work, item.first_chunk, item.end_chunk);
  if (!sees_keys(work)) return;
  aim_at(work, split_partial(run, work, item, item.first_chunk), run.call.dtype);
  run_kernel(run, work, run.scratch + static_cast<std::size_t>(thread) * run.thread_bytes);
}

// The same merges in the same order as in the kernel over all chunks: the same bits.
template <class T>
void merge_block(const Run& run, int thread, const Item& item, const StopCheck& stop) {
  if (is_stopped(stop)) return;
  const HeadIndex index(run.call, item.head);
  Work work = make_work(run.call, index, item);
  unsigned char* scratch = run.scratch + static_cast<std::size_t>(thread) * run.thread_bytes;
  const Partial total = partial_at(scratch + run.kernel_bytes, run, work.num_rows);
  work.should_stop = stop.ask;
  work.stop_context = stop.context;
  start_total<T>(work, total);
  for (std::ptrdiff_t chunk = 0; chunk < item.end_chunk; ++chunk) {
    set_keys(run.call, run.plan, work, chunk, chunk + 1);
    if (!sees_keys(work)) continue;
    run.kernels.merge(total, split_partial(run, work, item, chunk), work.num_rows, work.value_dim);
  }
  if (work.sinks) run.kernels.add_sinks(work, total, work.value_dim);
  work.output = matrix(index, run.call.output);
  bool not_finite[kMaxItemRows] = {};
  store_total(work, work.output, total, not_finite);
  store_lse<T>(run, work, index, total);
  run_again({run.call, run.plan, run.kernels, scratch}, work, total, not_finite);
}

template <class T>
void run_weights(const Run& run, int thread, const Item& item, const StopCheck& stop) {
  if (is_stopped(stop)) return;
  const HeadIndex index(run.call, item.head);
  Work work = make_work(run.call, index, item);
  work.should_stop = stop.ask;
  work.stop_context = stop.context;
  work.key_end = run.call.shapes.key_length;
  work.stage = run.stage;
  if (run.stage == Stage::kScores) work.softcap = 0;
  work.output = matrix(index, run.call.output);
  unsigned char* scratch = run.scratch + static_cast<std::size_t>(thread) * run.thread_bytes;
  T base[kMaxBlockRows], sum[kMaxBlockRows];
  for (std::ptrdiff_t r = 0; run.call.lse && r < work.num_rows; ++r) {
    const T* from = reinterpret_cast<const T*>(lse_at(run, work, index, r));
    base[r] = from[0];
    sum[r] = from[1];
  }
  work.row_base = base;
  work.row_sum = sum;
  run.kernel(work, scratch);
}

template <class Body>
void parallel_for(const Run& run, const Options& options, const Plan& plan, const Body& body) {
  struct Context {
    const Run& run;
    const Plan& plan;
    const Body& body;
  } context{run, plan, body};
  Loop loop;
  loop.items = plan.work_items;
  loop.threads = plan.threads;
  loop.should_stop = options.should_stop;
  loop.stop_context = options.stop_context;
  loop.parallel_for = options.parallel_for;
  loop.context = &context;
  loop.body = [](void* p, int thread, std::ptrdiff_t index, const StopCheck& stop) {
    const Context& c = *static_cast<const Context*>(p);
    c.body(thread, item_at(c.plan, c.run.shape, index), stop);
  };
  if (!cpuattn::run(loop)) throw Interrupted{};
}

template <class T>
void run_items(const Run& run, const Options& options) {
  parallel_for(run, options, run.plan, [&](int thread, const Item& item, const StopCheck& stop) {
    item.split ? run_chunk(run, thread, item, stop) : run_block<T>(run, thread, item, stop);
  });
  if (!run.plan.split) return;
  parallel_for(run, options, merges_of(run.plan),
               [&](int thread, const Item& item, const StopCheck& stop) {
                 merge_block<T>(run, thread, item, stop);
               });
}

}  // namespace

void lay_out(Run& run) {
  const Plan& plan = run.plan;
  const int rows = static_cast<int>(std::min(plan.query_block, run.shape.rows()));
  const auto bytes = [&](auto scratch) {
    return align(scratch(run.shape.head_dim, run.shape.value_dim, rows));
  };
  run.kernel_bytes = bytes(run.kernel_scratch);
  if (run.least_rows > 0) {
    run.kernel_bytes = std::max(run.kernel_bytes, bytes(run.kernels.decode_scratch));
  }
  run.thread_bytes = run.kernel_bytes + plan.part_bytes;
}

void execute_attention(const Run& run, const Options& options) {
  run.call.dtype == DType::kFloat32 ? run_items<float>(run, options)
                                    : run_items<double>(run, options);
}

void execute_weights(const Run& run, const Options& options) {
  parallel_for(run, options, run.plan, [&](int thread, const Item& item, const StopCheck& stop) {
    run.call.dtype == DType::kFloat32 ? run_weights<float>(run, thread, item, stop)
                                      : run_weights<double>(run, thread, item, stop);
  });
}

}  // namespace cpuattn
