#pragma once

#include <array>
#include <cstdint>

namespace cambium {

// Tells a text that goes round in a circle from one that repeats itself for a reason. It looks at the answer's tokens
// alone: they loop once their end is one sequence of at most kLongestPeriod tokens, the same at least kLeastTimes and
// at least kLeastTokens tokens in all. So a table of a hundred equal rows, a list of three hundred zeros and a page of
// equal lines of code pass; what a model says when it has lost its way does not stop by itself, and is found.
class LoopGuard {
 public:
  static constexpr int64_t kLongestPeriod = 512, kLeastTimes = 16, kLeastTokens = 1024;

  // Whether the tokens loop, now that `token` stands behind them.
  bool Push(int32_t token);

 private:
  static constexpr int64_t kSlots = kLongestPeriod + 1;
  std::array<int32_t, kSlots> last_{};   // a ring of the last tokens
  std::array<int32_t, kSlots> equal_{};  // by period: how many tokens at the end equal those a period before
  int64_t size_ = 0;
};

}  // namespace cambium
