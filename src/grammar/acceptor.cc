#include "grammar/acceptor.h"

#include <algorithm>

#include "cambium/error.h"

namespace cambium {
namespace {

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
  return hash ^ (hash >> 29);
}

}  // namespace

size_t Acceptor::bytes() const {
  return frames_.size() * (sizeof(Frame) + 40) + all_.size() * sizeof(Configuration) + sets_.size() * 64 +
         steps_.size() * sizeof(int32_t);
}

int32_t Acceptor::Push(const Frame& frame) {
  uint64_t hash = Mix(static_cast<uint64_t>(frame.next), static_cast<uint64_t>(frame.loop));
  hash = Mix(Mix(hash, static_cast<uint64_t>(frame.count)), static_cast<uint64_t>(frame.below));
  const auto [begin, end] = frame_index_.equal_range(hash);
  for (auto at = begin; at != end; ++at) {
    if (frames_[static_cast<size_t>(at->second)] == frame) return at->second;
  }
  frames_.push_back(frame);
  const int32_t index = static_cast<int32_t>(frames_.size()) - 1;
  frame_index_.emplace(hash, index);
  return index;
}

void Acceptor::Visit(int32_t state, int32_t frame) {
  if (reached_.size() >= 16) {  // few are looked through
    if (seen_.empty()) {
      for (const Configuration& c : reached_) {
        seen_[static_cast<uint64_t>(c.state) << 32 | static_cast<uint32_t>(c.frame)] = true;
      }
    }
    if (!seen_.emplace(static_cast<uint64_t>(state) << 32 | static_cast<uint32_t>(frame), true).second) return;
    if (reached_.size() >= kMostWays) {
      Fail(ErrorCode::kResource, "the grammar leaves more than ", kMostWays, " ways open at once: it is too ambiguous");
    }
  } else if (std::ranges::find(reached_, Configuration{state, frame}) != reached_.end()) {
    return;
  }
  reached_.push_back({state, frame});
}

// What is above `frame` is complete.
void Acceptor::Pop(int32_t frame) {
  if (frame < 0) {
    complete_ = true;
    return;
  }
  const Frame top = frames_[static_cast<size_t>(frame)];
  if (top.loop < 0) {
    Visit(top.next, top.below);
    return;
  }
  const Program::Loop& loop = program_.loop(top.loop);
  const bool bounded = loop.max != Rules::kNoLimit;
  const int64_t count = bounded ? top.count + 1 : std::min(top.count + 1, loop.min);
  if (count >= loop.min) Visit(top.next, top.below);
  if (!bounded || count < loop.max) Visit(loop.start, Push({top.next, top.loop, count, top.below}));
}

void Acceptor::Reset() {
  reached_.clear();
  seen_.clear();
  complete_ = false;
}

void Acceptor::Close() {
  for (size_t i = 0; i < reached_.size(); ++i) {
    const auto [state, frame] = reached_[i];
    for (const int32_t next : program_.skips(state)) Visit(next, frame);
    for (const Program::Call& call : program_.calls(state)) {
      Visit(call.start, call.next < 0 ? frame : Push({call.next, -1, 0, frame}));
    }
    for (const Program::Enter& enter : program_.enters(state)) {
      const Program::Loop& loop = program_.loop(enter.loop);
      if (loop.min == 0) Visit(enter.next, frame);
      Visit(loop.start, Push({enter.next, enter.loop, 0, frame}));
    }
    if (program_.ends(state)) Pop(frame);
  }
}

Acceptor::Set Acceptor::Intern() {
  std::erase_if(reached_, [&](const Configuration& c) { return program_.edges(c.state).empty(); });
  if (reached_.empty() && !complete_) return kDead;
  std::ranges::sort(reached_);
  uint64_t hash = complete_ ? 1 : 0;
  for (const Configuration& c : reached_)
    hash = Mix(Mix(hash, static_cast<uint64_t>(c.state)), static_cast<uint64_t>(c.frame));
  const auto [begin, end] = set_index_.equal_range(hash);
  for (auto at = begin; at != end; ++at) {
    const Set set = at->second;
    if (complete(set) == complete_ && std::ranges::equal(configurations(set), reached_)) return set;
  }
  const auto first = static_cast<int64_t>(all_.size());
  all_.insert(all_.end(), reached_.begin(), reached_.end());
  sets_.push_back({first, static_cast<int64_t>(all_.size()), complete_});
  steps_.resize(steps_.size() + static_cast<size_t>(classes_), kUnknown);
  const Set set = static_cast<Set>(sets_.size()) - 1;
  set_index_.emplace(hash, set);
  return set;
}

Acceptor::Set Acceptor::Begin() {
  Reset();
  Visit(program_.start(), -1);
  Close();
  return Intern();
}

Acceptor::Set Acceptor::Only(int32_t state, std::span<const Frame> frames) {
  int32_t top = -1;
  for (Frame frame : frames) {
    frame.below = top;
    top = Push(frame);
  }
  Reset();
  Visit(state, top);
  return Intern();
}

Acceptor::Set Acceptor::Return(int32_t frame) {
  Reset();
  Pop(frame);
  Close();
  return Intern();
}

Acceptor::Set Acceptor::Compute(Set set, uint8_t byte) {
  Reset();
  const Entry entry = sets_[static_cast<size_t>(set)];
  for (int64_t i = entry.begin; i < entry.end; ++i) {
    const Configuration c = all_[static_cast<size_t>(i)];
    for (const Program::Edge& edge : program_.edges(c.state)) {
      if (edge.lo <= byte && byte <= edge.hi) Visit(edge.to, c.frame);
    }
  }
  Close();
  const Set next = Intern();
  steps_[static_cast<size_t>(set) * static_cast<size_t>(classes_) + program_.byte_class(byte)] = next;
  return next;
}

}  // namespace cambium
