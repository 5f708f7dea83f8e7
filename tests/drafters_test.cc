// Law 7: drafting never changes a token. Every drafter of the list, and one that proposes nonsense, against plain decoding.
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>

#include "base/random.h"
#include "cambium/cambium.h"
#include "decode/planner.h"
#include "drafters/drafters.h"
#include "grafts/grafts.h"
#include "io/token_index.h"
#include "file_testing.h"
#include "temp_folder.h"
#include "test_model.h"
#include "tiny_model.h"
#include "tiny_tokenizer.h"

namespace cambium {
namespace {

// Proposes one token for ever, as deep as it may.
class Parrot : public Drafter {
 public:
  std::string name() const override { return "parrot"; }
  void Begin(std::span<const int32_t>) override {}
  void Observe(const Observation&) override {}
  void Propose(int64_t budget, int64_t max_depth, Draft& draft) override {
    for (int64_t i = 0; i < std::min(budget, max_depth); ++i) draft.Add(static_cast<int32_t>(i) - 1, 65, 0.99f);
  }
};

// Proposes random trees; half of the nodes carry tokens that a tiny model likes.
class Nonsense : public Drafter {
 public:
  explicit Nonsense(int32_t vocab) : vocab_(vocab) {}
  std::string name() const override { return "nonsense"; }
  void Begin(std::span<const int32_t>) override {}
  void Observe(const Observation& o) override {
    for (const int32_t token : o.tokens) seen_.push_back(token);
    seen_.push_back(o.next);
  }
  void Propose(int64_t budget, int64_t max_depth, Draft& draft) override {
    const Philox random(99);
    ++step_;
    for (int64_t i = 0; i < std::min<int64_t>(budget, 20); ++i) {
      const auto words = random(step_, static_cast<uint64_t>(i));
      int32_t parent = static_cast<int32_t>(words[0] % (draft.nodes.size() + 1)) - 1;
      if (!draft.nodes.empty() && parent >= 0 && draft.Depths()[static_cast<size_t>(parent)] + 1 >= max_depth) parent = -1;
      const int32_t token = words[1] % 2 == 0 ? static_cast<int32_t>(words[2] % static_cast<uint32_t>(vocab_))
                                              : seen_[words[2] % seen_.size()];
      draft.Add(parent, token, 0.5f);
    }
  }

 private:
  int32_t vocab_;
  uint64_t step_ = 0;
  std::vector<int32_t> seen_;
};

class Drafters : public ::testing::Test {
 protected:
  Drafters() : tokenizer_(TinyTokenizer()), pool_(2), transformer_(MakeModel(), pool_) {}

  std::unique_ptr<ModelWeights> MakeModel() {
    TinyOptions options;
    options.vocab = tokenizer_.vocab_size();
    options.layers = 3;
    options.scale = 2.0f;
    return TinyModel(pool_, 5, options);
  }

  DecodeResult Run(Drafter* drafter, KvCache& kv, DecodeState& state, float temperature, uint64_t seed,
                   int64_t max_tokens = 60) {
    SamplingOptions options;
    options.temperature = temperature;
    options.seed = seed;
    options.repeat_penalty = seed % 2 == 1 ? 1.1f : 1.0f;
    Sampler sampler(options);
    DecodeRequest request;
    for (int i = 0; i < 24; ++i) request.prompt.push_back(65 + i % 7);
    request.max_tokens = max_tokens;
    request.context = 128;
    request.prefill_chunk = 10;
    request.verify = verify_;
    return Generate(transformer_, kv, state, sampler, drafter, request);
  }

  std::vector<int32_t> Plain(float temperature, uint64_t seed, int64_t max_tokens = 60) {
    KvCache kv(transformer_.config(), DType::kF16, 256);
    DecodeState state{kv.NewSequence(), {}, {}};
    return Run(nullptr, kv, state, temperature, seed, max_tokens).tokens;
  }

  VerifyRule verify_;
  Tokenizer tokenizer_;
  ThreadPool pool_;
  Transformer transformer_;
};

TEST_F(Drafters, EveryOneOfTheListLeavesEveryTokenAsItIs) {
  const TempFolder folder;
  const std::string index = folder / "index", heads = folder / "heads";
  std::vector<std::vector<int32_t>> documents;
  for (uint64_t seed = 0; seed < 3; ++seed) documents.push_back(Plain(1, seed));  // text like what is generated
  WriteTokenIndex(index, tokenizer_, documents);
  for (const DrafterEntry& entry : DrafterList()) {
    std::string spec = entry.name;
    if (spec == "model") continue;  // needs a model file: see SmolLM2 below
    if (spec == "corpus") spec += ":index=" + index;
    if (spec == "exit") spec += ":layer=2";
    if (spec == "medusa" || spec == "mtp") {
      MakeGraft(spec, {}, transformer_)->Save(heads);  // untrained
      spec += ":path=" + heads;
    }
    KvCache kv(transformer_.config(), DType::kF16, 256);
    DecodeState state{kv.NewSequence(), {}, {}};
    const auto drafter = MakeDrafters({spec}, {transformer_, kv, state, tokenizer_, Compute::kInt8, 128});
    int64_t accepted = 0;
    for (uint64_t seed = 0; seed < 6; ++seed) {
      const float temperature = seed == 5 ? 0.0f : 1.0f;
      const DecodeResult drafted = Run(drafter.get(), kv, state, temperature, seed);
      EXPECT_EQ(drafted.tokens, Plain(temperature, seed)) << spec << " seed " << seed;
      accepted += drafted.counters.num_accepted_tokens;
    }
    if (entry.name == std::string("corpus")) EXPECT_GT(accepted, 0) << "its index holds these very texts";
  }
}

TEST_F(Drafters, NonsenseIsRefusedWithoutATrace) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    KvCache kv(transformer_.config(), DType::kF16, 256);
    DecodeState state{kv.NewSequence(), {}, {}};
    Nonsense nonsense(tokenizer_.vocab_size());
    const float temperature = seed == 0 ? 0.0f : 1.0f;
    EXPECT_EQ(Run(&nonsense, kv, state, temperature, seed).tokens, Plain(temperature, seed));
    // To the very end of the context.
    EXPECT_EQ(Run(&nonsense, kv, state, temperature, seed, -1).tokens, Plain(temperature, seed, -1));
  }
}

TEST_F(Drafters, OneTokenForEverIsRefused) {
  for (const float temperature : {0.0f, 1.0f}) {
    KvCache kv(transformer_.config(), DType::kF16, 256);
    DecodeState state{kv.NewSequence(), {}, {}};
    std::vector<std::unique_ptr<Drafter>> members;
    members.push_back(std::make_unique<Parrot>());
    Planner planner(std::move(members));
    const DecodeResult drafted = Run(&planner, kv, state, temperature, 4, -1);
    EXPECT_EQ(drafted.tokens, Plain(temperature, 4, -1));
  }
}

TEST(Planner, StopsDraftingWhereNothingIsAccepted) {
  std::vector<std::unique_ptr<Drafter>> members;
  members.push_back(std::make_unique<Parrot>());
  Planner planner(std::move(members));
  const std::vector<int32_t> prompt = {1, 2, 3}, committed = {7};
  planner.Begin(prompt);
  int64_t drafted = 0;
  for (int64_t step = 0; step < 200; ++step) {
    Draft draft;
    planner.Propose(63, 63, draft);
    drafted += step >= 100 && !draft.empty();
    planner.Observe({3 + step, committed, {}, {}, 7, &draft, {}});
    planner.Measure(static_cast<int64_t>(draft.nodes.size()) + 1, 10.0 + static_cast<double>(draft.nodes.size()));
  }
  EXPECT_EQ(drafted, 0);
}

TEST_F(Drafters, OtherRequestsTextServesOnlyWhereAllowed) {
  for (const bool shared : {false, true}) {
    for (const std::string name : {"ngram", "recycle"}) {
      KvCache kv(transformer_.config(), DType::kF16, 256);
      DecodeState state{kv.NewSequence(), {}, {}};
      const auto drafter = MakeDrafters({shared ? name + ":shared=1" : name},
                                        {transformer_, kv, state, tokenizer_, Compute::kInt8, 128});
      const auto first_draft = [&](std::vector<int32_t> prompt, int32_t next) {
        drafter->Begin(prompt);
        std::vector<float> logits(static_cast<size_t>(tokenizer_.vocab_size()));
        logits[40] = 30;
        const std::vector<int32_t> tokens = {prompt.back()};
        drafter->Observe({static_cast<int64_t>(prompt.size()) - 1, tokens, {}, {}, next, nullptr,
                          Tensor(logits.data(), {1, tokenizer_.vocab_size()})});
        Draft draft;
        drafter->Propose(8, 4, draft);
        return draft;
      };
      first_draft({1, 2, 3, 50, 60}, 40);
      EXPECT_EQ(first_draft({7, 8, 9, 50}, 60).empty(), !shared) << name << ": 40 followed in the other request";
    }
  }
}

TEST_F(Drafters, OtherRulesEndGreedilyInTheSameText) {
  const TempFolder folder;
  const std::string index = folder / "rules.index";
  WriteTokenIndex(index, tokenizer_, {Plain(0, 2)});
  for (const char* rule : {"match", "rejection", "typical", "typical:epsilon=0.2,delta=0.5"}) {
    for (const std::string spec : {"corpus:index=" + index, std::string("exit:layer=2")}) {
      KvCache kv(transformer_.config(), DType::kF16, 256);
      DecodeState state{kv.NewSequence(), {}, {}};
      const auto drafter = MakeDrafters({spec}, {transformer_, kv, state, tokenizer_, Compute::kInt8, 128});
      verify_ = ParseVerifyRule(rule);
      const bool match = verify_.kind == VerifyRule::kMatch;
      const DecodeResult greedy = Run(drafter.get(), kv, state, 0, 2), sampled = Run(drafter.get(), kv, state, 1, 3);
      verify_ = {};
      EXPECT_EQ(greedy.tokens, Plain(0, 2)) << rule << " " << spec;
      if (match) EXPECT_EQ(sampled.tokens, Plain(1, 3)) << spec;
      EXPECT_EQ(sampled.decode_tokens, 59);
    }
  }
}

TEST_F(Drafters, BadOptionsAreNamed) {
  KvCache kv(transformer_.config(), DType::kF16, 256);
  DecodeState state{kv.NewSequence(), {}, {}};
  const DrafterTarget target = {transformer_, kv, state, tokenizer_, Compute::kInt8, 128};
  const struct {
    const char* spec;
    const char* says;
  } cases[] = {{"oracle", "no such drafter"},     {"ngram:depth=3", "unknown option \"depth\""},
               {"ngram:max=0", "max is \"0\""},   {"ngram:shared=2", "shared is \"2\""},
               {"auto:max=3", "no such drafter"},  {"exit:layer=0", "layer is \"0\""},
                 {"ngram:max", "not key=value"},
               {"exit:layer=3", "layer is \"3\""}, {"exit:layer=x", "layer is \"x\""},
               {"corpus", "index=FILE"},          {"corpus:index=/nonexistent", "/nonexistent"},
               {"model", "path=MODEL"},           {"", "name is missing"}};
  for (const auto& bad : cases) {
    try {
      MakeDrafters({bad.spec}, target);
      ADD_FAILURE() << bad.spec << " was taken";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(bad.says), std::string::npos) << error.what();
    }
  }
}

TEST_F(Drafters, CorruptAndForeignIndexesAreRefused) {
  const TempFolder folder;
  const std::string path = folder / "corrupt.index";
  WriteTokenIndex(path, tokenizer_, {{1, 2, 3, 1, 2, 4}});
  EXPECT_EQ(TokenIndex(path).size(), 7);
  const TokenIndex index(path);
  const std::vector<int32_t> text = {9, 1, 2};
  const TokenIndex::Match match = index.LongestSuffix(text, 8);
  EXPECT_EQ(match.length, 2);
  EXPECT_EQ(match.end - match.begin, 2);
  // Merging gives what building at once gives.
  const std::string whole = folder / "whole.index";
  WriteTokenIndex(whole, tokenizer_, {{1, 2, 3, 1, 2, 4}, {1, 2, 4}});
  WriteTokenIndex(path, tokenizer_, {{1, 2, 4}}, path);
  const TokenIndex merged(path), at_once(whole);
  EXPECT_TRUE(std::equal(merged.suffixes().begin(), merged.suffixes().end(), at_once.suffixes().begin()));

  const std::string beyond = folder / "beyond.index";
  WriteTokenIndex(beyond, tokenizer_, {{1, tokenizer_.vocab_size(), 2}});
  testing::ExpectError(ErrorCode::kData, {"beyond.index", "token 1"}, [&] { TokenIndex(beyond).CheckVocabulary(tokenizer_); });

  FILE* file = std::fopen(whole.c_str(), "r+b");
  std::fseek(file, 40, SEEK_SET);
  std::fputc(77, file);
  std::fclose(file);
  EXPECT_THROW(TokenIndex{whole}, Error);
  Tokenizer other = TinyTokenizer();
  TokenizerSpec spec;
  spec.pieces.assign(3, "");
  EXPECT_NO_THROW(TokenIndex(path).CheckVocabulary(other));
  std::filesystem::resize_file(path, 20);
  EXPECT_THROW(TokenIndex{path}, Error);
}

TEST(SmolLM2, EveryDrafterLeavesEveryTokenAsItIs) {
  const std::string model = DefaultTestModel();
  if (model.empty()) GTEST_SKIP() << "the default model is not in the cache; ./try fetches it";
  EngineOptions options;
  options.context = 512;
  Engine engine = Engine::Load(model, options);
  const std::vector<int32_t> prompt =
      engine.Tokenize("Repeat after me: the quick brown fox jumps over the lazy dog. The quick brown fox jumps over");
  for (const uint64_t seed : {0, 1, 2, 3, 4, 5}) {  // 0: greedy
    const float temperature = seed == 0 ? 0.0f : 1.0f;
    GenerateOptions plain;
    plain.sampling.temperature = temperature;
    plain.sampling.seed = seed;
    plain.max_tokens = 40;
    plain.drafters = {"none"};
    const Generation want = engine.Generate(prompt, plain);
    for (const std::string spec : {std::string("auto"), std::string("exit:layer=20"), "model:path=" + model}) {
      GenerateOptions drafted = plain;
      drafted.drafters = {spec};
      const Generation got = engine.Generate(prompt, drafted);
      EXPECT_EQ(got.ids, want.ids) << spec << " seed " << seed;
      EXPECT_EQ(got.text, want.text);
      if (spec.starts_with("model") && seed == 0) EXPECT_GT(got.draft.num_accepted_tokens, 0) << "it drafts for itself";
    }
  }
}

}  // namespace
}  // namespace cambium
