// A smaller model of the same vocabulary, with a cache of its own, and `exit`: the target's own first layers read out
// by its final norm and head, or by a trained exit. Both grow trees by their probabilities, one pass a level for all
// texts.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "decode/sampler.h"
#include "decode/top.h"
#include "drafters/drafters.h"
#include "io/model_cache.h"
#include "model/heads.h"

namespace cambium {
namespace {

class ChainSession : public DraftSession {
 public:
  explicit ChainSession(const DraftText& text) : text(text) {
    if (text.sampling.temperature > 0) sampler.emplace(text.sampling);
  }

  const DraftText text;
  std::optional<Sampler> sampler;  // where the target samples
};

// Grows a chain with `width` - 1 alternatives a level, by autoregression of `layers` blocks of a transformer on
// sequences whose slots hold the text before. The chain is the likeliest tokens; where the target samples, it is drawn
// with the target's noise of the position, which agrees most often (Daliri et al. 2024).
class AutoregressiveDrafter : public Drafter {
 public:
  AutoregressiveDrafter(int64_t max_depth, int64_t width) : max_depth_(max_depth), width_(width) {}
  bool cheap() const override { return false; }

 protected:
  struct Runner {
    Transformer& transformer;
    KvCache& kv;
    Compute compute;
    int64_t layers;
    int64_t tokens;         // that the target has: ids from here on are never drafted
    Heads* exit = nullptr;  // reads the last of these layers out; null: the final norm and head do
  };
  // A draft under way.
  struct Growth {
    Growth(DraftTask& task, ChainSession& session, KvCache::Id sequence, int64_t past, std::span<const int32_t> rows)
        : task(&task), session(&session), sequence(sequence), past(past), pending(rows.begin(), rows.end()) {
      if (session.sampler) text = session.text.tokens;
    }
    DraftTask* task;
    ChainSession* session;
    KvCache::Id sequence;            // of the runner's cache
    int64_t past;                    // slots before the rows that come next
    std::vector<int32_t> pending;    // tokens of these rows; the last is the root, or the chain's end
    std::vector<int32_t> run = {};   // tokens that were run
    std::vector<int32_t> text = {};  // up to the chain's end, where the target samples
    std::span<Graft* const> grafts = {};
    int32_t end = -1;  // the chain's last node
  };

  void GrowAll(const Runner& runner, std::vector<Growth>& growths, const Pays& pays) {
    std::vector<Growth*> live;
    for (Growth& growth : growths) live.push_back(&growth);
    for (int64_t depth = 0;; ++depth) {
      std::erase_if(live, [&](const Growth* g) {
        const DraftTask& task = *g->task;
        return depth >= std::min(task.max_depth, max_depth_) || task.draft.size() >= task.budget ||
               (pays && !pays(task)) || !runner.kv.TryGrow(g->sequence, g->past + std::ssize(g->pending));
      });
      if (depth == 0) CatchUp(runner, live);
      if (live.empty()) return;
      const Tensor logits = Run(runner, live);
      for (size_t i = 0; i < live.size(); ++i) AddLevel(Row(runner, logits, static_cast<int64_t>(i)), *live[i]);
      std::erase_if(live, [](const Growth* g) { return g->pending.empty(); });
    }
  }

 private:
  static Pass NewPass(const Runner& runner) {
    Pass pass;
    pass.compute = runner.compute;
    pass.kv = &runner.kv;
    pass.layers = runner.layers;
    return pass;
  }
  // Appends the first `count` pending rows.
  static void Take(Pass& pass, Growth& g, int64_t count) {
    const auto begin = g.pending.begin(), end = begin + count;
    pass.Append(g.sequence, g.past, {begin, end}).grafts = g.grafts;
    g.past += count;
    g.run.insert(g.run.end(), begin, end);
    g.pending.erase(begin, end);
  }

  // Runs what is more than one pass should hold, as at the beginning of long texts.
  static void CatchUp(const Runner& runner, std::span<Growth* const> live) {
    constexpr int64_t kChunk = 512;
    const auto shorter = [](const Growth* a, const Growth* b) { return a->pending.size() < b->pending.size(); };
    int64_t rows = 0;
    for (const Growth* g : live) rows += std::ssize(g->pending);
    while (rows > kChunk) {
      Growth& longest = **std::ranges::max_element(live, shorter);
      const int64_t count = std::min(kChunk, std::ssize(longest.pending) - 1);
      if (count == 0) return;
      Pass pass = NewPass(runner);
      Take(pass, longest, count);
      runner.transformer.Forward(pass);
      rows -= count;
    }
  }

  // One pass over the pending rows; logits of each text's last one, [texts, vocab] or an exit's [texts, draft
  // vocabulary].
  Tensor Run(const Runner& runner, std::span<Growth* const> live) {
    Pass pass = NewPass(runner);
    std::vector<int32_t> last;
    for (Growth* g : live) {
      Take(pass, *g, std::ssize(g->pending));
      last.push_back(static_cast<int32_t>(pass.rows()) - 1);
    }
    if (runner.exit == nullptr) {
      pass.logit_rows = std::move(last);
      runner.transformer.Forward(pass);
      return pass.result.logits;
    }
    pass.capture = {runner.exit->after_layer()};
    runner.transformer.Forward(pass);
    return ReadOut(runner, pass.result.captured[0], last);
  }

  Tensor ReadOut(const Runner& runner, Tensor states, std::span<const int32_t> rows) {
    ThreadPool& pool = runner.transformer.pool();
    const PackedMatrix& readout = runner.exit->readout(0);
    const int64_t texts = std::ssize(rows), width = states.columns();
    workspace_.Reset();
    Tensor input = workspace_.New({texts, width}), features = workspace_.New({texts, width});
    Tensor logits = workspace_.New({texts, readout.out()});
    for (int64_t i = 0; i < texts; ++i) std::copy_n(states.row(rows[static_cast<size_t>(i)]), width, input.row(i));
    const std::vector<int64_t> lengths(rows.size(), 1);
    runner.exit->Forward({pool, workspace_, runner.compute, nullptr}, 0, {input, {}, lengths}, features, {});
    const Product product[] = {{&readout, logits}};
    MatMul(pool, workspace_, runner.compute, features, product);
    return logits;
  }

  // A row's logits by token; what an exit's draft vocabulary lacks has none.
  std::span<const float> Row(const Runner& runner, Tensor logits, int64_t row) {
    const std::span<const float> own = {logits.row(row), static_cast<size_t>(logits.columns())};
    const size_t tokens = static_cast<size_t>(runner.tokens);
    if (runner.exit == nullptr || runner.exit->draft_tokens().empty()) return own.first(std::min(own.size(), tokens));
    scores_.assign(tokens, -std::numeric_limits<float>::infinity());
    for (size_t i = 0; i < own.size(); ++i) {
      scores_[static_cast<size_t>(runner.exit->DraftToken(static_cast<int32_t>(i)))] = own[i];
    }
    return scores_;
  }

  // Adds the children of the chain's end; the first one is its next, if there is any.
  void AddLevel(std::span<const float> logits, Growth& g) const {
    g.end = g.session->sampler ? Draw(logits, g) : Likeliest(logits, g);
    if (g.end < 0) return;
    g.pending = {g.task->draft.nodes[static_cast<size_t>(g.end)].token};
    if (g.session->sampler) g.text.push_back(g.pending.back());
  }

  int32_t Likeliest(std::span<const float> logits, const Growth& g) const {
    int32_t first = -1;
    for (const TopToken& choice : TopTokens(logits, static_cast<size_t>(width_))) {
      if (g.task->draft.size() >= g.task->budget) break;
      const int32_t node = g.task->draft.Add(g.end, choice.token, choice.probability);
      if (first < 0) first = node;
    }
    return first;
  }

  static int32_t Draw(std::span<const float> logits, const Growth& g) {
    if (ArgMax(logits) < 0) return -1;  // not finite: the target is not to suffer for it
    Sampler& sampler = *g.session->sampler;
    const int32_t token = sampler.Draw(logits, g.text, std::ssize(g.text));
    const std::span<const Sampler::Candidate> candidates = sampler.Warp(logits, g.text);
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
    Draft& draft = g.task->draft;
    if (g.session->text.proposals) {
      draft.proposals.resize(static_cast<size_t>(g.end) + 2);
      draft.proposals.back() = std::move(shares);
    }
    // With common noise the target draws the token far more often than by chance: a belief to start from.
    return draft.Add(g.end, token, std::sqrt(own));
  }

  int64_t max_depth_, width_;
  Workspace workspace_;
  std::vector<float> scores_;
};

class ModelSession : public ChainSession {
 public:
  ModelSession(const DraftText& text, KvCache& kv) : ChainSession(text), sequence(kv.Open()), kv_(kv) {}
  ~ModelSession() override { kv_.Close(sequence); }

  const KvCache::Id sequence;   // in the draft model's cache, where token i sits in slot i; nothing is committed
  std::vector<int32_t> cached;  // tokens in the cache, guesses included

 private:
  KvCache& kv_;
};

class ModelDrafter : public AutoregressiveDrafter {
 public:
  ModelDrafter(const DrafterSpec& spec, const DrafterTarget& target)
      : AutoregressiveDrafter(IntOption(spec, "max", 16, 1, 64), IntOption(spec, "width", 2, 1, 32)),
        compute_(target.compute),
        transformer_(LoadWeights(target.transformer.pool(), Path(spec)), target.transformer.pool()),
        target_tokens_(target.tokens()),
        kv_(transformer_.config(), DType::kF16, target.kv.max_slots() + kSlack) {
    if (transformer_.config().has_encoder()) {
      Fail(ErrorCode::kUsage, "--draft model: ", Path(spec), " has an encoder, which cannot draft");
    }
    CheckVocabulary(Path(spec), target);
    if (transformer_.config().context < target.context) {
      Fail(ErrorCode::kUsage, "--draft model: ", Path(spec), " has a context of ", transformer_.config().context,
           " positions, the target uses ", target.context, "; lower -c");
    }
  }

  std::string name() const override { return "model"; }

  std::unique_ptr<DraftSession> Open(const DraftText& text) override {
    return std::make_unique<ModelSession>(text, kv_);
  }

  void Propose(std::span<DraftTask> tasks, const Pays& pays) override {
    std::vector<Growth> growths;
    for (DraftTask& task : tasks) {
      auto& session = *static_cast<ModelSession*>(task.session);
      // What the cache holds of the text stays; the root runs again, for its logits.
      const std::vector<int32_t>& text = session.text.tokens;
      size_t same = 0;
      while (same < session.cached.size() && same + 1 < text.size() && session.cached[same] == text[same]) ++same;
      session.cached.resize(same);
      const std::span<const int32_t> rows = std::span(text).subspan(same);
      const int64_t known =
          transformer_.config().vocab;  // the target may have rows, and draw tokens, that this model lacks
      if (std::ranges::any_of(rows, [&](int32_t token) { return token >= known; })) continue;
      growths.emplace_back(task, session, session.sequence, static_cast<int64_t>(same), rows);
    }
    GrowAll({transformer_, kv_, compute_, -1, target_tokens_}, growths, pays);
    for (const Growth& growth : growths) {
      std::vector<int32_t>& cached = static_cast<ModelSession*>(growth.session)->cached;
      cached.insert(cached.end(), growth.run.begin(), growth.run.end());
    }
  }

 private:
  // Slots beyond what the target's cache has: begun pages and guesses of some sixty texts. Where texts share pages
  // there, as here they do not, it may be spent; then some are not drafted for.
  static constexpr int64_t kSlack = 2048;

  static std::string Path(const DrafterSpec& spec) {
    const std::string path = TextOption(spec, "path", "");
    if (path.empty()) Fail(ErrorCode::kUsage, "--draft model: path=MODEL is missing");
    return ResolveModel(path);
  }

  void CheckVocabulary(const std::string& path, const DrafterTarget& target) const {
    const Tokenizer own = LoadTokenizer(path);
    const int rows = static_cast<int>(transformer_.config().vocab), size = own.text_size();
    const int wanted = target.tokenizer.text_size();
    const auto piece = [](const Tokenizer& tokenizer, int32_t id) {
      if (id >= tokenizer.text_size()) return std::string("none");
      return nlohmann::json(tokenizer.Piece(id)).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    };
    for (int32_t id = 0; id < std::max(size, wanted); ++id) {
      if (id < std::min(size, wanted) && own.Piece(id) == target.tokenizer.Piece(id)) continue;
      Fail(ErrorCode::kUsage, "--draft model: ", path, ": token ", id, " is ", piece(own, id), ", the target's is ",
           piece(target.tokenizer, id));
    }
    if (rows < wanted) {
      Fail(ErrorCode::kData, "--draft model: ", path, ": the tokenizer has ", size, " tokens, the embedding ", rows,
           " rows");
    }
  }

  Compute compute_;
  Transformer transformer_;
  int64_t target_tokens_;
  KvCache kv_;
};

class ExitDrafter : public AutoregressiveDrafter {
 public:
  ExitDrafter(const DrafterSpec& spec, const DrafterTarget& target)
      : AutoregressiveDrafter(IntOption(spec, "max", 4, 1, 64), IntOption(spec, "width", 2, 1, 32)),
        transformer_(target.transformer),
        kv_(target.kv),
        compute_(target.compute),
        tokens_(target.tokens()),
        owned_(LoadHeads(spec, target)),
        exit_(owned_ != nullptr ? owned_->heads() : CarriedHeads(spec, target)),
        layers_(IntOption(spec, "layer",
                          exit_ != nullptr ? exit_->after_layer() + 1 : target.transformer.config().layers / 2, 1,
                          target.transformer.config().layers - 1)) {
    if (exit_ == nullptr) return;
    if (layers_ != exit_->after_layer() + 1) {
      Fail(ErrorCode::kUsage, "--draft exit: layer is ", layers_, ", the trained exit reads layer ",
           exit_->after_layer() + 1);
    }
    if (owned_ != nullptr && compute_ == Compute::kInt8) exit_->Freeze();
  }

  std::string name() const override { return "exit"; }

  std::unique_ptr<DraftSession> Open(const DraftText& text) override { return std::make_unique<ChainSession>(text); }

  void Propose(std::span<DraftTask> tasks, const Pays& pays) override {
    std::vector<Growth> growths;
    for (DraftTask& task : tasks) {
      auto& session = *static_cast<ChainSession*>(task.session);
      const DraftText& text = session.text;
      // The first layers' slots beyond the committed ones are the verifying pass's to overwrite.
      growths.emplace_back(task, session, text.sequence, kv_.length(text.sequence), std::span(text.tokens).last(1));
      growths.back().grafts = text.grafts;
    }
    GrowAll({transformer_, kv_, compute_, layers_, tokens_, exit_}, growths, pays);
    for (const Growth& growth : growths) kv_.Truncate(growth.sequence, kv_.length(growth.sequence));
  }

 private:
  Transformer& transformer_;
  KvCache& kv_;
  Compute compute_;
  int64_t tokens_;  // that may be proposed
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
