#pragma once

#include <memory>
#include <vector>

#include "base/parallel.h"
#include "model/base_model.h"
#include "model/graft.h"
#include "model/pass.h"
#include "model/tape.h"

namespace cambium {

struct BlockRun;
struct RangeThreads;

// The one forward pass (law 1), and its backward beneath it: what runs a base model, with the memory that a pass takes. Not
// thread-safe: one Transformer, one pass at a time.
class Transformer {
 public:
  explicit Transformer(BaseModel& base);  // which outlives it, and may have others
  Transformer(std::unique_ptr<ModelWeights> weights, ThreadPool& pool);  // on a base of its own
  ~Transformer();

  BaseModel& base() { return *base_; }
  const BaseModel& base() const { return *base_; }
  const ModelConfig& config() const { return base_->config(); }
  const ModelWeights& weights() const { return base_->weights(); }
  ThreadPool& pool() const { return base_->pool(); }
  Workspace& workspace() { return workspace_; }

  // Runs the rows of `pass` through the blocks of its stack; keys and values go into the cache's slots beyond each sequence's
  // committed length, and stay uncommitted: call KvCache::Commit (or CommitAll) afterwards.
  // An encoder's rows keep theirs in the pass; what the decoder sees of them is committed to the sequences of its memory.
  void Forward(Pass& pass);

  // Empties the sequence and fills its first slots with what the grafts put before every text (prefixes, then their
  // own rows, for which it runs a pass); positions go on behind them. Returns how many slots that took.
  int64_t BeginSequence(KvCache& kv, KvCache::Id sequence, std::span<Graft* const> grafts);

  // Training. Given dhidden = dloss/d(pass.result.hidden) [rows, hidden], pops the tape that Forward filled and adds every
  // graft's parameter gradients. Stops beneath the grafts' lowest layer. dhidden is overwritten.
  void Backward(Pass& pass, Tensor dhidden);

  // logits [rows, vocab] = output head of normed hidden rows [rows, hidden].
  void Head(Compute compute, Tensor hidden, Tensor logits);
  // RmsNorm or LayerNorm with the model's final norm; y may alias x.
  void FinalNorm(Tensor x, Tensor y);
  void FinalNormBackward(Tensor dy, Tensor x, Tensor dx, Tensor dgain, Tensor dbias);  // adds to dgain, dbias

 private:
  explicit Transformer(std::shared_ptr<BaseModel> base);
  // The blocks of the pass's stack; `source`: the encoder's run that a decoder's is trained with.
  std::unique_ptr<BlockRun> RunStack(Pass& pass, BlockRun* source);
  void BackwardStack(BlockRun& run, Tensor dhidden, int64_t lowest);
  int64_t LastLayer(const Pass& pass) const;
  int FinalNormAt(const Pass& pass) const;
  void Embed(BlockRun& run);
  void EmbedBackward(BlockRun& run, Tensor dx, bool wanted);
  const NormWeights& EmbeddingNorm(bool encoder) const;
  void KeepMemory(BlockRun& run);
  void Logits(BlockRun& run);  // of the rows that the pass wants

  std::shared_ptr<BaseModel> base_;
  Workspace workspace_;
  std::unique_ptr<BlockRun> run_, source_run_;  // of a Forward with a tape, until its Backward
  OwnedTensor inv_freq_, inv_freq_sliding_;  // [head_dim / 2]
  std::unique_ptr<RangeThreads> range_threads_;
  Buffer training_kv_;                       // one layer's keys and values when a pass has no cache
};

// Commits every row of every (chain) segment of the pass.
void CommitAll(Pass& pass);

}  // namespace cambium
