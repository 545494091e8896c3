// Threads: many callers at once, threads that the caller brings along, questions whether to stop,
// and the quota of a container.
#include <algorithm>
#include <atomic>
#include <cfenv>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "array.hpp"
#include "check.hpp"
#include "cpuattn/attention.hpp"
#include "isa/registry.hpp"
#include "run/scratch.hpp"
#include "threads/cpus.hpp"

namespace {

using cpuattn::Options;
using test::Array;

// A call that is split over the heads, and one over the chunks of its keys.
struct Problem {
  Array query, key, value;
  std::vector<float> expected;

  Problem(std::ptrdiff_t heads, std::ptrdiff_t rows, std::ptrdiff_t keys)
      : query(heads, rows, 32, 1), key(heads, keys, 32, 2), value(heads, keys, 32, 3) {
    Options alone;
    alone.num_threads = 1;
    expected = result(alone);
  }
  std::vector<float> result(const Options& options) const {
    Array out(query.view.shape[0], query.view.shape[1], 32, 4);
    cpuattn::attention(query.view, key.view, value.view, out.view, nullptr, options);
    return out.data;
  }
};

const std::vector<const Problem*>& problems() {
  static const Problem heads(8, 200, 300), chunks(1, 1, 20000);
  static const std::vector<const Problem*> all{&heads, &chunks};
  return all;
}

void many_callers_at_once() {
  std::atomic<int> wrong{0};
  constexpr int kCallers = 6;
  std::vector<std::thread> callers;
  callers.reserve(kCallers);
  for (int i = 0; i < kCallers; ++i) {
    callers.emplace_back([i, &wrong] {
      Options options;
      options.num_threads = 1 + i;
      for (int round = 0; round < 50; ++round) {
        for (const Problem* problem : problems()) {
          wrong += problem->result(options) != problem->expected;
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  test::check(wrong == 0, "the same bits for many callers at once");
}

// How threads of a caller may run the shares: one after the other, backwards, all at once, or at
// once while the caller only waits.
using Body = void (*)(void*, int);
void in_order(void* calls, int count, Body body, void* context) {
  for (int i = 0; i < count; ++i, ++*static_cast<int*>(calls)) body(context, i);
}
void backwards(void* calls, int count, Body body, void* context) {
  for (int i = count - 1; i >= 0; --i, ++*static_cast<int*>(calls)) body(context, i);
}
void at_once(void* calls, int count, Body body, void* context) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i, ++*static_cast<int*>(calls)) {
    threads.emplace_back([=] {
      std::fesetround(FE_UPWARD);  // a state that must not reach the result
      body(context, i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void threads_of_the_caller() {
  for (const auto run : {in_order, backwards, at_once}) {
    for (const Problem* problem : problems()) {
      int calls = 0;
      Options options;
      options.num_threads = 3;
      options.parallel_for = {run, &calls};
      test::check(problem->result(options) == problem->expected, "bits on threads of the caller");
      test::check(calls >= 2, "the shares are run on threads of the caller");
    }
  }
}

void state_of_the_caller() {
  for (const Problem* problem : problems()) {
    std::fesetround(FE_UPWARD);
    const std::vector<float> got = problem->result({});
    test::check(std::fegetround() == FE_UPWARD, "the rounding mode of the caller stays");
    std::fesetround(FE_TONEAREST);
    test::check(got == problem->expected, "the rounding mode of the caller changes no bit");
  }
}

// Counts the questions of a kernel. A block of keys of very wide heads may take seconds, so each of
// its pieces of 64 keys asks.
struct Questions {
  int asked = 0, stop_at = 0;
  static bool ask(void* context) {
    auto* self = static_cast<Questions*>(context);
    return ++self->asked == self->stop_at;
  }
};

int questions_of_decode(const cpuattn::Kernels& kernels, std::ptrdiff_t head_dim,
                        std::ptrdiff_t value_dim, int stop_at) {
  std::vector<float> row(static_cast<std::size_t>(std::max(head_dim, value_dim)), 0.5f);
  std::vector<float> output(row.size());
  float base = 0, sum = 0;
  Questions questions;
  questions.stop_at = stop_at;
  cpuattn::Work work;
  work.head_dim = head_dim;
  work.value_dim = value_dim;
  work.num_rows = 1;
  work.key_end = work.key_chunk = work.key_length = kernels.decode_block;
  work.query = {row.data(), 0, 0, 1, cpuattn::ElementType::kFloat32};
  work.output = {output.data(), 0, 0, 1, cpuattn::ElementType::kFloat32};
  work.key.data = work.value.data = row.data();  // each key is the same row
  work.key.dim_stride = work.value.dim_stride = 1;
  work.key.type = work.value.type = cpuattn::ElementType::kFloat32;
  work.row_base = &base;
  work.row_sum = &sum;
  work.should_stop = Questions::ask;
  work.stop_context = &questions;
  const cpuattn::Scratch scratch(kernels.decode_scratch(head_dim, value_dim, 1));
  kernels.decode(work, scratch.data());
  test::check(stop_at > 0 || output[0] == 0.5f, "the result of a call that was asked");
  return questions.asked;
}

void wide_heads_ask_often() {
  constexpr std::ptrdiff_t kWide = 1 << 16;
  for (const cpuattn::Isa* isa : cpuattn::available_isas()) {
    const int pieces = isa->float32.decode_block / 64;
    for (const auto& [head_dim, value_dim] : {std::pair(kWide, std::ptrdiff_t(1)), {64, kWide}}) {
      const int all = questions_of_decode(isa->float32, head_dim, value_dim, 0);
      test::check(all > pieces, std::string(isa->name) + ": asked for each piece of keys");
      const int stopped = questions_of_decode(isa->float32, head_dim, value_dim, 3);
      test::check(stopped <= 3 + pieces, std::string(isa->name) + ": leaves where it is stopped");
    }
  }
}

struct Files {
  std::filesystem::path root =
      std::filesystem::temp_directory_path() /
      ("cpuattn-" + std::to_string(std::hash<std::thread::id>()(std::this_thread::get_id())));
  Files() { std::filesystem::create_directories(root); }
  ~Files() { std::filesystem::remove_all(root); }
  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((root / name).parent_path());
    std::ofstream(root / name) << text;
  }
  int cpus(const std::string& groups) const {
    write("groups", groups);
    return cpuattn::cpus_of_quota((root / "groups").string(), root.string());
  }
};

void quotas() {
  const Files files;
  test::check(files.cpus("0::/\n") == 0, "no file, no quota");
  files.write("cpu.max", "max 100000\n");
  test::check(files.cpus("0::/\n") == 0, "version 2: max is no quota");
  files.write("a/b/cpu.max", "350000 100000\n");
  test::check(files.cpus("0::/a/b\n") == 4, "version 2: rounded up");
  files.write("a/cpu.max", "200000 100000\n");
  test::check(files.cpus("0::/a/b\n") == 2, "version 2: a group above has less");
  files.write("cpu.max", "1000 100000\n");
  test::check(files.cpus("0::/not/here\n") == 1, "version 2: the root, and never below one");
  files.write("cpu.max", "junk\n");
  test::check(files.cpus("0::/\n") == 0, "what is no quota is ignored");
  files.write("cpu,cpuacct/c/cpu.cfs_quota_us", "250000\n");
  files.write("cpu,cpuacct/c/cpu.cfs_period_us", "100000\n");
  test::check(files.cpus("5:memory:/x\n4:cpu,cpuacct:/c\n") == 3, "version 1");
  files.write("cpu,cpuacct/c/cpu.cfs_quota_us", "-1\n");
  test::check(files.cpus("4:cpu,cpuacct:/c\n") == 0, "version 1: -1 is no quota");
  test::check(cpuattn::cpus_of_quota((files.root / "none").string(), files.root.string()) == 0,
              "a system without control groups");
  test::check(cpuattn::cpus_of_process() >= 1, "this process has a CPU");
}

}  // namespace

int main() {
  many_callers_at_once();
  threads_of_the_caller();
  state_of_the_caller();
  wide_heads_ask_often();
  quotas();
  return test::finish();
}
