#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/parallel.h"
#include "model/weights.h"

namespace cambium {

// The frozen base as grafts see it: its weights, and the threads that may prepare things for it. Nothing of it changes
// while it is served, so any number of Transformers may run on one; full fine-tuning, which trains it, is alone on it.
class BaseModel {
 public:
  BaseModel(std::unique_ptr<ModelWeights> weights, ThreadPool& pool) : weights_(std::move(weights)), pool_(pool) {}

  const ModelConfig& config() const { return weights_->config; }
  const ModelWeights& weights() const { return *weights_; }
  ModelWeights& mutable_weights() { return *weights_; }
  ThreadPool& pool() const { return pool_; }

  // Embeddings of tokens, scaled as the family wants; y [tokens, hidden]. A negative token is a row of zeros. kData for a
  // token, kUsage for a position that the model has no row for.
  // `encoder`: with the encoder's positions. The norm behind it is the caller's.
  void Embed(std::span<const int32_t> tokens, std::span<const int32_t> positions, Tensor y, bool encoder = false) const;
  // Adds the rows of dy [tokens, hidden] to dembedding [vocab, hidden] and, unless empty, dpositions [context, hidden].
  void EmbedBackward(std::span<const int32_t> tokens, std::span<const int32_t> positions, Tensor dy, Tensor dembedding,
                     Tensor dpositions) const;

 private:
  std::unique_ptr<ModelWeights> weights_;
  ThreadPool& pool_;
};

}  // namespace cambium
