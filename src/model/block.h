#pragma once

#include <exception>
#include <span>
#include <vector>

#include "model/graft.h"
#include "model/pass.h"
#include "model/tape.h"
#include "model/weights.h"

namespace cambium {

// What the graft ranges of a pass use when they run side by side, each on one thread.
struct RangeThreads {
  ThreadPool one{1};
  std::vector<Workspace> workspaces;      // one a thread
  std::vector<std::exception_ptr> errors;  // one a range
};

// A pass on its way through the blocks: what every block of it shares.
struct BlockRun {
  // Neighbouring rows that carry the same grafts.
  struct GraftRange {
    int64_t begin, count;
    std::span<Graft* const> grafts;
  };

  BlockRun(const ModelConfig& config, ThreadPool& pool, Workspace& workspace, Pass& pass)
      : config(config), pool(pool), workspace(workspace), pass(pass), tape(pass.training.tape) {}

  const ModelConfig& config;
  ThreadPool& pool;
  Workspace& workspace;
  Pass& pass;
  Tape* tape;                               // null when serving, or in the first run of a checkpointed pass
  Tensor x;                                 // [rows, hidden] the residual stream, changed in place
  Tensor inv_freq, inv_freq_sliding;        // [rotated values of a head / 2]
  std::vector<GraftRange> graft_ranges;
  RangeThreads* range_threads = nullptr;    // where the ranges may run side by side: few rows each, no graft in two
  std::vector<AttentionSegment> segments;   // of this pass, with their pages
  std::vector<AttentionSegment> cross_segments;  // of a decoder with an encoder: what its rows see of their sources
  std::vector<int32_t> training_pages;      // backs the segments when the pass has no cache
  void* training_kv = nullptr;              // one layer of pages, f32, reused by every layer
  int64_t prefix_length = 0;                // slots before every segment that a prefix graft fills (training)
  Graft* prefix_graft = nullptr;

  // A model with an encoder has a run for each stack.
  bool encoder = false;             // this one is the encoder's
  int64_t first_layer = 0;          // of the stack: layers are counted through both
  int64_t cross_prefix_length = 0;  // as prefix_length, before what the decoder sees of a source
  BlockRun* source = nullptr;       // training: the encoder's run, whose result the decoder reads
  Tensor memory, dmemory;           // of the encoder: its result [rows, hidden], and the gradient of that

  // Where the gradients of a norm's parameters go; empty unless a graft trains them.
  Graft::NormGradient NormGradientOf(int layer, NormKind kind) const;
  GraftContext context() const { return {pool, workspace, pass.compute, tape, pass.training.noise}; }
};

// Lets grafts act on the result of a norm.
void AtNorm(BlockRun& run, int layer, NormKind kind, Tensor y);

// One transformer block on run.x. With a tape it leaves what BlockBackward needs.
void Block(BlockRun& run, const BlockWeights& weights, int layer);

// Takes dx = dloss/d(block output) [rows, hidden] and turns it into dloss/d(block input), popping what Block pushed.
void BlockBackward(BlockRun& run, const BlockWeights& weights, int layer, Tensor dx);

}  // namespace cambium
