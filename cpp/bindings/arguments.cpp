#include "arguments.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <utility>

namespace cpuattn {
namespace {

namespace py = pybind11;
using py::detail::array_descriptor_proxy;
using py::detail::array_proxy;
using py::detail::npy_api;

constexpr int kHalfNumber = 23;  // NPY_HALF

std::string type_name(PyObject* object) { return Py_TYPE(object)->tp_name; }

std::string dtype_name(PyObject* array) {
  return py::str(py::reinterpret_borrow<py::array>(array).dtype().attr("name"));
}

template <class Second>
py::object call_python(const char* function, PyObject* object, Second second) {
  return py::module_::import("cpuattn._arrays").attr(function)(py::handle(object), second);
}

bool is_native(PyObject* array) {
  const char order = array_descriptor_proxy(array_proxy(array)->descr)->byteorder;
  constexpr std::uint16_t kProbe = 1;
  const char swapped = reinterpret_cast<const char&>(kProbe) == 1 ? '>' : '<';
  return order != swapped;
}

bool is_aligned(const View& view, std::ptrdiff_t size) {
  auto all = reinterpret_cast<std::intptr_t>(view.data);
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] > 1) all |= view.stride[i];
  }
  return (all & (size - 1)) == 0;  // a power of two; a division costs as much as all the rest
}

// ml_dtypes.bfloat16 has a number that NumPy gave it when it was registered, once in a process; -1
// until an array of it was seen. It is known by its name: the package is not needed here.
std::atomic<int> bfloat16_number{-1};

bool is_bfloat16(PyObject* array, int type_number) {
  constexpr int kFirstUserType = 256;  // NPY_USERDEF
  if (type_number < kFirstUserType) return false;
  if (type_number == bfloat16_number) return true;
  if (dtype_name(array) != "bfloat16") return false;
  bfloat16_number = type_number;
  return true;
}

}  // namespace

py::object convert(const char* function, PyObject* object, const char* name) {
  return call_python(function, object, name);
}

bool is_plain_array(PyObject* object) {
  return reinterpret_cast<PyObject*>(Py_TYPE(object)) ==
         reinterpret_cast<PyObject*>(npy_api::get().PyArray_Type_);
}

bool is_readable(PyObject* array, const View& view) {
  return is_native(array) && is_aligned(view, element_size(view.dtype));
}

bool view_of(PyObject* array, View& view) {
  const auto* proxy = array_proxy(array);
  const int number = array_descriptor_proxy(proxy->descr)->type_num;
  switch (number) {
    case npy_api::NPY_FLOAT_:
      view.dtype = DType::kFloat32;
      break;
    case npy_api::NPY_DOUBLE_:
      view.dtype = DType::kFloat64;
      break;
    case kHalfNumber:
      view.dtype = DType::kFloat16;
      break;
    case npy_api::NPY_BYTE_:
      view.dtype = DType::kInt8;
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
      if (!is_bfloat16(array, number)) return false;
      view.dtype = DType::kBFloat16;
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

namespace {

// A view of the array, or of a copy of it where elements are byte-swapped or not aligned.
bool readable_view(PyObject* array, const char* name, Arguments& parsed, View& view) {
  if (!view_of(array, view)) return false;
  const bool native = is_native(array);
  if (native && is_aligned(view, element_size(view.dtype))) return true;
  py::object copy = convert("as_native", array, name);
  parsed.copies.push_back(std::string(name) +
                          (native ? ": copied, its elements are not aligned"
                                  : ": copied, its bytes are not in this machine's order"));
  view_of(copy.ptr(), view);
  parsed.kept.push_back(std::move(copy));
  return true;
}

const char* const kNames[kNumArguments] = {
    "query",        "key",          "value",        "mask",        "bias",
    "causal",       "window",       "query_offset", "key_lengths", "query_segments",
    "key_segments", "alibi_slopes", "sinks",        "softcap",     "scale",
    "num_threads",  "key_scale",    "value_scale",  "block_table", "cu_seqlens_q",
    "cu_seqlens_k", "out",          "return_lse"};

bool is_float(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kFloat16 ||
         dtype == DType::kBFloat16;
}

// A query, key, value, scale, mask or bias; it must be of a type that `allows` takes.
template <class Allows>
View parse_array(PyObject* const* args, Argument a, const char* allowed, Allows allows,
                 Arguments& parsed) {
  PyObject* array = args[a];
  if (!is_plain_array(array)) {
    parsed.kept.push_back(convert("as_array", array, kNames[a]));
    array = parsed.kept.back().ptr();
  }
  parsed.arrays[a] = array;
  View view;
  const bool known = readable_view(array, kNames[a], parsed, view);
  if (!known || !allows(view.dtype)) {
    throw py::type_error(std::string(kNames[a]) + " has dtype " + dtype_name(array) + "; " +
                         allowed);
  }
  return view;
}

View parse_float(PyObject* const* args, Argument a, Arguments& parsed) {
  return parse_array(args, a, "it must be float32, float64, float16 or bfloat16", is_float, parsed);
}

// A key or value, whose types follow the query's.
View parse_tokens(PyObject* const* args, Argument a, DType query, Arguments& parsed) {
  if (query == DType::kFloat64) {
    return parse_array(
        args, a, "it must be that of query, float64",
        [](DType dtype) { return dtype == DType::kFloat64; }, parsed);
  }
  return parse_array(
      args, a, "it must be float32, float16, bfloat16 or int8, as query is not float64",
      [](DType dtype) {
        return dtype == DType::kInt8 || (is_float(dtype) && dtype != DType::kFloat64);
      },
      parsed);
}

// Integers and per-head numbers are small: whatever NumPy can read is converted.
View parse_small(PyObject* const* args, Argument a, DType dtype, Arguments& parsed) {
  View view;
  PyObject* array = args[a];
  if (!is_plain_array(array) || !view_of(array, view) || view.dtype != dtype ||
      !is_readable(array, view)) {
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

// An array of NumPy may stand for a single number, but not one that is masked.
void check_scalar(PyObject* object, const char* name) {
  if (PyObject_TypeCheck(object, npy_api::get().PyArray_Type_)) {
    convert("check_scalar", object, name);
  }
}

std::int64_t parse_integer(PyObject* object, const char* name) {
  check_scalar(object, name);
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
  check_scalar(object, name);
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(std::string(name) + " is of type " + type_name(object) +
                         "; it must be a number or None");
  }
  return value;
}

void parse_window(PyObject* window, Options& options) {
  if (!PyTuple_Check(window)) check_scalar(window, "window");
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
  const DType dtype = compute_dtype(parsed.query.dtype);
  const auto given = [&](Argument a) { return args[a] != Py_None; };
  if (given(kMask)) {
    options.mask = parse_array(
        args, kMask, "it must be bool (for scores, use bias)",
        [](DType type) { return type == DType::kBool; }, parsed);
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
  const auto scale = [&](Argument a, std::optional<View>& view) {
    const auto is_float32 = [](DType type) { return type == DType::kFloat32; };
    if (given(a)) view = parse_array(args, a, "it must be float32", is_float32, parsed);
  };
  scale(kKeyScale, options.key_scale);
  scale(kValueScale, options.value_scale);
  small(kBlockTable, DType::kInt64, options.block_table);
  small(kCuSeqlensQ, DType::kInt64, options.cu_seqlens_q);
  small(kCuSeqlensK, DType::kInt64, options.cu_seqlens_k);
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
  const std::ptrdiff_t* const end = view.shape + view.rank;
  if (std::find(view.shape, end, 0) != end) return {data, data};  // its strides mean nothing
  Extent extent{data, data + element_size(view.dtype)};
  for (int i = 0; i < view.rank; ++i) {
    const std::ptrdiff_t reach = (view.shape[i] - 1) * view.stride[i];
    (reach < 0 ? extent.begin : extent.end) += reach;
  }
  return extent;
}

}  // namespace

bool may_overlap(const View& a, const View& b) {
  const Extent first = extent_of(a), second = extent_of(b);
  return first.begin < second.end && second.begin < first.end;
}

namespace {

void check_overlap(PyObject* out, const View& view, PyObject* input, const char* name) {
  if (!input) return;  // most are not given, and a view takes some 10 ns to clear
  View input_view;
  if (!view_of(input, input_view) || !may_overlap(view, input_view)) return;
  if (call_python("shares_memory", out, py::handle(input)).cast<bool>()) {
    throw py::value_error(std::string("out overlaps ") + name +
                          "; it must not share memory with an input");
  }
}

}  // namespace

void parse_inputs(PyObject* const* args, bool with_value, Arguments& parsed) {
  parsed.query = parse_float(args, kQuery, parsed);
  parsed.key = parse_tokens(args, kKey, parsed.query.dtype, parsed);
  if (with_value) {
    parsed.value = parse_tokens(args, kValue, parsed.query.dtype, parsed);
    if (parsed.value.dtype != parsed.key.dtype) {
      throw py::type_error("value has dtype " + dtype_name(parsed.arrays[kValue]) +
                           "; it must be that of key, " + dtype_name(parsed.arrays[kKey]));
    }
  }
  parse_options(args, parsed);
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

py::object take_output(PyObject* given, Arguments& inputs, View& view) {
  PyObject* out = given;
  if (!is_plain_array(given)) {  // such as a torch tensor: its memory is written
    inputs.kept.push_back(convert("as_output", given, "out"));
    out = inputs.kept.back().ptr();
  }
  const bool wide = inputs.query.dtype == DType::kFloat64;
  if (!view_of(out, view) || !is_float(view.dtype) || wide != (view.dtype == DType::kFloat64)) {
    throw py::type_error("out has dtype " + dtype_name(out) + "; it must be " +
                         (wide ? "that of query, float64"
                               : "float32, float16 or bfloat16, as query is not float64"));
  }
  const auto array = py::reinterpret_borrow<py::array>(out);
  if (!array.writeable()) throw py::value_error("out is read-only; it must be writable");
  if (!is_readable(out, view)) {
    throw py::value_error("out is byte-swapped or not aligned; it must be a plain native array");
  }
  for (int i = 0; i < kNumArguments; ++i) check_overlap(out, view, inputs.arrays[i], kNames[i]);
  return py::reinterpret_borrow<py::object>(given);
}

namespace {
// Of a float type. bfloat16: an array of it was seen among the arguments.
int type_number(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return kHalfNumber;
    case DType::kBFloat16:
      return bfloat16_number;
    case DType::kFloat64:
      return npy_api::NPY_DOUBLE_;
    default:
      return npy_api::NPY_FLOAT_;
  }
}
}  // namespace

py::object new_array(DType dtype, int rank, const std::ptrdiff_t* shape, View& view) {
  const auto& api = npy_api::get();
  Py_intptr_t dims[kMaxRank];
  for (int i = 0; i < rank; ++i) dims[i] = shape[i];
  PyObject* descr = api.PyArray_DescrFromType_(type_number(dtype));
  PyObject* array =
      api.PyArray_NewFromDescr_(api.PyArray_Type_, descr, rank, dims, nullptr, nullptr, 0, nullptr);
  if (!array) throw py::error_already_set();
  view_of(array, view);
  return py::reinterpret_steal<py::object>(array);
}

}  // namespace cpuattn
