#include "plan.hpp"

#include <algorithm>

namespace cpuattn {
namespace {

std::ptrdiff_t divide_up(std::ptrdiff_t a, std::ptrdiff_t b) { return (a + b - 1) / b; }

// Below this many multiply-adds for each thread (about 5 microseconds on one core) waking a
// thread costs more than it brings.
constexpr double kMinWorkPerThread = 250e3;

// Keys per chunk, in key blocks of the forward kernel: 4128 keys of 96, so that up to 4096 keys
// are one chunk. A chunk's own costs (queries loaded, partial results stored and merged) are
// then below 0.5 %.
constexpr std::ptrdiff_t kForwardChunkBlocks = 43;

// For few rows, where splitting the keys is the only way to use many threads: 2048 keys take
// about 30 microseconds, and their partial result costs 1 % of that.
constexpr std::ptrdiff_t kDecodeChunk = 2048;

// Chunks become items of their own where there are fewer items than this for each thread.
constexpr std::ptrdiff_t kItemsPerThread = 4;

// Partial results per thread, well within the 2 MiB that a thread may use.
constexpr std::size_t kMaxPartialBytes = std::size_t{1} << 20;

int count_threads(const PlanShape& shape, std::ptrdiff_t items, int max_threads) {
  const double work = static_cast<double>(shape.batch * shape.kv_heads * shape.rows()) *
                      static_cast<double>(shape.key_length) *
                      static_cast<double>(shape.head_dim + shape.value_dim);
  const double useful = std::max(1.0, work / kMinWorkPerThread);
  std::ptrdiff_t threads = std::min<std::ptrdiff_t>(max_threads, items);
  if (useful < static_cast<double>(threads)) threads = static_cast<std::ptrdiff_t>(useful);
  // With 64 items, 32 threads are as fast as 50: the others would only wait.
  return static_cast<int>(divide_up(items, divide_up(items, threads)));
}

}  // namespace

Plan make_plan(const PlanShape& shape, const PlanLimits& limits, int max_threads) {
  Plan plan;
  const std::ptrdiff_t heads = shape.batch * shape.kv_heads;
  if (heads == 0 || shape.rows() == 0) return plan;
  plan.decode = shape.rows() <= limits.decode_rows;
  plan.key_chunk = plan.decode ? kDecodeChunk : kForwardChunkBlocks * limits.key_block;
  plan.num_chunks = std::max<std::ptrdiff_t>(divide_up(shape.key_length, plan.key_chunk), 1);

  // Narrower blocks where there would be fewer items than threads.
  plan.query_block = plan.decode ? shape.rows() : limits.query_block;
  const auto count_blocks = [&] { return heads * divide_up(shape.rows(), plan.query_block); };
  while (!plan.decode && plan.query_block > limits.lanes && count_blocks() < max_threads) {
    plan.query_block /= 2;
  }
  plan.num_query_blocks = divide_up(shape.rows(), plan.query_block);
  plan.work_items = count_blocks();

  if (plan.num_chunks > 1 && plan.work_items < kItemsPerThread * max_threads && max_threads > 1) {
    const std::size_t bytes = static_cast<std::size_t>(heads * shape.rows() * plan.num_chunks) *
                              static_cast<std::size_t>(shape.value_dim + 2) * shape.element_size;
    if (bytes <= kMaxPartialBytes * static_cast<std::size_t>(max_threads)) {
      plan.split = true;
      plan.partial_bytes = bytes;
      plan.work_items *= plan.num_chunks;
    }
  }
  plan.threads = count_threads(shape, plan.work_items, max_threads);
  return plan;
}

// Head by head, so that its keys and values stay in the cache, and within a head from the last
// rows to the first: under a causal mask those have the most keys, and the short ones at the
// end even out the threads.
Item item_at(const Plan& plan, const PlanShape& shape, std::ptrdiff_t index) {
  Item item;
  if (plan.split) {
    item.first_chunk = index % plan.num_chunks;
    index /= plan.num_chunks;
  }
  item.end_chunk = plan.split ? item.first_chunk + 1 : plan.num_chunks;
  item.block = plan.num_query_blocks - 1 - index % plan.num_query_blocks;
  item.head = index / plan.num_query_blocks;
  item.first_row = item.block * plan.query_block;
  item.num_rows = std::min(plan.query_block, shape.rows() - item.first_row);
  return item;
}

}  // namespace cpuattn
