// Prompt lookup: what followed the last tokens when they stood in this text before, or, where that is allowed, in the
// text of a request that has ended.
#include <algorithm>
#include <new>
#include <queue>

#include "drafters/drafters.h"
#include "drafters/suffix_automaton.h"

namespace cambium {
namespace {

// Texts that have ended, one after another.
class EndedTexts {
 public:
  static constexpr int32_t kEndOfText = -1;  // between them: no match goes across

  void Add(std::span<const int32_t> text) {
    text = text.last(std::min(text.size(), static_cast<size_t>(kMost)));
    if (automaton_.tokens() + std::ssize(text) > kMost) automaton_.Clear();
    for (const int32_t token : text) automaton_.Push(token);
    automaton_.Push(kEndOfText);
  }
  void Clear() { automaton_.Clear(); }
  const SuffixAutomaton& automaton() const { return automaton_; }

 private:
  static constexpr int64_t kMost = int64_t{1} << 18;  // tokens: about 60 MB, then it starts anew
  SuffixAutomaton automaton_;
};

// A suffix of a text, found in an automaton.
struct Match {
  const SuffixAutomaton* automaton = nullptr;
  int32_t state = 0;
  int32_t length = 0;  // tokens that match
};

class NgramSession : public DraftSession {
 public:
  NgramSession(const DraftText& text, EndedTexts* ended) : text_(text), ended_(ended) {}
  ~NgramSession() override {
    if (ended_ == nullptr) return;
    try {
      ended_->Add(text_.tokens);
    } catch (const std::bad_alloc&) {
      ended_->Clear();  // half a text is no automaton
    }
  }

  void Observe(const Observation&) override { Learn(); }

  Match Longest() {
    Learn();
    const int32_t state = own_.Match();
    const Match own = {&own_, state, own_.Length(state)};
    const Match others = ended_ != nullptr ? LongestOfOthers() : Match();
    return others.length > own.length ? others : own;
  }

 private:
  static constexpr size_t kLongest = 64;  // tokens that are looked up in other texts

  void Learn() {
    while (own_.tokens() < std::ssize(text_.tokens)) own_.Push(text_.tokens[static_cast<size_t>(own_.tokens())]);
  }

  Match LongestOfOthers() const {
    const SuffixAutomaton& texts = ended_->automaton();
    Match match = {&texts};
    for (const int32_t token : std::span(text_.tokens).last(std::min(kLongest, text_.tokens.size()))) {
      int32_t next = texts.Next(match.state, token);
      while (next < 0 && match.state > 0) {
        match.state = texts.Shorter(match.state);
        match.length = texts.Length(match.state);
        next = texts.Next(match.state, token);
      }
      if (next < 0) continue;
      match.state = next;
      ++match.length;
    }
    // Where nothing but the end of a text followed, a shorter match may know more.
    while (match.state > 0 && texts.Tokens(match.state) == std::vector<int32_t>{EndedTexts::kEndOfText}) {
      match.state = texts.Shorter(match.state);
      match.length = texts.Length(match.state);
    }
    return match;
  }

  DraftText text_;
  EndedTexts* ended_;  // null: other texts are not looked at
  SuffixAutomaton own_;
};

class NgramDrafter : public Drafter {
 public:
  NgramDrafter(int64_t max_nodes, int64_t min_match, bool shared, int64_t tokens)
      : max_nodes_(max_nodes), min_match_(min_match), tokens_(tokens), shared_(shared) {}

  std::string name() const override { return "ngram"; }
  std::unique_ptr<DraftSession> Open(const DraftText& text) override {
    return std::make_unique<NgramSession>(text, shared_ ? &ended_ : nullptr);
  }

  void Propose(std::span<DraftTask> tasks, const Pays&) override {
    for (DraftTask& task : tasks) {
      const Match match = static_cast<NgramSession*>(task.session)->Longest();
      if (match.length >= min_match_ && match.state > 0) Grow(match, task);
    }
  }

 private:
  static constexpr float kLeastChance = 0.02f;

  // The likeliest nodes of the tree of what followed.
  void Grow(const Match& match, DraftTask& task) const {
    const SuffixAutomaton& text = *match.automaton;
    struct Candidate {
      float chance;  // of the whole path
      float probability;
      int32_t parent, token, state;
      int depth;
      bool operator<(const Candidate& other) const { return chance < other.chance; }
    };
    std::priority_queue<Candidate> open;
    const auto expand = [&](int32_t state, int32_t node, float chance, int depth) {
      if (depth >= task.max_depth) return;
      float total = 0;
      for (const int32_t token : text.Tokens(state)) {
        if (token != EndedTexts::kEndOfText) total += static_cast<float>(text.Visits(text.Next(state, token)));
      }
      // A longer match is surer; as the draft goes on, so does the match.
      const float length = static_cast<float>(match.length + depth);
      const float sure = length / (length + 1.0f);
      for (const int32_t token : text.Tokens(state)) {
        const int32_t next = text.Next(state, token);
        const float p = sure * static_cast<float>(text.Visits(next)) / total;
        const bool known = token != EndedTexts::kEndOfText && token < tokens_;
        if (known && chance * p > kLeastChance) {
          open.push({chance * p, p, node, token, next, depth});
        }
      }
    };
    expand(match.state, -1, 1.0f, 0);
    const int64_t limit = std::min(task.budget, max_nodes_);
    while (!open.empty() && task.draft.size() < limit) {
      const Candidate best = open.top();
      open.pop();
      const int32_t node = task.draft.Add(best.parent, best.token, best.probability);
      expand(best.state, node, best.chance, best.depth + 1);
    }
  }

  int64_t max_nodes_, min_match_, tokens_;  // tokens below tokens_ may be proposed
  bool shared_;
  EndedTexts ended_;
};

}  // namespace

std::unique_ptr<Drafter> MakeNgramDrafter(const DrafterSpec& spec, const DrafterTarget& target) {
  return std::make_unique<NgramDrafter>(IntOption(spec, "max", 40, 1, 1024), IntOption(spec, "min", 1, 1, 64),
                                        IntOption(spec, "shared", 0, 0, 1) == 1, target.tokens());
}

}  // namespace cambium
