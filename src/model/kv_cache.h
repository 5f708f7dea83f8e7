#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/config.h"
#include "ops/attention.h"
#include "tensor/buffer.h"

namespace cambium {

// Keys and values of all layers for many sequences, in pages of 16 slots from one pool; a page id is shared by all layers.
// Sequences share pages: a page has a count, and one that others see is copied before a slot of it is written. What was
// computed stays known in a prefix index, a tree of pages by the tokens in them, until its room is needed; the least
// recently used leaf goes first.
class KvCache {
 public:
  using Id = int32_t;
  static constexpr int kPageSlots = KvLayer::kPageSlots;

  // dtype kF16, kF32 or kQ8_0. max_slots bounds the total over all sequences and what the index remembers.
  KvCache(const ModelConfig& config, DType dtype, int64_t max_slots);

  // Layers beside the model's own, on the same pages: a draft module's. Returns the index of the first, for layer(), which
  // stays theirs until DropLayers.
  int64_t AddLayers(int64_t count, int64_t kv_heads, int64_t head_dim, DType dtype);
  void DropLayers(int64_t first);
  // The layer's pages as the kernels want them.
  KvLayer layer(int64_t index) const;

  Id Open();           // an empty sequence; ids are used again after Close
  void Close(Id id);   // gives its pages back; what was published stays known
  Id Fork(Id id, int64_t length);  // a sequence that shares the committed slots [0, length)

  int64_t length(Id id) const { return At(id).length; }  // committed slots
  // Makes slots [length, slots) writable for this sequence alone, all of them or none; false where the pool is spent.
  bool TryGrow(Id id, int64_t slots);
  // The same; kResource with the numbers.
  void Grow(Id id, int64_t slots);
  // Rows [begin, begin + count) of a pass in slots from `past` on. Valid until the sequence grows or closes.
  AttentionSegment Segment(Id id, int64_t past, int64_t begin, int64_t count, std::span<const int32_t> parents = {}) const;
  // After a pass whose rows sit in slots length.., keeps the rows `path` (ascending row indices of the segment, a
  // root-to-node path) as the next committed slots.
  void Commit(Id id, std::span<const int32_t> path);
  void Commit(Id id, int64_t count);  // the first `count` rows, a chain
  // Forgets committed slots from `length` on, and every slot that was not committed.
  void Truncate(Id id, int64_t length);

  // The prefix index. `key` stands for all that keys and values depend on besides the tokens: grafts, their scales, their
  // version. `tokens` are one a slot, those of slots that a graft fills included (any values, the same for one key).
  //
  // Gives an empty sequence the longest known beginning of `tokens`; returns its length.
  int64_t Attach(Id id, uint64_t key, std::span<const int32_t> tokens);
  // Length of the longest known beginning.
  int64_t Known(uint64_t key, std::span<const int32_t> tokens) const;
  // Makes the committed slots [0, tokens.size()) known: whole pages, and with `last` the begun one too, after which the
  // sequence is only closed. Where the index knows a page of the same tokens, the sequence takes that one.
  void Publish(Id id, uint64_t key, std::span<const int32_t> tokens, bool last = false);
  // Forgets all that no sequence holds.
  void Forget();

  struct Stats {
    int64_t pages = 0;    // in all
    int64_t used = 0;     // by sequences
    int64_t shared = 0;   // of these, by more than one sequence
    int64_t known = 0;    // by the index alone: free on demand
    int64_t sequences = 0;
    int64_t evicted = 0;  // since the start
  };
  Stats stats() const;
  int64_t max_slots() const { return max_pages_ * kPageSlots; }
  int64_t bytes() const;
  DType dtype() const { return groups_.front().dtype; }

 private:
  struct Sequence {
    bool open = false;
    std::vector<int32_t> pages;
    int64_t length = 0;
    uint64_t key = 0;           // of the nodes below
    std::vector<int32_t> path;  // the index's node of each published page
  };
  // A page that the index knows. A root has no page and stands for its key.
  struct Node {
    int32_t page = -1, parent = -1;
    int32_t count = 0;  // tokens in the page
    std::array<int32_t, kPageSlots> tokens{};
    uint64_t used = 0;  // when it was last attached or published
    std::vector<int32_t> children;
  };
  struct Group {  // layers of one shape
    Buffer memory;  // [max_pages][layers] layer pages; what is not touched takes no memory
    int64_t layers, page_bytes;
    int kv_heads, head_dim;
    DType dtype;
  };

  const Sequence& At(Id id) const;
  Sequence& At(Id id);
  int32_t TakePage();            // evicts where none is free; the caller has counted
  void ReleasePage(int32_t page);
  void CopyPage(int32_t from, int32_t to);
  int64_t available() const;     // pages that TakePage can give

  int32_t Root(uint64_t key);
  int32_t Child(int32_t parent, std::span<const int32_t> tokens) const;  // of exactly these; -1: none
  // The child that shares most of its first tokens with these, and how many.
  std::pair<int32_t, int32_t> Closest(int32_t parent, std::span<const int32_t> tokens) const;
  int32_t AddNode(int32_t parent, int32_t page, std::span<const int32_t> tokens);
  void RemoveNode(int32_t node);  // a leaf
  void Unhash(int32_t node);
  void DropCovered(int32_t parent, int32_t child);
  void Touch(int32_t node);
  bool Idle(int32_t node) const;  // no sequence has its page
  void Enlist(int32_t node);      // among the leaves that may be evicted, if it is one
  void Delist(int32_t node);
  static uint64_t Hash(int32_t parent, std::span<const int32_t> tokens);

  std::vector<Group> groups_;
  int64_t max_pages_;
  std::vector<int32_t> uses_;    // by page: sequences that hold it, and the index
  std::vector<int32_t> node_of_; // by page: the index's node, or -1
  std::vector<int32_t> free_pages_;
  int64_t next_page_ = 0;        // pages from here on were never used
  std::vector<Sequence> sequences_;
  std::vector<Id> free_sequences_;

  std::vector<Node> nodes_;
  std::vector<int32_t> free_nodes_;
  std::unordered_map<uint64_t, int32_t> roots_;                    // by key
  std::unordered_multimap<uint64_t, int32_t> by_tokens_;           // by parent and tokens
  std::set<std::pair<uint64_t, int32_t>> evictable_;               // idle leaves by `used`
  int64_t idle_ = 0;             // pages of the index that no sequence holds
  uint64_t clock_ = 0;
  int64_t evicted_ = 0;
};

}  // namespace cambium
