// Prompt lookup: what followed the last tokens when they stood in this request before. A suffix automaton (Blumer et al.
// 1985) of the request's tokens gives the longest suffix that occurred earlier, in O(1) amortised a token.
#include <algorithm>
#include <queue>
#include <unordered_map>

#include "drafters/drafters.h"
#include "drafters/history.h"

namespace cambium {
namespace {

class SuffixAutomaton {
 public:
  void Clear() {
    states_.assign(1, State());
    edges_.clear();
    last_ = 0;
  }

  void Push(int32_t token) {
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

  // The state of the longest suffix that occurred before; 0 if none did.
  int32_t Match() const { return states_[static_cast<size_t>(last_)].link < 0 ? 0 : At(last_).link; }
  int64_t tokens() const { return At(last_).length; }  // pushed since Clear
  int32_t Shorter(int32_t state) const { return At(state).link; }
  int32_t Length(int32_t state) const { return At(state).length; }
  int32_t Visits(int32_t state) const { return At(state).visits; }
  const std::vector<int32_t>& Tokens(int32_t state) const { return At(state).tokens; }  // that lead on
  int32_t Next(int32_t state, int32_t token) const {
    const auto found = edges_.find(Key(state, token));
    return found == edges_.end() ? -1 : found->second;
  }

 private:
  struct State {
    int32_t length = 0;  // of the longest string that ends here
    int32_t link = -1;   // the longest suffix that is in another state
    int32_t visits = 1;  // occurrences
    std::vector<int32_t> tokens;
  };

  static uint64_t Key(int32_t state, int32_t token) {
    return static_cast<uint64_t>(state) << 32 | static_cast<uint32_t>(token);
  }
  State& At(int32_t index) { return states_[static_cast<size_t>(index)]; }
  const State& At(int32_t index) const { return states_[static_cast<size_t>(index)]; }
  int32_t New(int32_t length) {
    states_.emplace_back().length = length;
    return static_cast<int32_t>(states_.size()) - 1;
  }
  void AddEdge(int32_t state, int32_t token, int32_t target) {
    edges_[Key(state, token)] = target;
    At(state).tokens.push_back(token);
  }

  std::vector<State> states_ = std::vector<State>(1);
  std::unordered_map<uint64_t, int32_t> edges_;
  int32_t last_ = 0;
};

class NgramDrafter : public Drafter {
 public:
  NgramDrafter(int64_t max_nodes, int64_t min_match, bool shared, int64_t tokens)
      : max_nodes_(max_nodes), min_match_(min_match), tokens_(tokens), shared_(shared) {}

  std::string name() const override { return "ngram"; }

  void Begin(std::span<const int32_t> prompt) override {
    known_ = history_.Begin(prompt);
    if (known_ == 0) {
      if (!shared_ || text_.tokens() + static_cast<int64_t>(prompt.size()) > kMostShared) text_.Clear();
      if (text_.tokens() > 0) text_.Push(kEndOfText);
    }
    Learn();
  }

  void Observe(const Observation& observation) override {
    if (observation.position + static_cast<int64_t>(observation.tokens.size()) < known_) return;  // of the prompt
    history_.Observe(observation);
    Learn();
  }

  void Propose(int64_t budget, int64_t max_depth, Draft& draft) override {
    int32_t match = text_.Match();
    // Where nothing but the end of a text followed, a shorter match may know more.
    while (match > 0 && text_.Tokens(match) == std::vector<int32_t>{kEndOfText}) match = text_.Shorter(match);
    if (match == 0 || text_.Length(match) < min_match_) return;
    struct Candidate {
      float chance;  // of the whole path
      float probability;
      int32_t parent, token, state;
      int depth;
      bool operator<(const Candidate& other) const { return chance < other.chance; }
    };
    std::priority_queue<Candidate> open;
    const auto expand = [&](int32_t state, int32_t node, float chance, int depth) {
      if (depth >= max_depth) return;
      float total = 0;
      for (const int32_t token : text_.Tokens(state)) {
        if (token != kEndOfText) total += static_cast<float>(text_.Visits(text_.Next(state, token)));
      }
      // A longer match is surer; as the draft goes on, so does the match.
      const float length = static_cast<float>(text_.Length(match) + depth);
      const float sure = length / (length + 1.0f);
      for (const int32_t token : text_.Tokens(state)) {
        const int32_t next = text_.Next(state, token);
        const float p = sure * static_cast<float>(text_.Visits(next)) / total;
        const bool known = token != kEndOfText && token < tokens_;
        if (known && chance * p > kLeastChance) open.push({chance * p, p, node, token, next, depth});
      }
    };
    expand(match, -1, 1.0f, 0);
    const int64_t limit = std::min(budget, max_nodes_);
    while (!open.empty() && static_cast<int64_t>(draft.nodes.size()) < limit) {
      const Candidate best = open.top();
      open.pop();
      const int32_t node = draft.Add(best.parent, best.token, best.probability);
      expand(best.state, node, best.chance, best.depth + 1);
    }
  }

 private:
  static constexpr float kLeastChance = 0.02f;
  static constexpr int32_t kEndOfText = -1;              // between requests: no match goes across
  static constexpr int64_t kMostShared = int64_t{1} << 18;  // tokens of other requests: about 60 MB, then it starts anew

  void Learn() {
    for (; known_ < history_.size(); ++known_) text_.Push(history_.tokens()[static_cast<size_t>(known_)]);
  }

  int64_t max_nodes_, min_match_, tokens_;  // tokens below tokens_ may be proposed
  bool shared_;
  History history_;
  SuffixAutomaton text_;
  int64_t known_ = 0;  // tokens of the history that text_ holds
};

}  // namespace

std::unique_ptr<Drafter> MakeNgramDrafter(const DrafterSpec& spec, const DrafterTarget& target) {
  return std::make_unique<NgramDrafter>(IntOption(spec, "max", 40, 1, 1024), IntOption(spec, "min", 1, 1, 64),
                                        IntOption(spec, "shared", 0, 0, 1) == 1, target.tokens());
}

}  // namespace cambium
