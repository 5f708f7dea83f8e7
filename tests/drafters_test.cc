// Law 7: drafting never changes a token. Every drafter of the list, and one that proposes nonsense, against plain
// decoding.
#include "drafters/drafters.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "base/random.h"
#include "cambium/cambium.h"
#include "decode/planner.h"
#include "file_testing.h"
#include "grafts/grafts.h"
#include "io/json.h"
#include "io/token_index.h"
#include "model/load.h"
#include "model/save.h"
#include "serving.h"
#include "temp_folder.h"
#include "test_model.h"
#include "tiny_model.h"
#include "tiny_tokenizer.h"

namespace cambium {
namespace {

struct TextSession : DraftSession {
  explicit TextSession(const DraftText& of) : text(of) {}
  DraftText text;
  uint64_t step = 0;
};

// Proposes one token for ever, as deep as it may.
class Parrot : public Drafter {
 public:
  std::string name() const override { return "parrot"; }
  std::unique_ptr<DraftSession> Open(const DraftText& text) override { return std::make_unique<TextSession>(text); }
  void Propose(std::span<DraftTask> tasks, const Pays&) override {
    for (DraftTask& task : tasks) {
      for (int64_t i = 0; i < std::min(task.budget, task.max_depth); ++i) {
        task.draft.Add(static_cast<int32_t>(i) - 1, 65, 0.99f);
      }
    }
  }
};

// Proposes random trees; half of the nodes carry tokens that a tiny model likes.
class Nonsense : public Drafter {
 public:
  explicit Nonsense(int32_t vocab) : vocab_(vocab) {}
  std::string name() const override { return "nonsense"; }
  std::unique_ptr<DraftSession> Open(const DraftText& text) override { return std::make_unique<TextSession>(text); }
  void Propose(std::span<DraftTask> tasks, const Pays&) override {
    for (DraftTask& task : tasks) Propose(static_cast<TextSession&>(*task.session), task);
  }

 private:
  void Propose(TextSession& session, DraftTask& task) const {
    const Philox random(99);
    const std::vector<int32_t>& seen = session.text.tokens;
    Draft& draft = task.draft;
    ++session.step;
    for (int64_t i = 0; i < std::min<int64_t>(task.budget, 20); ++i) {
      const auto words = random(session.step, static_cast<uint64_t>(i));
      int32_t parent = static_cast<int32_t>(words[0] % (draft.nodes.size() + 1)) - 1;
      if (parent >= 0 && draft.Depths()[static_cast<size_t>(parent)] + 1 >= task.max_depth) parent = -1;
      const int32_t token = words[1] % 2 == 0 ? static_cast<int32_t>(words[2] % static_cast<uint32_t>(vocab_))
                                              : seen[words[2] % seen.size()];
      draft.Add(parent, token, 0.5f);
    }
  }

  int32_t vocab_;
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

  DecodeResult Run(std::shared_ptr<DrafterSet> drafters, KvCache& kv, float temperature, uint64_t seed,
                   int64_t max_tokens = 60) {
    DecodeRequest request;
    request.drafters = std::move(drafters);
    request.sampling.temperature = temperature;
    request.sampling.seed = seed;
    request.sampling.repeat_penalty = seed % 2 == 1 ? 1.1f : 1.0f;
    for (int i = 0; i < 24; ++i) request.prompt.push_back(65 + i % 7);
    request.max_tokens = max_tokens;
    request.context = 128;
    request.verify = verify_;
    return Answer(transformer_, kv, request, {.prefill_rows = 10});
  }

  std::vector<int32_t> Plain(float temperature, uint64_t seed, int64_t max_tokens = 60) {
    KvCache kv(transformer_.config(), DType::kF16, 256);
    return Run(nullptr, kv, temperature, seed, max_tokens).tokens;
  }

  std::shared_ptr<DrafterSet> Make(const std::string& spec, KvCache& kv) {
    return DraftersOf(MakeDrafters({spec}, {transformer_, kv, tokenizer_, Compute::kInt8, 128, {}}));
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
      MakeGraft(spec, {}, transformer_.base())->Save(heads);  // untrained
      spec += ":path=" + heads;
    }
    KvCache kv(transformer_.config(), DType::kF16, 256);
    const auto drafters = Make(spec, kv);
    int64_t accepted = 0;
    for (uint64_t seed = 0; seed < 6; ++seed) {
      const float temperature = seed == 5 ? 0.0f : 1.0f;
      const DecodeResult drafted = Run(drafters, kv, temperature, seed);
      EXPECT_EQ(drafted.tokens, Plain(temperature, seed)) << spec << " seed " << seed;
      accepted += drafted.counters.num_accepted_tokens;
    }
    if (entry.name == std::string("corpus")) EXPECT_GT(accepted, 0) << "its index holds these very texts";
  }
}

TEST_F(Drafters, NonsenseIsRefusedWithoutATrace) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    KvCache kv(transformer_.config(), DType::kF16, 256);
    const auto nonsense = DraftersOf(std::make_unique<Nonsense>(tokenizer_.vocab_size()), false);
    const float temperature = seed == 0 ? 0.0f : 1.0f;
    EXPECT_EQ(Run(nonsense, kv, temperature, seed).tokens, Plain(temperature, seed));
    // To the very end of the context.
    EXPECT_EQ(Run(nonsense, kv, temperature, seed, -1).tokens, Plain(temperature, seed, -1));
  }
}

TEST_F(Drafters, OneTokenForEverIsRefused) {
  for (const float temperature : {0.0f, 1.0f}) {
    KvCache kv(transformer_.config(), DType::kF16, 256);
    const DecodeResult drafted = Run(DraftersOf(std::make_unique<Parrot>()), kv, temperature, 4, -1);
    EXPECT_EQ(drafted.tokens, Plain(temperature, 4, -1));
  }
}

TEST(Planner, StopsDraftingWhereNothingIsAccepted) {
  const auto set = DraftersOf(std::make_unique<Parrot>());
  Planner planner;
  const std::vector<int32_t> tokens = {1, 2, 3, 7}, committed = {7};
  const SamplingOptions sampling;
  const DraftText text = {tokens, 0, 0, 0, {}, sampling, false};
  DrafterSet::Drafting drafting = set->Open(text);
  int64_t drafted = 0;
  for (int64_t step = 0; step < 200; ++step) {
    Planner::Task task = {set, &drafting, 63, 63, {}};
    planner.Propose({&task, 1}, 63);
    drafted += step >= 100 && !task.draft.empty();
    set->Observe(drafting, {3 + step, committed, {}, {}, 7, &task.draft, {}});
    planner.Measure(task.draft.size() + 1, 10.0 + static_cast<double>(task.draft.size()), 1, true);
  }
  EXPECT_EQ(drafted, 0);
}

TEST_F(Drafters, OtherRulesEndGreedilyInTheSameText) {
  const TempFolder folder;
  const std::string index = folder / "rules.index";
  WriteTokenIndex(index, tokenizer_, {Plain(0, 2)});
  for (const char* rule : {"match", "rejection", "typical", "typical:epsilon=0.2,delta=0.5"}) {
    for (const std::string spec : {"corpus:index=" + index, std::string("exit:layer=2")}) {
      KvCache kv(transformer_.config(), DType::kF16, 256);
      const auto drafters = Make(spec, kv);
      verify_ = ParseVerifyRule(rule);
      const bool match = verify_.kind == VerifyRule::kMatch;
      const DecodeResult greedy = Run(drafters, kv, 0, 2), sampled = Run(drafters, kv, 1, 3);
      verify_ = {};
      EXPECT_EQ(greedy.tokens, Plain(0, 2)) << rule << " " << spec;
      if (match) EXPECT_EQ(sampled.tokens, Plain(1, 3)) << spec;
      EXPECT_EQ(sampled.decode_tokens, 59);
    }
  }
}

// Models on disk that share the golden Qwen2's tokenizer.
struct DraftPair {
  static constexpr int kTokens = 704;
  // A model of `rows` rows at folder / name; `change` may change its tokenizer.json.
  std::string Write(const std::string& name, int64_t rows, uint64_t seed,
                    const std::function<void(nlohmann::json&)>& change = {}) {
    const std::string base = folder / (name + "-base"), path = folder / name;
    std::filesystem::create_directories(base);
    TinyOptions options;
    options.vocab = rows;
    options.scale = 2.0f;
    const auto weights = TinyModel(pool, seed, options);
    const nlohmann::json config = {{"model_type", "llama"},          {"vocab_size", rows},
                                   {"hidden_size", options.hidden},  {"num_hidden_layers", options.layers},
                                   {"num_attention_heads", 4},       {"num_key_value_heads", 2},
                                   {"head_dim", options.head_dim},   {"intermediate_size", options.ffn},
                                   {"max_position_embeddings", 256}, {"rms_norm_eps", 1e-5}};
    const std::string golden = std::string(CAMBIUM_TEST_DIR) + "/golden/tiny_qwen2.json";
    nlohmann::json tokenizer = ParseJson(ReadTextFile(golden), golden)["tokenizer"];
    if (change) change(tokenizer);
    std::ofstream(base + "/config.json") << config;
    std::ofstream(base + "/tokenizer.json") << tokenizer;
    return SaveWeights(pool, *weights, base, path);
  }
  static Generation Run(Engine& engine, const std::string& drafter, float temperature) {
    Request request;
    request.prompt = engine.model().Tokenize("the cambium of a tree");
    request.max_tokens = 40;
    request.sampling.temperature = temperature;
    request.sampling.seed = 3;
    request.drafting.drafters = {drafter};
    return engine.Generate(std::move(request));
  }
  TempFolder folder;
  ThreadPool pool{2};
};

// Rows of the embedding beyond the tokenizer's are never drawn and never proposed, whichever of the two has more.
TEST(DraftVocabulary, PaddingDoesNotMatter) {
  for (const auto& [target_rows, draft_rows] : {std::pair{704, 3000}, {3000, 704}, {2000, 3000}}) {
    DraftPair pair;
    const std::string target = pair.Write("target", target_rows, 5), draft = pair.Write("draft", draft_rows, 6);
    Engine engine = Engine::Load(target, {.threads = 2, .context = 128});
    for (const float temperature : {0.0f, 1.5f}) {
      const Generation plain = DraftPair::Run(engine, "none", temperature);
      for (const int32_t id : plain.ids) EXPECT_LT(id, DraftPair::kTokens);
      for (const std::string& drafter : {"model:path=" + draft, std::string("recycle"), std::string("exit")}) {
        const Generation drafted = DraftPair::Run(engine, drafter, temperature);
        EXPECT_EQ(drafted.ids, plain.ids) << drafter << " at " << temperature;
      }
    }
  }
}

TEST(DraftVocabulary, OtherTokensAreNamed) {
  DraftPair pair;
  const std::string target = pair.Write("target", 704, 5);
  const std::string other =
      pair.Write("other", 704, 6, [](nlohmann::json& t) { t["added_tokens"][2]["content"] = "<|tooth|>"; });
  const std::string fewer = pair.Write("fewer", 704, 6, [](nlohmann::json& t) { t["added_tokens"].erase(3); });
  const std::string short_of_rows = pair.Write("short", 700, 6);
  Engine engine = Engine::Load(target, {.threads = 2, .context = 128});
  const auto said = [&](const std::string& draft) {
    try {
      DraftPair::Run(engine, "model:path=" + draft, 0);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was refused");
  };
  EXPECT_NE(said(other).find("token 702 is \"<|tooth|>\", the target's is \"<|tool|>\""), std::string::npos)
      << said(other);
  EXPECT_NE(said(fewer).find("token 703 is none, the target's is \"<mask>\""), std::string::npos) << said(fewer);
  EXPECT_NE(said(short_of_rows).find("704 tokens, the embedding 700 rows"), std::string::npos) << said(short_of_rows);
}

TEST_F(Drafters, BadOptionsAreNamed) {
  KvCache kv(transformer_.config(), DType::kF16, 256);
  const DrafterTarget target = {transformer_, kv, tokenizer_, Compute::kInt8, 128, {}};
  const struct {
    const char* spec;
    const char* says;
  } cases[] = {{"oracle", "no such drafter"},
               {"ngram:depth=3", "unknown option \"depth\""},
               {"ngram:max=0", "max is \"0\""},
               {"ngram:shared=2", "shared is \"2\""},
               {"auto:max=3", "no such drafter"},
               {"exit:layer=0", "layer is \"0\""},
               {"ngram:max", "not key=value"},
               {"exit:layer=3", "layer is \"3\""},
               {"exit:layer=x", "layer is \"x\""},
               {"corpus", "index=FILE"},
               {"corpus:index=/nonexistent", "/nonexistent"},
               {"model", "path=MODEL"},
               {"", "name is missing"}};
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
  testing::ExpectError(ErrorCode::kData, {"beyond.index", "token 1"},
                       [&] { TokenIndex(beyond).CheckVocabulary(tokenizer_); });

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
  const std::vector<int32_t> prompt = engine.model().Tokenize(
      "Repeat after me: the quick brown fox jumps over the lazy dog. The quick brown fox jumps over");
  for (const uint64_t seed : {0, 1, 2, 3, 4, 5}) {  // 0: greedy
    const float temperature = seed == 0 ? 0.0f : 1.0f;
    Request plain;
    plain.prompt = prompt;
    plain.sampling.temperature = temperature;
    plain.sampling.seed = seed;
    plain.max_tokens = 40;
    plain.drafting.drafters = {"none"};
    const Generation want = engine.Generate(plain);
    for (const std::string spec : {std::string("auto"), std::string("exit:layer=20"), "model:path=" + model}) {
      Request drafted = plain;
      drafted.drafting.drafters = {spec};
      const Generation got = engine.Generate(drafted);
      EXPECT_EQ(got.ids, want.ids) << spec << " seed " << seed;
      EXPECT_EQ(got.text, want.text);
      if (spec.starts_with("model") && seed == 0) EXPECT_GT(got.draft.num_accepted_tokens, 0) << "it drafts for itself";
    }
  }
}

}  // namespace
}  // namespace cambium
