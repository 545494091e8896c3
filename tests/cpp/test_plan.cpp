// The plan: every row and key exactly once, no dependence of sums on threads, and busy threads.
#include <algorithm>
#include <map>
#include <queue>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "check.hpp"
#include "run/plan.hpp"

namespace {

using cpuattn::Item;
using cpuattn::item_at;
using cpuattn::make_plan;
using cpuattn::Part;
using cpuattn::Plan;
using cpuattn::PlanLimits;
using cpuattn::PlanShape;

const PlanLimits kAvx512{16, 64, 8, 96, 512};
const PlanLimits kAvx2{8, 64, 8, 96, 512};
const PlanLimits kScalar{4, 16, 8, 96, 512};

struct Case {
  std::string name;
  PlanShape shape;
  bool causal;
};

// The shapes of the benchmark: batch, query heads, kv heads, Lq, Lk, head_dim.
Case make_case(std::ptrdiff_t batch, std::ptrdiff_t heads, std::ptrdiff_t kv_heads,
               std::ptrdiff_t query_length, std::ptrdiff_t key_length, std::ptrdiff_t head_dim,
               bool causal = false) {
  const std::ptrdiff_t numbers[] = {batch, heads, kv_heads, query_length, key_length, head_dim};
  std::string name = causal ? "causal" : "full";
  for (std::ptrdiff_t n : numbers) name += " " + std::to_string(n);
  return {
      name,
      {batch, kv_heads, heads / kv_heads, query_length, key_length, head_dim, head_dim, 4, causal},
      causal};
}

std::vector<Case> benchmark_cases() {
  std::vector<Case> cases = {
      make_case(1, 8, 8, 512, 512, 64),      make_case(1, 8, 8, 1024, 1024, 64),
      make_case(1, 8, 8, 2048, 2048, 64),    make_case(1, 8, 8, 4096, 4096, 64),
      make_case(1, 4, 4, 8192, 8192, 128),   make_case(1, 32, 8, 1024, 1024, 128),
      make_case(8, 12, 12, 128, 128, 64),    make_case(1, 16, 16, 577, 577, 64),
      make_case(1, 8, 8, 197, 197, 40),      make_case(4, 12, 12, 512, 512, 64),
      make_case(1, 32, 32, 1, 4096, 128),    make_case(1, 32, 8, 1, 4096, 128),
      make_case(1, 32, 8, 1, 32768, 128),    make_case(8, 32, 8, 1, 2048, 128),
      make_case(1, 1, 1, 1, 131072, 128),    make_case(1, 32, 8, 4, 4096, 128),
      make_case(1, 32, 8, 8, 4096, 128),     make_case(1, 1, 1, 1, 16, 64),
      make_case(1, 8, 8, 16, 16, 64),        make_case(1, 12, 12, 32, 32, 64),
      make_case(4, 4, 4, 16384, 16384, 128), make_case(1, 128, 1, 1, 4096, 576),
      make_case(1, 64, 64, 64, 64, 64),      make_case(1, 8, 8, 448, 1500, 64),
      make_case(1, 8, 8, 1024, 1024, 80),
  };
  for (std::ptrdiff_t length : {1024, 2048, 4096}) {
    cases.push_back(make_case(1, 8, 8, length, length, 64, true));
  }
  cases.push_back(make_case(1, 32, 8, 2048, 2048, 128, true));
  return cases;
}

// Multiply-adds of an item, as the kernel does them: for each key that some row of it sees, and
// for the vectors that its rows fill.
double cost(const Case& c, const PlanLimits& limits, const Plan& plan, const Item& item) {
  std::ptrdiff_t width = plan.decode ? item.num_rows : limits.lanes;
  while (width < item.num_rows) width *= 2;
  const std::ptrdiff_t begin = item.first_chunk * plan.key_chunk;
  std::ptrdiff_t end = std::min(item.end_chunk * plan.key_chunk, c.shape.key_length);
  if (c.causal) {
    const std::ptrdiff_t last_query = (item.first_row + item.num_rows - 1) / c.shape.group;
    end = std::min(end, last_query + c.shape.key_length - c.shape.query_length + 1);
  }
  return static_cast<double>(width) * static_cast<double>(std::max(end - begin, std::ptrdiff_t{0}));
}

// Share of the time that the threads of the plan are busy, when each takes the next item as soon
// as it is free.
double busy_share(const Case& c, const PlanLimits& limits, const Plan& plan) {
  std::priority_queue<double, std::vector<double>, std::greater<>> free_at;
  for (int i = 0; i < plan.threads; ++i) free_at.push(0);
  double total = 0, end = 0;
  for (std::ptrdiff_t i = 0; i < plan.work_items; ++i) {
    const double work = cost(c, limits, plan, item_at(plan, c.shape, i));
    const double done = free_at.top() + work;
    free_at.pop();
    free_at.push(done);
    total += work;
    end = std::max(end, done);
  }
  return end == 0 ? 1 : total / (end * plan.threads);
}

// Threads that the plan wakes are at least 90 % busy, for 1 to 256 of them.
void threads_are_busy() {
  for (const PlanLimits& limits : {kAvx512, kAvx2}) {
    for (const Case& c : benchmark_cases()) {
      for (int threads = 1; threads <= 256; ++threads) {
        const Plan plan = make_plan(c.shape, limits, threads);
        test::check(plan.threads >= 1 && plan.threads <= threads, c.name + ": threads");
        const double busy = busy_share(c, limits, plan);
        test::check(busy >= 0.9, c.name + " on " + std::to_string(threads) + " threads (" +
                                     std::to_string(plan.threads) + " used): busy " +
                                     std::to_string(busy));
      }
    }
  }
}

// Waking few threads would keep them busy too: large calls use most of what they are given.
void large_calls_use_the_machine() {
  for (const Case& c : benchmark_cases()) {
    const double work = double(c.shape.batch * c.shape.kv_heads * c.shape.rows()) *
                        double(c.shape.key_length) * double(c.shape.head_dim);
    for (int threads = 1; threads <= 64; threads *= 2) {
      if (work < 4e6 * threads) continue;
      const Plan plan = make_plan(c.shape, kAvx512, threads);
      const std::ptrdiff_t most = c.shape.batch * c.shape.kv_heads * plan.num_chunks *
                                  ((c.shape.rows() + kAvx512.lanes - 1) / kAvx512.lanes);
      test::check(plan.threads >= std::min<std::ptrdiff_t>(threads, most) * 3 / 4,
                  c.name + ": " + std::to_string(plan.threads) + " of " + std::to_string(threads));
    }
  }
}

void every_row_and_key_once() {
  for (const PlanLimits& limits : {kAvx512, kScalar}) {
    for (std::ptrdiff_t rows : {1, 2, 8, 9, 16, 63, 64, 65, 200}) {
      for (std::ptrdiff_t keys : {1, 95, 2048, 2049, 4128, 4129, 20000}) {
        for (int threads : {1, 3, 16, 100}) {
          PlanShape shape{2, 3, 1, rows, keys, 8, 8, 4, false};
          const Plan plan = make_plan(shape, limits, threads);
          std::vector<int> seen(static_cast<std::size_t>(6 * rows * plan.num_chunks));
          for (std::ptrdiff_t i = 0; i < plan.work_items; ++i) {
            const Item item = item_at(plan, shape, i);
            for (std::ptrdiff_t r = item.first_row; r < item.first_row + item.num_rows; ++r) {
              for (std::ptrdiff_t k = item.first_chunk; k < item.end_chunk; ++k) {
                ++seen[static_cast<std::size_t>((item.head * rows + r) * plan.num_chunks + k)];
              }
            }
          }
          test::check(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }),
                      "every row and chunk once");
          test::check((plan.num_chunks - 1) * plan.key_chunk < keys &&
                          plan.num_chunks * plan.key_chunk >= keys,
                      "chunks cover the keys");
        }
      }
    }
  }
}

void check_items(const PlanShape& shape, const std::vector<Part>& parts, int threads) {
  const Plan plan = make_plan(shape, kScalar, threads, parts);
  std::map<std::tuple<std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t>, int> seen, merged;
  std::set<std::ptrdiff_t> slots;
  std::size_t chunks = 0, pairs = 0;
  bool right = true;
  for (std::ptrdiff_t i = 0; i < plan.work_items; ++i) {
    const Item item = item_at(plan, shape, i);
    for (std::ptrdiff_t row = 0; row < item.num_rows; ++row) {
      for (std::ptrdiff_t k = item.first_chunk; k < item.end_chunk; ++k) {
        ++seen[{item.head, item.first_row + row, k}];
      }
    }
    right &= item.num_rows > 0;
    if (!item.split) continue;
    ++chunks;
    slots.insert(item.first_slot + item.first_chunk);
  }
  for (const Part& part : parts) {
    const std::ptrdiff_t of_row =
        std::max<std::ptrdiff_t>((part.key_length + plan.key_chunk - 1) / plan.key_chunk, 1);
    pairs += static_cast<std::size_t>(part.num_heads * part.rows * of_row);
    for (std::ptrdiff_t head = 0; head < part.num_heads; ++head) {
      right &= seen.count({part.first_head + head, part.rows - 1, of_row - 1}) == 1;
    }
  }
  for (const auto& [where, times] : seen) right &= times == 1;
  test::check(right && seen.size() == pairs, "every row and chunk of every entry once");
  test::check(slots.size() == chunks, "a place for the results of every chunk");
  const std::size_t bytes = slots.empty() ? 0 : std::size_t(*slots.rbegin() + 1) * plan.part_bytes;
  test::check(bytes <= plan.partial_bytes, "inside of the memory for them");
  if (!plan.split) return;
  const Plan merges = cpuattn::merges_of(plan);
  std::size_t found = 0;
  for (std::ptrdiff_t i = 0; i < merges.work_items; ++i) {
    const Item item = item_at(merges, shape, i);
    ++merged[{item.head, item.first_row, 0}];
    for (std::ptrdiff_t k = 0; k < item.end_chunk; ++k) found += slots.count(item.first_slot + k);
  }
  test::check(found == chunks && merged.size() == std::size_t(merges.work_items),
              "every chunk is merged once");
}

// Entries of unequal lengths: each row and chunk of each of them once, split or not, a place of its
// own for the results of each chunk, and each block merged once.
void unequal_entries() {
  using Lengths = std::vector<std::pair<std::ptrdiff_t, std::ptrdiff_t>>;  // rows, keys
  const Lengths cases[] = {{{70, 5000}, {1, 1}, {64, 700}, {65, 0}, {300, 9000}},
                           {{9, 40}, {9, 40}, {20000, 20000}, {9, 40}},
                           {{10, 100000}},
                           {{1000, 10}, {10, 1000000}}};
  for (const Lengths& lengths : cases) {
    for (const bool decode : {false, true}) {
      for (const int threads : {1, 2, 16, 100}) {
        PlanShape shape{static_cast<std::ptrdiff_t>(lengths.size()), 2, 1, 0, 0, 8, 8, 4, false};
        std::vector<Part> parts;
        for (auto [rows, keys] : lengths) {
          rows = decode ? std::min<std::ptrdiff_t>(rows, 8) : rows;
          const auto entry = static_cast<std::ptrdiff_t>(parts.size());
          parts.push_back({entry * 2, 2, rows, keys});
          shape.query_length = std::max(shape.query_length, rows);
          shape.key_length = std::max(shape.key_length, keys);
        }
        check_items(shape, parts, threads);
      }
    }
  }
}

// One long sequence among many short ones costs what both cost apart.
void work_follows_the_sum() {
  const std::ptrdiff_t rows = 20000, heads = 8, entries = 1000;
  PlanShape shape{entries + 1, heads, 1, rows, rows, 16, 16, 4, true};
  const std::vector<Part> parts{{0, heads * entries, 10, 10}, {heads * entries, heads, rows, rows}};
  const Plan together = make_plan(shape, kAvx512, 2, parts);
  const Plan longs = make_plan({1, heads, 1, rows, rows, 16, 16, 4, true}, kAvx512, 2);
  const Plan shorts = make_plan({entries, heads, 1, 10, 10, 16, 16, 4, true}, kAvx512, 2);
  test::check(together.work_items == longs.work_items + shorts.work_items, "no item of padding");
  test::check(item_at(together, shape, 0).head >= heads * entries, "the long one first");
}

// A few long entries of few rows among many short ones keep all threads busy.
void long_entries_are_split() {
  for (const int threads : {2, 4, 8}) {
    const std::ptrdiff_t entries = 1000, keys = 1000000;
    const PlanShape shape{entries, 1, 1, 1, keys, 64, 64, 4, false};
    const Plan plan =
        make_plan(shape, kAvx512, threads, {{0, entries - 1, 1, 20}, {entries - 1, 1, 1, keys}});
    test::check(plan.split && plan.num_chunks > 1, "the long one is split");
    test::check(plan.work_items == entries - 1 + plan.num_chunks, "and no other");
    test::check(plan.partial_bytes <= std::size_t(threads) << 20, "memory is bounded");
  }
}

// What decides the order of additions must not follow threads, batch, heads or other rows.
void sums_do_not_follow_threads() {
  for (std::ptrdiff_t keys : {1, 2048, 5000, 131072}) {
    for (std::ptrdiff_t rows : {1, 8, 9, 64, 1000}) {
      const Plan one = make_plan({1, 1, 1, rows, keys, 64, 64, 4, false}, kAvx512, 1);
      for (int threads : {2, 7, 256}) {
        for (std::ptrdiff_t batch : {1, 5}) {
          const Plan many =
              make_plan({batch, 4, 1, rows, keys, 64, 64, 4, false}, kAvx512, threads);
          test::check(one.decode == many.decode && one.key_chunk == many.key_chunk &&
                          one.num_chunks == many.num_chunks,
                      "chunks are the same");
        }
      }
    }
  }
}

void memory_is_bounded() {
  for (const Case& c : benchmark_cases()) {
    for (int threads : {1, 2, 16, 256}) {
      const Plan plan = make_plan(c.shape, kAvx512, threads);
      test::check(plan.partial_bytes <= std::size_t(threads) << 20, c.name + ": partial results");
    }
  }
}

void empty_calls_have_no_items() {
  for (const PlanShape& shape :
       {PlanShape{0, 2, 1, 3, 4, 5, 5, 4, false}, PlanShape{1, 0, 1, 3, 4, 5, 5, 4, false},
        PlanShape{1, 2, 1, 0, 4, 5, 5, 4, false}}) {
    test::check(make_plan(shape, kAvx512, 4).work_items == 0, "nothing to do");
  }
  const Plan plan = make_plan({1, 1, 1, 3, 0, 5, 5, 4, false}, kAvx512, 4);
  test::check(plan.work_items == 1 && plan.num_chunks == 1, "rows without keys are still written");
}

}  // namespace

int main() {
  threads_are_busy();
  large_calls_use_the_machine();
  every_row_and_key_once();
  unequal_entries();
  work_follows_the_sum();
  long_entries_are_split();
  sums_do_not_follow_threads();
  memory_is_bounded();
  empty_calls_have_no_items();
  return test::finish();
}
