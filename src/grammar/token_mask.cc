#include "grammar/token_mask.h"

#include <algorithm>

namespace cambium {
namespace {

// Walks the subtree below `top`, whose bytes led to `set`. visit(node, set) sees each node that is reached alive.
// `without_plain`: those are left out that only plain bytes lead to and that have only plain bytes below.
template <class Visit>
void Walk(const Vocabulary& vocabulary, Acceptor& run, int32_t top, Acceptor::Set set, bool without_plain,
          const Visit& visit) {
  struct Level {
    int32_t end;
    Acceptor::Set set;
    bool plain;  // so far
  };
  std::vector<Level> levels = {{vocabulary.end(top), set, without_plain}};
  int32_t node = top + 1;
  while (node < vocabulary.end(top)) {
    while (node >= levels.back().end) levels.pop_back();
    const bool plain = levels.back().plain && IsPlain(vocabulary.byte(node));
    const bool left_out = plain && vocabulary.plain_below(node);
    const Acceptor::Set next = left_out ? Acceptor::kDead : run.Step(levels.back().set, vocabulary.byte(node));
    if (next == Acceptor::kDead) {
      node = vocabulary.end(node);
      continue;
    }
    visit(node, next);
    levels.push_back({vocabulary.end(node), next, plain});
    ++node;
  }
}

// Whether all plain bytes lead to the same from each state of the set.
bool TreatsPlainAlike(const Acceptor& run, Acceptor::Set set) {
  static constexpr Program::Edge kRuns[] = {{0x20, 0x21, 0}, {0x23, 0x5b, 0}, {0x5d, 0x7e, 0}};
  std::vector<std::pair<int32_t, int>> reached;  // where edges lead to, and which runs they take there
  for (const Acceptor::Configuration at : run.configurations(set)) {
    reached.clear();
    for (const Program::Edge& edge : run.program().edges(at.state)) {
      int taken = 0;
      for (int i = 0; i < 3; ++i) {
        if (edge.hi < kRuns[i].lo || edge.lo > kRuns[i].hi) continue;
        if (edge.lo > kRuns[i].lo || edge.hi < kRuns[i].hi) return false;
        taken |= 1 << i;
      }
      if (taken == 0) continue;
      const auto found = std::ranges::find(reached, edge.to, &std::pair<int32_t, int>::first);
      if (found == reached.end()) {
        reached.emplace_back(edge.to, taken);
      } else {
        found->second |= taken;
      }
    }
    if (!std::ranges::all_of(reached, [](const auto& to) { return to.second == 7; })) return false;
  }
  return true;
}

void AddTokens(const Vocabulary& vocabulary, int32_t node, TokenSet& mask) {
  for (int32_t id = vocabulary.token(node); id >= 0; id = vocabulary.same(id)) mask.Add(id);
}

}  // namespace

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

// How many plain bytes may follow, whichever they are, the rule not being complete behind any; all that a token has
// where there is no end. -1: that depends on which.
int64_t TokenMasks::PlainBytes(Acceptor::Set set) {
  const auto most = static_cast<int64_t>(vocabulary_->longest_plain());
  for (int64_t count = 0; count < most; ++count) {
    if (!TreatsPlainAlike(*explorer_, set)) return -1;
    const Acceptor::Set next = explorer_->Step(set, ' ');
    if (next == Acceptor::kDead) return count;
    if (explorer_->complete(next)) return -1;
    if (next == set) return most;
    set = next;
  }
  return most;
}

TokenMasks::Inner TokenMasks::Explore(int32_t state, const std::vector<Acceptor::Frame>& frames) {
  constexpr size_t kFew = 256;
  if (explorer_ == nullptr || explorer_->bytes() > kMostBytes) explorer_ = std::make_unique<Acceptor>(program_);
  Acceptor& run = *explorer_;
  Inner inner;
  const Acceptor::Set begin = run.Only(state, frames);
  if (begin == Acceptor::kDead) return inner;
  const int64_t plain = PlainBytes(begin);
  TokenSet inside = vocabulary_->plain(static_cast<size_t>(std::max<int64_t>(plain, 0)));
  Walk(*vocabulary_, run, 0, begin, plain >= 0, [&](int32_t node, Acceptor::Set set) {
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
  const std::lock_guard lock(mutex_);
  if (const auto found = inner_.find(key); found != inner_.end()) return found->second;
  std::ranges::reverse(frames);
  auto inner = std::make_shared<const Inner>(Explore(at.state, frames));
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
      Walk(*vocabulary_, run, exit, behind, false,
           [&](int32_t node, Acceptor::Set) { AddTokens(*vocabulary_, node, mask); });
    }
  }
}

void TokenMasks::CollectPlainly(Acceptor& run, Acceptor::Set set, TokenSet& mask) const {
  Walk(*vocabulary_, run, 0, set, false, [&](int32_t node, Acceptor::Set) { AddTokens(*vocabulary_, node, mask); });
}

}  // namespace cambium
