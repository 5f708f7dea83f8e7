#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"
#include "ops/attention.h"
#include "tensor/buffer.h"

namespace cambium {

// Keys and values of all layers for many sequences, in pages of 16 slots taken from one pool. Page ids are
// shared by all layers.
class KvCache {
 public:
  // dtype kF16 or kF32. max_slots bounds the total over all sequences.
  KvCache(const ModelConfig& config, DType dtype, int64_t max_slots);

  struct Sequence {
    std::vector<int32_t> pages;
    int64_t length = 0;  // committed slots
  };

  int NewSequence();                     // an id, reused after Free
  void Free(int sequence);
  Sequence& sequence(int id) { return sequences_[static_cast<size_t>(id)]; }
  int64_t length(int id) const { return sequences_[static_cast<size_t>(id)].length; }

  // Makes room for `slots` slots in all; throws kResource with the numbers when the pool is spent.
  void Reserve(int id, int64_t slots);
  // Forgets committed slots from `length` on.
  void Truncate(int id, int64_t length);
  // After a pass whose rows sit in slots length.., keeps the rows `path` (ascending row indices of the segment, a
  // root-to-node path) as the next committed slots.
  void Commit(int id, const std::vector<int32_t>& path);
  // The layer's pages as the kernels want them.
  KvLayer layer(int64_t index) const;

  int64_t max_slots() const { return max_pages_ * KvLayer::kPageSlots; }
  int64_t bytes() const { return static_cast<int64_t>(memory_.bytes()); }
  DType dtype() const { return dtype_; }

 private:
  ModelConfig config_;
  DType dtype_;
  int64_t max_pages_, page_bytes_;
  Buffer memory_;  // [max_pages][layers] layer pages; what is not touched takes no memory
  std::vector<int32_t> free_pages_;
  int64_t next_page_ = 0;
  std::vector<Sequence> sequences_;
  std::vector<int> free_sequences_;
};

}  // namespace cambium
