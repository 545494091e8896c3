// What C++ callers may get wrong or do at the same time: views that make no sense, an ISA chosen by
// another thread, results after an interrupt.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "cpuattn/attention.hpp"
#include "cpuattn/cache.hpp"

namespace {

using cpuattn::DType;
using cpuattn::Options;
using cpuattn::View;

// A contiguous array of numbers.
template <class T>
struct Array {
  std::vector<T> data;
  View view;

  Array(DType dtype, const std::vector<std::ptrdiff_t>& shape, T value = T(1)) {
    std::ptrdiff_t size = 1;
    view.dtype = dtype;
    view.rank = static_cast<int>(shape.size());
    for (int i = view.rank - 1; i >= 0; --i) {
      view.shape[i] = shape[static_cast<std::size_t>(i)];
      view.stride[i] = size * static_cast<std::ptrdiff_t>(sizeof(T));
      size *= view.shape[i];
    }
    data.assign(static_cast<std::size_t>(size), value);
    view.data = data.data();
  }
};

using Floats = Array<float>;
Floats floats(const std::vector<std::ptrdiff_t>& shape, float value = 1) {
  return {DType::kFloat32, shape, value};
}
Array<std::int64_t> integers(const std::vector<std::int64_t>& values) {
  Array<std::int64_t> array(DType::kInt64, {static_cast<std::ptrdiff_t>(values.size())});
  array.data = values;
  array.view.data = array.data.data();
  return array;
}

template <class F>
void refuses(const std::string& words, F f) {
  std::string message = "no error";
  try {
    f();
  } catch (const std::invalid_argument& e) {
    message = e.what();
  }
  test::check(message.find(words) != std::string::npos, words + " is not in: " + message);
}

// Each argument in turn is one of these.
struct Wrong {
  const char* words;
  void (*spoil)(View&);
};
const Wrong kWrong[] = {
    {" has no data", [](View& view) { view.data = nullptr; }},
    {" has 17 dimensions", [](View& view) { view.rank = 17; }},
    {" has -1 dimensions", [](View& view) { view.rank = -1; }},
    // NOLINTNEXTLINE(clang-analyzer-optin.core.EnumCastOutOfRange): what is tested
    {" has an unknown element type, 99", [](View& view) { view.dtype = static_cast<DType>(99); }},
    {" has a negative dimension", [](View& view) { view.shape[0] = -1; }},
};

void views_that_make_no_sense() {
  const Floats x = floats({2, 3, 4});
  const Floats per_head = floats({2});
  const Floats scores = floats({2, 3, 3});
  const Array<unsigned char> mask(DType::kBool, {2, 3, 3});
  const auto ids = integers({0, 0, 0});
  using Field = std::optional<View> Options::*;
  const struct {
    std::string name;
    Field field;
    View view;
  } fields[] = {{"mask", &Options::mask, mask.view},
                {"bias", &Options::bias, scores.view},
                {"query_offset", &Options::query_offset, ids.view},
                {"key_lengths", &Options::key_lengths, ids.view},
                {"alibi_slopes", &Options::alibi_slopes, per_head.view}};
  for (const Wrong& wrong : kWrong) {
    for (const std::string name : {"query", "key", "value", "out", "lse"}) {
      Floats out = floats({2, 3, 4}), lse = floats({2, 3});
      View q = x.view, k = x.view, v = x.view;
      View& spoiled = name == "query"   ? q
                      : name == "key"   ? k
                      : name == "value" ? v
                      : name == "out"   ? out.view
                                        : lse.view;
      wrong.spoil(spoiled);
      refuses(name + wrong.words, [&] { cpuattn::attention(q, k, v, out.view, &lse.view, {}); });
    }
    for (const auto& [name, field, view] : fields) {
      Floats out = floats({2, 3, 4});
      Options options;
      View spoiled = view;
      wrong.spoil(spoiled);
      options.*field = spoiled;
      refuses(name + wrong.words,
              [&] { cpuattn::attention(x.view, x.view, x.view, out.view, nullptr, options); });
    }
    for (const bool source : {true, false}) {
      Floats from = floats({3, 4}), to = floats({3, 4});
      wrong.spoil(source ? from.view : to.view);
      refuses(std::string(source ? "source" : "target") + wrong.words,
              [&] { cpuattn::store(from.view, to.view, nullptr); });
    }
  }
  for (const int stage : {-1, 4, 9}) {
    refuses("stage is " + std::to_string(stage), [&] {
      Floats out = floats({2, 3, 3});
      // NOLINTNEXTLINE(clang-analyzer-optin.core.EnumCastOutOfRange): what is tested
      const auto none = static_cast<cpuattn::WeightStage>(stage);
      cpuattn::attention_weights(x.view, x.view, out.view, none, {});
    });
  }
  refuses("data is null", [] { cpuattn::measure_reads(nullptr, 10, 0.001); });
}

// Empty arrays may have no memory, and any strides.
void empty_views() {
  View none;
  none.rank = 3;
  const std::ptrdiff_t shape[] = {2, 0, 4}, far = PTRDIFF_MAX / 8 * 4;
  for (int i = 0; i < 3; ++i) {
    none.shape[i] = shape[i];
    none.stride[i] = far;
  }
  const Floats query = floats({2, 3, 4});
  Floats out = floats({2, 3, 4}, 7);
  cpuattn::attention(query.view, none, none, out.view, nullptr, {});
  test::check(out.data == std::vector<float>(24, 0.0F), "rows without keys are zeros");
  cpuattn::store(none, none, nullptr);
  View huge = none;  // no row of many has an element
  huge.shape[0] = std::ptrdiff_t{1} << 30;
  huge.shape[1] = 1;
  huge.shape[2] = 0;
  cpuattn::store(huge, huge, nullptr);
}

void targets_that_overlap() {
  const Floats from = floats({3, 4});
  Floats to = floats({3, 4});
  to.view.stride[0] = 0;
  refuses("target has elements that overlap", [&] { cpuattn::store(from.view, to.view, nullptr); });
}

void offsets_out_of_range() {
  constexpr std::int64_t kLeast = INT64_MIN, kMost = INT64_MAX;
  const Floats x = floats({5, 1, 4});
  const auto good = integers({0, 5});
  for (const auto& values : {std::vector<std::int64_t>{0, kLeast, 5},
                             {kLeast, kMost, 5},
                             {0, kMost, 5},
                             {kLeast, 5},
                             {0, kMost},
                             {5, 0}}) {
    const auto bad = integers(values);
    Floats out = floats({5, 1, 4});
    Options options;
    options.cu_seqlens_q = bad.view;
    options.cu_seqlens_k = good.view;
    refuses("cu_seqlens_q must begin with 0",
            [&] { cpuattn::attention(x.view, x.view, x.view, out.view, nullptr, options); });
  }
}

// A call reads the ISA once: its results are those of one of them.
void another_isa_during_a_call() {
  const std::vector<std::string> isas = cpuattn::isa_names();
  if (isas.size() < 2) return;
  Floats x = floats({64, 8});
  unsigned seed = 1;
  for (float& number : x.data) {
    seed = seed * 1664525U + 1013904223U;
    number = static_cast<float>(seed >> 8) / 8388608.0F - 1;
  }
  const auto result = [&] {
    Floats out = floats({64, 8});
    cpuattn::attention(x.view, x.view, x.view, out.view, nullptr, {});
    return out.data;
  };
  std::vector<std::vector<float>> expected;
  for (const std::string& isa : isas) {
    cpuattn::use_isa_name(isa);
    expected.push_back(result());
  }
  std::atomic<bool> done{false};
  std::thread chooser([&] {
    while (!done) {
      for (const std::string& isa : {std::string("scalar"), isas.front()}) {
        cpuattn::use_isa_name(isa);
      }
    }
  });
  int strange = 0;
  for (int call = 0; call < 20000; ++call) {
    const std::vector<float> got = result();
    bool known = false;
    for (const auto& one : expected) known |= one == got;
    strange += !known;
  }
  done = true;
  chooser.join();
  cpuattn::use_isa_name(isas.front());
  test::check(strange == 0, std::to_string(strange) + " results of no ISA");
}

// After an interrupt each lse is the right one, or as it was.
void results_after_an_interrupt() {
  // A second of work on the fastest CPUs, of which about 50 ms are done.
  const std::ptrdiff_t rows = 65536, keys = 8192;
  const Floats query = floats({4, rows, 32}, 0), key = floats({4, keys, 32});
  for (const int threads : {1, 2}) {
    Floats out = floats({4, rows, 32}, 7), lse = floats({4, rows}, 7);
    Options options;
    options.num_threads = threads;
    options.should_stop = [](void*) { return true; };
    bool interrupted = false;
    try {
      cpuattn::attention(query.view, key.view, key.view, out.view, &lse.view, options);
    } catch (const cpuattn::Interrupted&) {
      interrupted = true;
    }
    const float right = std::log(static_cast<float>(keys));
    bool written = true;
    for (const float x : lse.data) written &= x == 7 || std::fabs(x - right) < 1e-4F;
    for (const float x : out.data) written &= x == 7 || std::fabs(x - 1) < 1e-4F;
    test::check(interrupted, "a long call is interrupted");
    test::check(written, "nothing uninitialised is written");
  }
}

}  // namespace

int main() {
  views_that_make_no_sense();
  empty_views();
  targets_that_overlap();
  offsets_out_of_range();
  another_isa_during_a_call();
  results_after_an_interrupt();
  return test::finish();
}
