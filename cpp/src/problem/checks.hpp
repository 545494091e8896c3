// What the checks of arguments have in common: words for an error, and what a view is.
#pragma once

#include <cstddef>
#include <string>

#include "cpuattn/attention.hpp"

namespace cpuattn {

[[noreturn]] void fail(const std::string& message);  // throws std::invalid_argument
[[noreturn]] void fail_type(const char* name, const View& view, const std::string& allowed);

std::string text(const std::ptrdiff_t* shape, int rank);
std::string text(const View& view);  // its shape
const char* type_name(DType dtype);

// Size of dimension `from_end` (1 is the last one); dimensions that are not there count as 1.
std::ptrdiff_t size(const View& view, int from_end);

bool is_float(DType dtype);

bool is_empty(const View& view);  // it has no element

// Element type, rank, shape, strides and memory make sense.
void check_array(const char* name, const View& view);
// Of an array to be written: no element lies where another one does.
void check_distinct(const char* name, const View& view);
// float64 comes with float64 alone; other float types come in any mix.
void check_float_type(const char* name, const View& view, DType query);
// Both of them.
void check_floats(const char* name, const View& view, DType query);

}  // namespace cpuattn
