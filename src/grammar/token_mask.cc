#include "grammar/token_mask.h"

#include <algorithm>
#include <bit>

namespace cambium {
namespace {

// Walks the subtree below `top`, whose bytes led to `set`. visit(node, set) sees each node that is reached alive.
template <class Visit>
void Walk(const Vocabulary& vocabulary, Acceptor& run, int32_t top, Acceptor::Set set, const Visit& visit) {
  struct Level {
    int32_t end;
    Acceptor::Set set;
  };
  std::vector<Level> levels = {{vocabulary.end(top), set}};
  int32_t node = top + 1;
  while (node < vocabulary.end(top)) {
    while (node >= levels.back().end) levels.pop_back();
    const Acceptor::Set next = run.Step(levels.back().set, vocabulary.byte(node));
    if (next == Acceptor::kDead) {
      node = vocabulary.end(node);
      continue;
    }
    visit(node, next);
    levels.push_back({vocabulary.end(node), next});
    ++node;
  }
}

void AddTokens(const Vocabulary& vocabulary, int32_t node, TokenSet& mask) {
  for (int32_t id = vocabulary.token(node); id >= 0; id = vocabulary.same(id)) mask.Add(id);
}

}  // namespace

int64_t TokenSet::Count() const {
  int64_t count = 0;
  for (const uint64_t word : words_) count += std::popcount(word);
  return count;
}

std::vector<int32_t> TokenSet::First(size_t most) const {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < words_.size() && ids.size() < most; ++i) {
    for (uint64_t word = words_[i]; word != 0 && ids.size() < most; word &= word - 1) {
      ids.push_back(static_cast<int32_t>(i * 64) + std::countr_zero(word));
    }
  }
  return ids;
}

size_t TokenMasks::Inner::bytes() const {
  return 128 + (few.size() + exits.size()) * sizeof(int32_t) + (many != nullptr ? many->words().size() * 8 : 0);
}

// A count of the same future: a token is at most longest() bodies long.
int64_t TokenMasks::Canonical(int64_t count, const Program::Loop& loop) const {
  const int64_t most = vocabulary_->longest();
  if (loop.max != Rules::kNoLimit && loop.max - count <= most) return count;
  if (count >= loop.min) return loop.min;
  return loop.min - count > most ? 0 : count;
}

TokenMasks::Inner TokenMasks::Explore(int32_t state, const std::vector<Acceptor::Frame>& frames) const {
  constexpr size_t kFew = 256;
  Acceptor run(program_);
  TokenSet inside(vocabulary_->tokens());
  Inner inner;
  const Acceptor::Set begin = run.Only(state, frames);
  if (begin == Acceptor::kDead) return inner;
  Walk(*vocabulary_, run, 0, begin, [&](int32_t node, Acceptor::Set set) {
    AddTokens(*vocabulary_, node, inside);
    if (run.complete(set)) inner.exits.push_back(node);
  });
  inner.few = inside.First(kFew);
  if (inner.few.size() == kFew) {
    inner.few.clear();
    inner.many = std::make_unique<TokenSet>(std::move(inside));
  }
  return inner;
}

std::shared_ptr<const TokenMasks::Inner> TokenMasks::InnerOf(const Acceptor& run, Acceptor::Configuration at,
                                                             int32_t& below) {
  Key key = {at.state};
  std::vector<Acceptor::Frame> frames;
  below = at.frame;
  while (below >= 0 && run.frame(below).loop >= 0) {
    Acceptor::Frame frame = run.frame(below);
    frame.count = Canonical(frame.count, program_.loop(frame.loop));
    key.insert(key.end(), {frame.next, frame.loop, frame.count});
    below = frame.below;
    frames.push_back(frame);
  }
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = inner_.find(key); found != inner_.end()) return found->second;
  }
  std::ranges::reverse(frames);
  auto inner = std::make_shared<const Inner>(Explore(at.state, frames));
  const std::lock_guard lock(mutex_);
  if (kept_bytes_ > kMostBytes) {
    inner_.clear();
    kept_bytes_ = 0;
  }
  kept_bytes_ += inner->bytes();
  inner_.emplace(std::move(key), inner);
  return inner;
}

void TokenMasks::Collect(Acceptor& run, Acceptor::Set set, TokenSet& mask) {
  const auto configurations = run.configurations(set);
  const std::vector<Acceptor::Configuration> open(configurations.begin(), configurations.end());
  for (const Acceptor::Configuration at : open) {
    int32_t below = -1;
    const std::shared_ptr<const Inner> inner = InnerOf(run, at, below);
    if (inner->many != nullptr) mask.Add(*inner->many);
    for (const int32_t id : inner->few) mask.Add(id);
    if (inner->exits.empty() || below < 0) continue;
    const Acceptor::Set behind = run.Return(below);
    if (behind == Acceptor::kDead || !run.open(behind)) continue;
    for (const int32_t exit : inner->exits) {
      if (vocabulary_->end(exit) == exit + 1) continue;
      Walk(*vocabulary_, run, exit, behind, [&](int32_t node, Acceptor::Set) { AddTokens(*vocabulary_, node, mask); });
    }
  }
}

void TokenMasks::CollectPlainly(Acceptor& run, Acceptor::Set set, TokenSet& mask) const {
  Walk(*vocabulary_, run, 0, set, [&](int32_t node, Acceptor::Set) { AddTokens(*vocabulary_, node, mask); });
}

}  // namespace cambium
