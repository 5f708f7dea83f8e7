#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/kv_cache.h"
#include "ops/ops.h"

namespace cambium {

class Graft;
class Tape;

// What a pass that is trained through needs besides its rows.
struct PassTraining {
  Tape* tape = nullptr;                  // null when serving
  uint64_t noise = 0;                    // key of the grafts' random draws (dropout) in this pass; 0 = none
  bool checkpoint = false;               // keep only each block's input on the tape; backward runs the block again
  DType gradient_storage = DType::kF32;  // what the residual stream's gradient is rounded to between sub-layers
  // Sees the residual stream's gradient below each sub-layer of block `layer`, before that rounding; may be empty.
  std::function<void(int64_t layer, Tensor dx)> observe_gradient;
  std::vector<Tensor> dcaptured;  // gradient of each captured output, for Backward; empty = none
};

// What Forward made of a pass, valid until the next Forward on the same Transformer.
struct PassResult {
  Tensor hidden;                 // [rows, hidden] after the final norm
  Tensor logits;                 // [logit_rows, vocab]
  std::vector<Tensor> captured;  // one [rows, hidden] per entry of Pass::capture
};

// One forward over rows. Rows are flat: all segments after one another.
struct Pass {
  // Rows of one sequence: row i of the segment takes slot past + i in the cache and position past + depth. parents as in
  // AttentionSegment: empty for a chain.
  struct Segment {
    KvCache::Id sequence = 0;
    int64_t past = 0;
    int64_t begin = 0, count = 0;
    std::span<const int32_t> parents;
    std::span<Graft* const> grafts;  // act on these rows, in this order; empty for the bare base
    // Of Pass::memory: what a decoder's rows see of their source, or where an encoder's rows are kept.
    KvCache::Id memory = -1;
  };

  std::vector<int32_t> tokens;      // [rows]; negative: a row of a graft's own prompt (Graft::AtEmbedding)
  std::vector<int32_t> positions;   // [rows]
  std::vector<Segment> segments;
  std::vector<int32_t> logit_rows;  // rows whose logits are wanted, ascending; empty = none

  Compute compute = Compute::kInt8;
  KvCache* kv = nullptr;         // null in training: keys and values live in this pass alone
  int64_t kv_layer = 0;          // the cache's layer of the first block: beyond 0 for a module beside the model
  int64_t layers = -1;           // run only the first `layers` blocks (early exit); -1 = all
  std::vector<int64_t> capture;  // layers whose output (the residual stream after block k, 0-based) is wanted

  // A model with an encoder. Serving: a pass of the encoder over sources fills sequences of `memory`, which passes of
  // the decoder read. Training: the decoder's pass names its encoder's, with a segment for each of its own.
  bool encoder = false;
  KvCache* memory = nullptr;
  Pass* source = nullptr;

  PassTraining training;
  PassResult result;

  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
  // Appends a chain (or tree) of one sequence behind its first `past` slots. A sequence has one segment in a pass.
  Segment& Append(KvCache::Id sequence, int64_t past, std::span<const int32_t> new_tokens,
                  std::span<const int32_t> parents = {});
};

}  // namespace cambium
