// The C++ API: results against a plain double loop for every ISA and thread count, memory that ends
// at a page that may not be touched, and interrupts.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "array.hpp"
#include "check.hpp"
#include "cpuattn/attention.hpp"

namespace {

using cpuattn::Options;
using test::Array;

// The largest difference from softmax(scale Q K^T) V in double; causal is bottom-right.
double error(const Array& q, const Array& k, const Array& v, const Array& out, bool causal) {
  double worst = 0;
  const std::ptrdiff_t group = q.view.shape[0] / k.view.shape[0];
  const std::ptrdiff_t keys = k.view.shape[1], dims = q.view.shape[2];
  for (std::ptrdiff_t h = 0; h < q.view.shape[0]; ++h) {
    for (std::ptrdiff_t i = 0; i < q.view.shape[1]; ++i) {
      const std::ptrdiff_t end = causal ? i + keys - q.view.shape[1] + 1 : keys;
      std::vector<double> weight;
      double sum = 0;
      for (std::ptrdiff_t j = 0; j < end; ++j) {
        double score = 0;
        for (std::ptrdiff_t d = 0; d < dims; ++d)
          score += double(q.at(h, i, d)) * k.at(h / group, j, d);
        weight.push_back(std::exp(score / std::sqrt(double(dims))));
        sum += weight.back();
      }
      for (std::ptrdiff_t d = 0; d < v.view.shape[2]; ++d) {
        double exact = 0;
        for (std::size_t j = 0; j < weight.size(); ++j) {
          exact += weight[j] / sum * v.at(h / group, static_cast<std::ptrdiff_t>(j), d);
        }
        worst = std::fmax(worst, std::fabs(exact - out.at(h, i, d)));
      }
    }
  }
  return worst;
}

void results() {
  struct Case {
    std::ptrdiff_t heads, kv_heads, query_length, key_length, head_dim, value_dim;
  };
  const Case cases[] = {{2, 2, 1, 1, 1, 1},      {4, 2, 3, 700, 15, 40}, {2, 1, 65, 97, 64, 64},
                        {1, 1, 130, 2200, 8, 5}, {6, 2, 40, 40, 80, 17}, {1, 1, 2, 1500, 33, 70}};
  for (const std::string& isa : cpuattn::isa_names()) {
    cpuattn::use_isa_name(isa);
    for (const Case& c : cases) {
      const Array q(c.heads, c.query_length, c.head_dim, 1);
      const Array k(c.kv_heads, c.key_length, c.head_dim, 2);
      const Array v(c.kv_heads, c.key_length, c.value_dim, 3);
      for (const bool causal : {false, true}) {
        Array first(c.heads, c.query_length, c.value_dim, 4);
        for (int threads = 1; threads <= 5; ++threads) {
          Array out(c.heads, c.query_length, c.value_dim, 5);
          Options options;
          options.causal = causal;
          options.num_threads = threads;
          cpuattn::attention(q.view, k.view, v.view, out.view, nullptr, options);
          if (threads == 1) {
            first.data = out.data;
            test::check(error(q, k, v, out, causal) < 1e-6, isa + ": result");
          }
          test::check(first.data == out.data, isa + ": the same bits for any threads");
        }
      }
    }
  }
  cpuattn::use_isa_name(cpuattn::isa_names().front());
}

// Memory that ends where a page begins that may not be read or written.
struct Guarded {
  std::size_t bytes, page;
  unsigned char* base;

  explicit Guarded(std::size_t n)
      : bytes(n), page(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
    const std::size_t size = (bytes / page + 2) * page;
    base = static_cast<unsigned char*>(
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(base + size - page, page, PROT_NONE);
    base += size - page - bytes;
  }
  void hold(Array& array) const {
    std::memcpy(base, array.data.data(), bytes);
    array.view.data = base;
  }
};

void stays_inside() {
  for (const std::string& isa : cpuattn::isa_names()) {
    cpuattn::use_isa_name(isa);
    for (std::ptrdiff_t rows : {1, 3, 9, 1030}) {
      for (std::ptrdiff_t keys : {1, 17, 65}) {
        for (std::ptrdiff_t dims : {1, 7, 8, 19}) {
          Array q(3, rows, dims, 1), k(3, keys, dims, 2), v(3, keys, dims, 3),
              out(3, rows, dims, 4);
          for (Array* array : {&q, &k, &v, &out}) Guarded(array->data.size() * 4).hold(*array);
          cpuattn::attention(q.view, k.view, v.view, out.view, nullptr, {});
          std::memcpy(out.data.data(), out.view.data, out.data.size() * 4);
          test::check(error(q, k, v, out, false) < 1e-6, isa + ": guarded memory");
        }
      }
    }
  }
  cpuattn::use_isa_name(cpuattn::isa_names().front());
}

void interrupts() {
  // Seconds of work, of which about 50 ms are done.
  const Array q(8, 4096, 64, 1), k(8, 65536, 64, 2), v(8, 65536, 64, 3);
  Array out(8, 4096, 64, 4);
  for (int threads : {1, 3}) {
    Options options;
    options.num_threads = threads;
    options.should_stop = [](void*) { return true; };
    bool interrupted = false;
    try {
      cpuattn::attention(q.view, k.view, v.view, out.view, nullptr, options);
    } catch (const cpuattn::Interrupted&) {
      interrupted = true;
    }
    test::check(interrupted, "a long call is interrupted");
  }
}

// should_stop may itself call attention, as a signal handler does: it must not disturb the call
// that it was asked from.
struct Nested {
  // Where a nested call takes longer than it is until the next question, the outer one would not
  // get on.
  static constexpr int kMost = 4;
  Array q{2, 40, 64, 5}, k{2, 900, 64, 6}, v{2, 900, 64, 7}, out{2, 40, 64, 8};
  int calls = 0;

  static bool ask(void* context) {
    auto* self = static_cast<Nested*>(context);
    if (self->calls++ >= kMost) return false;
    cpuattn::attention(self->q.view, self->k.view, self->v.view, self->out.view, nullptr, {});
    return false;
  }
};

void calls_within_calls() {
  const Array q(8, 256, 64, 1), k(8, 8000, 64, 2), v(8, 8000, 64, 3);
  Array alone(8, 256, 64, 4), out(8, 256, 64, 4);
  cpuattn::use_isa_name("scalar");  // slow enough to be asked a few times
  Options options;
  options.num_threads = 1;
  cpuattn::attention(q.view, k.view, v.view, alone.view, nullptr, options);
  Nested nested;
  options.should_stop = Nested::ask;
  options.stop_context = &nested;
  cpuattn::attention(q.view, k.view, v.view, out.view, nullptr, options);
  test::check(nested.calls > 0, "should_stop was asked");
  test::check(out.data == alone.data, "a call from within should_stop");
  test::check(error(nested.q, nested.k, nested.v, nested.out, false) < 1e-6, "and its own result");
  cpuattn::use_isa_name(cpuattn::isa_names().front());
}

void bad_arguments() {
  const Array q(3, 4, 8, 1), k(2, 5, 8, 2), v(2, 5, 8, 3);
  Array out(3, 4, 8, 4);
  std::string message;
  try {
    cpuattn::attention(q.view, k.view, v.view, out.view, nullptr, {});
  } catch (const std::invalid_argument& e) {
    message = e.what();
  }
  test::check(message.find("query has 3 heads") != std::string::npos, "heads: " + message);
}

}  // namespace

int main() {
  results();
  stays_inside();
  interrupts();
  calls_within_calls();
  bad_arguments();
  return test::finish();
}
