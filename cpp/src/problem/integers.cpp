#include "problem/integers.hpp"

#include <algorithm>
#include <string>

#include "problem/checks.hpp"
#include "problem/sizes.hpp"

namespace cpuattn {
namespace {

constexpr std::ptrdiff_t kBytes = sizeof(std::int64_t);

// Read once: volatile keeps the compiler from reading it again after a check.
std::int64_t read(const char* at) { return *reinterpret_cast<const volatile std::int64_t*>(at); }

std::unique_ptr<std::int64_t[]> room_for(std::ptrdiff_t count) {
  return std::unique_ptr<std::int64_t[]>(new std::int64_t[static_cast<std::size_t>(count)]);
}

// Room for rows of integers, one for each batch entry that the operand tells apart.
Integers rows_like(const Operand& operand, const Shapes& shapes, std::ptrdiff_t row) {
  Integers rows;
  rows.dtype = DType::kInt64;
  rows.stride[0] = kBytes;
  rows.count = shapes.batch == 0 ? 0 : row;
  for (int dim = shapes.batch_rank - 1; dim >= 0; --dim) {
    if (operand.batch_stride[dim] == 0) continue;
    rows.batch_stride[dim] = product(rows.count, kBytes);
    rows.count = product(rows.count, shapes.batch_shape[dim]);
  }
  rows.memory = room_for(std::max<std::ptrdiff_t>(rows.count, 1));  // given, even if empty
  rows.data = reinterpret_cast<char*>(rows.memory.get());
  return rows;
}

// Loops over as many integers as there are ask the caller about every millisecond.
class Asker {
 public:
  explicit Asker(const Options& options) : options_(options) {}
  void count() {
    if (++counted_ % kInterval != 0 || !options_.should_stop) return;
    if (options_.should_stop(options_.stop_context)) throw Interrupted{};
  }

 private:
  static constexpr unsigned kInterval = 1 << 20;
  const Options& options_;
  unsigned counted_ = 0;
};

// f(bytes to it in a, bytes to it in b) for every batch entry that a or b tell apart, in order.
template <class F>
void for_each_entry(const Shapes& shapes, const Operand& a, const Operand& b, F f) {
  const int rank = shapes.batch_rank;
  std::ptrdiff_t size[kMaxRank] = {}, index[kMaxRank] = {};
  for (int dim = 0; dim < rank; ++dim) {
    const bool moves = a.batch_stride[dim] != 0 || b.batch_stride[dim] != 0;
    size[dim] = moves ? shapes.batch_shape[dim] : std::min<std::ptrdiff_t>(1, shapes.batch);
    if (size[dim] == 0) return;
  }
  std::ptrdiff_t in_a = 0, in_b = 0;
  while (true) {
    f(in_a, in_b);
    int dim = rank - 1;
    // NOLINTNEXTLINE(clang-analyzer-security.ArrayBound): infer_shapes bounds batch_rank
    for (; dim >= 0 && index[dim] + 1 == size[dim]; --dim) {
      in_a -= index[dim] * a.batch_stride[dim];
      in_b -= index[dim] * b.batch_stride[dim];
      index[dim] = 0;
    }
    if (dim < 0) return;
    in_a += a.batch_stride[dim];
    in_b += b.batch_stride[dim];
    ++index[dim];
  }
}

// For each row of the table the most pages that an entry has in use of it.
Integers count_pages(const Operand& table, const Integers& lengths, std::ptrdiff_t page_size,
                     const Shapes& shapes, Asker& asker) {
  Integers used = rows_like(table, shapes, 1);
  std::fill_n(used.memory.get(), used.count, 0);
  for_each_entry(shapes, used, lengths, [&](std::ptrdiff_t row, std::ptrdiff_t entry) {
    asker.count();
    const std::int64_t length = lengths.memory[entry / kBytes];
    std::int64_t& most = used.memory[row / kBytes];
    if (length > 0) most = std::max(most, (length - 1) / page_size + 1);
  });
  return used;
}

}  // namespace

std::int64_t integer_at(const Integers& integers, const Shapes& shapes, std::ptrdiff_t b) {
  std::ptrdiff_t offset = 0;
  for (int dim = shapes.batch_rank - 1; dim >= 0; --dim) {
    // NOLINTNEXTLINE(clang-analyzer-security.ArrayBound): infer_shapes bounds batch_rank
    offset += b % shapes.batch_shape[dim] * integers.batch_stride[dim];
    b /= shapes.batch_shape[dim];
  }
  return integers.memory[offset / kBytes];
}

Offsets copy_offsets(const View& cu_seqlens) {
  Offsets offsets;
  const bool equal = cu_seqlens.stride[0] == 0;
  const std::ptrdiff_t count = equal ? 1 : cu_seqlens.shape[0];
  offsets.stride = equal ? 0 : 1;
  offsets.data = room_for(count);
  const char* const first = static_cast<const char*>(cu_seqlens.data);
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    offsets.data[i] = read(first + i * cu_seqlens.stride[0]);
  }
  return offsets;
}

Integers copy_integers(const Operand& source, const Shapes& shapes, const Options& options) {
  Integers copy = rows_like(source, shapes, 1);
  Asker asker(options);
  std::int64_t* next = copy.memory.get();
  for_each_entry(shapes, source, source, [&](std::ptrdiff_t offset, std::ptrdiff_t) {
    asker.count();
    *next++ = read(source.data + offset);
  });
  return copy;
}

Integers copy_table(const Operand& table, const Integers& lengths, std::ptrdiff_t page_size,
                    std::ptrdiff_t num_pages, const Shapes& shapes, const Options& options) {
  Asker asker(options);
  const Integers used = count_pages(table, lengths, page_size, shapes, asker);
  std::int64_t most = 0;
  for (std::ptrdiff_t row = 0; row < used.count; ++row) most = std::max(most, used.memory[row]);
  Integers copy = rows_like(table, shapes, static_cast<std::ptrdiff_t>(most));
  std::int64_t* to = copy.memory.get();
  const std::int64_t* pages = used.memory.get();
  for_each_entry(shapes, table, table, [&](std::ptrdiff_t row, std::ptrdiff_t) {
    // NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): one for each row
    for (std::ptrdiff_t i = 0; i < *pages; ++i) {
      asker.count();
      to[i] = read(table.data + row + i * table.stride[0]);
      if (to[i] < 0 || to[i] >= num_pages) {
        fail("block_table contains " + std::to_string(to[i]) +
             " for tokens in use; pages are in [0, " + std::to_string(num_pages) + ")");
      }
    }
    to += most;
    ++pages;
  });
  return copy;
}

}  // namespace cpuattn
