// A smaller model of the same vocabulary, with a cache of its own, and `exit`: the target's own first layers read out by
// its final norm and head. Both grow a tree by their probabilities, one pass a level.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "drafters/drafters.h"
#include "io/model_cache.h"

namespace cambium {
namespace {

struct Choice {
  int32_t token;
  float probability;
};

// The `count` likeliest tokens of a row of logits, highest first.
std::vector<Choice> TopTokens(std::span<const float> logits, size_t count) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  count = std::min(count, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<int64_t>(count), ids.end(), [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  const float top = logits[static_cast<size_t>(ids[0])];
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit - top));
  std::vector<Choice> choices;
  for (size_t i = 0; i < count; ++i) {
    const float logit = logits[static_cast<size_t>(ids[i])];
    choices.push_back({ids[i], static_cast<float>(std::exp(static_cast<double>(logit - top)) / total)});
  }
  return choices;
}

// Grows a chain of likeliest tokens with `width` alternatives a level, by autoregression of `layers` blocks of a
// transformer on a sequence whose committed slots hold everything but the root.
class AutoregressiveDrafter : public Drafter {
 public:
  AutoregressiveDrafter(int64_t max_depth, int64_t width) : max_depth_(max_depth), width_(width) {}
  bool cheap() const override { return false; }

 protected:
  static constexpr float kLeastChance = 0.1f;  // of the chain: below it another level does not pay

  // Tokens `pending` are not in the cache yet; the last of them is the root.
  void Grow(Transformer& transformer, KvCache& kv, int sequence, std::span<Graft* const> grafts, Compute compute,
            int64_t layers, std::vector<int32_t> pending, int64_t budget, int64_t max_depth, Draft& draft) {
    int32_t parent = -1;
    float chance = 1;
    for (int64_t depth = 0; depth < std::min(max_depth, max_depth_); ++depth) {
      Pass pass;
      pass.compute = compute;
      pass.kv = &kv;
      pass.layers = layers;
      pass.Append(sequence, kv.length(sequence), pending).grafts = grafts;
      pass.logit_rows = {static_cast<int32_t>(pending.size()) - 1};
      transformer.Forward(pass);
      CommitAll(pass);
      const std::vector<Choice> choices =
          TopTokens({pass.logits.row(0), static_cast<size_t>(pass.logits.columns())}, static_cast<size_t>(width_));
      int32_t first = -1;
      for (const Choice& choice : choices) {
        if (static_cast<int64_t>(draft.nodes.size()) >= budget) break;
        const int32_t node = draft.Add(parent, choice.token, choice.probability);
        if (first < 0) first = node;
      }
      if (first < 0) break;
      chance *= choices.front().probability;
      if (chance < kLeastChance || static_cast<int64_t>(draft.nodes.size()) >= budget) break;
      parent = first;
      pending = {choices.front().token};
    }
  }

  int64_t max_depth_, width_;
};

class ModelDrafter : public AutoregressiveDrafter {
 public:
  ModelDrafter(const DrafterSpec& spec, const DrafterTarget& target)
      : AutoregressiveDrafter(IntOption(spec, "max", 8, 1, 64), IntOption(spec, "width", 2, 1, 32)),
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

  void Begin(std::span<const int32_t> prompt) override {
    size_t same = 0;
    while (same < prompt.size() && same < history_.size() && history_[same] == prompt[same]) ++same;
    kv_.Truncate(sequence_, std::min<int64_t>(kv_.length(sequence_), static_cast<int64_t>(same)));
    history_.assign(prompt.begin(), prompt.end());
  }

  void Observe(const Observation& observation) override {
    // Slots beyond what history and cache agree on belong to drafts that were not accepted.
    const size_t known = static_cast<size_t>(observation.position) + observation.tokens.size();
    history_.resize(static_cast<size_t>(observation.position));
    history_.insert(history_.end(), observation.tokens.begin(), observation.tokens.end());
    history_.push_back(observation.next);
    int64_t valid = std::min<int64_t>(kv_.length(sequence_), static_cast<int64_t>(known));
    for (int64_t i = static_cast<int64_t>(drafted_from_); i < valid; ++i) {
      const size_t at = static_cast<size_t>(i - drafted_from_);
      if (at < drafted_.size() && drafted_[at] != history_[static_cast<size_t>(i)]) {
        valid = i;
        break;
      }
    }
    kv_.Truncate(sequence_, valid);
  }

  void Propose(int64_t budget, int64_t max_depth, Draft& draft) override {
    const int64_t cached = kv_.length(sequence_);
    std::vector<int32_t> pending(history_.begin() + cached, history_.end());
    constexpr size_t kChunk = 512;
    while (pending.size() > kChunk) {
      Pass pass;
      pass.compute = compute_;
      pass.kv = &kv_;
      pass.Append(sequence_, kv_.length(sequence_), std::span(pending).first(kChunk));
      transformer_.Forward(pass);
      CommitAll(pass);
      pending.erase(pending.begin(), pending.begin() + kChunk);
    }
    Grow(transformer_, kv_, sequence_, {}, compute_, -1, std::move(pending), budget, max_depth, draft);
    // What the cache now holds beyond the root is the draft's chain of first children.
    drafted_from_ = static_cast<int64_t>(history_.size());
    drafted_.clear();
    for (int32_t node = -1; static_cast<int64_t>(drafted_.size()) < kv_.length(sequence_) - drafted_from_;) {
      int32_t child = -1;
      for (size_t i = static_cast<size_t>(node + 1); i < draft.nodes.size() && child < 0; ++i) {
        if (draft.nodes[i].parent == node) child = static_cast<int32_t>(i);
      }
      if (child < 0) break;
      drafted_.push_back(draft.nodes[static_cast<size_t>(child)].token);
      node = child;
    }
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
  std::vector<int32_t> history_;  // the sequence, the root included
  std::vector<int32_t> drafted_;  // tokens in the cache from slot drafted_from_ on
  int64_t drafted_from_ = 0;
};

class ExitDrafter : public AutoregressiveDrafter {
 public:
  ExitDrafter(const DrafterSpec& spec, const DrafterTarget& target)
      : AutoregressiveDrafter(IntOption(spec, "max", 4, 1, 64), IntOption(spec, "width", 2, 1, 32)),
        target_(target),
        layers_(IntOption(spec, "layer", target.transformer.config().layers / 2, 1,
                          target.transformer.config().layers - 1)) {}

  std::string name() const override { return "exit"; }
  void Begin(std::span<const int32_t>) override {}
  void Observe(const Observation& observation) override { root_ = observation.next; }

  void Propose(int64_t budget, int64_t max_depth, Draft& draft) override {
    // The first layers' slots beyond the committed ones are the verifying pass's to overwrite.
    const int64_t committed = target_.kv.length(target_.state.sequence);
    Grow(target_.transformer, target_.kv, target_.state.sequence, target_.state.grafts, target_.compute, layers_, {root_},
         budget, max_depth, draft);
    target_.kv.sequence(target_.state.sequence).length = committed;
  }

 private:
  DrafterTarget target_;
  int64_t layers_;
  int32_t root_ = 0;
};

}  // namespace

std::unique_ptr<Drafter> MakeModelDrafter(const DrafterSpec& spec, const DrafterTarget& target) {
  return std::make_unique<ModelDrafter>(spec, target);
}
std::unique_ptr<Drafter> MakeExitDrafter(const DrafterSpec& spec, const DrafterTarget& target) {
  return std::make_unique<ExitDrafter>(spec, target);
}

}  // namespace cambium
