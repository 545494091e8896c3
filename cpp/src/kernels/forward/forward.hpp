// The forward kernel for many query rows. Start reading here. For one block of queries it is
//
//   m = -inf; l = 0; O = 0
//   for each block of keys:
//     S = K · Qᵀ                        scores, one query per lane        score_block
//     S = mask(S)                       only where some row may not see   mask_block
//     if max S > m + 8:                 over the keys; rarely true        raise_base
//       l, O = l, O · exp(m - max S);  m = max S
//     P = exp(S - m);  l = l + sum P                                      add_weights
//     O = O + Vᵀ · P                                                      accumulate_values
//   output = O / l                      transposed back                   store_output
//
// and everything else is how to do that well (Dao et al., arXiv:2205.14135 and 2307.08691, with
// the roles of lanes exchanged). Because the queries lie in the lanes,
// - both products read K and V where they lie and broadcast single elements: no packing (but for
//   crowded values, narrow numbers and pages, see tokens.hpp), and strided or broadcast keys cost
//   nothing extra;
// - the softmax is vertical: no horizontal maximum or sum anywhere;
// - the heads of a group are just more lanes, so K and V are read once per group.
// Cost per block of R queries and C keys: R·C·(D + Dv) multiply-adds, R·C exponentials (as long as
// 8 multiply-adds each: 6 % at D = Dv = 64), reads of C·(D + Dv) elements.
#pragma once

#include <cstddef>

#include "kernel.hpp"
#include "kernels/common/scratch.hpp"
#include "kernels/forward/query_block.hpp"
#include "kernels/forward/scores.hpp"

namespace cpuattn {
namespace {

// The keys [begin, end) of a chunk, block by block; false: interrupted. Blocks start at multiples
// of kKeyBlock, so that no row can shift those of another.
template <class V, int kVecs, int kBlocks>
bool sum_keys(const Work& work, std::ptrdiff_t begin, std::ptrdiff_t end,
              QueryBlock<V, kVecs> (&blocks)[kBlocks], SharedRows<V>& shared,
              typename V::Element* visible) {
  for (auto& block : blocks) block.start_chunk(begin, end);
  for (; begin < end; begin += kKeyBlock) {
    if (work.should_stop && work.should_stop(work.stop_context)) return false;
    const std::ptrdiff_t block_end = begin + kKeyBlock < end ? begin + kKeyBlock : end;
    for (auto& block : blocks) block.find_scores(begin, block_end, shared);
    for (auto& block : blocks) block.add_values(begin, shared, visible);
  }
  for (auto& block : blocks) block.end_chunk();
  return true;
}

template <class V, int kVecs, int kBlocks>
void sum_chunks(const Work& work, QueryBlock<V, kVecs> (&blocks)[kBlocks],
                const SharedScratch<V, kVecs>& scratch) {
  std::ptrdiff_t lo = blocks[0].rows.lo_min, hi = blocks[0].rows.hi_max;
  for (const auto& block : blocks) {
    lo = block.rows.lo_min < lo ? block.rows.lo_min : lo;
    hi = block.rows.hi_max > hi ? block.rows.hi_max : hi;
  }
  SharedRows<V> shared(scratch.copy);
  std::ptrdiff_t chunk = work.key_begin;  // or the first one that a row sees
  if (lo > chunk) chunk += (lo - chunk) / work.key_chunk * work.key_chunk;
  for (; chunk < hi; chunk += work.key_chunk) {
    const std::ptrdiff_t end = chunk + work.key_chunk < hi ? chunk + work.key_chunk : hi;
    if (end <= lo) continue;
    const std::ptrdiff_t unseen = lo > chunk ? (lo - chunk) / kKeyBlock * kKeyBlock : 0;
    if (!sum_keys(work, chunk + unseen, end, blocks, shared, scratch.visible)) return;
  }
  for (auto& block : blocks) block.store();
}

template <class V, int kVecs, class... Parts>
void forward_blocks(void* memory, const Work& work, const Parts&... others) {
  ScratchCutter cut(memory);
  const std::ptrdiff_t dims = work.head_dim, value_dim = work.value_dim;
  const SharedScratch<V, kVecs> scratch(cut, dims, value_dim);
  QueryBlock<V, kVecs> blocks[] = {{work, {cut, dims, value_dim}},
                                   {others, {cut, dims, value_dim}}...};
  sum_chunks(work, blocks, scratch);
}

// The narrowest block that holds the rows: the last rows of a head do not cost a full one.
template <class V, int kVecs = 1>
void forward_block(const Work& work, void* scratch) {
  if constexpr (kVecs < V::kBlockVecs) {
    if (work.num_rows > kVecs * V::kLanes) return forward_block<V, kVecs * 2>(work, scratch);
  }
  forward_blocks<V, kVecs>(scratch, work);
}

// `count` rows of an item from `first` on.
template <class V>
Work part_of(Work work, std::ptrdiff_t first, std::ptrdiff_t count) {
  using T = typename V::Element;
  work.first_row += first;
  work.num_rows = count;
  work.row_base = static_cast<T*>(work.row_base) + first;
  work.row_sum = static_cast<T*>(work.row_sum) + first;
  if (work.not_finite != nullptr) work.not_finite += first;
  if (work.start_base) work.start_base = static_cast<const T*>(work.start_base) + first;
  if (work.weight_factor) work.weight_factor = static_cast<const T*>(work.weight_factor) + first;
  return work;
}

template <class V>
void forward(const Work& work, void* scratch) {
  constexpr int kRows = V::kBlockVecs * V::kLanes;
  if (work.num_rows <= kRows) return forward_block<V>(work, scratch);
  const auto rest = work.num_rows - kRows;
  const Work first = part_of<V>(work, 0, kRows), second = part_of<V>(work, kRows, rest);
  if (rest == kRows) return forward_blocks<V, V::kBlockVecs>(scratch, first, second);
  forward_block<V>(first, scratch);
  forward_block<V>(second, scratch);
}

template <class V, int kVecs = 1>
std::size_t forward_scratch(std::ptrdiff_t head_dim, std::ptrdiff_t value_dim, int num_rows) {
  if constexpr (kVecs < V::kBlockVecs) {
    if (num_rows > kVecs * V::kLanes) {
      return forward_scratch<V, kVecs * 2>(head_dim, value_dim, num_rows);
    }
  }
  ScratchCutter count(nullptr);
  SharedScratch<V, kVecs>(count, head_dim, value_dim);
  for (int row = 0; row < num_rows; row += kVecs * V::kLanes) {
    BlockScratch<V, kVecs>(count, head_dim, value_dim);
  }
  return count.used();
}

}  // namespace
}  // namespace cpuattn
