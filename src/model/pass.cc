#include "model/pass.h"

namespace cambium {

Pass::Segment& Pass::Append(KvCache::Id sequence, int64_t past, std::span<const int32_t> new_tokens,
                            std::span<const int32_t> parents) {
  Segment segment;
  segment.sequence = sequence;
  segment.past = past;
  segment.begin = rows();
  segment.count = static_cast<int64_t>(new_tokens.size());
  segment.parents = parents;
  for (size_t i = 0; i < new_tokens.size(); ++i) {
    tokens.push_back(new_tokens[i]);
    const int64_t depth = parents.empty() ? static_cast<int64_t>(i)
                          : parents[i] < 0
                              ? 0
                              : positions[static_cast<size_t>(segment.begin + parents[i])] - past + 1;
    positions.push_back(static_cast<int32_t>(past + depth));
  }
  return segments.emplace_back(segment);
}

}  // namespace cambium
