#include "plan.hpp"

#include <algorithm>

namespace cpuattn {
namespace {

std::ptrdiff_t divide_up(std::ptrdiff_t a, std::ptrdiff_t b) { return (a + b - 1) / b; }

// Below this many multiply-adds for each thread (about 5 microseconds on one core of 100 GFLOP/s)
// waking a thread costs more than it brings.
constexpr double kMinWorkPerThread = 500e3;

// Keys per chunk, in key blocks of the forward kernel: 672 keys of 96. Of 3 to 12 blocks this one
// keeps the threads busiest (tests/cpp/test_plan.cpp). The same for every number of keys, so that
// padding or keys that a row does not see move no bit of it.
constexpr std::ptrdiff_t kForwardChunkBlocks = 7;

// Chunks become items of their own where there are fewer items than this for each thread: with
// ten, the last round wastes at most a tenth of the time.
constexpr std::ptrdiff_t kItemsPerThread = 10;

constexpr std::ptrdiff_t kCausalItemsPerThread = 4;

// With so many items the short ones at the end of each head even out the threads.
constexpr std::ptrdiff_t kManyItemsPerThread = 32;

// Items of one size and as many or fewer smaller ones, which come last.
struct Cut {
  std::ptrdiff_t full, block, tails, tail;

  // When the last of so many threads is done, if each takes the next item as soon as it is free.
  std::ptrdiff_t time(std::ptrdiff_t threads) const {
    const std::ptrdiff_t rounds = divide_up(full, threads), end = rounds * block;
    const std::ptrdiff_t early = rounds * threads - full;  // threads without a last full item
    if (tails == 0) return end;
    const std::ptrdiff_t beside = block / tail;  // small items that fit beside a full one
    const std::ptrdiff_t left = tails - early * beside;
    if (left <= 0) return end;
    const std::ptrdiff_t turns = (left - 1) / threads;
    return left - turns * threads <= early ? end - block + (beside + 1 + turns) * tail
                                           : end + (1 + turns) * tail;
  }
  double busy_share(std::ptrdiff_t threads) const {
    return static_cast<double>(full * block + tails * tail) /
           static_cast<double>(time(threads) * threads);
  }
  // As fast as so many threads, without those that would only wait.
  std::ptrdiff_t enough_threads(std::ptrdiff_t threads) const {
    const std::ptrdiff_t same_time = time(threads);
    while (threads > 1 && time(threads - 1) == same_time) --threads;
    return threads;
  }
};

// A head's rows cut into full blocks and a last one, whose width is rounded up to whole vectors.
Cut cut_rows(const PlanShape& shape, std::ptrdiff_t block, std::ptrdiff_t lanes) {
  const std::ptrdiff_t heads = shape.batch * shape.kv_heads, rest = shape.rows() % block;
  return {heads * (shape.rows() / block), block, rest == 0 ? 0 : heads,
          std::min(divide_up(rest, lanes) * lanes, block)};
}

// All keys of the blocks cut into chunks, the last of which may be shorter.
Cut cut_keys(const PlanShape& shape, std::ptrdiff_t blocks, std::ptrdiff_t chunk) {
  return {blocks * (shape.key_length / chunk), chunk, shape.key_length % chunk == 0 ? 0 : blocks,
          shape.key_length % chunk};
}

// The widest block, whose tiles are the fastest, that keeps the threads busy.
std::ptrdiff_t choose_query_block(const PlanShape& shape, const PlanLimits& limits,
                                  int max_threads) {
  const std::ptrdiff_t heads = shape.batch * shape.kv_heads;
  // Under a causal mask a long item and a short one make a pair.
  const std::ptrdiff_t enough = max_threads * (shape.causal ? kCausalItemsPerThread : 1);
  std::ptrdiff_t block = limits.query_block;
  while (block > limits.lanes && max_threads > 1 &&
         (heads * divide_up(shape.rows(), block) < enough ||
          (!shape.causal && cut_rows(shape, block, limits.lanes).busy_share(max_threads) < 0.9))) {
    block /= 2;
  }
  return block;
}

// Threads that have enough to do to be worth waking.
int useful_threads(const PlanShape& shape, int max_threads) {
  const double work = static_cast<double>(shape.batch * shape.kv_heads * shape.rows()) *
                      static_cast<double>(shape.key_length) *
                      static_cast<double>(shape.head_dim + shape.value_dim);
  const double useful = std::max(1.0, work / kMinWorkPerThread);
  return useful < max_threads ? static_cast<int>(useful) : max_threads;
}

std::size_t part_bytes(const PlanShape& shape, std::ptrdiff_t query_block) {
  constexpr std::size_t kAlignment = 64;
  const auto numbers = static_cast<std::size_t>(query_block * (shape.value_dim + 2));
  return (numbers * shape.element_size + kAlignment - 1) / kAlignment * kAlignment;
}

// Of all chunks, if they are items of their own.
std::size_t all_partials(const Plan& plan) {
  return static_cast<std::size_t>(plan.work_items * plan.num_chunks) * plan.part_bytes;
}

// Whether the threads are done sooner if every chunk is an item of its own.
bool should_split(const PlanShape& shape, const PlanLimits& limits, const Plan& plan,
                  int max_threads) {
  if (plan.num_chunks == 1 || max_threads == 1) return false;
  if (plan.work_items >= kItemsPerThread * max_threads) return false;
  if (all_partials(plan) > limits.partial_bytes * static_cast<std::size_t>(max_threads)) {
    return false;
  }
  if (shape.causal || plan.decode) return true;
  const Cut rows = cut_rows(shape, plan.query_block, limits.lanes);
  const Cut keys = cut_keys(shape, plan.work_items, plan.key_chunk);
  return keys.time(max_threads) * plan.query_block < rows.time(max_threads) * shape.key_length;
}

int count_threads(const PlanShape& shape, const PlanLimits& limits, const Plan& plan,
                  int max_threads) {
  const std::ptrdiff_t threads = std::min<std::ptrdiff_t>(max_threads, plan.work_items);
  if (shape.causal) {  // with 64 items, 32 threads are as fast as 50
    return static_cast<int>(divide_up(plan.work_items, divide_up(plan.work_items, threads)));
  }
  const Cut cut = plan.split ? cut_keys(shape, plan.work_items / plan.num_chunks, plan.key_chunk)
                             : cut_rows(shape, plan.query_block, limits.lanes);
  return static_cast<int>(cut.enough_threads(threads));
}

}  // namespace

Plan make_plan(const PlanShape& shape, const PlanLimits& limits, int max_threads) {
  Plan plan;
  const std::ptrdiff_t heads = shape.batch * shape.kv_heads;
  if (heads == 0 || shape.rows() == 0) return plan;
  max_threads = useful_threads(shape, max_threads);
  plan.decode = shape.rows() <= limits.decode_rows;
  plan.key_chunk = plan.decode ? limits.decode_block : kForwardChunkBlocks * limits.key_block;
  plan.num_chunks = std::max<std::ptrdiff_t>(divide_up(shape.key_length, plan.key_chunk), 1);

  plan.query_block = plan.decode ? shape.rows() : choose_query_block(shape, limits, max_threads);
  plan.num_query_blocks = divide_up(shape.rows(), plan.query_block);
  plan.part_bytes = part_bytes(shape, std::min(plan.query_block, shape.rows()));
  plan.work_items = heads * plan.num_query_blocks;
  plan.longest_first = plan.work_items < kManyItemsPerThread * max_threads;

  if (should_split(shape, limits, plan, max_threads)) {
    plan.split = true;
    plan.partial_bytes = all_partials(plan);
    plan.work_items *= plan.num_chunks;
  }
  plan.threads = count_threads(shape, limits, plan, max_threads);
  return plan;
}

// Head by head, so that its keys and values stay in the cache, and within a head the long items
// first: under a causal mask the last rows, which see the most keys, else the first ones, since
// the last block may not be full. Short items at the end even out the threads. With few items for
// each thread that is not enough: then the longest items of all heads come first. Chunks come one
// after the other, since the last one may be short.
Item item_at(const Plan& plan, const PlanShape& shape, std::ptrdiff_t index) {
  Item item;
  if (plan.split) {
    const std::ptrdiff_t blocks = plan.work_items / plan.num_chunks;
    item.first_chunk = index / blocks;
    index %= blocks;
  }
  item.end_chunk = plan.split ? item.first_chunk + 1 : plan.num_chunks;
  const std::ptrdiff_t heads = shape.batch * shape.kv_heads;
  const std::ptrdiff_t position =
      plan.longest_first ? index / heads : index % plan.num_query_blocks;
  item.head = plan.longest_first ? index % heads : index / plan.num_query_blocks;
  item.block = shape.causal ? plan.num_query_blocks - 1 - position : position;
  item.first_row = item.block * plan.query_block;
  item.num_rows = std::min(plan.query_block, shape.rows() - item.first_row);
  return item;
}

}  // namespace cpuattn
