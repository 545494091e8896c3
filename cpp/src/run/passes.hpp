// Carrying out a plan: work items over threads, and the merge of their results.
#pragma once

#include <cstddef>

#include "kernel.hpp"
#include "problem/problem.hpp"
#include "run/plan.hpp"

namespace cpuattn {

// Everything that the items of one call share.
struct Run {
  const Call& call;
  const Kernels& kernels;
  const Plan& plan;
  const PlanShape& shape;
  // What runs the items, and the memory that it takes for so many rows.
  void (*kernel)(const Work&, void* scratch) = nullptr;
  std::size_t (*kernel_scratch)(std::ptrdiff_t head_dim, std::ptrdiff_t value_dim,
                                int rows) = nullptr;
  std::ptrdiff_t least_rows = 0;  // items of fewer are run by kernels.decode
  Stage stage = Stage::kWeights;
  bool raw_sums = false;              // for attention_weights: lse holds pairs (base, sum)
  unsigned char* scratch = nullptr;   // of all threads
  std::size_t kernel_bytes = 0;       // per thread: what the kernel asks for,
  std::size_t thread_bytes = 0;       // and the results of one item with it
  unsigned char* partials = nullptr;  // results of all chunks, where chunks are items

  std::ptrdiff_t element() const { return static_cast<std::ptrdiff_t>(shape.element_size); }
};

// Sizes the memory of a run: per thread the kernel's scratch and the results of its item.
void lay_out(Run& run);

// Both throw Interrupted. The run's memory has been assigned.
void execute_attention(const Run& run, const Options& options);
void execute_weights(const Run& run, const Options& options);

}  // namespace cpuattn
