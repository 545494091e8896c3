// All that changes in a cache is one immutable Python object, its attribute `_state`. A method
// works out the next state and then commits it: whoever reads the attribute, be it a signal handler
// or another thread, has the state of one moment, and an exception leaves the one before.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>

namespace cpuattn {

// For its lifetime no other thread commits to `cache`. Nothing here runs Python code, so a signal
// handler never waits for the method that it interrupted. Needs the GIL, where there is one, and
// gives it up only to wait.
class Commit {
 public:
  explicit Commit(PyObject* cache);
  ~Commit();
  Commit(const Commit&) = delete;
  Commit& operator=(const Commit&) = delete;

  // The cache still is in this state.
  bool is_due(PyObject* state) const;
  // Puts the cache into another state. It is the last step: no memory is needed.
  void finish(PyObject* state) const;

 private:
  PyObject* cache_;
  std::atomic<unsigned>& lock_;
};

// Commits `next` if the cache still is in the state `before`; tells whether it was.
bool replace_state(PyObject* cache, PyObject* before, PyObject* next);

// An object that, when the last reference to it is dropped, puts the cache from the state `after`
// back into `undone`. It is as sure as no handler of an exception: another one may come before the
// handler, or within.
pybind11::object undo(PyObject* cache, PyObject* after, PyObject* undone);

// Calls function(): returns what it does, and `undo` forgets its task; or returns no object, with
// the exception set, once `undo` has done it. Where the cache is in a third state by then,
// otherwise() is called instead.
pybind11::object attempt(PyObject* undo, PyObject* function, PyObject* otherwise);

}  // namespace cpuattn
