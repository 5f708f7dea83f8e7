#include "engine/loop_guard.h"

#include <algorithm>

namespace cambium {

bool LoopGuard::Push(int32_t token) {
  bool loops = false;
  for (int64_t period = 1; period <= std::min(kLongestPeriod, size_); ++period) {
    int32_t& equal = equal_[static_cast<size_t>(period)];
    equal = last_[static_cast<size_t>((size_ - period) % kSlots)] == token ? equal + 1 : 0;
    loops |= equal + period >= std::max(kLeastTokens, kLeastTimes * period);
  }
  last_[static_cast<size_t>(size_ % kSlots)] = token;
  ++size_;
  return loops;
}

}  // namespace cambium
