#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "decode/drafter.h"

namespace cambium {

// The sequence as a drafter sees it: the prompt, then what was drawn. Its last token is the root of the next draft.
class History {
 public:
  // Returns how many tokens of the prompt it goes on from: all that were seen, or none where it is another text.
  int64_t Begin(std::span<const int32_t> prompt) {
    const bool goes_on = prompt.size() >= tokens_.size() && std::equal(tokens_.begin(), tokens_.end(), prompt.begin());
    const int64_t seen = goes_on ? size() : 0;
    tokens_.assign(prompt.begin(), prompt.end());
    return seen;
  }
  void Observe(const Observation& observation) {
    tokens_.resize(static_cast<size_t>(observation.position));
    tokens_.insert(tokens_.end(), observation.tokens.begin(), observation.tokens.end());
    tokens_.push_back(observation.next);
  }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }

 private:
  std::vector<int32_t> tokens_;
};

}  // namespace cambium
