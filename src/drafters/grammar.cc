// What a constraint forces: where every token that may follow is a beginning of the longest one, the text is known, and
// only how it is cut into tokens is not.
#include <algorithm>

#include "decode/token_constraint.h"
#include "drafters/drafters.h"

namespace cambium {
namespace {

// How often the longest way is the one that is drawn, learned from what was. Large models nearly always write a word as
// their tokenizer does; small ones often begin it with a letter.
class Habit {
 public:
  float longest() const { return (hits_ + 7) / (seen_ + 10); }
  void Learn(bool longest) {
    if (seen_ >= kMostSeen) {
      seen_ /= 2;
      hits_ /= 2;
    }
    ++seen_;
    hits_ += longest ? 1.0f : 0.0f;
  }

 private:
  static constexpr float kMostSeen = 1000;
  float hits_ = 0, seen_ = 0;
};

class GrammarSession : public DraftSession {
 public:
  explicit GrammarSession(const DraftText& text) : text_(text) {}
  const DraftText& text() const { return text_; }

  // A place whose next token was proposed, in all its ways: a node of the draft, or -1 for its root.
  struct Place {
    int32_t node;
    std::vector<int32_t> ways;
  };

  // Forgets the last draft for a new one, having learned from what was drawn instead.
  void Learn(Habit& habit) {
    int32_t node = -1;
    for (size_t at = begin_; at < text_.tokens.size(); ++at) {
      const auto place = std::ranges::find(places_, node, &Place::node);
      if (place == places_.end()) break;
      if (place->ways.size() > 1) habit.Learn(place->ways[0] == text_.tokens[at]);
      node = draft_.Child(node, text_.tokens[at]);
      if (node < 0) break;
    }
    places_.clear();
    begin_ = text_.tokens.size();
  }
  void Remember(Place place) { places_.push_back(std::move(place)); }
  void Remember(const Draft& draft) { draft_ = draft; }

 private:
  DraftText text_;
  Draft draft_;
  std::vector<Place> places_;
  size_t begin_ = 0;  // tokens before the draft's first
};

class GrammarDrafter : public Drafter {
 public:
  explicit GrammarDrafter(int64_t max_nodes) : max_nodes_(max_nodes) {}

  std::string name() const override { return "grammar"; }
  std::unique_ptr<DraftSession> Open(const DraftText& text) override { return std::make_unique<GrammarSession>(text); }

  void Propose(std::span<DraftTask> tasks, const Pays&) override {
    for (DraftTask& task : tasks) {
      auto& session = *static_cast<GrammarSession*>(task.session);
      if (session.text().constraint == nullptr) continue;
      session.Learn(habit_);
      Grow(task, session);
      session.Remember(task.draft);
    }
  }

 private:
  static constexpr float kOnlyWay = 0.99f, kLeast = 0.04f;  // of belief
  struct Leaf {
    float belief;  // that all on the way to it are drawn
    int32_t node;
    int64_t depth;
  };

  // The likeliest leaf first, all its ways on.
  void Grow(DraftTask& task, GrammarSession& session) const {
    const std::vector<int32_t>& tokens = session.text().tokens;
    std::vector<int32_t> path(tokens), behind;
    std::vector<Leaf> leaves = {{1, -1, 0}};
    while (!leaves.empty() && task.draft.size() < std::min(task.budget, max_nodes_)) {
      std::ranges::pop_heap(leaves, {}, &Leaf::belief);
      const Leaf leaf = leaves.back();
      leaves.pop_back();
      if (leaf.depth >= task.max_depth) continue;
      behind.clear();
      for (int32_t node = leaf.node; node >= 0; node = task.draft.nodes[static_cast<size_t>(node)].parent) {
        behind.push_back(task.draft.nodes[static_cast<size_t>(node)].token);
      }
      path.resize(tokens.size());
      path.insert(path.end(), behind.rbegin(), behind.rend());
      std::vector<int32_t> ways = session.text().constraint->Forced(path);
      const float longest = ways.size() == 1 ? kOnlyWay : habit_.longest();
      const float other = ways.size() > 1 ? (1 - longest) / static_cast<float>(ways.size() - 1) : 0;
      for (size_t i = 0; i < ways.size() && task.draft.size() < std::min(task.budget, max_nodes_); ++i) {
        const float belief = i == 0 ? longest : other;
        if (belief * leaf.belief < kLeast) break;
        leaves.push_back({belief * leaf.belief, task.draft.Add(leaf.node, ways[i], belief), leaf.depth + 1});
        std::ranges::push_heap(leaves, {}, &Leaf::belief);
      }
      if (!ways.empty()) session.Remember({leaf.node, std::move(ways)});
    }
  }

  Habit habit_;
  int64_t max_nodes_;
};

}  // namespace

std::unique_ptr<Drafter> MakeGrammarDrafter(const DrafterSpec& spec, const DrafterTarget&) {
  return std::make_unique<GrammarDrafter>(IntOption(spec, "max", 32, 1, 1024));
}

}  // namespace cambium
