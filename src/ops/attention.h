#pragma once

#include <cstdint>
#include <span>

#include "base/parallel.h"
#include "tensor/buffer.h"
#include "tensor/tensor.h"

namespace cambium {

struct AttentionShape {
  int heads, kv_heads, head_dim;
  float scale;           // multiplies q k^T
  int window = 0;        // 0, or the number of positions a row sees, itself included
  float softcap = 0.0f;  // 0, or cap * tanh(s / cap) on the scaled score (Gemma 2)
};

// One layer's keys and values in pages of 16 slots. A page holds keys [kv_heads][head_dim][16] (transposed: lanes are
// slots), then values [kv_heads][16][head_dim]. In kQ8_0 an element is a signed byte times a scale in f16, which up to
// 32 neighbours of a slot's head share; the scales follow: of keys [kv_heads][blocks][16], of values
// [kv_heads][16][blocks].
struct KvLayer {
  static constexpr int kPageSlots = 16, kScaleBlock = 32;
  void* base;   // page p starts at base + p * page_bytes
  DType dtype;  // kF16, kF32 or kQ8_0
  int kv_heads, head_dim;
  int64_t page_bytes;  // stride between pages; >= PageBytes(...)

  static int64_t Blocks(int head_dim) { return (head_dim + kScaleBlock - 1) / kScaleBlock; }
  static int64_t PageBytes(DType dtype, int kv_heads, int head_dim) {
    const int64_t head = dtype == DType::kQ8_0 ? head_dim + 2 * Blocks(head_dim) : head_dim * Info(dtype).bytes;
    return static_cast<int64_t>(CheckedBytes({2, kPageSlots, kv_heads, head}));
  }
  int64_t blocks() const { return Blocks(head_dim); }
  // Where in a page, in f16 from its scales on, those of a slot stand: of the key's block b at [b * 16], of the value's
  // at [b].
  int64_t KeyScales(int64_t head, int64_t slot) const { return head * blocks() * kPageSlots + slot % kPageSlots; }
  int64_t ValueScales(int64_t head, int64_t slot) const {
    return ((kv_heads + head) * kPageSlots + slot % kPageSlots) * blocks();
  }
  int64_t ScalesBegin() const { return int64_t{2} * kPageSlots * kv_heads * head_dim; }  // bytes into a page
};

// Rows of one sequence in a pass: rows [begin, begin + count) of q. Slot s of the sequence is slot s % 16 of page
// pages[s / 16]. Slots [0, past) are committed; row i of the segment sits in slot past + i. Row i sees the committed
// slots, itself and its ancestors: parents[i] is the segment row of its parent, or -1 for a child of the last committed
// slot; parents[i] < i. An empty `parents` is a chain (row i sees rows 0..i): prefill and plain decoding.
// The LOGICAL position of a key is its slot if committed, past + depth for the row's ancestor at that depth; tiles,
// sums and windows go by logical position, so a row's result is the same in a tree, in a chain, or alone.
//
// Rows of a memory segment (memory >= 0) see the slots [0, past + memory) and nothing of themselves: an encoder's rows
// each other, a decoder's rows what its encoder made. Behind `past` slots of a prefix stand the keys and values of rows
// [memory_begin, memory_begin + memory) of another tensor, which the caller stores.
struct AttentionSegment {
  std::span<const int32_t> pages;
  int64_t past = 0;
  int64_t begin = 0, count = 0;
  std::span<const int32_t> parents;
  int64_t memory = -1, memory_begin = 0;

  bool sees_memory() const { return memory >= 0; }
  // The rows of k and v that belong to it.
  int64_t key_begin() const { return sees_memory() ? memory_begin : begin; }
  int64_t keys() const { return sees_memory() ? memory : count; }
};

// Writes k, v [rows, kv_heads, head_dim] of every segment's rows into their slots.
void StoreKv(ThreadPool& pool, const KvLayer& layer, std::span<const AttentionSegment> segments, Tensor k, Tensor v);

// Reads slots [begin, begin + count) of a sequence into k, v [count, kv_heads, head_dim]: what StoreKv wrote, as
// rounded.
void LoadKv(const KvLayer& layer, std::span<const int32_t> pages, int64_t begin, Tensor k, Tensor v);

// Copies slot `from` onto slot `to` (both of one sequence): commits an accepted path.
void MoveKv(const KvLayer& layer, std::span<const int32_t> pages, int64_t from, int64_t to);

// FlashAttention-style (Dao et al. 2022) softmax(scale q k^T) v with online softmax over tiles; no scores matrix.
// q, out [rows, heads, head_dim]; lse [rows, heads] optional: log-sum-exp of the scaled scores, for the backward pass.
void Attention(ThreadPool& pool, Workspace& workspace, const AttentionShape& shape, const KvLayer& layer,
               std::span<const AttentionSegment> segments, Tensor q, Tensor out, Tensor lse = {});

// Recomputes probabilities from lse; chains and memories only (training). Each segment's keys are prefix_k/v [past,
// kv_heads, head_dim] (empty if past == 0; shared by all segments that have past > 0) followed by its own rows of k, v,
// or its memory's. dq, dk, dv overwrite; dprefix_k/v ADD. Tensors [rows, heads or kv_heads, head_dim].
void AttentionBackward(ThreadPool& pool, Workspace& workspace, const AttentionShape& shape,
                       std::span<const AttentionSegment> segments, Tensor q, Tensor k, Tensor v, Tensor prefix_k,
                       Tensor prefix_v, Tensor out, Tensor lse, Tensor dout, Tensor dq, Tensor dk, Tensor dv,
                       Tensor dprefix_k, Tensor dprefix_v);

}  // namespace cambium
