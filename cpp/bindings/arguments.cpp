#include "arguments.hpp"

#include <cmath>
#include <cstdint>
#include <utility>

namespace cpuattn {
namespace {

namespace py = pybind11;
using py::detail::array_descriptor_proxy;
using py::detail::array_proxy;
using py::detail::npy_api;

std::string type_name(PyObject* object) { return Py_TYPE(object)->tp_name; }

std::string dtype_name(PyObject* array) {
  return py::str(py::reinterpret_borrow<py::array>(array).dtype().attr("name"));
}

// Conversions that are rare or slow live in Python.
template <class Second>
py::object convert(const char* function, PyObject* object, Second second) {
  return py::module_::import("cpuattn._arrays").attr(function)(py::handle(object), second);
}

bool is_plain_array(PyObject* object) {
  return reinterpret_cast<PyObject*>(Py_TYPE(object)) ==
         reinterpret_cast<PyObject*>(npy_api::get().PyArray_Type_);
}

bool is_native(PyObject* array) {
  const char order = array_descriptor_proxy(array_proxy(array)->descr)->byteorder;
  constexpr std::uint16_t kProbe = 1;
  const char swapped = reinterpret_cast<const char&>(kProbe) == 1 ? '>' : '<';
  return order != swapped;
}

bool is_aligned(const View& view, std::ptrdiff_t size) {
  if (reinterpret_cast<std::uintptr_t>(view.data) % static_cast<std::size_t>(size) != 0) {
    return false;
  }
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] > 1 && view.stride[i] % size != 0) return false;
  }
  return true;
}

// The array's memory as it is; false if its dtype is none of the core's.
bool view_of(PyObject* array, View& view) {
  const auto* proxy = array_proxy(array);
  switch (array_descriptor_proxy(proxy->descr)->type_num) {
    case npy_api::NPY_FLOAT_:
      view.dtype = DType::kFloat32;
      break;
    case npy_api::NPY_DOUBLE_:
      view.dtype = DType::kFloat64;
      break;
    case npy_api::NPY_BOOL_:
      view.dtype = DType::kBool;
      break;
    case npy_api::NPY_LONG_:
    case npy_api::NPY_LONGLONG_:
      if (py::reinterpret_borrow<py::array>(array).itemsize() != 8) return false;
      view.dtype = DType::kInt64;
      break;
    default:
      return false;
  }
  if (proxy->nd > kMaxRank) {
    throw py::value_error("an array has " + std::to_string(proxy->nd) + " dimensions; at most " +
                          std::to_string(kMaxRank) + " are allowed");
  }
  view.data = proxy->data;
  view.rank = proxy->nd;
  for (int i = 0; i < proxy->nd; ++i) {
    view.shape[i] = proxy->dimensions[i];
    // The stride of a dimension that has one element is never used, and may be anything.
    view.stride[i] = proxy->dimensions[i] > 1 ? proxy->strides[i] : 0;
  }
  return true;
}

std::ptrdiff_t item_size(DType dtype) {
  return dtype == DType::kBool ? 1 : dtype == DType::kFloat32 ? 4 : 8;
}

// A view of the array, or of a copy of it where elements are byte-swapped or not aligned.
bool readable_view(PyObject* array, const char* name, Arguments& parsed, View& view) {
  if (!view_of(array, view)) return false;
  const bool native = is_native(array);
  if (native && is_aligned(view, item_size(view.dtype))) return true;
  py::object copy = convert("as_native", array, name);
  parsed.copies.push_back(std::string(name) +
                          (native ? ": copied, its elements are not aligned"
                                  : ": copied, its bytes are not in this machine's order"));
  view_of(copy.ptr(), view);
  parsed.kept.push_back(std::move(copy));
  return true;
}

const char* const kNames[kNumArguments] = {
    "query",  "key",          "value",       "mask",           "bias",         "causal",
    "window", "query_offset", "key_lengths", "query_segments", "key_segments", "alibi_slopes",
    "sinks",  "softcap",      "scale",       "num_threads",    "return_lse",   "out"};

// What a query, key, value, mask or bias may be.
View parse_array(PyObject* const* args, Argument a, const char* allowed, bool want_bool,
                 Arguments& parsed) {
  PyObject* array = args[a];
  if (!is_plain_array(array)) {
    parsed.kept.push_back(convert("as_array", array, kNames[a]));
    array = parsed.kept.back().ptr();
  }
  parsed.arrays[a] = array;
  View view;
  const bool known = readable_view(array, kNames[a], parsed, view);
  if (!known || view.dtype == DType::kInt64 || want_bool != (view.dtype == DType::kBool)) {
    throw py::type_error(std::string(kNames[a]) + " has dtype " + dtype_name(array) + "; " +
                         allowed);
  }
  return view;
}

View parse_float(PyObject* const* args, Argument a, Arguments& parsed) {
  return parse_array(args, a, "it must be float32 or float64", false, parsed);
}

View parse_same_dtype(PyObject* const* args, Argument a, DType dtype, Arguments& parsed) {
  const View view = parse_float(args, a, parsed);
  if (view.dtype != dtype) {
    throw py::type_error(std::string(kNames[a]) + " has dtype " +
                         (view.dtype == DType::kFloat32 ? "float32" : "float64") +
                         "; it must be that of query, " +
                         (dtype == DType::kFloat32 ? "float32" : "float64"));
  }
  return view;
}

// Integers and per-head numbers are small: whatever NumPy can read is converted.
View parse_small(PyObject* const* args, Argument a, DType dtype, Arguments& parsed) {
  View view;
  PyObject* array = args[a];
  if (!is_plain_array(array) || !view_of(array, view) || view.dtype != dtype || !is_native(array) ||
      !is_aligned(view, item_size(dtype))) {
    parsed.kept.push_back(convert(dtype == DType::kInt64     ? "as_integers"
                                  : dtype == DType::kFloat32 ? "as_float32"
                                                             : "as_float64",
                                  array, kNames[a]));
    array = parsed.kept.back().ptr();
    view_of(array, view);
  }
  parsed.arrays[a] = array;
  return view;
}

std::int64_t parse_integer(PyObject* object, const char* name) {
  if (PyBool_Check(object) || !PyIndex_Check(object)) {
    throw py::type_error(std::string(name) + " is of type " + type_name(object) +
                         "; it must be an integer");
  }
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(object));
  if (!index) throw py::error_already_set();
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0) return overflow > 0 ? INT64_MAX : INT64_MIN;
  return value;
}

double parse_number(PyObject* object, const char* name) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(std::string(name) + " is of type " + type_name(object) +
                         "; it must be a number or None");
  }
  return value;
}

bool parse_bool(PyObject* object, const char* name) {
  if (object == Py_True) return true;
  if (object == Py_False) return false;
  if (type_name(object) == "numpy.bool" || type_name(object) == "numpy.bool_") {
    return PyObject_IsTrue(object) == 1;
  }
  throw py::type_error(std::string(name) + " is of type " + type_name(object) +
                       "; it must be True or False");
}

void parse_window(PyObject* window, Options& options) {
  if (PyIndex_Check(window) && !PyBool_Check(window)) {
    options.window_left = options.window_right = parse_integer(window, "window");
    return;
  }
  if (!PyTuple_Check(window) && !PyList_Check(window)) {
    throw py::type_error("window is of type " + type_name(window) +
                         "; it must be an integer, a pair (left, right) or None");
  }
  const auto sides = py::reinterpret_borrow<py::sequence>(window);
  if (sides.size() != 2) {
    throw py::value_error("window has " + std::to_string(sides.size()) +
                          " elements; it must be an integer or a pair (left, right)");
  }
  const py::object left = sides[0], right = sides[1];
  if (!left.is_none()) options.window_left = parse_integer(left.ptr(), "window");
  if (!right.is_none()) options.window_right = parse_integer(right.ptr(), "window");
}

void parse_options(PyObject* const* args, Arguments& parsed) {
  Options& options = parsed.options;
  const DType dtype = parsed.query.dtype;
  const auto given = [&](Argument a) { return args[a] != Py_None; };
  if (given(kMask)) {
    options.mask = parse_array(args, kMask, "it must be bool (for scores, use bias)", true, parsed);
  }
  if (given(kBias)) options.bias = parse_float(args, kBias, parsed);
  options.causal = parse_bool(args[kCausal], "causal");
  if (given(kWindow)) parse_window(args[kWindow], options);
  const auto small = [&](Argument a, DType type, std::optional<View>& view) {
    if (given(a)) view = parse_small(args, a, type, parsed);
  };
  small(kQueryOffset, DType::kInt64, options.query_offset);
  small(kKeyLengths, DType::kInt64, options.key_lengths);
  small(kQuerySegments, DType::kInt64, options.query_segments);
  small(kKeySegments, DType::kInt64, options.key_segments);
  small(kAlibiSlopes, dtype, options.alibi_slopes);
  small(kSinks, dtype, options.sinks);
  if (given(kSoftcap)) options.softcap = parse_number(args[kSoftcap], "softcap");
  if (given(kScale)) options.scale = parse_number(args[kScale], "scale");
  if (given(kNumThreads)) {
    const std::int64_t threads = parse_integer(args[kNumThreads], "num_threads");
    if (threads < 1) {
      throw py::value_error("num_threads is " + std::to_string(threads) +
                            "; it must be at least 1");
    }
    options.num_threads = static_cast<int>(std::min<std::int64_t>(threads, 1 << 16));
  }
}

// The bytes that a view may touch.
struct Extent {
  std::intptr_t begin, end;
};

Extent extent_of(const View& view) {
  const auto data = reinterpret_cast<std::intptr_t>(view.data);
  Extent extent{data, data + item_size(view.dtype)};
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] == 0) return {data, data};
    const std::ptrdiff_t reach = (view.shape[i] - 1) * view.stride[i];
    (reach < 0 ? extent.begin : extent.end) += reach;
  }
  return extent;
}

void check_overlap(PyObject* out, const View& view, PyObject* input, const char* name) {
  View input_view;
  if (!input || !view_of(input, input_view)) return;
  const Extent a = extent_of(view), b = extent_of(input_view);
  if (a.begin >= b.end || b.begin >= a.end) return;
  if (convert("shares_memory", out, py::handle(input)).cast<bool>()) {
    throw py::value_error(std::string("out overlaps ") + name +
                          "; it must not share memory with an input");
  }
}

}  // namespace

void parse_arguments(PyObject* const* args, bool with_value, Arguments& parsed) {
  parsed.query = parse_float(args, kQuery, parsed);
  parsed.key = parse_same_dtype(args, kKey, parsed.query.dtype, parsed);
  if (with_value) parsed.value = parse_same_dtype(args, kValue, parsed.query.dtype, parsed);
  parse_options(args, parsed);
}

py::object take_output(PyObject* out, const Arguments& inputs, View& view) {
  if (!is_plain_array(out)) {
    throw py::type_error("out is of type " + type_name(out) + "; it must be a NumPy array");
  }
  if (!view_of(out, view) || view.dtype != inputs.query.dtype) {
    throw py::type_error("out has dtype " + dtype_name(out) + "; it must be that of query, " +
                         (inputs.query.dtype == DType::kFloat32 ? "float32" : "float64"));
  }
  auto array = py::reinterpret_borrow<py::array>(out);
  if (!array.writeable()) throw py::value_error("out is read-only; it must be writable");
  if (!is_native(out) || !is_aligned(view, item_size(view.dtype))) {
    throw py::value_error("out is byte-swapped or not aligned; it must be a plain native array");
  }
  for (int i = 0; i < kNumArguments; ++i) check_overlap(out, view, inputs.arrays[i], kNames[i]);
  return std::move(array);
}

py::object new_array(DType dtype, int rank, const std::ptrdiff_t* shape, View& view) {
  const auto& api = npy_api::get();
  Py_intptr_t dims[kMaxRank];
  for (int i = 0; i < rank; ++i) dims[i] = shape[i];
  PyObject* descr = api.PyArray_DescrFromType_(dtype == DType::kFloat32 ? npy_api::NPY_FLOAT_
                                                                        : npy_api::NPY_DOUBLE_);
  PyObject* array =
      api.PyArray_NewFromDescr_(api.PyArray_Type_, descr, rank, dims, nullptr, nullptr, 0, nullptr);
  if (!array) throw py::error_already_set();
  view_of(array, view);
  return py::reinterpret_steal<py::object>(array);
}

}  // namespace cpuattn
