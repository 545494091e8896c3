#include "commit.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "unlocked.hpp"

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

constexpr const char* kUndo = "cpuattn.undo";

struct Undo {
  py::object cache, after, undone;
  bool done = false;

  // Once; false where the cache is in neither state. Keeps the exception that is on its way.
  bool run() {
    if (done) return true;
    done = true;
    const py::error_scope scope;
    try {
      return replace_state(cache.ptr(), after.ptr(), undone.ptr());
    } catch (const std::exception&) {
      return true;  // the cache has no state any more: the interpreter is at its end
    }
  }
};

Undo* undo_of(PyObject* capsule) {
  return static_cast<Undo*>(PyCapsule_GetPointer(capsule, kUndo));
}

void drop(PyObject* capsule) {
  const std::unique_ptr<Undo> undo(undo_of(capsule));
  undo->run();
}

}  // namespace

Commit::Commit(PyObject* cache) : cache_(cache), lock_(lock_of(cache)) {
  count_forks();
  while (!try_lock(lock_)) {
    const Unlocked unlocked;  // the holder may need the GIL to finish
    std::this_thread::sleep_for(std::chrono::microseconds(20));
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

py::object undo(PyObject* cache, PyObject* after, PyObject* undone) {
  auto* const task =
      new Undo{py::reinterpret_borrow<py::object>(cache), py::reinterpret_borrow<py::object>(after),
               py::reinterpret_borrow<py::object>(undone)};
  PyObject* const capsule = PyCapsule_New(task, kUndo, drop);
  if (!capsule) {
    delete task;
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(capsule);
}

py::object attempt(PyObject* undo, PyObject* function, PyObject* otherwise) {
  Undo* const task = undo_of(undo);
  if (!task) throw py::error_already_set();
  PyObject* const result = PyObject_CallNoArgs(function);
  if (result) {
    task->done = true;
    return py::reinterpret_steal<py::object>(result);
  }
  if (!task->run() && otherwise != Py_None) {
    const py::error_scope scope;
    Py_XDECREF(PyObject_CallNoArgs(otherwise));
    PyErr_Clear();
  }
  return {};  // the exception is set; pybind11's way to pass it on needs memory
}

}  // namespace cpuattn
