// From Python objects to writes into caches.
//
// Tokens are arrays (batch, heads, length, dim), the arrays of a cache (entries, heads, rows, dim)
// and those of its scales (entries, heads, rows). Tokens may lie where others are to be written, be
// byte-swapped or not aligned: then they are copied first. Where a finite number overflows, NumPy
// is told so once all is written, and may warn or raise.
#pragma once

#include <pybind11/pybind11.h>

namespace cpuattn {

// The arguments of both functions, all by position.
enum TokensArgument : int {
  kNewKeys,
  kNewValues,
  kArrays,           // a tuple: keys, values; and the scales of each, if they are int8
  kStarts,           // append_tokens: a list, the row of each entry where its tokens begin
  kMoves = kStarts,  // store_tokens: a list of tuples, see Move in store.cpp
  kNumTokensArguments
};

// Appends all tokens to the entries and returns their number; or returns None, having done nothing,
// where Python must say what is wrong with the arguments, convert them or make room.
pybind11::object append_tokens(PyObject* const* args);

// Writes tokens that were checked. Returns None.
pybind11::object store_tokens(PyObject* const* args);

}  // namespace cpuattn
