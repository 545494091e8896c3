// The instruction sets that are compiled in, which of them this CPU can run, and the choice.
#pragma once

#include <string>
#include <vector>

#include "kernel.hpp"

namespace cpuattn {

std::vector<const Isa*> compiled_isas();   // best first
std::vector<const Isa*> available_isas();  // those of them that this CPU can run

// The one in use: CPUATTN_ISA if it is set, else the best. Throws std::invalid_argument if
// CPUATTN_ISA names none that is available.
const Isa& current_isa();

// For tests and benchmarks: uses another one from now on, in the whole process.
void use_isa(const std::string& name);

}  // namespace cpuattn
