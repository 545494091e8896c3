#include "commit.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace cpuattn {
namespace {

namespace py = pybind11;

// One more in every child. A lock of an older generation belongs to a thread that the fork did not
// copy: nobody holds it.
std::atomic<unsigned> generation{1};

void count_forks() {
#if defined(__unix__) || defined(__APPLE__)
  static const int registered = pthread_atfork(nullptr, nullptr, [] { ++generation; });
  if (registered != 0) throw std::bad_alloc();
#endif
}

// Shared by all caches, which may then be copied, pickled and collected without a thought of locks.
// Each is 0, or the generation of the process that holds it. Two caches that meet in one lock wait
// for each other's copies, and for nothing else.
constexpr std::size_t kLocks = 64;
std::array<std::atomic<unsigned>, kLocks> locks{};

std::atomic<unsigned>& lock_of(const PyObject* cache) {
  // Objects lie at multiples of 16 bytes; a Python object with a dict takes about 64.
  return locks[(reinterpret_cast<std::uintptr_t>(cache) >> 6) % kLocks];
}

bool try_lock(std::atomic<unsigned>& lock) {
  unsigned held = lock.load();
  const unsigned own = generation.load();
  return held != own && lock.compare_exchange_strong(held, own);
}

PyObject* attribute() {
  static PyObject* const name = PyUnicode_InternFromString("_state");
  if (!name) throw py::error_already_set();
  return name;
}

}  // namespace

Commit::Commit(PyObject* cache) : cache_(cache), lock_(lock_of(cache)) {
  count_forks();
  while (!try_lock(lock_)) {
    PyThreadState* const state = PyEval_SaveThread();  // the holder may need it to finish
    std::this_thread::sleep_for(std::chrono::microseconds(20));
    PyEval_RestoreThread(state);
  }
}

Commit::~Commit() { lock_ = 0; }

// The generic functions: a subclass may have Python code for attributes.
bool Commit::is_due(PyObject* state) const {
  PyObject* const current = PyObject_GenericGetAttr(cache_, attribute());
  if (!current) throw py::error_already_set();
  Py_DECREF(current);
  return current == state;
}

void Commit::finish(PyObject* state) const {
  if (PyObject_GenericSetAttr(cache_, attribute(), state) != 0) throw py::error_already_set();
}

bool replace_state(PyObject* cache, PyObject* before, PyObject* next) {
  const Commit commit(cache);
  const bool due = commit.is_due(before);
  if (due) commit.finish(next);
  return due;
}

}  // namespace cpuattn
