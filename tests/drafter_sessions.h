#pragma once

// Texts that are drawn and drafted for by hand, pass by pass.
#include <gtest/gtest.h>

#include <functional>

#include "decode/top.h"
#include "decode/verify.h"
#include "drafters/drafters.h"
#include "grafts/grafts.h"
#include "heads_testing.h"
#include "io/gguf_writer.h"
#include "io/token_index.h"
#include "model/load.h"
#include "temp_folder.h"
#include "tiny_model.h"
#include "tiny_tokenizer.h"

namespace cambium {

inline constexpr int64_t kContext = 256, kTokens = 259;

inline bool Same(const Draft& a, const Draft& b) {
  const auto node = [](const Draft::Node& x, const Draft::Node& y) {
    return x.token == y.token && x.parent == y.parent && x.probability == y.probability;
  };
  const auto share = [](const Draft::Share& x, const Draft::Share& y) {
    return x.token == y.token && x.probability == y.probability;
  };
  const auto shares = [&](const auto& x, const auto& y) { return std::ranges::equal(x, y, share); };
  return std::ranges::equal(a.nodes, b.nodes, node) && std::ranges::equal(a.proposals, b.proposals, shares);
}

// How a text is drawn and drafted for.
struct TextPlan {
  std::vector<int32_t> prompt;
  SamplingOptions sampling;
  int64_t budget = 12, max_depth = 4;
  std::vector<Graft*> grafts;
  std::vector<int32_t> plain;  // the text without drafts
};

// A sequence whose passes are run by hand.
class Text {
 public:
  Text(Transformer& model, KvCache& kv, Drafter& drafter, const TextPlan& plan)
      : model_(model), kv_(kv), drafter_(drafter), plan_(plan), sampler_(plan.sampling), sequence_(kv.Open()) {}
  ~Text() { Close(); }

  // `known` tokens of the prompt are in the cache already.
  void Read(int64_t chunk, int64_t known = 0, KvCache::Id attached = -1) {
    if (attached >= 0) {
      kv_.Close(sequence_);
      sequence_ = attached;
    } else {
      slots_before_ = model_.BeginSequence(kv_, sequence_, plan_.grafts);
    }
    tokens_ = plan_.prompt;
    session_ = drafter_.Open({tokens_, sequence_, slots_before_, known, plan_.grafts, plan_.sampling, true});
    const std::vector<int32_t> prompt = plan_.prompt;
    const int64_t size = std::ssize(prompt);
    for (int64_t at = known; at < size; at += chunk) {
      const int64_t count = std::min(chunk, size - at);
      const std::span<const int32_t> rows =
          std::span(prompt).subspan(static_cast<size_t>(at), static_cast<size_t>(count));
      Pass pass = NewPass(rows, {});
      const bool last = at + count == size;
      if (last) pass.logit_rows = {static_cast<int32_t>(count) - 1};
      model_.Forward(pass);
      kv_.Commit(sequence_, count);
      if (last) tokens_.push_back(sampler_.Draw(Row(pass.result.logits, 0), tokens_, size));
      const int32_t next = tokens_[static_cast<size_t>(at + count)];
      session_->Observe(
          {at, rows, pass.result.hidden, pass.capture.empty() ? Tensor() : pass.result.captured[0], next, nullptr, pass.result.logits});
    }
  }

  DraftTask Task() { return {session_.get(), plan_.budget, plan_.max_depth, {}}; }

  // Every other time the next tokens of the plain text are verified, too, so that several are committed at once.
  void Verify(const DraftTask& task) {
    drafts.push_back(task.draft);
    Draft draft = task.draft;
    int32_t parent = -1;
    for (size_t at = tokens_.size(); drafts.size() % 2 == 0 && at < std::min(tokens_.size() + 3, plan_.plain.size());
         ++at) {
      parent = draft.Add(parent, plan_.plain[at], 0.5f);
    }
    std::vector<int32_t> rows = {tokens_.back()}, parents = {-1};
    for (const Draft::Node& node : draft.nodes) {
      rows.push_back(node.token);
      parents.push_back(node.parent + 1);
    }
    const int64_t position = std::ssize(tokens_) - 1;
    Pass pass = NewPass(rows, parents);
    for (size_t i = 0; i < rows.size(); ++i) pass.logit_rows.push_back(static_cast<int32_t>(i));
    model_.Forward(pass);
    const Verdict verdict =
        cambium::Verify(VerifyRule(), draft, pass.result.logits, sampler_, tokens_, 64, [](int32_t) { return false; });
    std::vector<int32_t> path = {0}, committed = {rows[0]};
    for (const int32_t node : verdict.path) {
      path.push_back(node + 1);
      committed.push_back(draft.nodes[static_cast<size_t>(node)].token);
    }
    accepted += std::ssize(verdict.path);
    kv_.Commit(sequence_, path);
    const auto gather = [&](Tensor from) {
      OwnedTensor kept({std::ssize(path), from.columns()});
      for (size_t i = 0; i < path.size(); ++i) {
        std::copy_n(from.row(path[i]), from.columns(), kept.view.row(static_cast<int64_t>(i)));
      }
      return kept;
    };
    const OwnedTensor hidden = gather(pass.result.hidden);
    const OwnedTensor captured = pass.capture.empty() ? OwnedTensor() : gather(pass.result.captured[0]);
    session_->Observe({position, committed, hidden.view, captured.view, tokens_.back(), &draft, pass.result.logits});
  }

  void Close() {
    if (sequence_ < 0) return;
    session_.reset();
    kv_.Close(sequence_);
    sequence_ = -1;
  }

  const std::vector<int32_t>& tokens() const { return tokens_; }
  KvCache::Id sequence() const { return sequence_; }
  DraftSession& session() const { return *session_; }
  std::vector<Draft> drafts;
  int64_t accepted = 0;

 private:
  static std::span<const float> Row(Tensor logits, int64_t row) {
    return {logits.row(row), static_cast<size_t>(logits.columns())};
  }
  Pass NewPass(std::span<const int32_t> rows, std::span<const int32_t> parents) {
    Pass pass;
    pass.kv = &kv_;
    pass.Append(sequence_, kv_.length(sequence_), rows, parents).grafts = plan_.grafts;
    if (drafter_.needs().after_layer >= 0) pass.capture = {drafter_.needs().after_layer};
    return pass;
  }

  Transformer& model_;
  KvCache& kv_;
  Drafter& drafter_;
  const TextPlan& plan_;
  Sampler sampler_;
  KvCache::Id sequence_;
  int64_t slots_before_ = 0;
  std::vector<int32_t> tokens_;
  std::unique_ptr<DraftSession> session_;
};

class Sessions : public testing::TestWithParam<TinyFamily> {
 protected:
  Sessions() : pool_(2), tokenizer_(TinyTokenizer()), model_(Model(5, kTokens), pool_) {
    for (int i = 0; i < 3; ++i) {
      TextPlan& plan = plans_.emplace_back();
      for (int t = 0; t < (i == 1 ? 150 : 20 + 9 * i); ++t) plan.prompt.push_back(60 + (t * t + i * t) % (11 + i));
      plan.sampling.temperature = i == 0 ? 0.0f : 0.7f;
      plan.sampling.seed = static_cast<uint64_t>(i);
      plan.sampling.repeat_penalty = i == 2 ? 1.1f : 1.0f;
      plan.budget = 6 + 4 * i;
      plan.max_depth = 2 + i;
    }
    Plain();
  }

  void Plain() {
    KvCache kv(model_.config(), DType::kF16, 1024);
    const auto none = Make("ngram", kv);
    for (TextPlan& plan : plans_) {
      Text text(model_, kv, *none, plan);
      plan.plain.clear();
      text.Read(512);
      for (int step = 0; step < 40; ++step) {
        DraftTask task = text.Task();
        text.Verify(task);
      }
      plan.plain = text.tokens();
    }
  }

  std::unique_ptr<ModelWeights> Model(uint64_t seed, int64_t vocab, int64_t layers = 3) {
    TinyOptions options;
    options.family = GetParam();
    options.vocab = vocab;
    options.layers = layers;
    options.scale = 1.5f;
    options.context = kContext;
    auto weights = TinyModel(pool_, seed, options);
    Tensor gain = weights->final_norm.gain.view;
    for (int64_t i = 0; i < gain.size(); ++i) gain.f32()[i] *= 3;  // a model that is sure of something
    return weights;
  }

  std::string SaveHeads(const char* kind, const std::string& name, bool parallel = false) {
    GraftOptions options;
    options.heads = 3;
    options.parallel = parallel;
    options.layer = 2;
    const auto heads = MakeGraft(kind, options, model_.base());
    Fill(*heads, 0.15);
    heads->Save(folder_ / name);
    return folder_ / name;
  }

  // What a model of the list's `model` drafter is read from; `padded` rows have no token.
  std::string SaveModel(int64_t padded);

  std::vector<std::string> Specs() {
    std::vector<std::vector<int32_t>> documents;
    for (const TextPlan& plan : plans_) documents.push_back(plan.plain);
    WriteTokenIndex(folder_ / "index", tokenizer_, documents);
    std::vector<std::string> specs = {"ngram", "recycle", "corpus:index=" + (folder_ / "index"), "exit:layer=2",
                                      "medusa:path=" + SaveHeads("medusa", "medusa")};
    if (GetParam() == TinyFamily::kGpt2) return specs;
    specs.push_back("exit:path=" + SaveHeads("exit", "exit"));
    specs.push_back("mtp:path=" + SaveHeads("mtp", "chained"));
    specs.push_back("mtp:max=2,path=" + SaveHeads("mtp", "parallel", true));
    return specs;
  }

  std::unique_ptr<Drafter> Make(const std::string& spec, KvCache& kv, std::span<Graft* const> grafts = {}) {
    auto made = MakeDrafters({spec}, {model_, kv, tokenizer_, Compute::kInt8, kContext, grafts});
    return std::move(made.front());
  }

  // Each text for `steps` steps, alone, with a drafter and a cache of its own.
  std::vector<std::vector<Draft>> Alone(const std::string& spec, int steps, const Drafter::Pays& pays) {
    std::vector<std::vector<Draft>> drafts;
    int64_t accepted = 0;
    for (const TextPlan& plan : plans_) {
      KvCache kv(model_.config(), DType::kF16, 1024);
      const auto drafter = Make(spec, kv);
      Text text(model_, kv, *drafter, plan);
      text.Read(7);
      for (int step = 0; step < steps; ++step) {
        DraftTask task = text.Task();
        drafter->Propose({&task, 1}, pays);
        text.Verify(task);
      }
      drafts.push_back(text.drafts);
      accepted += text.accepted;
      EXPECT_TRUE(std::ranges::equal(text.tokens(), std::span(plan.plain).first(text.tokens().size()))) << spec;
    }
    EXPECT_GT(accepted, 3 * steps) << spec;
    return drafts;
  }

  // All of them in turns that `seed` chooses, several in a proposal, closed in an order that it chooses.
  void Together(const std::string& spec, int steps, const Drafter::Pays& pays, uint64_t seed,
                const std::vector<std::vector<Draft>>& want) {
    KvCache kv(model_.config(), DType::kF16, 1024);
    const auto drafter = Make(spec, kv);
    const Philox random(seed);
    std::vector<std::unique_ptr<Text>> texts;
    for (const TextPlan& plan : plans_) texts.push_back(std::make_unique<Text>(model_, kv, *drafter, plan));
    for (uint64_t round = 0;; ++round) {
      std::vector<Text*> now;
      std::vector<DraftTask> tasks;
      bool left = false;
      for (size_t i = 0; i < texts.size(); ++i) {
        Text& text = *texts[i];
        if (std::ssize(text.drafts) == steps) {
          text.Close();
          continue;
        }
        left = true;
        if (random(round, i)[0] % 3 == 0) continue;
        if (text.tokens().empty()) {
          text.Read(i == 1 ? 64 : 512);
        } else {
          now.push_back(&text);
          tasks.push_back(text.Task());
        }
      }
      if (!left) break;
      drafter->Propose(tasks, pays);
      for (size_t i = 0; i < now.size(); ++i) now[i]->Verify(tasks[i]);
    }
    for (size_t i = 0; i < texts.size(); ++i) {
      for (size_t step = 0; step < texts[i]->drafts.size(); ++step) {
        const Draft &got = texts[i]->drafts[step], &alone = want[i][step];
        EXPECT_TRUE(Same(got, alone)) << spec << ", text " << i << ", step " << step << ": " << got.size()
                                      << " nodes, alone " << alone.size();
        EXPECT_LE(got.size(), plans_[i].budget);
        for (const int32_t depth : got.Depths()) EXPECT_LT(depth, plans_[i].max_depth);
      }
    }
    EXPECT_EQ(kv.stats().used, 0) << spec;
    EXPECT_EQ(kv.stats().sequences, 0) << spec;
  }

  const TempFolder folder_;
  ThreadPool pool_;
  Tokenizer tokenizer_;
  Transformer model_;
  std::vector<TextPlan> plans_;
};

inline std::string Sessions::SaveModel(int64_t padded) {
  const auto weights = Model(5, kTokens + padded, 2);
  const ModelConfig& c = weights->config;
  std::string arch = c.family;
  GgufWriter writer;
  const auto set = [&](const char* key, int64_t value) { writer.Set(arch + key, static_cast<uint32_t>(value)); };
  writer.Set("general.architecture", arch);
  set(".block_count", c.layers);
  set(".embedding_length", c.hidden);
  set(".feed_forward_length", c.ffn);
  set(".context_length", c.context);
  set(".attention.head_count", c.heads);
  set(".attention.head_count_kv", c.kv_heads);
  set(".attention.key_length", c.head_dim);
  writer.Set(arch + ".attention.layer_norm_rms_epsilon", c.norm_eps);
  std::vector<std::string> tokens;
  for (int32_t id = 0; id < kTokens; ++id) tokens.push_back("t" + std::to_string(id));
  writer.Set("tokenizer.ggml.model", "gpt2");
  writer.Set("tokenizer.ggml.pre", "gpt-2");
  writer.Set("tokenizer.ggml.tokens", std::span<const std::string>(tokens));
  writer.Set("tokenizer.ggml.token_type", std::span<const int32_t>(std::vector<int32_t>(kTokens, 1)));
  writer.Set("tokenizer.ggml.merges", std::span<const std::string>());
  writer.Set("tokenizer.ggml.eos_token_id", uint32_t{257});
  std::vector<OwnedTensor> values;
  values.reserve(1000);
  UnpackWeights(pool_, *weights, TensorNames(*FindGgufFamily(arch), Dialect::kGguf), [&](const std::string& name, std::vector<int64_t>, const auto& make) {
    writer.AddTensor(name, values.emplace_back(make()).view);
  });
  const std::string path = folder_ / ("draft" + std::to_string(padded) + ".gguf");
  writer.Write(path);
  return path;
}

}  // namespace cambium
