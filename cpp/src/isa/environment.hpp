// The environment variables that the core reads.
#pragma once

#include <string>

namespace cpuattn {

// CPUATTN_ISA; empty if it is not set.
std::string requested_isa();

// CPUATTN_NUM_THREADS, else OMP_NUM_THREADS; 0 if neither says a number. Throws
// std::invalid_argument for a variable of our own that is no number of threads; one of OpenMP's is
// ignored then, since it may be meant for another program.
int requested_threads();

// What OMP_NUM_THREADS says, if requested_threads() ignores it; else empty.
std::string ignored_threads();

// Whether an OpenMP runtime that reads the environment binds threads to places.
bool asks_openmp_to_bind();

}  // namespace cpuattn
