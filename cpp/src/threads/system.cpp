#include "threads/system.hpp"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <new>
#include <system_error>
#include <thread>

#include "isa/environment.hpp"

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace cpuattn {
namespace {

int known_cpus() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

#if defined(__linux__)

bool is_openmp(const char* library) {
  const char* name = std::strrchr(library, '/');
  name = name ? name + 1 : library;
  return std::strncmp(name, "libgomp", 7) == 0 || std::strncmp(name, "libomp", 6) == 0 ||
         std::strncmp(name, "libiomp", 7) == 0;
}

// The OpenMP runtime that another library has loaded, or null.
void* openmp_runtime() {
  const auto look = [](dl_phdr_info* info, std::size_t, void* name) {
    if (!info->dlpi_name || !is_openmp(info->dlpi_name)) return 0;
    *static_cast<const char**>(name) = info->dlpi_name;
    return 1;
  };
  const char* name = nullptr;
  dl_iterate_phdr(look, static_cast<void*>(&name));
  return name ? dlopen(name, RTLD_LAZY | RTLD_NOLOAD) : nullptr;
}

template <class F>
F* function_of(void* library, const char* name) {
  return reinterpret_cast<F*>(dlsym(library, name));
}

// The CPUs that the runtime binds its threads to.
cpu_set_t places_of(void* openmp) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  const auto num_places = function_of<int()>(openmp, "omp_get_num_places");
  const auto num_cpus = function_of<int(int)>(openmp, "omp_get_place_num_procs");
  const auto get_cpus = function_of<void(int, int*)>(openmp, "omp_get_place_proc_ids");
  if (!num_places || !num_cpus || !get_cpus) return mask;
  int cpus[CPU_SETSIZE];
  for (int place = 0, places = num_places(); place < places; ++place) {
    const int count = num_cpus(place);
    if (count > CPU_SETSIZE) continue;
    get_cpus(place, cpus);
    for (int i = 0; i < count; ++i) CPU_SET(static_cast<unsigned>(cpus[i]), &mask);
  }
  return mask;
}

// All CPUs that the calling thread could have, whatever its mask is now.
cpu_set_t widest_mask() {
  cpu_set_t before, widest;
  CPU_ZERO(&widest);
  if (sched_getaffinity(0, sizeof(before), &before) != 0) return widest;
  std::memset(&widest, 0xff, sizeof(widest));
  sched_setaffinity(0, sizeof(widest), &widest);
  sched_getaffinity(0, sizeof(widest), &widest);
  sched_setaffinity(0, sizeof(before), &before);
  return widest;
}

struct Cpus {
  cpu_set_t mask;
  int count;  // 0 if the system does not tell
};

// The CPUs that the process had before the runtime bound the calling thread. The runtime remembers
// how many: fewer than the thread could have if the process was started on some of them only
// (taskset, numactl). Then its places are among those.
Cpus cpus_before_binding(void* openmp) {
  Cpus cpus{widest_mask(), 0};
  cpus.count = CPU_COUNT(&cpus.mask);
  const auto num_cpus = function_of<int()>(openmp, "omp_get_num_procs");
  if (!num_cpus || num_cpus() >= cpus.count) return cpus;
  cpus.count = num_cpus();
  const cpu_set_t places = places_of(openmp);
  if (CPU_COUNT(&places) > 0) cpus.mask = places;
  return cpus;
}

Cpus process_cpus() {
  void* const openmp = asks_openmp_to_bind() ? openmp_runtime() : nullptr;
  if (openmp) {
    const Cpus before = cpus_before_binding(openmp);
    dlclose(openmp);
    return before;
  }
  Cpus cpus{};
  const bool known = sched_getaffinity(getpid(), sizeof(cpus.mask), &cpus.mask) == 0 ||
                     sched_getaffinity(0, sizeof(cpus.mask), &cpus.mask) == 0;
  if (known) cpus.count = CPU_COUNT(&cpus.mask);
  return cpus;
}

#endif

}  // namespace

#if defined(__linux__)

int cpus_of_mask() {
  const int count = process_cpus().count;
  return count > 0 ? count : known_cpus();
}

void Placement::take_calling_thread() {
  const Cpus cpus = process_cpus();
  const cpu_set_t& mask = cpus.mask;
  static_assert(sizeof(mask) == sizeof(Mask), "of 1024 CPUs");
  if (cpus.count == 0 || sched_setaffinity(0, sizeof(mask), &mask) != 0) return;
  std::memcpy(allowed_, &mask, sizeof(mask));
  std::memcpy(narrowed_, &mask, sizeof(mask));
  thread_ = static_cast<int>(syscall(SYS_gettid));
}

bool Placement::keep_off(int cpu) {
  cpu_set_t mask;
  if (thread_ == 0 || sched_getaffinity(thread_, sizeof(mask), &mask) != 0) return false;
  if (std::memcmp(&mask, narrowed_, sizeof(mask)) != 0) std::memcpy(allowed_, &mask, sizeof(mask));
  std::memcpy(&mask, allowed_, sizeof(mask));
  CPU_CLR(static_cast<unsigned>(cpu), &mask);
  if (CPU_COUNT(&mask) == 0 || sched_setaffinity(thread_, sizeof(mask), &mask) != 0) return false;
  std::memcpy(narrowed_, &mask, sizeof(mask));
  return true;
}

int current_cpu() { return sched_getcpu(); }

#else

int cpus_of_mask() { return known_cpus(); }
void Placement::take_calling_thread() {}
bool Placement::keep_off(int) { return false; }
int current_cpu() { return -1; }

#endif

#if !defined(_WIN32)

namespace {

struct Start {
  void (*body)(void*);
  void* context;
};

void* run_thread(void* memory) {
  const Start start = *static_cast<Start*>(memory);
  delete static_cast<Start*>(memory);
  start.body(start.context);
  return nullptr;
}

}  // namespace

// With a stack of its own size, whatever the process limits, and without the signals that are meant
// for the process: those of its own faults and of profilers stay.
bool start_thread(void (*body)(void*), void* context) {
  constexpr std::size_t kStackBytes = std::size_t{1} << 20;
  auto* const start = new (std::nothrow) Start{body, context};
  if (!start) return false;
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGPROF}) {
    sigdelset(&blocked, own);
  }
  pthread_attr_t attributes;
  bool started = false;
  if (pthread_attr_init(&attributes) == 0) {
    pthread_attr_setstacksize(&attributes, kStackBytes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    pthread_t thread;
    started = pthread_create(&thread, &attributes, run_thread, start) == 0;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
  }
  if (!started) delete start;
  return started;
}

void watch_forks(void (*in_child)()) { pthread_atfork(nullptr, nullptr, in_child); }

#else

bool start_thread(void (*body)(void*), void* context) {
  try {
    std::thread(body, context).detach();
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

void watch_forks(void (*)()) {}

#endif

void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

}  // namespace cpuattn
