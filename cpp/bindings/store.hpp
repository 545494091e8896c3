// From Python objects to writes into caches.
//
// Tokens are arrays (batch, heads, length, dim), the arrays of a cache (entries, heads, rows, dim)
// and those of its scales (entries, heads, rows). Tokens may lie where others are to be written, be
// byte-swapped or not aligned: then they are copied first. Where a finite number overflows, NumPy
// is told so once all is written, and may warn or raise.
#pragma once

#include <pybind11/pybind11.h>

namespace cpuattn {

// Both functions take their arguments by position, commit the next state of the cache (commit.hpp)
// and return True; or False, having done nothing, where the cache is not in the state `before`.

// cache, before, key, value: appends all tokens to the entries of a KVCache. Returns None, having
// done nothing, where Python must say what is wrong with the arguments, convert them or make room.
constexpr int kNumAppendArguments = 4;
pybind11::object append_tokens(PyObject* const* args);

// cache, before, after, key, value, arrays, moves, copies: writes tokens that were checked.
//   arrays  a tuple: keys, values; and the scales of each, if they are int8
//   moves   a list of tuples, see Move in store.cpp: where the tokens go
//   copies  the same, of rows within the arrays that move before that
constexpr int kNumStoreArguments = 8;
pybind11::object store_tokens(PyObject* const* args);

}  // namespace cpuattn
