// The state of a KVCache, a tuple: see KVState in cpuattn/cache/kv_state.py, whose step from one
// token to the next is made here, because there it takes longer than to write the token.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <vector>

namespace cpuattn {

// One number of each batch entry.
using Counts = std::vector<std::ptrdiff_t>;

// A state that is read; it borrows the object.
class KVState {
 public:
  explicit KVState(PyObject* state);  // throws TypeError unless it is a KVState

  Counts held() const;              // rows in use
  pybind11::object arrays() const;  // the tuple of keys, values and their scales
  std::size_t batch() const { return lengths_.size(); }

  // The state after an append of `tokens`, of which counts[b] are no padding.
  pybind11::object appended(const Counts& counts, std::ptrdiff_t tokens) const;

 private:
  PyObject* field(int index) const { return PyTuple_GET_ITEM(state_, index); }
  pybind11::object seen_from(const Counts& counts) const;

  PyObject* state_;
  Counts lengths_;
};

// KVState::appended, for Python: a state, a tuple of counts, and tokens.
pybind11::object appended_state(PyObject* state, PyObject* counts, PyObject* tokens);

}  // namespace cpuattn
