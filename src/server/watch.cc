#include "server/watch.h"

#include <algorithm>

namespace cambium::server {

constexpr auto kCostsAge = std::chrono::milliseconds(500);  // the curve moves slowly

void Watch::Began(Key key, Stream stream) {
  const std::lock_guard lock(mutex_);
  streams_.emplace(key, std::move(stream));
}

void Watch::Drew(Key key, bool drafted) {
  const std::lock_guard lock(mutex_);
  const auto found = streams_.find(key);
  if (found == streams_.end()) return;
  ++found->second.tokens;
  found->second.drafted += drafted;
}

void Watch::Ended(Key key, const Generation& generation) {
  const std::lock_guard lock(mutex_);
  streams_.erase(key);
  const DraftReport& draft = generation.draft;
  for (size_t i = 0; i < draft.drafters.size(); ++i) {
    DraftedBy& sum = drafts_.drafters[draft.drafters[i]];
    sum.drafted += draft.by_drafter[i].drafted;
    sum.accepted += draft.by_drafter[i].accepted;
  }
  if (draft.plain_ms <= 0) return;
  drafts_.passes += draft.passes;
  drafts_.tokens += generation.timings.decode_tokens;
  drafts_.spent_ms += draft.draft_ms + draft.verify_ms;
  drafts_.plain_ms += static_cast<double>(generation.timings.decode_tokens) * draft.plain_ms;
}

void Watch::Stepped(const EngineStats& stats, const Engine& engine) {
  const std::lock_guard lock(mutex_);
  if (stats.steps < last_.steps) last_ = {};  // the engine slept, and was loaded anew
  if (stats.steps > last_.steps) {
    passes_.push_back(
        {++number_, stats.last_rows, stats.prompt_rows - last_.prompt_rows, stats.running, stats.last_ms});
    if (passes_.size() > kPasses) passes_.pop_front();
  }
  last_ = stats;
  const Clock::time_point now = Clock::now();
  if (!costs_.empty() && now - costs_read_ < kCostsAge) return;
  costs_read_ = now;
  costs_ = engine.PassCosts();
}

std::vector<Watch::Stream> Watch::Streams() const {
  std::vector<Stream> streams;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, stream] : streams_) streams.push_back(stream);
  }
  std::ranges::sort(streams, {}, &Stream::arrived);
  return streams;
}

std::vector<Watch::Pass> Watch::Passes(int64_t after) const {
  const std::lock_guard lock(mutex_);
  const auto first = std::ranges::upper_bound(passes_, after, {}, &Pass::number);
  return {first, passes_.end()};
}

std::vector<PassCost> Watch::Costs() const {
  const std::lock_guard lock(mutex_);
  return costs_;
}

Watch::Drafts Watch::DraftsSoFar() const {
  const std::lock_guard lock(mutex_);
  return drafts_;
}

}  // namespace cambium::server
