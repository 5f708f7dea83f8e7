// What a constraint forces: while every token that may follow is a beginning of the longest one, that one.
#include "decode/token_constraint.h"
#include "drafters/drafters.h"

namespace cambium {
namespace {

class GrammarSession : public DraftSession {
 public:
  explicit GrammarSession(const DraftText& text) : text_(text) {}
  const DraftText& text() const { return text_; }

 private:
  DraftText text_;
};

class GrammarDrafter : public Drafter {
 public:
  explicit GrammarDrafter(int64_t max_nodes) : max_nodes_(max_nodes) {}

  std::string name() const override { return "grammar"; }
  std::unique_ptr<DraftSession> Open(const DraftText& text) override { return std::make_unique<GrammarSession>(text); }

  void Propose(std::span<DraftTask> tasks, const Pays&) override {
    for (DraftTask& task : tasks) {
      const DraftText& text = static_cast<GrammarSession*>(task.session)->text();
      if (text.constraint == nullptr) continue;
      std::vector<int32_t> path = text.tokens;
      int32_t node = -1;
      const int64_t most = std::min({task.budget, task.max_depth, max_nodes_});
      while (task.draft.size() < most) {
        const int32_t token = text.constraint->Forced(path);
        if (token < 0) break;
        node = task.draft.Add(node, token, kBelief);
        path.push_back(token);
      }
    }
  }

 private:
  // Measured: 95 to 100 % of forced tokens are drawn.
  static constexpr float kBelief = 0.97f;
  int64_t max_nodes_;
};

}  // namespace

std::unique_ptr<Drafter> MakeGrammarDrafter(const DrafterSpec& spec, const DrafterTarget&) {
  return std::make_unique<GrammarDrafter>(IntOption(spec, "max", 32, 1, 1024));
}

}  // namespace cambium
