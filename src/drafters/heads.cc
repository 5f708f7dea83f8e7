// Trained heads: Medusa's and Meta's guess every depth from the accepted row, DeepSeek's module goes on from its own
// guess.
#include <algorithm>
#include <filesystem>
#include <iterator>
#include <map>
#include <queue>

#include "drafters/drafters.h"
#include "drafters/heads_session.h"
#include "drafters/tree_shape.h"
#include "grafts/grafts.h"
#include "grafts/mtp.h"

namespace cambium {
namespace {

class HeadsDrafter : public Drafter {
 public:
  HeadsDrafter(const DrafterSpec& spec, const DrafterTarget& target)
      : owned_(OwnOrNamed(spec, target)),
        heads_(owned_ != nullptr ? *owned_->heads() : Carried(spec, target)),
        runner_(heads_, target.transformer, target.kv, target.compute, MaxDepth(spec, heads_), target.tokens()),
        choices_(static_cast<size_t>(IntOption(spec, "width", heads_.chained() ? 2 : 8, 1, 32))),
        nodes_(IntOption(spec, "nodes", 40, 1, 1023)) {
    if (const std::string file = TextOption(spec, "tree", ""); !file.empty()) {
      if (heads_.chained()) Fail(ErrorCode::kUsage, "--draft mtp: tree=", file, " is for heads that guess at once");
      shape_ = ReadTreeShape(file, heads_.depths());
      for (const std::vector<int32_t>& path : shape_) {
        choices_ = std::max(choices_, static_cast<size_t>(path.back()) + 1);
      }
    }
    // Those that a request's graft brings were packed when they were loaded.
    if (owned_ != nullptr && target.compute == Compute::kInt8) heads_.Freeze();
  }

  std::string name() const override { return heads_.kind(); }
  Needs needs() const override { return {heads_.after_layer() < 0, heads_.after_layer()}; }
  bool cheap() const override { return false; }
  bool keeps_kv() const override { return runner_.keeps_kv(); }
  std::unique_ptr<DraftSession> Open(const DraftText& text) override {
    return std::make_unique<HeadsSession>(runner_, text);
  }

  void Propose(std::span<DraftTask> tasks, const Pays& pays) override {
    std::vector<Growth> live;
    for (DraftTask& task : tasks) {
      auto& session = *static_cast<HeadsSession*>(task.session);
      if (session.waiting() > 0) live.push_back({&task, &session});
    }
    runner_.workspace.Reset();
    if (heads_.chained()) {
      Chain(std::move(live), pays);
    } else {
      AtOnce(std::move(live), pays);
    }
  }

 private:
  // The heads at the option `path`, else the model's own where no graft of the request brings any.
  static std::unique_ptr<Graft> OwnOrNamed(const DrafterSpec& spec, const DrafterTarget& target) {
    std::unique_ptr<Graft> named = LoadHeads(spec, target);
    const bool own = spec.name == "mtp" && !target.transformer.weights().mtp_source.empty();
    if (named != nullptr || !own || CarriedHeads(spec, target) != nullptr) return named;
    return MtpHeads::LoadOwn(target.transformer.base());
  }
  static Heads& Carried(const DrafterSpec& spec, const DrafterTarget& target) {
    if (Heads* const heads = CarriedHeads(spec, target); heads != nullptr) return *heads;
    Fail(ErrorCode::kUsage, "--draft ", spec.name,
         ": path=DIR is missing, and no --graft of the request brings such heads");
  }
  static int64_t MaxDepth(const DrafterSpec& spec, const Heads& heads) {
    if (heads.chained()) return IntOption(spec, "max", 2 * heads.depths(), 1, 64);
    return std::min(IntOption(spec, "max", heads.depths(), 1, 64), heads.depths());
  }

  // A draft under way.
  struct Growth {
    DraftTask* task;
    HeadsSession* session;
    const float* state = nullptr;  // [hidden]: what the chain's end left for the next level
    int32_t end = -1;              // the chain's last node
    float chance = 1;              // of the chain
  };
  int64_t Budget(const Growth& g) const { return std::min(g.task->budget, nodes_); }
  int64_t MaxDepth(const Growth& g) const { return std::min(g.task->max_depth, runner_.max_depth); }

  // All waiting rows of the texts.
  HeadRows Waiting(std::span<const Growth> live) {
    HeadRows rows;
    for (const Growth& g : live) g.session->AppendTo(rows, g.session->waiting());
    rows.input = runner_.workspace.New({std::ssize(rows.tokens), runner_.width});
    float* to = rows.input.f32();
    for (const Growth& g : live) to = std::copy_n(g.session->states(), g.session->waiting() * runner_.width, to);
    return rows;
  }
  // The chains' ends, at depth `depth`.
  HeadRows Ends(std::span<const Growth> live, int64_t depth) {
    HeadRows rows;
    rows.input = runner_.workspace.New({std::ssize(live), runner_.width});
    float* to = rows.input.f32();
    for (const Growth& g : live) {
      to = std::copy_n(g.state, runner_.width, to);
      rows.tokens.push_back(g.task->draft.nodes[static_cast<size_t>(g.end)].token);
      rows.lengths.push_back(1);
      rows.sequences.push_back(g.session->sequence());
      rows.pasts.push_back(g.session->computed() + depth - 1);  // guesses, which the text will overwrite
    }
    return rows;
  }
  static void Ran(std::span<const Growth> live) {
    for (const Growth& g : live) g.session->Ran(g.session->waiting());
  }

  void Chain(std::vector<Growth> live, const Pays& pays) {
    for (int64_t depth = 0;; ++depth) {
      std::erase_if(live, [&](const Growth& g) {
        const int64_t rows = depth == 0 ? g.session->waiting() : depth;
        const bool full = depth >= MaxDepth(g) || g.task->draft.size() >= Budget(g);
        const bool enough = pays ? !full && !pays(*g.task) : g.chance < kLeastChain;
        return full || enough || !g.session->Room(g.session->computed() + rows);
      });
      if (live.empty()) return;
      const HeadsRunner::Last last = runner_.Run(0, depth == 0 ? Waiting(live) : Ends(live, depth));
      if (depth == 0) Ran(live);
      const std::vector<std::vector<TopToken>> top = runner_.Read(0, last.features, choices_);
      for (size_t i = 0; i < live.size(); ++i) {
        live[i].state = last.state.row(static_cast<int64_t>(i));
        AddLevel(top[i], live[i]);
      }
      std::erase_if(live, [](const Growth& g) { return g.end < 0; });
    }
  }

  // Adds the children of the chain's end; the first one is its next.
  void AddLevel(const std::vector<TopToken>& top, Growth& g) const {
    Draft& draft = g.task->draft;
    int32_t first = -1;
    for (const TopToken& choice : top) {
      if (draft.size() >= Budget(g)) break;
      const int32_t node = draft.Add(g.end, choice.token, choice.probability);
      if (first < 0) first = node;
    }
    g.end = first;
    if (first >= 0) g.chance *= draft.nodes[static_cast<size_t>(first)].probability;
  }

  void AtOnce(std::vector<Growth> live, const Pays& pays) {
    std::erase_if(live, [&](const Growth& g) {
      return MaxDepth(g) <= 0 || Budget(g) <= 0 || (pays && !pays(*g.task)) ||
             !g.session->Room(g.session->computed() + g.session->waiting());
    });
    if (live.empty()) return;
    const int64_t texts = std::ssize(live);
    int64_t depths = 0;
    for (const Growth& g : live) depths = std::max(depths, MaxDepth(g));
    const HeadRows rows = Waiting(live);
    Tensor features = runner_.workspace.New({depths * texts, runner_.width});
    // Blocks see every row, also those whose guess nobody wants.
    for (int64_t d = 0; d < (runner_.keeps_kv() ? runner_.max_depth : depths); ++d) {
      const Tensor last = runner_.Run(d, rows).features;
      if (d < depths) std::copy_n(last.f32(), last.size(), features.row(d * texts));
    }
    Ran(live);
    // One product for all depths that share the readout: it is read from memory once.
    std::vector<std::vector<TopToken>> top;  // by depth, then text
    for (int64_t d = 0; d < depths;) {
      int64_t count = 1;
      while (d + count < depths && &heads_.readout(d + count) == &heads_.readout(d)) ++count;
      std::ranges::move(runner_.Read(d, features.Rows(d * texts, count * texts), choices_), std::back_inserter(top));
      d += count;
    }
    for (size_t i = 0; i < live.size(); ++i) {
      std::vector<std::vector<TopToken>> own;
      for (int64_t d = 0; d < MaxDepth(live[i]); ++d) own.push_back(std::move(top[static_cast<size_t>(d * texts) + i]));
      Draft& draft = live[i].task->draft;
      if (shape_.empty()) {
        GrowBest(own, Budget(live[i]), draft);
      } else {
        GrowShape(own, Budget(live[i]), draft);
      }
    }
  }

  // The likeliest nodes by the product along their path.
  void GrowBest(const std::vector<std::vector<TopToken>>& top, int64_t budget, Draft& draft) const {
    struct Candidate {
      float chance, above;  // of the path with and without the node
      int32_t parent;
      size_t depth, rank;
      bool operator<(const Candidate& other) const { return chance < other.chance; }
    };
    std::priority_queue<Candidate> open;
    const auto push = [&](float above, int32_t parent, size_t depth, size_t rank) {
      if (depth >= top.size() || rank >= top[depth].size()) return;
      open.push({above * top[depth][rank].probability, above, parent, depth, rank});
    };
    push(1, -1, 0, 0);
    while (!open.empty() && draft.size() < budget) {
      const Candidate best = open.top();
      open.pop();
      if (best.chance < kLeastChance) return;
      const TopToken& choice = top[best.depth][best.rank];
      const int32_t node = draft.Add(best.parent, choice.token, choice.probability);
      push(best.above, best.parent, best.depth, best.rank + 1);
      push(best.chance, node, best.depth + 1, 0);
    }
  }

  void GrowShape(const std::vector<std::vector<TopToken>>& top, int64_t budget, Draft& draft) const {
    std::map<std::vector<int32_t>, int32_t> placed;
    for (const std::vector<int32_t>& path : shape_) {
      const size_t depth = path.size() - 1, rank = static_cast<size_t>(path.back());
      if (depth >= top.size() || rank >= top[depth].size() || draft.size() >= budget) continue;
      const std::vector<int32_t> above(path.begin(), path.end() - 1);
      const auto parent = placed.find(above);
      if (!above.empty() && parent == placed.end()) continue;
      placed[path] =
          draft.Add(above.empty() ? -1 : parent->second, top[depth][rank].token, top[depth][rank].probability);
    }
  }

  static constexpr float kLeastChance = 0.01f;
  static constexpr float kLeastChain = 0.15f;  // below it another step hardly pays, where nobody knows the times
  std::unique_ptr<Graft> owned_;
  Heads& heads_;
  HeadsRunner runner_;
  size_t choices_;
  int64_t nodes_;
  std::vector<std::vector<int32_t>> shape_;
};

}  // namespace

std::unique_ptr<Graft> LoadHeads(const DrafterSpec& spec, const DrafterTarget& target) {
  const std::string path = TextOption(spec, "path", "");
  if (path.empty()) return nullptr;
  if (!std::filesystem::exists(path)) Fail(ErrorCode::kData, path, ": no such file or directory");
  for (const GraftEntry& entry : GraftList()) {
    if (entry.kind == spec.name && entry.recognises(path)) return entry.load(path, target.transformer.base(), 1);
  }
  Fail(ErrorCode::kData, "--draft ", spec.name, ": ", path, " holds no ", spec.name, " heads");
}

Heads* CarriedHeads(const DrafterSpec& spec, const DrafterTarget& target) {
  for (Graft* graft : target.grafts) {
    if (graft->heads() != nullptr && graft->kind() == spec.name) return graft->heads();
  }
  return nullptr;
}

std::unique_ptr<Drafter> MakeHeadsDrafter(const DrafterSpec& spec, const DrafterTarget& target) {
  return std::make_unique<HeadsDrafter>(spec, target);
}

}  // namespace cambium
