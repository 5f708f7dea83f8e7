#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "cambium/cambium.h"

namespace cambium {

// Draws tokens. A draw is a pure function of (options, logits, history, position): the noise is counter-based, keyed by
// seed and position, so it is the same on any thread count, in any batch, and inside or outside a draft (law 7).
class Sampler {
 public:
  // Tokens from `tokens` on, rows of the embedding that no text has a token for, are never drawn. `filter` (null: none)
  // sees the logits first and outlives the sampler. kUsage for values out of range.
  explicit Sampler(SamplingOptions options, int64_t tokens = std::numeric_limits<int64_t>::max(),
                   LogitsFilter* filter = nullptr);

  const SamplingOptions& options() const { return options_; }
  bool greedy() const { return options_.temperature == 0; }

  // A token that survives the filters, with its warped logit (after temperature).
  struct Candidate {
    int32_t token;
    float logit;
  };
  // What is left of logits [vocab] after bias, repeat penalty, top-k, top-p, min-p and temperature, in llama.cpp's order;
  // highest first, equal logits by token id. Greedy leaves one. Valid until the next call.
  std::span<const Candidate> Warp(std::span<const float> logits, std::span<const int32_t> history);

  // The token at `position` of the sequence: argmax of warped logits plus that position's Gumbel noise (greedy: no
  // noise). kRuntime if no logit is finite.
  int32_t Draw(std::span<const float> logits, std::span<const int32_t> history, int64_t position);

 private:
  void Penalize(std::span<const int32_t> history);

  SamplingOptions options_;
  int64_t tokens_;
  LogitsFilter* filter_;
  std::vector<float> adjusted_;        // logits after filter, bias and penalties, when there are any
  std::vector<Candidate> candidates_;
};

}  // namespace cambium
