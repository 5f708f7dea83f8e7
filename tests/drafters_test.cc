// Law 7: drafting never changes a token. Every drafter of the list, and one that proposes nonsense, against plain decoding.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>

#include "base/random.h"
#include "cambium/cambium.h"
#include "decode/planner.h"
#include "decode/verify.h"
#include "drafters/drafters.h"
#include "io/token_index.h"
#include "test_model.h"
#include "tiny_model.h"
#include "tiny_tokenizer.h"

namespace cambium {
namespace {

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

class Drafters : public testing::Test {
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
    return Generate(transformer_, kv, state, sampler, drafter, request);
  }

  std::vector<int32_t> Plain(float temperature, uint64_t seed, int64_t max_tokens = 60) {
    KvCache kv(transformer_.config(), DType::kF16, 256);
    DecodeState state{kv.NewSequence(), {}, {}};
    return Run(nullptr, kv, state, temperature, seed, max_tokens).tokens;
  }

  Tokenizer tokenizer_;
  ThreadPool pool_;
  Transformer transformer_;
};

TEST_F(Drafters, EveryOneOfTheListLeavesEveryTokenAsItIs) {
  const std::string index = testing::TempDir() + "/drafters_test.index";
  std::vector<std::vector<int32_t>> documents;
  for (uint64_t seed = 0; seed < 3; ++seed) documents.push_back(Plain(1, seed));  // text like what is generated
  WriteTokenIndex(index, tokenizer_, documents);
  for (const DrafterEntry& entry : DrafterList()) {
    std::string spec = entry.name;
    if (spec == "model") continue;  // needs a model file: see SmolLM2 below
    if (spec == "corpus") spec += ":index=" + index;
    if (spec == "exit") spec += ":layer=2";
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
  std::filesystem::remove(index);
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

TEST_F(Drafters, BadOptionsAreNamed) {
  KvCache kv(transformer_.config(), DType::kF16, 256);
  DecodeState state{kv.NewSequence(), {}, {}};
  const DrafterTarget target = {transformer_, kv, state, tokenizer_, Compute::kInt8, 128};
  const struct {
    const char* spec;
    const char* says;
  } cases[] = {{"oracle", "no such drafter"},     {"ngram:depth=3", "unknown option \"depth\""},
               {"ngram:max=0", "max is \"0\""},   {"ngram:max", "not key=value"},
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
  const std::string path = testing::TempDir() + "/corrupt.index";
  WriteTokenIndex(path, tokenizer_, {{1, 2, 3, 1, 2, 4}});
  EXPECT_EQ(TokenIndex(path).size(), 7);
  const TokenIndex index(path);
  const std::vector<int32_t> text = {9, 1, 2};
  const TokenIndex::Match match = index.LongestSuffix(text, 8);
  EXPECT_EQ(match.length, 2);
  EXPECT_EQ(match.end - match.begin, 2);
  // Merging gives what building at once gives.
  const std::string whole = testing::TempDir() + "/whole.index";
  WriteTokenIndex(whole, tokenizer_, {{1, 2, 3, 1, 2, 4}, {1, 2, 4}});
  WriteTokenIndex(path, tokenizer_, {{1, 2, 4}}, path);
  const TokenIndex merged(path), at_once(whole);
  EXPECT_TRUE(std::equal(merged.suffixes().begin(), merged.suffixes().end(), at_once.suffixes().begin()));

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

// Chi-square of counts against probabilities; the 0.01 quantile for 7 degrees of freedom is 18.48.
double ChiSquare(const std::vector<int64_t>& counts, const std::vector<double>& probabilities, int64_t draws) {
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = probabilities[i] * static_cast<double>(draws);
    sum += (static_cast<double>(counts[i]) - expected) * (static_cast<double>(counts[i]) - expected) / expected;
  }
  return sum;
}

TEST(Verify, DrawsFollowTheTargetsDistribution) {
  constexpr int64_t kDraws = 1000000;
  constexpr int kVocab = 8;
  std::vector<float> logits = {0.3f, -1.2f, 2.0f, 0.0f, 1.1f, -0.4f, 0.9f, -2.0f};
  std::vector<double> p;
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit));
  for (const float logit : logits) p.push_back(std::exp(static_cast<double>(logit)) / total);

  SamplingOptions options;
  options.temperature = 1;
  options.top_k = 0;
  options.top_p = 1;
  options.min_p = 0;
  options.seed = 7;
  Sampler sampler(options);
  std::vector<float> rows(3 * kVocab);
  for (int row = 0; row < 3; ++row) std::copy(logits.begin(), logits.end(), rows.begin() + row * kVocab);
  Draft draft;
  draft.Add(-1, 2, 0.5f);
  draft.Add(-1, 4, 0.3f);
  std::vector<int64_t> first(kVocab), second(kVocab);
  int64_t seconds = 0;
  std::vector<int32_t> history;
  for (int64_t i = 0; i < kDraws; ++i) {
    history.resize(static_cast<size_t>(3 * i), 0);  // fresh positions every time
    const Verdict verdict = Verify(draft, Tensor(rows.data(), {3, kVocab}), sampler, history, 5, [](int32_t) { return false; });
    ++first[static_cast<size_t>(verdict.tokens[0])];
    if (verdict.tokens.size() > 1) {
      ++second[static_cast<size_t>(verdict.tokens[1])];
      ++seconds;
    }
    EXPECT_EQ(verdict.tokens.size() > 1, verdict.tokens[0] == 2 || verdict.tokens[0] == 4);
  }
  EXPECT_LT(ChiSquare(first, p, kDraws), 18.48);
  EXPECT_LT(ChiSquare(second, p, seconds), 18.48);
  // A planted bias of 1 % on one token is seen.
  std::vector<double> biased = p;
  biased[2] *= 1.01;
  biased[4] -= 0.01 * p[2];
  EXPECT_GT(ChiSquare(first, biased, kDraws), 18.48);
}

TEST(SmolLM2, EveryDrafterLeavesEveryTokenAsItIs) {
  const std::string model = DefaultTestModel();
  if (model.empty()) GTEST_SKIP() << "the default model is not in the cache; ./try fetches it";
  EngineOptions options;
  options.context = 512;
  Engine engine = Engine::Load(model, options);
  const std::vector<int32_t> prompt =
      engine.Tokenize("Repeat after me: the quick brown fox jumps over the lazy dog. The quick brown fox jumps over");
  for (const float temperature : {0.0f, 1.0f}) {
    GenerateOptions plain;
    plain.sampling.temperature = temperature;
    plain.sampling.seed = 3;
    plain.max_tokens = 40;
    plain.drafters = {"none"};
    const Generation want = engine.Generate(prompt, plain);
    for (const std::string spec : {std::string("ngram"), std::string("exit:layer=20"), "model:path=" + model}) {
      GenerateOptions drafted = plain;
      drafted.drafters = {spec};
      const Generation got = engine.Generate(prompt, drafted);
      EXPECT_EQ(got.ids, want.ids) << spec << " at temperature " << temperature;
      EXPECT_EQ(got.text, want.text);
      if (spec.starts_with("model")) EXPECT_GT(got.draft.num_accepted_tokens, 0) << "it drafts for itself";
    }
  }
}

}  // namespace
}  // namespace cambium
