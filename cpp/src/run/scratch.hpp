// Memory of a call, aligned to cache lines.
#pragma once

#include <cstddef>
#include <memory>

namespace cpuattn {

struct FreeMemory {
  void operator()(unsigned char* p) const;
};
using Memory = std::unique_ptr<unsigned char, FreeMemory>;

std::size_t align(std::size_t bytes);  // rounded up to whole cache lines

// Uninitialised. Throws std::bad_alloc.
Memory allocate(std::size_t bytes);

// Memory for the length of a call, which is kept for later ones: small calls would spend most of
// their time in malloc and page faults otherwise.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  unsigned char* data() const;

 private:
  Memory block_;
};

}  // namespace cpuattn
