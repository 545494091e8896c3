// What happens where a sum of weighted values leaves the range of its type.
//
// Weights are exp(score - base), where base is at most 8 below the largest score: between 0 and
// exp(8), and together at least 1. So small values and small weights keep the digits that they have
// in a plain softmax. But a sum of n values as large as the largest number overflows before it is
// divided by the sum of its weights, and no smaller weights would serve both ends: with one key of
// weight 1 any factor below 1 takes digits from the smallest values.
//
// The sum of weights itself is in range, n · exp(8) at most. Once it is known, rows with an element
// that is not finite are run again, from their last base on and with weights that are divided by
// a power of two, which makes their sum at least 1/4 and less than 1/2: sums of values are then at
// most half of the largest value. Elements that are finite stay as they are; an element that really
// is infinite or NaN is found to be so again. Which elements are run again depends on their own
// sums only, so their bits depend on nothing else either.
//
// Costs: a multiply-add for each vector of the output. A second run costs as much as the first, of
// a split head more, as one thread does all chunks: NaN and infinity in visible values cost that
// too.
#pragma once

#include <cstddef>

#include "kernel.hpp"
#include "problem/problem.hpp"
#include "run/plan.hpp"

namespace cpuattn {

constexpr std::ptrdiff_t kMaxItemRows = 128;  // of any kernel

struct SecondRun {
  const Call& call;
  const Plan& plan;
  const Kernels& kernels;
  void* scratch;  // of the kernel
};

// `work` was done: its output is stored, and the bases and sums of its rows are in `total`, all of
// which is overwritten. not_finite[row]: rows to look at.
void run_again(const SecondRun& run, const Work& work, const Partial& total,
               const bool* not_finite);

}  // namespace cpuattn
