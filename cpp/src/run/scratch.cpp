#include "run/scratch.hpp"

#include <atomic>
#include <new>

namespace cpuattn {
namespace {

constexpr std::size_t kAlignment = 64;

// Blocks of the whole process that no call uses now. Not by thread: for a thread_local with a
// destructor glibc needs memory, and ends the process where there is none.
std::atomic<unsigned char*> kept[16];

// The size of a block stands in its first cache line.
std::size_t& capacity(const Memory& block) { return *reinterpret_cast<std::size_t*>(block.get()); }

// nullptr if there is none.
Memory take_kept() {
  for (auto& place : kept) {
    if (!place.load(std::memory_order_relaxed)) continue;
    if (unsigned char* const block = place.exchange(nullptr, std::memory_order_acquire)) {
      return Memory(block);
    }
  }
  return nullptr;
}

}  // namespace

void FreeMemory::operator()(unsigned char* p) const {
  ::operator delete(p, std::align_val_t{kAlignment});
}

std::size_t align(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

Memory allocate(std::size_t bytes) {
  return Memory(static_cast<unsigned char*>(::operator new(bytes, std::align_val_t{kAlignment})));
}

Scratch::Scratch(std::size_t bytes) : block_(take_kept()) {
  if (block_ && capacity(block_) >= bytes) return;
  block_.reset();  // before more is asked for
  block_ = allocate(kAlignment + bytes);
  capacity(block_) = bytes;
}

Scratch::~Scratch() {
  unsigned char* const block = block_.release();
  for (auto& place : kept) {
    unsigned char* empty = nullptr;
    if (place.compare_exchange_strong(empty, block, std::memory_order_release)) return;
  }
  FreeMemory()(block);
}

unsigned char* Scratch::data() const { return block_.get() + kAlignment; }

}  // namespace cpuattn
