// Trained heads: Medusa's and Meta's guess every depth from the accepted row, DeepSeek's module goes on from its own guess.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <queue>

#include "decode/top.h"
#include "drafters/drafters.h"
#include "drafters/tree_shape.h"
#include "grafts/grafts.h"
#include "grafts/mtp.h"

namespace cambium {
namespace {

class HeadsDrafter : public Drafter {
 public:
  HeadsDrafter(const DrafterSpec& spec, const DrafterTarget& target)
      : pool_(target.transformer.pool()),
        width_(target.transformer.config().hidden),
        compute_(target.compute),
        owned_(OwnOrNamed(spec, target)),
        heads_(owned_ != nullptr ? *owned_->heads() : Carried(spec, target)),
        max_depth_(IntOption(spec, "max", heads_.chained() ? 2 * heads_.depths() : heads_.depths(), 1, 64)),
        choices_(static_cast<size_t>(IntOption(spec, "width", heads_.chained() ? 2 : 8, 1, 32))),
        nodes_(IntOption(spec, "nodes", 40, 1, 1023)) {
    if (!heads_.chained()) max_depth_ = std::min(max_depth_, heads_.depths());
    if (const std::string file = TextOption(spec, "tree", ""); !file.empty()) {
      if (heads_.chained()) Fail(ErrorCode::kUsage, "--draft mtp: tree=", file, " is for heads that guess at once");
      shape_ = ReadTreeShape(file, heads_.depths());
      for (const std::vector<int32_t>& path : shape_) {
        choices_ = std::max(choices_, static_cast<size_t>(path.back()) + 1);
      }
    }
    if (owned_ != nullptr && compute_ == Compute::kInt8) heads_.Freeze();
    if (const auto* mtp = dynamic_cast<const MtpHeads*>(&heads_); mtp != nullptr) {
      for (int64_t i = 0; i < (heads_.chained() ? 1 : heads_.depths()); ++i) {
        caches_.push_back(mtp->MakeCache(target.context + max_depth_ + 128));
        caches_.back().NewSequence();
      }
    }
  }

  std::string name() const override { return heads_.kind(); }
  Needs needs() const override { return {heads_.after_layer() < 0, heads_.after_layer()}; }
  bool cheap() const override { return false; }

  void Begin(std::span<const int32_t>) override {
    pending_.clear();
    tokens_.clear();
    for (KvCache& cache : caches_) cache.Truncate(0, 0);
  }

  void Observe(const Observation& o) override {
    const Tensor rows = heads_.after_layer() < 0 ? o.hidden : o.after_layer;
    if (caches_.empty()) {  // nothing looks further back than the last row
      pending_.clear();
      tokens_.clear();
    }
    const size_t from = caches_.empty() ? o.tokens.size() - 1 : 0;
    for (size_t i = from; i < o.tokens.size(); ++i) {
      const float* const row = rows.row(static_cast<int64_t>(i));
      pending_.insert(pending_.end(), row, row + width_);
      tokens_.push_back(i + 1 < o.tokens.size() ? o.tokens[i + 1] : o.next);
    }
    constexpr size_t kMost = 512;  // rows of a long prompt that wait
    if (tokens_.size() > kMost) {
      for (int64_t d = 0; d < static_cast<int64_t>(caches_.size()); ++d) Run(d, kMost);
      pending_.erase(pending_.begin(), pending_.begin() + static_cast<int64_t>(kMost) * width_);
      tokens_.erase(tokens_.begin(), tokens_.begin() + kMost);
    }
  }

  void Propose(int64_t budget, int64_t max_depth, Draft& draft) override {
    if (tokens_.empty()) return;
    budget = std::min(budget, nodes_);
    max_depth = std::min(max_depth, max_depth_);
    workspace_.Reset();
    if (heads_.chained()) {
      Chain(budget, max_depth, draft);
    } else {
      AtOnce(budget, max_depth, draft);
      pending_.clear();
      tokens_.clear();
    }
  }

 private:
  // The heads at the option `path`, else the model's own where no graft of the request brings any.
  static std::unique_ptr<Graft> OwnOrNamed(const DrafterSpec& spec, const DrafterTarget& target) {
    std::unique_ptr<Graft> named = LoadHeads(spec, target);
    const bool own = spec.name == "mtp" && !target.transformer.weights().mtp_source.empty();
    if (named != nullptr || !own || CarriedHeads(spec, target) != nullptr) return named;
    return MtpHeads::LoadOwn(target.transformer);
  }
  static Heads& Carried(const DrafterSpec& spec, const DrafterTarget& target) {
    if (Heads* const heads = CarriedHeads(spec, target); heads != nullptr) return *heads;
    Fail(ErrorCode::kUsage, "--draft ", spec.name, ": path=DIR is missing, and no --graft of the request brings such heads");
  }

  struct Row {
    Tensor features, state;  // [1, hidden]
  };
  // Depth `depth` over the first `count` pending rows, behind what its cache holds; gives the last of them.
  Row Run(int64_t depth, size_t count) {
    const int64_t rows = static_cast<int64_t>(count);
    return Run(depth, Tensor(pending_.data(), {rows, width_}), std::span(tokens_).first(count));
  }
  Row Run(int64_t depth, Tensor input, std::span<const int32_t> tokens) {
    const int64_t rows = input.rows(), lengths[] = {rows};
    HeadStep step{input, tokens, lengths};
    KvCache* const cache = caches_.empty() ? nullptr : &caches_[heads_.chained() ? 0 : static_cast<size_t>(depth)];
    step.kv = cache;
    Tensor features = workspace_.New({rows, width_});
    Tensor state = heads_.chained() ? workspace_.New({rows, width_}) : Tensor();
    heads_.Forward({pool_, workspace_, compute_, nullptr}, depth, step, features, state);
    if (cache != nullptr) cache->sequence(0).length += rows;
    return {features.Rows(rows - 1, 1), state ? state.Rows(rows - 1, 1) : Tensor()};
  }

  std::vector<TopToken> Read(const float* logits, const PackedMatrix& readout) const {
    std::vector<TopToken> top = TopTokens({logits, static_cast<size_t>(readout.out())}, choices_);
    for (TopToken& choice : top) choice.token = heads_.DraftToken(choice.token);
    return top;
  }

  void Chain(int64_t budget, int64_t max_depth, Draft& draft) {
    KvCache& cache = caches_.front();
    const int64_t known = cache.length(0) + static_cast<int64_t>(tokens_.size());
    const PackedMatrix& readout = heads_.readout(0);
    int32_t parent = -1;
    std::vector<int32_t> token;
    Row row;
    float chance = 1;
    for (int64_t depth = 0; depth < max_depth; ++depth) {
      const bool pays = pays_ ? pays_(draft) : chance >= kLeastChain;
      if (static_cast<int64_t>(draft.nodes.size()) >= budget || !pays) break;
      row = depth == 0 ? Run(0, tokens_.size()) : Run(0, row.state, token);
      if (depth == 0) {
        pending_.clear();
        tokens_.clear();
      }
      Tensor logits = workspace_.New({1, readout.out()});
      const Product product[] = {{&readout, logits}};
      MatMul(pool_, workspace_, compute_, row.features, product);
      int32_t first = -1;
      for (const TopToken& choice : Read(logits.f32(), readout)) {
        if (static_cast<int64_t>(draft.nodes.size()) >= budget) break;
        const int32_t node = draft.Add(parent, choice.token, choice.probability);
        if (first < 0) first = node;
      }
      if (first < 0) break;
      parent = first;
      chance *= draft.nodes[static_cast<size_t>(first)].probability;
      token = {draft.nodes[static_cast<size_t>(first)].token};
    }
    cache.Truncate(0, std::min(known, cache.length(0)));  // the guesses are not the text
  }

  void AtOnce(int64_t budget, int64_t max_depth, Draft& draft) {
    // One product for all depths that share the readout: it is read from memory once.
    std::vector<std::vector<TopToken>> top(static_cast<size_t>(max_depth));
    Tensor features = workspace_.New({max_depth, width_});
    for (int64_t d = 0; d < max_depth; ++d) {
      const Row row = Run(d, tokens_.size());
      std::memcpy(features.row(d), row.features.data, static_cast<size_t>(row.features.bytes()));
    }
    for (int64_t d = 0; d < max_depth;) {
      const PackedMatrix& readout = heads_.readout(d);
      int64_t count = 1;
      while (d + count < max_depth && &heads_.readout(d + count) == &readout) ++count;
      Tensor logits = workspace_.New({count, readout.out()});
      const Product product[] = {{&readout, logits}};
      MatMul(pool_, workspace_, compute_, features.Rows(d, count), product);
      pool_.Run(count, [&](int64_t i, int) { top[static_cast<size_t>(d + i)] = Read(logits.row(i), readout); });
      d += count;
    }
    shape_.empty() ? GrowBest(top, budget, draft) : GrowShape(top, budget, draft);
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
    while (!open.empty() && static_cast<int64_t>(draft.nodes.size()) < budget) {
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
      if (depth >= top.size() || rank >= top[depth].size() || static_cast<int64_t>(draft.nodes.size()) >= budget) continue;
      const std::vector<int32_t> above(path.begin(), path.end() - 1);
      const auto parent = placed.find(above);
      if (!above.empty() && parent == placed.end()) continue;
      placed[path] = draft.Add(above.empty() ? -1 : parent->second, top[depth][rank].token, top[depth][rank].probability);
    }
  }

  static constexpr float kLeastChance = 0.01f;
  static constexpr float kLeastChain = 0.15f;  // below it another step hardly pays, where nobody knows the times
  ThreadPool& pool_;
  int64_t width_;
  Compute compute_;
  std::unique_ptr<Graft> owned_;
  Heads& heads_;
  int64_t max_depth_;
  size_t choices_;
  int64_t nodes_;
  std::vector<std::vector<int32_t>> shape_;
  Workspace workspace_;
  std::vector<KvCache> caches_;    // of each module that has a block
  std::vector<float> pending_;     // [rows, hidden] that the modules have not seen yet
  std::vector<int32_t> tokens_;    // the token behind each
};

}  // namespace

std::unique_ptr<Graft> LoadHeads(const DrafterSpec& spec, const DrafterTarget& target) {
  const std::string path = TextOption(spec, "path", "");
  if (path.empty()) return nullptr;
  if (!std::filesystem::exists(path)) Fail(ErrorCode::kData, path, ": no such file or directory");
  for (const GraftEntry& entry : GraftList()) {
    if (entry.kind == spec.name && entry.recognises(path)) return entry.load(path, target.transformer, 1);
  }
  Fail(ErrorCode::kData, "--draft ", spec.name, ": ", path, " holds no ", spec.name, " heads");
}

Heads* CarriedHeads(const DrafterSpec& spec, const DrafterTarget& target) {
  for (Graft* graft : target.state.grafts) {
    if (graft->heads() != nullptr && graft->kind() == spec.name) return graft->heads();
  }
  return nullptr;
}

std::unique_ptr<Drafter> MakeHeadsDrafter(const DrafterSpec& spec, const DrafterTarget& target) {
  return std::make_unique<HeadsDrafter>(spec, target);
}

}  // namespace cambium
