#include "drafters/suffix_automaton.h"

namespace cambium {

void SuffixAutomaton::Clear() {
  states_.assign(1, State());
  edges_.clear();
  last_ = 0;
}

void SuffixAutomaton::Push(int32_t token) {
  const int32_t current = New(At(last_).length + 1);
  int32_t p = last_;
  for (; p >= 0 && Next(p, token) < 0; p = At(p).link) AddEdge(p, token, current);
  if (p < 0) {
    At(current).link = 0;
  } else if (const int32_t q = Next(p, token); At(p).length + 1 == At(q).length) {
    At(current).link = q;
  } else {
    const int32_t clone = New(At(p).length + 1);
    for (const int32_t t : std::vector<int32_t>(At(q).tokens)) AddEdge(clone, t, Next(q, t));
    At(clone).link = At(q).link;
    At(clone).visits = At(q).visits;
    for (int32_t r = p; r >= 0 && Next(r, token) == q; r = At(r).link) edges_[Key(r, token)] = clone;
    At(q).link = At(current).link = clone;
  }
  last_ = current;
  // The suffixes that stood here before were met once more; beyond a few links the counts hardly matter.
  int32_t s = At(current).link;
  for (int hops = 0; s > 0 && hops < 16; ++hops, s = At(s).link) ++At(s).visits;
}

int32_t SuffixAutomaton::Next(int32_t state, int32_t token) const {
  const auto found = edges_.find(Key(state, token));
  return found == edges_.end() ? -1 : found->second;
}

int32_t SuffixAutomaton::New(int32_t length) {
  states_.emplace_back().length = length;
  return static_cast<int32_t>(states_.size()) - 1;
}

void SuffixAutomaton::AddEdge(int32_t state, int32_t token, int32_t target) {
  edges_[Key(state, token)] = target;
  At(state).tokens.push_back(token);
}

}  // namespace cambium
