#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cambium/engine.h"

namespace cambium {

// A hypothesis that has ended.
struct Beam {
  std::vector<int32_t> tokens;  // of the answer, without the end token
  int32_t end_token = -1;       // -1: it was as long as it may be
  double score = 0;
};

// Which hypotheses go on and which have ended: transformers' beam search (generation/utils.py, _beam_search), of one
// text. Of equal sums the lower hypothesis goes first, then the lower id.
class BeamSearch {
 public:
  static constexpr int64_t kMostBeams = 256;

  // kUsage for options out of range. `max_tokens` >= 1; `ends` says whether a token ends the text.
  BeamSearch(const BeamOptions& options, int64_t max_tokens, std::function<bool(int32_t)> ends);

  // A hypothesis that goes on: `token` behind hypothesis `parent` of the step before.
  struct Running {
    std::vector<int32_t> tokens;  // of the answer
    float sum = 0;                // of log-probabilities
    int64_t parent = 0;
  };
  // The first step has options.count of them, alike, of which only the first may win.
  std::span<const Running> running() const { return running_; }

  // One step: logprobs[i] are the log-probabilities behind running()[i], -inf where a token may not stand. False when
  // the search is over.
  bool Advance(std::span<const std::vector<float>> logprobs);
  // Best first.
  std::vector<Beam> Ended() const { return ended_; }

 private:
  struct Candidate {
    float sum;
    int64_t parent;
    int32_t token;
  };
  std::vector<Candidate> Best(std::span<const std::vector<float>> logprobs) const;
  void KeepEnded(std::span<const Candidate> best, double length);
  bool MayImprove() const;

  BeamOptions options_;
  int64_t max_tokens_;
  std::function<bool(int32_t)> ends_;
  std::vector<Running> running_;
  std::vector<Beam> ended_;
};

}  // namespace cambium
