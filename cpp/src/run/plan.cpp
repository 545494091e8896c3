#include "run/plan.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

#include "problem/sizes.hpp"

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
Cut cut_rows(const Part& part, std::ptrdiff_t block, std::ptrdiff_t lanes) {
  const std::ptrdiff_t heads = part.num_heads, rest = part.rows % block;
  return {heads * (part.rows / block), block, rest == 0 ? 0 : heads,
          std::min(divide_up(rest, lanes) * lanes, block)};
}

// All keys of the blocks cut into chunks, the last of which may be shorter.
Cut cut_keys(const Part& part, std::ptrdiff_t chunk) {
  const std::ptrdiff_t blocks = part.blocks(), rest = part.key_length % chunk;
  return {blocks * (part.key_length / chunk), chunk, rest == 0 ? 0 : blocks, rest};
}

// The parts of a plan: one that is the whole, or those of unequal lengths.
struct Parts {
  Part* first;
  Part* last;

  explicit Parts(Plan& plan) : first(&plan.whole), last(first + 1) {
    if (plan.parts.empty()) return;
    first = plan.parts.data();
    last = first + plan.parts.size();
  }
  Part* begin() const { return first; }
  Part* end() const { return last; }
  bool equal() const { return last - first == 1; }
};

// Pairs of a row and a key of one item, and of all of them.
double item_pairs(const Part& part, std::ptrdiff_t block) {
  return static_cast<double>(std::min(part.rows, block)) * static_cast<double>(part.key_length);
}
double all_pairs(const Part& part) {
  return static_cast<double>(part.num_heads) * static_cast<double>(part.rows) *
         static_cast<double>(part.key_length);
}
double all_pairs(const Parts& parts) {
  double pairs = 0;
  for (const Part& part : parts) pairs += all_pairs(part);
  return pairs;
}

// If all threads are busy until one of them has to do the largest item last.
bool are_busy(const Parts& parts, std::ptrdiff_t block, int threads) {
  double largest = 0;
  for (const Part& part : parts) largest = std::max(largest, item_pairs(part, block));
  const double all = all_pairs(parts);
  return all >= 0.9 * (all + largest * threads);
}

bool are_busy(const Part& part, const PlanLimits& limits, std::ptrdiff_t block, bool causal,
              int threads) {
  // Under a causal mask a long item and a short one make a pair.
  const std::ptrdiff_t enough = threads * (causal ? kCausalItemsPerThread : 1);
  return part.num_heads * divide_up(part.rows, block) >= enough &&
         (causal || cut_rows(part, block, limits.lanes).busy_share(threads) >= 0.9);
}

// The widest block, whose tiles are the fastest, that keeps the threads busy.
std::ptrdiff_t choose_query_block(const Parts& parts, const PlanLimits& limits, bool causal,
                                  int threads) {
  std::ptrdiff_t block = limits.query_block;
  while (block > limits.lanes && threads > 1 &&
         !(parts.equal() ? are_busy(*parts.first, limits, block, causal, threads)
                         : are_busy(parts, block, threads))) {
    block /= 2;
  }
  return block;
}

// Threads that have enough to do to be worth waking.
int useful_threads(const PlanShape& shape, const Parts& parts, int max_threads) {
  const double work = all_pairs(parts) * static_cast<double>(shape.head_dim + shape.value_dim);
  const double useful = std::max(1.0, work / kMinWorkPerThread);
  return useful < max_threads ? static_cast<int>(useful) : max_threads;
}

std::size_t part_bytes(const PlanShape& shape, std::ptrdiff_t query_block) {
  constexpr std::size_t kAlignment = 64;
  const auto numbers = static_cast<std::size_t>(query_block * (shape.value_dim + 2));
  return (numbers * shape.element_size + kAlignment - 1) / kAlignment * kAlignment;
}

// Of all chunks of a part, if they are items of their own.
std::size_t partials_of(const Part& part, const Plan& plan) {
  const auto bytes = static_cast<std::ptrdiff_t>(plan.part_bytes);
  return static_cast<std::size_t>(product(product(part.blocks(), part.num_chunks), bytes));
}

// Whether the threads are done sooner if every chunk of a part is an item of its own. `items`: of
// all parts, in items of this one.
bool should_split(const Part& part, double items, const Plan& plan, const PlanShape& shape,
                  const PlanLimits& limits, int max_threads) {
  if (part.num_chunks == 1 || max_threads == 1) return false;
  if (items >= static_cast<double>(kItemsPerThread * max_threads)) return false;
  const auto threads = static_cast<std::size_t>(max_threads);
  if (partials_of(part, plan) + plan.partial_bytes > limits.partial_bytes * threads) return false;
  if (shape.causal || plan.decode || plan.parts.size() > 1) return true;
  const Cut rows = cut_rows(part, plan.query_block, limits.lanes);
  const Cut keys = cut_keys(part, plan.key_chunk);
  return keys.time(max_threads) * plan.query_block < rows.time(max_threads) * part.key_length;
}

// Where a few items take most of the time, their parts are split.
void split_parts(Plan& plan, const PlanShape& shape, const PlanLimits& limits, int max_threads) {
  const Parts parts(plan);
  const auto block_pairs = [&](const Part& part) {  // a block that is not full counts as one
    return static_cast<double>(part.blocks()) * item_pairs(part, plan.query_block);
  };
  double pairs = 0;
  for (const Part& part : parts) pairs += block_pairs(part);
  for (Part& part : parts) {
    const double one = std::max(item_pairs(part, plan.query_block), 1.0);
    part.split = should_split(part, pairs / one, plan, shape, limits, max_threads);
    if (!part.split) continue;
    plan.split = true;
    plan.partial_bytes += partials_of(part, plan);
  }
}

// Parts that are split first, then those with the longest items: a long item that is begun last
// keeps one thread busy while the others wait.
void sort_parts(Plan& plan) {
  const auto rank = [&](const Part& part) {
    return std::make_tuple(!part.split, -item_pairs(part, plan.query_block), part.first_head);
  };
  std::sort(plan.parts.begin(), plan.parts.end(),
            [&](const Part& a, const Part& b) { return rank(a) < rank(b); });
}

// Gives every part its range of the items.
void number_items(Plan& plan) {
  const Parts parts(plan);
  if (plan.split) sort_parts(plan);
  plan.work_items = 0;
  for (Part& part : parts) {
    part.first_item = part.first_slot = plan.work_items;
    plan.work_items += part.items();
  }
}

// The part that the item belongs to.
const Part& part_of(const Plan& plan, std::ptrdiff_t index) {
  if (plan.parts.empty()) return plan.whole;
  const auto after = std::upper_bound(
      plan.parts.begin(), plan.parts.end(), index,
      [](std::ptrdiff_t item, const Part& part) { return item < part.first_item; });
  return *(after - 1);
}

int count_threads(const PlanShape& shape, const PlanLimits& limits, const Plan& plan,
                  int max_threads) {
  const std::ptrdiff_t threads = std::min<std::ptrdiff_t>(max_threads, plan.work_items);
  if (plan.parts.size() > 1) return static_cast<int>(threads);
  if (shape.causal) {  // with 64 items, 32 threads are as fast as 50
    return static_cast<int>(divide_up(plan.work_items, divide_up(plan.work_items, threads)));
  }
  const Part& part = part_of(plan, 0);
  const Cut cut =
      plan.split ? cut_keys(part, plan.key_chunk) : cut_rows(part, plan.query_block, limits.lanes);
  return static_cast<int>(cut.enough_threads(threads));
}

}  // namespace

Plan make_plan(const PlanShape& shape, const PlanLimits& limits, int max_threads,
               std::vector<Part> parts) {
  Plan plan;
  if (shape.batch == 0 || shape.kv_heads == 0 || shape.rows() == 0) return plan;
  plan.parts = std::move(parts);
  plan.whole = {0, shape.batch * shape.kv_heads, shape.rows(), shape.key_length};
  const Parts all(plan);
  max_threads = useful_threads(shape, all, max_threads);
  plan.decode = shape.rows() <= limits.decode_rows;
  plan.key_chunk = plan.decode ? limits.decode_block : kForwardChunkBlocks * limits.key_block;
  plan.query_block =
      plan.decode ? shape.rows() : choose_query_block(all, limits, shape.causal, max_threads);
  plan.part_bytes = part_bytes(shape, std::min(plan.query_block, shape.rows()));
  for (Part& part : all) {
    part.num_blocks = divide_up(part.rows, plan.query_block);
    part.num_chunks = std::max<std::ptrdiff_t>(divide_up(part.key_length, plan.key_chunk), 1);
    plan.num_chunks = std::max(plan.num_chunks, part.num_chunks);
    plan.work_items += part.blocks();
  }
  plan.longest_first = plan.work_items < kManyItemsPerThread * max_threads;
  sort_parts(plan);
  split_parts(plan, shape, limits, max_threads);
  number_items(plan);
  plan.threads = count_threads(shape, limits, plan, max_threads);
  return plan;
}

Plan merges_of(const Plan& plan) {
  Plan merges = plan;
  const auto whole = std::find_if(merges.parts.begin(), merges.parts.end(),
                                  [](const Part& part) { return !part.split; });
  merges.parts.erase(whole, merges.parts.end());
  merges.split = false;
  merges.work_items = 0;
  for (Part& part : Parts(merges)) {
    part.split = false;
    part.first_item = merges.work_items;
    merges.work_items += part.items();
  }
  merges.threads = static_cast<int>(std::min<std::ptrdiff_t>(plan.threads, merges.work_items));
  return merges;
}

// Head by head, so that its keys and values stay in the cache, and within a head the long items
// first: under a causal mask the last rows, which see the most keys, else the first ones, since
// the last block may not be full. Short items at the end even out the threads. With few items for
// each thread that is not enough: then the longest items of all heads come first. Chunks come one
// after the other, since the last one may be short.
Item item_at(const Plan& plan, const PlanShape& shape, std::ptrdiff_t index) {
  const Part& part = part_of(plan, index);
  index -= part.first_item;
  Item item;
  item.split = part.split;
  if (part.split) {
    item.first_chunk = index / part.blocks();
    index %= part.blocks();
  }
  item.end_chunk = part.split ? item.first_chunk + 1 : part.num_chunks;
  const std::ptrdiff_t heads = part.num_heads, blocks = part.num_blocks;
  const std::ptrdiff_t position = plan.longest_first ? index / heads : index % blocks;
  const std::ptrdiff_t head = plan.longest_first ? index % heads : index / blocks;
  const std::ptrdiff_t block = shape.causal ? blocks - 1 - position : position;
  item.head = part.first_head + head;
  item.first_slot = part.first_slot + (head * blocks + block) * part.num_chunks;
  item.first_row = block * plan.query_block;
  item.num_rows = std::min(plan.query_block, part.rows - item.first_row);
  return item;
}

}  // namespace cpuattn
