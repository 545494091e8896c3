// A build that runs its threads by OpenMP, called from inside of another parallel region.
#include <omp.h>

#include <vector>

#include "array.hpp"
#include "check.hpp"
#include "cpuattn/attention.hpp"

using test::Array;

int main() {
  const Array q(4, 64, 32, 1), k(4, 300, 32, 2), v(4, 300, 32, 3);
  Array alone(4, 64, 32, 4);
  cpuattn::attention(q.view, k.view, v.view, alone.view, nullptr, {});
  std::vector<int> same(8), threads(8);
#pragma omp parallel for num_threads(4)
  for (int i = 0; i < 8; ++i) {
    const auto at = static_cast<std::size_t>(i);
    Array out(4, 64, 32, 5);
    cpuattn::Options options;
    options.num_threads = 4;
    threads[at] = cpuattn::explain(q.view, k.view, v.view, nullptr, options)[0].threads;
    cpuattn::attention(q.view, k.view, v.view, out.view, nullptr, options);
    same[at] = out.data == alone.data;
  }
  for (const int ok : same) test::check(ok == 1, "a call inside of another parallel region");
  for (const int n : threads) test::check(n == 1, "no threads inside of another parallel region");
  return test::finish();
}
