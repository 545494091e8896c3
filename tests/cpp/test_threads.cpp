// Threads: many callers at once, threads that the caller brings along, and the quota of a
// container.
#include <atomic>
#include <cfenv>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "array.hpp"
#include "check.hpp"
#include "cpuattn/attention.hpp"
#include "cpus.hpp"

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
  quotas();
  return test::finish();
}
