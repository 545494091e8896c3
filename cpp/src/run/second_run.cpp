#include "run/second_run.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "half.hpp"
#include "run/items.hpp"

namespace cpuattn {
namespace {

bool is_finite(float x) { return std::isfinite(x); }
bool is_finite(double x) { return std::isfinite(x); }
bool is_finite(Float16 x) { return (x.bits & 0x7c00u) != 0x7c00u; }
bool is_finite(BFloat16 x) { return (x.bits & 0x7f80u) != 0x7f80u; }

// A power of two that makes a sum at least 1/4 and less than 1/2.
template <class T>
T factor_of(T sum) {
  int exponent;
  std::frexp(sum, &exponent);
  return std::ldexp(T(1), -exponent - 1);
}

// An average of finite values is none beyond the largest number, however it is rounded.
template <class T>
T divide(T sum, T weights) {
  const T average = sum / weights;
  const T most = std::numeric_limits<T>::max();
  return std::isfinite(sum) ? std::clamp(average, -most, most) : average;
}

template <class T>
struct Rows {
  const SecondRun& run;
  const Work& work;  // of the first run
  T base[kMaxItemRows], factor[kMaxItemRows];

  // S: the type of the output. Elements of row r that are not finite, from the row's sums.
  template <class S>
  void replace(std::ptrdiff_t r, const T* sums, T weights) const {
    const std::ptrdiff_t row = work.first_row + r;
    const Matrix& output = work.output;
    S* to = static_cast<S*>(output.data) + row % work.group * output.head_stride +
            row / work.group * output.row_stride;
    for (std::ptrdiff_t d = 0; d < work.value_dim; ++d, to += output.dim_stride) {
      if (!is_finite(*to)) convert(divide(sums[d], weights), to);
    }
  }
  void replace_any(std::ptrdiff_t r, const T* sums, T weights) const {
    if constexpr (sizeof(T) == 8) {
      replace<double>(r, sums, weights);
    } else if (work.output.type == ElementType::kFloat16) {
      replace<Float16>(r, sums, weights);
    } else if (work.output.type == ElementType::kBFloat16) {
      replace<BFloat16>(r, sums, weights);
    } else {
      replace<float>(r, sums, weights);
    }
  }

  // Rows [begin, end) of the work.
  void operator()(std::ptrdiff_t begin, std::ptrdiff_t end, const Partial& total) {
    const auto row = [&](void* first, std::ptrdiff_t elements) {
      return static_cast<T*>(first) + begin * elements;
    };
    const Partial part{row(total.output, work.value_dim), row(total.row_base, 1),
                       row(total.row_sum, 1)};
    T* const sums = static_cast<T*>(part.row_sum);
    for (std::ptrdiff_t r = 0; r < end - begin; ++r) {
      base[r] = static_cast<const T*>(part.row_base)[r];
      factor[r] = factor_of(sums[r]);
    }
    Work again = work;
    again.first_row += begin;
    again.num_rows = end - begin;
    again.not_finite = nullptr;
    again.start_base = base;
    again.weight_factor = factor;
    set_keys(run.call, run.plan, again, 0, run.plan.num_chunks);
    aim_at(again, part, run.call.dtype);
    (run.plan.decode ? run.kernels.decode : run.kernels.forward)(again, run.scratch);
    if (again.sinks) run.kernels.add_sinks(again, part, work.value_dim);
    for (std::ptrdiff_t r = 0; r < end - begin; ++r) {
      const T* from = static_cast<const T*>(part.output) + r * work.value_dim;
      replace_any(begin + r, from, sums[r] * factor[r]);
    }
  }
};

// Rows side by side go together: they share what is read.
template <class T>
void run_rows(const SecondRun& run, const Work& work, const Partial& total,
              const bool* not_finite) {
  Rows<T> rows{run, work, {}, {}};
  // A row whose weights have no finite sum is NaN throughout, and stays so.
  const auto is_wanted = [&](std::ptrdiff_t r) {
    const T sum = static_cast<const T*>(total.row_sum)[r];
    return not_finite[r] && std::isfinite(sum) && sum > 0;
  };
  for (std::ptrdiff_t r = 0, end; r < work.num_rows; r = end) {
    end = r + 1;
    if (!is_wanted(r)) continue;
    while (end < work.num_rows && is_wanted(end)) ++end;
    rows(r, end, total);
  }
}

}  // namespace

void run_again(const SecondRun& run, const Work& work, const Partial& total,
               const bool* not_finite) {
  if (!std::memchr(not_finite, true, static_cast<std::size_t>(work.num_rows))) return;
  run.call.dtype == DType::kFloat32 ? run_rows<float>(run, work, total, not_finite)
                                    : run_rows<double>(run, work, total, not_finite);
}

}  // namespace cpuattn
