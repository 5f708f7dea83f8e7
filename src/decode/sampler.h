#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "cambium/cambium.h"

namespace cambium {

// What a request says of its draws beside how they are sampled.
struct DrawRules {
  int64_t vocabulary =
      std::numeric_limits<int64_t>::max();   // tokens from here on, rows without a text, are never drawn
  LogitsFilter* filter = nullptr;            // sees the logits first; outlives the sampler
  int64_t prompt = 0;                        // tokens of the history before the answer
  int64_t min_tokens = 0;                    // of the answer, before which no end token is drawn
  std::span<const int32_t> end_tokens = {};  // outlive the sampler
  LogitsFilter* constraint = nullptr;        // before the filter; outlives the sampler
  // The only token that may be the answer's first, and its last where it has max_tokens; -1: any.
  int32_t forced_first = -1, forced_last = -1;
  int64_t max_tokens = -1;
};

// Draws tokens. A draw is a pure function of (options, logits, history, position): the noise is counter-based, keyed by
// seed and position, so it is the same on any thread count, in any batch, and inside or outside a draft (law 7).
class Sampler {
 public:
  explicit Sampler(SamplingOptions options, const DrawRules& rules = {});  // kUsage for values out of range

  const SamplingOptions& options() const { return options_; }
  bool greedy() const { return options_.temperature == 0; }

  // A token that survives the filters, with its warped logit (after temperature).
  struct Candidate {
    int32_t token;
    float logit;
  };
  // What is left of logits [vocab] after bias, penalties, top-k, top-p, min-p and temperature, in llama.cpp's order;
  // highest first, equal logits by token id. Greedy leaves one. Valid until the next call.
  std::span<const Candidate> Warp(std::span<const float> logits, std::span<const int32_t> history);

  // Logits (or log-probabilities) after filter, bias, penalties, and with -inf where no token may be drawn; of the
  // vocabulary that may be. Valid until the next call.
  std::span<const float> Adjusted(std::span<const float> logits, std::span<const int32_t> history);

  // The token at `position` of the sequence: argmax of warped logits plus that position's Gumbel noise (greedy: no
  // noise). kRuntime if no logit is finite.
  int32_t Draw(std::span<const float> logits, std::span<const int32_t> history, int64_t position);

 private:
  bool adjusts(std::span<const int32_t> history) const;
  bool may_end(std::span<const int32_t> history) const;
  void Adjust(std::span<const int32_t> history);
  template <class F>
  void ForEachSeen(std::span<const int32_t> text, const F& f);
  void PenalizeRepeats(std::span<const int32_t> history);
  void PenalizeAnswer(std::span<const int32_t> answer);
  void BanRepeats(std::span<const int32_t> history);
  int32_t forced(std::span<const int32_t> history) const;  // -1: none

  SamplingOptions options_;
  DrawRules rules_;
  std::vector<float> adjusted_;  // logits after filter, bias and penalties, when there are any
  std::vector<Candidate> candidates_;
};

}  // namespace cambium
