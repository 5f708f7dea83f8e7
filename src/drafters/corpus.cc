// Retrieval (He et al. 2023, REST): what followed the last tokens in a corpus, from a suffix array over its token ids.
#include <algorithm>

#include "drafters/drafters.h"
#include "io/token_index.h"

namespace cambium {
namespace {

class CorpusSession : public DraftSession {
 public:
  explicit CorpusSession(const DraftText& text) : tokens(text.tokens) {}
  const std::vector<int32_t>& tokens;
};

class CorpusDrafter : public Drafter {
 public:
  CorpusDrafter(const std::string& path, int64_t max_nodes, const DrafterTarget& target)
      : index_(path), max_nodes_(max_nodes), tokens_(target.tokens()) {
    index_.CheckVocabulary(target.tokenizer);
    index_.CheckTokens(target.tokens());
  }

  std::string name() const override { return "corpus"; }
  std::unique_ptr<DraftSession> Open(const DraftText& text) override { return std::make_unique<CorpusSession>(text); }

  void Propose(std::span<DraftTask> tasks, const Pays&) override {
    for (DraftTask& task : tasks) {
      // The longest suffix of at most kLongest tokens that the corpus holds.
      const auto* const session = static_cast<const CorpusSession*>(task.session);
      const TokenIndex::Match match = index_.LongestSuffix(session->tokens, kLongest);
      if (match.length > 0) Grow(match, task);
    }
  }

 private:
  static constexpr int64_t kLongest = 16;
  static constexpr int64_t kSamples = 64;  // occurrences that are looked at: enough to weigh continuations

  // A trie of what follows the occurrences, weighted by how many follow each way.
  void Grow(const TokenIndex::Match& match, DraftTask& task) const {
    Draft& draft = task.draft;
    const int64_t limit = std::min(task.budget, max_nodes_);
    struct Branch {
      std::vector<int64_t> places;  // in the corpus, of the next token
      int32_t node;
      float chance;
      int64_t depth;
    };
    std::vector<Branch> open = {{index_.Places(match, kSamples), -1, 1.0f, 0}};
    while (!open.empty() && draft.size() < limit) {
      const auto best = std::max_element(open.begin(), open.end(),
                                         [](const Branch& a, const Branch& b) { return a.chance < b.chance; });
      Branch branch = std::move(*best);
      open.erase(best);
      if (branch.depth >= task.max_depth) continue;
      std::vector<std::pair<int32_t, std::vector<int64_t>>> ways;
      for (const int64_t place : branch.places) {
        const int32_t token = index_.TokenAt(place);
        if (token < 0 || token >= tokens_) continue;  // the end of a document, or a file's own idea of a token
        const auto way = std::find_if(ways.begin(), ways.end(), [&](const auto& w) { return w.first == token; });
        if (way == ways.end()) {
          ways.push_back({token, {place + 1}});
        } else {
          way->second.push_back(place + 1);
        }
      }
      std::stable_sort(ways.begin(), ways.end(),
                       [](const auto& a, const auto& b) { return a.second.size() > b.second.size(); });
      const float length = static_cast<float>(match.length + branch.depth);
      for (auto& [token, places] : ways) {
        const float p = length / (length + 1.0f) * static_cast<float>(places.size()) /
                        static_cast<float>(branch.places.size());
        if (branch.chance * p < kLeastChance || draft.size() >= limit) break;
        const int32_t node = draft.Add(branch.node, token, p);
        open.push_back({std::move(places), node, branch.chance * p, branch.depth + 1});
      }
    }
  }

  static constexpr float kLeastChance = 0.02f;
  TokenIndex index_;
  int64_t max_nodes_, tokens_;
};

}  // namespace

std::unique_ptr<Drafter> MakeCorpusDrafter(const DrafterSpec& spec, const DrafterTarget& target) {
  const std::string path = TextOption(spec, "index", "");
  if (path.empty()) Fail(ErrorCode::kUsage, "--draft corpus: index=FILE is missing");
  return std::make_unique<CorpusDrafter>(path, IntOption(spec, "max", 40, 1, 1024), target);
}

}  // namespace cambium
