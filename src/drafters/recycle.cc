// Token recycling (Luo et al. 2024): what the target itself thought likeliest after a token, when it last computed a row
// of that token, rows of drafts that were not accepted included. Two tables: by the last two tokens, and by the last one.
#include <queue>
#include <unordered_map>

#include "decode/top.h"
#include "drafters/drafters.h"
#include "drafters/history.h"

namespace cambium {
namespace {

class RecycleDrafter : public Drafter {
 public:
  RecycleDrafter(int64_t max_nodes, bool shared) : max_nodes_(max_nodes), shared_(shared) {}

  std::string name() const override { return "recycle"; }

  void Begin(std::span<const int32_t> prompt) override {
    if (history_.Begin(prompt) > 0 || shared_) return;
    after_.clear();
    older_.clear();
  }

  void Observe(const Observation& observation) override {
    const std::vector<int32_t>& text = history_.tokens();
    if (observation.logits && !observation.tokens.empty()) {
      // The root's row belongs to the last token before the draft: the first that was committed, but after a prompt.
      const bool verified = observation.draft != nullptr;
      const size_t root = static_cast<size_t>(observation.position) + (verified ? 0 : observation.tokens.size() - 1);
      const int32_t before = root > 0 && root <= text.size() ? text[root - 1] : -1;
      const int32_t token = verified ? observation.tokens.front() : observation.tokens.back();
      Learn(before, token, observation.logits, 0);
      for (size_t i = 0; verified && i < observation.draft->nodes.size(); ++i) {
        const Draft::Node& node = observation.draft->nodes[i];
        const int32_t parent = node.parent < 0 ? token : observation.draft->nodes[static_cast<size_t>(node.parent)].token;
        Learn(parent, node.token, observation.logits, static_cast<int64_t>(i) + 1);
      }
    }
    history_.Observe(observation);
  }

  void Propose(int64_t budget, int64_t max_depth, Draft& draft) override {
    struct Open {
      float chance;
      int32_t before, token, node;  // whose continuations are to be added
      int64_t depth;
      bool operator<(const Open& other) const { return chance < other.chance; }
    };
    const std::vector<int32_t>& text = history_.tokens();
    std::priority_queue<Open> open;
    open.push({1, text.size() > 1 ? text[text.size() - 2] : -1, text.back(), -1, 0});
    const int64_t limit = std::min(budget, max_nodes_);
    while (!open.empty() && static_cast<int64_t>(draft.nodes.size()) < limit) {
      const Open best = open.top();
      open.pop();
      if (best.depth >= max_depth) continue;
      const std::vector<TopToken>* found = Find(best.before, best.token);
      const float sure = found == nullptr ? kSureOfOne : kSureOfTwo;
      if (found == nullptr) found = Find(-1, best.token);
      if (found == nullptr) continue;
      for (const TopToken& next : *found) {
        const float p = sure * next.probability;
        if (best.chance * p < kLeastChance || static_cast<int64_t>(draft.nodes.size()) >= limit) break;
        open.push({best.chance * p, best.token, next.token, draft.Add(best.node, next.token, p), best.depth + 1});
      }
    }
  }

 private:
  static constexpr size_t kKept = 6;
  static constexpr float kSureOfTwo = 0.8f, kSureOfOne = 0.5f, kLeastChance = 0.03f;

  static constexpr size_t kMostKeys = size_t{1} << 16;  // of a table: some 8 MB

  using Table = std::unordered_map<uint64_t, std::vector<TopToken>>;
  static uint64_t Key(int32_t before, int32_t token) {
    return static_cast<uint64_t>(static_cast<uint32_t>(before)) << 32 | static_cast<uint32_t>(token);
  }
  const std::vector<TopToken>* Find(int32_t before, int32_t token) const {
    for (const Table* table : {&after_, &older_}) {
      if (const auto found = table->find(Key(before, token)); found != table->end()) return &found->second;
    }
    return nullptr;
  }
  void Learn(int32_t before, int32_t token, Tensor logits, int64_t row) {
    std::vector<TopToken> top = TopTokens({logits.row(row), static_cast<size_t>(logits.columns())}, kKept);
    if (after_.size() >= kMostKeys) {
      older_ = std::move(after_);
      after_.clear();
    }
    after_[Key(before, token)] = top;
    after_[Key(-1, token)] = std::move(top);
  }

  int64_t max_nodes_;
  bool shared_;
  History history_;
  Table after_, older_;  // older_: what after_ was when it had grown full
};

}  // namespace

std::unique_ptr<Drafter> MakeRecycleDrafter(const DrafterSpec& spec, const DrafterTarget&) {
  return std::make_unique<RecycleDrafter>(IntOption(spec, "max", 16, 1, 1024), IntOption(spec, "shared", 0, 0, 1) == 1);
}

}  // namespace cambium
