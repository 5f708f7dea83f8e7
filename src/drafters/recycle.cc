// Token recycling (Luo et al. 2024): what the target itself thought likeliest after a token, when it last computed a
// row of that token, rows of drafts that were not accepted included. Two tables: by the last two tokens, and by the
// last one.
#include <queue>
#include <unordered_map>

#include "decode/top.h"
#include "drafters/drafters.h"

namespace cambium {
namespace {

// Bounded by two generations: when the younger one is full, it takes the place of the older one, which is forgotten.
class RecycleTable {
 public:
  // tokens: of a row, from its beginning, that may be proposed.
  explicit RecycleTable(int64_t tokens) : tokens_(tokens) {}

  void Learn(int32_t before, int32_t token, Tensor logits, int64_t row) {
    if (young_.size() >= kMost) {
      old_ = std::move(young_);
      young_.clear();
    }
    std::vector<TopToken> top =
        TopTokens({logits.row(row), static_cast<size_t>(std::min(tokens_, logits.columns()))}, kKept);
    young_[Key(before, token)] = top;
    young_[Key(-1, token)] = std::move(top);
  }
  const std::vector<TopToken>* Find(int32_t before, int32_t token) const {
    for (const Map* map : {&young_, &old_}) {
      if (const auto found = map->find(Key(before, token)); found != map->end()) return &found->second;
    }
    return nullptr;
  }

 private:
  static constexpr size_t kKept = 6;
  static constexpr size_t kMost = size_t{1} << 16;  // entries of a generation: about 9 MB
  using Map = std::unordered_map<uint64_t, std::vector<TopToken>>;

  static uint64_t Key(int32_t before, int32_t token) {
    return static_cast<uint64_t>(static_cast<uint32_t>(before)) << 32 | static_cast<uint32_t>(token);
  }

  int64_t tokens_;
  Map young_, old_;
};

class RecycleSession : public DraftSession {
 public:
  RecycleSession(const DraftText& text, RecycleTable* shared, int64_t tokens)
      : text_(text), own_(tokens), after_(shared != nullptr ? *shared : own_) {}

  void Observe(const Observation& observation) override {
    if (!observation.logits || observation.tokens.empty()) return;
    // The root's row belongs to the last token before the draft: the first that was committed, but after a prompt.
    const bool verified = observation.draft != nullptr;
    const size_t root = static_cast<size_t>(observation.position) + (verified ? 0 : observation.tokens.size() - 1);
    const int32_t token = verified ? observation.tokens.front() : observation.tokens.back();
    after_.Learn(root > 0 ? text_.tokens[root - 1] : -1, token, observation.logits, 0);
    for (size_t i = 0; verified && i < observation.draft->nodes.size(); ++i) {
      const Draft::Node& node = observation.draft->nodes[i];
      const int32_t parent = node.parent < 0 ? token : observation.draft->nodes[static_cast<size_t>(node.parent)].token;
      after_.Learn(parent, node.token, observation.logits, static_cast<int64_t>(i) + 1);
    }
  }

  const std::vector<int32_t>& tokens() const { return text_.tokens; }
  const RecycleTable& after() const { return after_; }

 private:
  DraftText text_;
  RecycleTable own_;
  RecycleTable& after_;
};

class RecycleDrafter : public Drafter {
 public:
  RecycleDrafter(int64_t max_nodes, bool shared, int64_t tokens)
      : max_nodes_(max_nodes), shared_(shared), tokens_(tokens), table_(tokens) {}

  std::string name() const override { return "recycle"; }
  std::unique_ptr<DraftSession> Open(const DraftText& text) override {
    return std::make_unique<RecycleSession>(text, shared_ ? &table_ : nullptr, tokens_);
  }
  void Propose(std::span<DraftTask> tasks, const Pays&) override {
    for (DraftTask& task : tasks) Grow(*static_cast<RecycleSession*>(task.session), task);
  }

 private:
  static constexpr float kSureOfTwo = 0.8f, kSureOfOne = 0.5f, kLeastChance = 0.03f;

  void Grow(const RecycleSession& session, DraftTask& task) const {
    struct Open {
      float chance;
      int32_t before, token, node;  // whose continuations are to be added
      int64_t depth;
      bool operator<(const Open& other) const { return chance < other.chance; }
    };
    const std::vector<int32_t>& text = session.tokens();
    std::priority_queue<Open> open;
    open.push({1, text.size() > 1 ? text[text.size() - 2] : -1, text.back(), -1, 0});
    const int64_t limit = std::min(task.budget, max_nodes_);
    while (!open.empty() && task.draft.size() < limit) {
      const Open best = open.top();
      open.pop();
      if (best.depth >= task.max_depth) continue;
      const std::vector<TopToken>* found = session.after().Find(best.before, best.token);
      const float sure = found == nullptr ? kSureOfOne : kSureOfTwo;
      if (found == nullptr) found = session.after().Find(-1, best.token);
      if (found == nullptr) continue;
      for (const TopToken& next : *found) {
        const float p = sure * next.probability;
        if (best.chance * p < kLeastChance || task.draft.size() >= limit) break;
        open.push({best.chance * p, best.token, next.token, task.draft.Add(best.node, next.token, p), best.depth + 1});
      }
    }
  }

  int64_t max_nodes_;
  bool shared_;
  int64_t tokens_;
  RecycleTable table_;  // of all sessions, where they share it
};

}  // namespace

std::unique_ptr<Drafter> MakeRecycleDrafter(const DrafterSpec& spec, const DrafterTarget& target) {
  return std::make_unique<RecycleDrafter>(IntOption(spec, "max", 16, 1, 1024), IntOption(spec, "shared", 0, 0, 1) == 1,
                                          target.tokens());
}

}  // namespace cambium
