// Writing into a cache of keys and values: numbers are rounded to its type, or quantised to int8.
#pragma once

#include "cpuattn/attention.hpp"

namespace cpuattn {

// Copies every number of `source` to the same place of `target`; both have one shape, of at least
// one dimension, and do not overlap. Numbers next to each other in the last dimension of `target`
// lie next to each other.
//
// source: float16, bfloat16, float32 or float64.
// target: one of these, each number rounded once, to nearest, ties to even; or int8 with
// scale: float32 [...], the shape without its last dimension, along which a row lies:
//   scale  = max|x| / 127, rounded to float32
//   target = round(x / scale), to nearest, ties to even, limited to [-127, 127]
// in float32, or for float64 in float64. A row without a scale above 0 is 0; a row that is not
// finite, or whose scale would not be, is 0 with the scale NaN. Otherwise scale is null.
//
// Returns whether a finite number became infinite, as IEEE 754 flags it: bfloat16 knows no flags.
// Throws std::invalid_argument, with the name of the argument, before anything is written.
CPUATTN_API bool store(const View& source, const View& target, const View* scale);

}  // namespace cpuattn
