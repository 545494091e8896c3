#include "isa/environment.hpp"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <stdexcept>

namespace cpuattn {
namespace {

constexpr char kOwnThreads[] = "CPUATTN_NUM_THREADS";
constexpr char kOpenMPThreads[] = "OMP_NUM_THREADS";
constexpr long kMostThreads = 1 << 16;

// Without blanks around it.
std::string value_of(const char* variable) {
  const char* text = std::getenv(variable);
  const std::string value = text ? text : "";
  constexpr char kBlanks[] = " \t\n\r\f\v";
  const std::size_t begin = value.find_first_not_of(kBlanks);
  if (begin == std::string::npos) return "";
  return value.substr(begin, value.find_last_not_of(kBlanks) + 1 - begin);
}

// A number of threads at the start of `value`; 0 if there is none. `rest` is what follows it.
int leading_threads(const std::string& value, std::string& rest) {
  char* end = nullptr;
  const long threads = std::strtol(value.c_str(), &end, 10);
  rest = end;
  return threads < 1 || threads > kMostThreads ? 0 : static_cast<int>(threads);
}

// OMP_NUM_THREADS may be a list, one number per nesting level: the first one is ours.
int openmp_threads() {
  std::string rest;
  const int threads = leading_threads(value_of(kOpenMPThreads), rest);
  const std::size_t next = rest.find_first_not_of(" \t");
  return next == std::string::npos || rest[next] == ',' ? threads : 0;
}

}  // namespace

std::string requested_isa() { return value_of("CPUATTN_ISA"); }

int requested_threads() {
  const std::string value = value_of(kOwnThreads);
  if (value.empty()) return openmp_threads();
  std::string rest;
  const int threads = leading_threads(value, rest);
  if (threads == 0 || !rest.empty()) {
    throw std::invalid_argument(std::string(kOwnThreads) + "='" + value +
                                "' is not a number of threads; it must be a positive integer");
  }
  return threads;
}

std::string ignored_threads() {
  const std::string value = value_of(kOpenMPThreads);
  if (value.empty() || openmp_threads() != 0 || !value_of(kOwnThreads).empty()) return "";
  return std::string(kOpenMPThreads) + "='" + value + "'";
}

bool asks_openmp_to_bind() {
  constexpr const char* kNames[] = {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY",
                                    "KMP_AFFINITY"};
  return std::any_of(std::begin(kNames), std::end(kNames),
                     [](const char* name) { return !value_of(name).empty(); });
}

}  // namespace cpuattn
