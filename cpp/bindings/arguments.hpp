// From Python objects to the core's views and options.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "cpuattn/attention.hpp"

namespace cpuattn {

// The order of the arguments that _core's functions take. All of them are given by position:
// cpuattn/_attention.py has the names and defaults, and a call stays below a microsecond.
enum Argument : int {
  kQuery,
  kKey,
  kValue,  // attention_weights: the stage
  kMask,
  kBias,
  kCausal,
  kWindow,
  kQueryOffset,
  kKeyLengths,
  kQuerySegments,
  kKeySegments,
  kAlibiSlopes,
  kSinks,
  kSoftcap,
  kScale,
  kNumThreads,
  kKeyScale,
  kValueScale,
  kBlockTable,
  kCuSeqlensQ,
  kCuSeqlensK,
  kOut,
  kNumCommon,
  kReturnLse = kNumCommon,  // attention only
  kNumArguments
};

// The arguments of one call. Views borrow from the Python objects, or from `kept` where an
// object had to be converted; `copies` says so for explain().
struct Arguments {
  View query, key, value;
  Options options;
  std::vector<std::string> copies;
  std::vector<pybind11::object> kept;
  // The arrays as they were given, or as __array__ and the like gave them: out= must not share
  // their memory.
  PyObject* arrays[kNumArguments] = {};
};

// The inputs; with_value: args[kValue] is an array. Throws pybind11's and the core's exceptions.
void parse_inputs(PyObject* const* args, bool with_value, Arguments& parsed);

// Python's or NumPy's True or False; else a TypeError.
bool parse_bool(PyObject* object, const char* name);

// A result array: given by the user (checked: writable, native, no overlap with an input), or new.
// What is given is returned, and `inputs` keeps the array that it was converted to.
pybind11::object take_output(PyObject* given, Arguments& inputs, View& view);
pybind11::object new_array(DType dtype, int rank, const std::ptrdiff_t* shape, View& view);

bool is_plain_array(PyObject* object);  // of NumPy, of no subclass

// The memory of an array as it is; false if its dtype is none of the core's.
bool view_of(PyObject* array, View& view);

// The elements are in this machine's byte order and aligned.
bool is_readable(PyObject* array, const View& view);

// False: they share no byte.
bool may_overlap(const View& a, const View& b);

// What the function of cpuattn/_arrays.py makes of an object: conversions that are rare or slow.
pybind11::object convert(const char* function, PyObject* object, const char* name);

}  // namespace cpuattn
