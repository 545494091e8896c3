#include "kv_state.hpp"

#include <algorithm>
#include <cstdint>

namespace cpuattn {
namespace {

namespace py = pybind11;

// The fields of KVState, in their order.
enum Field : int {
  kArrays,
  kLimits,
  kLengths,
  kDropped,
  kSeenFrom,
  kLastTokens,
  kLastStarts,
  kEpoch,
  kNumFields
};

std::ptrdiff_t to_integer(PyObject* object) {
  const Py_ssize_t number = PyLong_AsSsize_t(object);
  if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
  return number;
}

Counts to_counts(PyObject* tuple) {
  if (!PyTuple_Check(tuple)) throw py::type_error("counts must be a tuple");
  Counts counts(static_cast<std::size_t>(PyTuple_GET_SIZE(tuple)));
  for (std::size_t i = 0; i < counts.size(); ++i) {
    counts[i] = to_integer(PyTuple_GET_ITEM(tuple, static_cast<Py_ssize_t>(i)));
  }
  return counts;
}

py::object checked(PyObject* object) {
  if (!object) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

py::object to_tuple(const Counts& counts) {
  py::object tuple = checked(PyTuple_New(static_cast<Py_ssize_t>(counts.size())));
  for (std::size_t i = 0; i < counts.size(); ++i) {
    PyTuple_SET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(i),
                     checked(PyLong_FromSsize_t(counts[i])).release().ptr());
  }
  return tuple;
}

}  // namespace

KVState::KVState(PyObject* state) : state_(state) {
  if (!PyTuple_Check(state) || PyTuple_GET_SIZE(state) != kNumFields) {
    throw py::type_error("the state of a cache must be a KVState");
  }
  lengths_ = to_counts(field(kLengths));
}

Counts KVState::held() const {
  Counts held = to_counts(field(kDropped));
  for (std::size_t i = 0; i < held.size(); ++i) held[i] = lengths_[i] - held[i];
  return held;
}

py::object KVState::arrays() const {
  return checked(PyObject_GetAttrString(field(kArrays), "every"));
}

// Lets go of what no token sees that is appended, nor the last one before these. Where that one
// more does not fit, or would be as much as the window itself, it goes too, unless it stays the
// last.
py::object KVState::seen_from(const Counts& counts) const {
  PyObject* const limits = field(kLimits);  // window, sinks, max_capacity
  if (PyTuple_GET_ITEM(limits, 0) == Py_None) {
    return py::reinterpret_borrow<py::object>(field(kSeenFrom));
  }
  const std::ptrdiff_t window = to_integer(PyTuple_GET_ITEM(limits, 0));
  const std::ptrdiff_t kept = to_integer(PyTuple_GET_ITEM(limits, 1)) + window;
  PyObject* const most = PyTuple_GET_ITEM(limits, 2);
  const std::ptrdiff_t limit = most == Py_None ? PTRDIFF_MAX : to_integer(most);
  Counts first = to_counts(field(kSeenFrom));
  for (std::size_t i = 0; i < first.size(); ++i) {
    const bool one_less = counts[i] > 0 && (window == 1 || counts[i] > limit - kept);
    first[i] = std::max(first[i], lengths_[i] + (one_less ? 1 : 0) - window);
  }
  return to_tuple(first);
}

py::object KVState::appended(const Counts& counts, std::ptrdiff_t tokens) const {
  Counts lengths = lengths_;
  for (std::size_t i = 0; i < lengths.size(); ++i) lengths[i] += counts[i];
  py::object fields[kNumFields];
  for (int i = 0; i < kNumFields; ++i) fields[i] = py::reinterpret_borrow<py::object>(field(i));
  fields[kLastStarts] = fields[kLengths];
  fields[kLengths] = to_tuple(lengths);
  fields[kSeenFrom] = seen_from(counts);
  fields[kLastTokens] = checked(PyLong_FromSsize_t(tokens));
  py::object next = checked(Py_TYPE(state_)->tp_alloc(Py_TYPE(state_), kNumFields));
  for (int i = 0; i < kNumFields; ++i) PyTuple_SET_ITEM(next.ptr(), i, fields[i].release().ptr());
  return next;
}

py::object appended_state(PyObject* state, PyObject* counts, PyObject* tokens) {
  return KVState(state).appended(to_counts(counts), to_integer(tokens));
}

}  // namespace cpuattn
