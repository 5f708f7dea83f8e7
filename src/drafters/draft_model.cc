// A smaller model of the same vocabulary, with a cache of its own, and `exit`: the target's own first layers read out by
// its final norm and head, or by a trained exit. Both grow a tree by their probabilities, one pass a level.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "decode/sampler.h"
#include "decode/top.h"
#include "drafters/drafters.h"
#include "drafters/history.h"
#include "io/model_cache.h"
#include "model/heads.h"

namespace cambium {
namespace {

// Grows a chain with `width` - 1 alternatives a level, by autoregression of `layers` blocks of a transformer on a sequence
// whose committed slots hold the text before `pending`. The chain is the likeliest tokens; where the target samples, it is
// drawn with the target's noise.
class AutoregressiveDrafter : public Drafter {
 public:
  AutoregressiveDrafter(int64_t max_depth, int64_t width) : max_depth_(max_depth), width_(width) {}
  bool cheap() const override { return false; }
  void Sampling(const SamplingOptions& sampling, bool proposals) override {
    sampler_ = sampling.temperature > 0 ? std::make_optional<Sampler>(sampling) : std::nullopt;
    proposals_ = proposals && sampler_;
  }
  void Begin(std::span<const int32_t> prompt) override { history_.Begin(prompt); }
  void Observe(const Observation& observation) override { history_.Observe(observation); }

 protected:
  struct Runner {
    Transformer& transformer;
    KvCache& kv;
    int sequence;
    std::span<Graft* const> grafts;
    Compute compute;
    int64_t layers;
    Heads* exit = nullptr;  // reads the last of these layers out; null: the final norm and head do
  };

  // One pass over a chain, committed; logits of its last row [vocab].
  std::span<const float> Run(const Runner& runner, std::span<const int32_t> tokens, bool logits) {
    Pass pass;
    pass.compute = runner.compute;
    pass.kv = &runner.kv;
    pass.layers = runner.layers;
    pass.Append(runner.sequence, runner.kv.length(runner.sequence), tokens).grafts = runner.grafts;
    if (logits && runner.exit == nullptr) pass.logit_rows = {static_cast<int32_t>(tokens.size()) - 1};
    if (runner.exit != nullptr) pass.capture = {runner.exit->after_layer()};
    runner.transformer.Forward(pass);
    CommitAll(pass);
    if (!logits) return {};
    if (runner.exit != nullptr) return ReadOut(runner, pass.captured[0].Rows(pass.rows() - 1, 1));
    return {pass.logits.row(0), static_cast<size_t>(pass.logits.columns())};
  }

  // Tokens `pending` are not in the cache yet; the last of them is the root. Returns what was run.
  std::vector<int32_t> Grow(const Runner& runner, std::span<const int32_t> pending, int64_t budget, int64_t max_depth,
                            Draft& draft) {
    std::vector<int32_t> text = history_.tokens(), run;
    int32_t parent = -1;
    for (int64_t depth = 0; depth < std::min(max_depth, max_depth_); ++depth) {
      if (static_cast<int64_t>(draft.nodes.size()) >= budget || (pays_ && !pays_(draft))) break;
      const std::span<const float> logits = Run(runner, pending, true);
      run.insert(run.end(), pending.begin(), pending.end());
      parent = sampler_ ? Draw(logits, text, parent, draft) : Likeliest(logits, parent, budget, draft);
      if (parent < 0) break;
      text.push_back(draft.nodes[static_cast<size_t>(parent)].token);
      pending = std::span(text).last(1);
    }
    return run;
  }

  History history_;

 private:
  // Logits [vocab] of a trained exit; what its draft vocabulary lacks has none.
  std::span<const float> ReadOut(const Runner& runner, Tensor state) {
    ThreadPool& pool = runner.transformer.pool();
    workspace_.Reset();
    const PackedMatrix& readout = runner.exit->readout(0);
    Tensor features = workspace_.New({1, state.columns()}), logits = workspace_.New({1, readout.out()});
    const int64_t lengths[] = {1};
    runner.exit->Forward({pool, workspace_, runner.compute, nullptr}, 0, {state, {}, lengths}, features, {});
    const Product product[] = {{&readout, logits}};
    MatMul(pool, workspace_, runner.compute, features, product);
    if (runner.exit->draft_tokens().empty()) return {logits.f32(), static_cast<size_t>(readout.out())};
    scores_.assign(static_cast<size_t>(runner.transformer.config().vocab), -std::numeric_limits<float>::infinity());
    for (int64_t i = 0; i < readout.out(); ++i) {
      scores_[static_cast<size_t>(runner.exit->DraftToken(static_cast<int32_t>(i)))] = logits.f32()[i];
    }
    return scores_;
  }

  int32_t Likeliest(std::span<const float> logits, int32_t parent, int64_t budget, Draft& draft) {
    int32_t first = -1;
    for (const TopToken& choice : TopTokens(logits, static_cast<size_t>(width_))) {
      if (static_cast<int64_t>(draft.nodes.size()) >= budget) break;
      const int32_t node = draft.Add(parent, choice.token, choice.probability);
      if (first < 0) first = node;
    }
    return first;
  }

  int32_t Draw(std::span<const float> logits, std::span<const int32_t> text, int32_t parent, Draft& draft) {
    const int32_t token = sampler_->Draw(logits, text, static_cast<int64_t>(text.size()));
    const std::span<const Sampler::Candidate> candidates = sampler_->Warp(logits, text);
    std::vector<Draft::Share> shares;
    double total = 0;
    for (const Sampler::Candidate& c : candidates) {
      shares.push_back({c.token, candidates.size() == 1 ? 1.0f : std::exp(c.logit - candidates.front().logit)});
      total += shares.back().probability;
    }
    float own = 0;
    for (Draft::Share& share : shares) {
      share.probability = static_cast<float>(share.probability / total);
      if (share.token == token) own = share.probability;
    }
    if (proposals_) {
      draft.proposals.resize(static_cast<size_t>(parent) + 2);
      draft.proposals.back() = std::move(shares);
    }
    // With common noise the target draws the token far more often than by chance: a belief to start from.
    return draft.Add(parent, token, std::sqrt(own));
  }

  int64_t max_depth_, width_;
  Workspace workspace_;
  std::vector<float> scores_;
  std::optional<Sampler> sampler_;  // where the target samples
  bool proposals_ = false;
};

class ModelDrafter : public AutoregressiveDrafter {
 public:
  ModelDrafter(const DrafterSpec& spec, const DrafterTarget& target)
      : AutoregressiveDrafter(IntOption(spec, "max", 16, 1, 64), IntOption(spec, "width", 2, 1, 32)),
        compute_(target.compute),
        transformer_(LoadWeights(target.transformer.pool(), Path(spec)), target.transformer.pool()),
        kv_(transformer_.config(), DType::kF16, target.context + 128) {
    CheckVocabulary(Path(spec), target);
    if (transformer_.config().context < target.context) {
      Fail(ErrorCode::kUsage, "--draft model: ", Path(spec), " has a context of ", transformer_.config().context,
           " positions, the target uses ", target.context, "; lower -c");
    }
    sequence_ = kv_.NewSequence();
  }

  std::string name() const override { return "model"; }

  void Propose(int64_t budget, int64_t max_depth, Draft& draft) override {
    // What the cache holds of the text stays; the root runs again, for its logits.
    const std::vector<int32_t>& text = history_.tokens();
    size_t same = 0;
    while (same < cached_.size() && same + 1 < text.size() && cached_[same] == text[same]) ++same;
    cached_.resize(same);
    kv_.Truncate(sequence_, static_cast<int64_t>(same));
    const Runner runner = {transformer_, kv_, sequence_, {}, compute_, -1};
    constexpr size_t kChunk = 512;
    for (; text.size() - cached_.size() > kChunk; cached_.insert(cached_.end(), kChunk, 0)) {
      Run(runner, std::span(text).subspan(cached_.size(), kChunk), false);
    }
    const std::vector<int32_t> run =
        Grow(runner, std::span(text).subspan(cached_.size()), budget, max_depth, draft);
    std::copy(text.begin(), text.begin() + static_cast<int64_t>(cached_.size()), cached_.begin());
    cached_.insert(cached_.end(), run.begin(), run.end());
  }

 private:
  static std::string Path(const DrafterSpec& spec) {
    const std::string path = TextOption(spec, "path", "");
    if (path.empty()) Fail(ErrorCode::kUsage, "--draft model: path=MODEL is missing");
    return ResolveModel(path);
  }

  void CheckVocabulary(const std::string& path, const DrafterTarget& target) const {
    const Tokenizer own = LoadTokenizer(path);
    if (own.vocab_size() != target.tokenizer.vocab_size()) {
      Fail(ErrorCode::kUsage, "--draft model: ", path, " has ", own.vocab_size(), " tokens, the target ",
           target.tokenizer.vocab_size());
    }
    for (int32_t id = 0; id < own.vocab_size(); ++id) {
      if (own.Piece(id) != target.tokenizer.Piece(id)) {
        Fail(ErrorCode::kUsage, "--draft model: ", path, ": token ", id, " is \"", own.Piece(id), "\", the target's is \"",
             target.tokenizer.Piece(id), "\"");
      }
    }
  }

  Compute compute_;
  Transformer transformer_;
  KvCache kv_;
  int sequence_ = -1;
  std::vector<int32_t> cached_;  // tokens in the cache
};

class ExitDrafter : public AutoregressiveDrafter {
 public:
  ExitDrafter(const DrafterSpec& spec, const DrafterTarget& target)
      : AutoregressiveDrafter(IntOption(spec, "max", 4, 1, 64), IntOption(spec, "width", 2, 1, 32)),
        target_(target),
        owned_(LoadHeads(spec, target)),
        exit_(owned_ != nullptr ? owned_->heads() : CarriedHeads(spec, target)),
        layers_(IntOption(spec, "layer", exit_ != nullptr ? exit_->after_layer() + 1 : target.transformer.config().layers / 2, 1,
                          target.transformer.config().layers - 1)) {
    if (exit_ == nullptr) return;
    if (layers_ != exit_->after_layer() + 1) {
      Fail(ErrorCode::kUsage, "--draft exit: layer is ", layers_, ", the trained exit reads layer ", exit_->after_layer() + 1);
    }
    if (owned_ != nullptr && target.compute == Compute::kInt8) exit_->Freeze();
  }

  std::string name() const override { return "exit"; }

  void Propose(int64_t budget, int64_t max_depth, Draft& draft) override {
    // The first layers' slots beyond the committed ones are the verifying pass's to overwrite.
    const int64_t committed = target_.kv.length(target_.state.sequence);
    Grow({target_.transformer, target_.kv, target_.state.sequence, target_.state.grafts, target_.compute, layers_, exit_},
         std::span(history_.tokens()).last(1), budget, max_depth, draft);
    target_.kv.sequence(target_.state.sequence).length = committed;
  }

 private:
  DrafterTarget target_;
  std::unique_ptr<Graft> owned_;
  Heads* exit_;  // null: none was trained
  int64_t layers_;
};

}  // namespace

std::unique_ptr<Drafter> MakeModelDrafter(const DrafterSpec& spec, const DrafterTarget& target) {
  return std::make_unique<ModelDrafter>(spec, target);
}
std::unique_ptr<Drafter> MakeExitDrafter(const DrafterSpec& spec, const DrafterTarget& target) {
  return std::make_unique<ExitDrafter>(spec, target);
}

}  // namespace cambium
