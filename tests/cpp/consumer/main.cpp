// One call, and an exception that comes out of the library. Prints the version of the headers.
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "cpuattn/attention.hpp"
#include "cpuattn/cache.hpp"
#include "cpuattn/version.hpp"

int main() {
  static float query[2 * 4], key[3000 * 4], out[2 * 4];
  cpuattn::View q, k, o;
  q.rank = k.rank = 2;
  q.shape[0] = 2;
  k.shape[0] = 3000;
  for (cpuattn::View* view : {&q, &k}) {
    view->shape[1] = 4;
    view->stride[0] = 16;
    view->stride[1] = 4;
  }
  for (float& x : key) x = 3;
  q.data = query;
  k.data = key;
  o = q;
  o.data = out;
  cpuattn::attention(q, k, k, o, nullptr, {});
  if (out[0] < 2.999F || out[0] > 3.001F) return 1;
  float copy[8] = {};
  cpuattn::View target = q;
  target.data = copy;
  cpuattn::store(o, target, nullptr);
  if (std::memcmp(copy, out, sizeof(out)) != 0) return 2;

  cpuattn::Options options;
  options.should_stop = [](void*) { return true; };
  bool interrupted = false;
  k.shape[0] = std::ptrdiff_t{1} << 40;  // keys that are all the first one
  k.stride[0] = 0;
  try {
    cpuattn::attention(q, k, k, o, nullptr, options);
  } catch (const cpuattn::Interrupted&) {
    interrupted = true;
  }
  k.data = nullptr;
  try {
    cpuattn::attention(q, k, k, o, nullptr, {});
    return 3;
  } catch (const std::invalid_argument&) {
  }
  static_assert(CPUATTN_VERSION_MAJOR >= 0 && CPUATTN_VERSION_MINOR >= 0, "numbers");
  std::printf("%s\n", CPUATTN_VERSION_STRING);
  return interrupted ? 0 : 4;
}
