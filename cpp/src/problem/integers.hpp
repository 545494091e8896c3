// The integers of a call (lengths, offsets, pages) as copies: the arrays may be written to by
// another thread while the call runs, so what was checked must be what is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "problem/operand.hpp"

namespace cpuattn {

// Copies of the integers that an operand reaches, broadcast like it.
struct Integers : Operand {
  std::unique_ptr<std::int64_t[]> memory;
  std::ptrdiff_t count = 0;
};

// Where packed sequences begin: B + 1 offsets, or none.
struct Offsets {
  std::unique_ptr<std::int64_t[]> data;
  std::ptrdiff_t stride = 0;  // 0: all are equal

  explicit operator bool() const { return data != nullptr; }
  std::ptrdiff_t operator[](std::ptrdiff_t i) const {
    return static_cast<std::ptrdiff_t>(data[i * stride]);
  }
};

// That of batch entry b.
std::int64_t integer_at(const Integers& integers, const Shapes& shapes, std::ptrdiff_t b);

Offsets copy_offsets(const View& cu_seqlens);

// One integer per batch entry.
Integers copy_integers(const Operand& source, const Shapes& shapes, const Options& options);

// What is in use of a table: of each row the pages that hold the first tokens, as many as its
// longest entry has. Throws std::invalid_argument if one of them is not in [0, num_pages).
Integers copy_table(const Operand& table, const Integers& lengths, std::ptrdiff_t page_size,
                    std::ptrdiff_t num_pages, const Shapes& shapes, const Options& options);

}  // namespace cpuattn
