// Grafts in serving: per row, behind a prefix, drafted or not, whole or in chunks - always the numbers of one pass.
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

#include "cambium/cambium.h"
#include "drafters/drafters.h"
#include "grafts/grafts.h"
#include "random_lora.h"
#include "serving.h"
#include "temp_folder.h"
#include "test_graft.h"
#include "test_model.h"
#include "tiny_model.h"
#include "tiny_tokenizer.h"

namespace cambium {
namespace {

std::vector<int32_t> Prompt(int64_t count, int32_t salt = 0) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((i * 7 + i * i * 3 + salt) % 61));
  return ids;
}

using Rows = std::vector<std::vector<float>>;

Rows LogitRows(const Pass& pass) {
  Rows rows;
  for (int64_t i = 0; i < pass.result.logits.rows(); ++i) {
    rows.emplace_back(pass.result.logits.row(i), pass.result.logits.row(i) + pass.result.logits.columns());
  }
  return rows;
}

// The logits of every row by passes of `chunk` rows over a cache.
Rows Serve(Transformer& model, Compute compute, std::span<const int32_t> ids, std::vector<Graft*> grafts,
           int64_t chunk) {
  KvCache kv(model.config(), DType::kF32, 256);
  const KvCache::Id sequence = kv.Open();
  model.BeginSequence(kv, sequence, grafts);
  Rows rows;
  for (size_t begin = 0; begin < ids.size(); begin += static_cast<size_t>(chunk)) {
    const auto part = ids.subspan(begin, std::min(static_cast<size_t>(chunk), ids.size() - begin));
    Pass pass;
    pass.compute = compute;
    pass.kv = &kv;
    pass.Append(sequence, kv.length(sequence), part).grafts = grafts;
    for (size_t i = 0; i < part.size(); ++i) pass.logit_rows.push_back(static_cast<int32_t>(i));
    model.Forward(pass);
    for (auto& row : LogitRows(pass)) rows.push_back(std::move(row));
    CommitAll(pass);
  }
  return rows;
}

// The same by one pass without a cache, as training runs it.
Rows Whole(Transformer& model, Compute compute, std::span<const int32_t> ids, std::vector<Graft*> grafts) {
  int64_t prefix = 0;
  for (const Graft* graft : grafts) prefix += graft->prefix_length();
  Pass pass;
  pass.compute = compute;
  pass.Append(0, prefix, ids).grafts = grafts;
  for (size_t i = 0; i < ids.size(); ++i) pass.logit_rows.push_back(static_cast<int32_t>(i));
  model.Forward(pass);
  return LogitRows(pass);
}

class GraftServing : public testing::TestWithParam<TinyFamily> {
 protected:
  GraftServing() : pool_(2), model_(TinyModel(pool_, 11, {.family = GetParam(), .layers = 3}), pool_) {}
  ThreadPool pool_;
  Transformer model_;
};

TEST_P(GraftServing, APrefixInTheCacheIsTheTrainedOne) {
  const TestGraftParts parts = {.linears = true, .branches = true, .embedding = true, .norms = false, .prefix = 19};
  TestGraft graft(model_, 3, parts), other(model_, 4, parts);
  const std::vector<int32_t> ids = Prompt(40);
  const Rows trained = Whole(model_, Compute::kF32, ids, {&graft});
  EXPECT_EQ(Serve(model_, Compute::kF32, ids, {&graft}, 64), trained);
  EXPECT_EQ(Serve(model_, Compute::kF32, ids, {&graft}, 7), trained);
  EXPECT_EQ(Serve(model_, Compute::kF32, ids, {&graft}, 1), trained);
  EXPECT_NE(Serve(model_, Compute::kF32, ids, {&other}, 64), trained);
  EXPECT_NE(Serve(model_, Compute::kF32, ids, {}, 64), trained);
}

TEST_P(GraftServing, ChunksDoNotChangeALogit) {
  const auto graft = RandomLora(model_, 1, {.rank = 4});
  const std::vector<int32_t> ids = Prompt(70);
  for (const Compute compute : {Compute::kF32, Compute::kInt8}) {
    const Rows whole = Serve(model_, compute, ids, {graft.get()}, 128);
    for (const int64_t chunk : {1, 2, 5, 16, 33}) {
      EXPECT_EQ(Serve(model_, compute, ids, {graft.get()}, chunk), whole) << "chunks of " << chunk;
    }
    EXPECT_NE(Serve(model_, compute, ids, {}, 128), whole);
  }
}

TEST_P(GraftServing, RowsWithDifferentGraftsDoNotMeet) {
  const auto a = RandomLora(model_, 1, {.rank = 4}), b = RandomLora(model_, 2, {.rank = 9});
  TestGraft prefix(model_, 5, {.linears = false, .prefix = 6});
  const std::vector<std::vector<Graft*>> grafts = {{a.get()}, {}, {b.get()}, {a.get(), b.get()}, {&prefix}, {a.get()}};
  for (const Compute compute : {Compute::kF32, Compute::kInt8}) {
    Pass pass;
    KvCache kv(model_.config(), DType::kF32, 512);
    std::vector<std::vector<int32_t>> ids;
    for (size_t i = 0; i < grafts.size(); ++i)
      ids.push_back(Prompt(3 + 11 * static_cast<int64_t>(i % 3), static_cast<int32_t>(i)));
    for (size_t i = 0; i < grafts.size(); ++i) {
      const KvCache::Id sequence = kv.Open();
      const int64_t past = model_.BeginSequence(kv, sequence, grafts[i]);
      pass.Append(sequence, past, ids[i]).grafts = grafts[i];
    }
    pass.compute = compute;
    pass.kv = &kv;
    for (int64_t i = 0; i < pass.rows(); ++i) pass.logit_rows.push_back(static_cast<int32_t>(i));
    model_.Forward(pass);
    const Rows together = LogitRows(pass);
    size_t row = 0;
    for (size_t i = 0; i < grafts.size(); ++i) {
      for (const auto& alone : Serve(model_, compute, ids[i], grafts[i], 64)) {
        EXPECT_EQ(together[row++], alone) << "sequence " << i;
      }
    }
  }
}

TEST_P(GraftServing, AScaleMultipliesAndZeroIsTheBase) {
  if (GetParam() == TinyFamily::kGpt2) GTEST_SKIP() << "no PEFT files for gpt2";
  const TempFolder folder;
  const std::string path = folder.path();
  const auto graft = RandomLora(model_, 1, {.rank = 4});
  graft->Save(path);
  const std::vector<int32_t> ids = Prompt(20);
  const auto logits = [&](float scale) {
    const auto loaded = LoadGraft(path, model_.base(), scale);
    return Serve(model_, Compute::kF32, ids, {loaded.get()}, 64);
  };
  EXPECT_EQ(logits(1), Serve(model_, Compute::kF32, ids, {graft.get()}, 64));
  EXPECT_EQ(logits(0), Serve(model_, Compute::kF32, ids, {}, 64));
  EXPECT_NE(logits(0.5f), logits(1));
}

INSTANTIATE_TEST_SUITE_P(Families, GraftServing, testing::ValuesIn(kTinyFamilies));

TEST(GraftDecoding, DraftsNeverChangeAToken) {
  const Tokenizer tokenizer = TinyTokenizer();
  ThreadPool pool(2);
  Transformer model(TinyModel(pool, 5, {.layers = 3, .vocab = tokenizer.vocab_size(), .scale = 2.0f}), pool);
  const auto lora = RandomLora(model, 1, {.rank = 4});
  TestGraft prefix(model, 5, {.linears = false, .branches = true, .prefix = 6});
  for (const std::vector<Graft*>& grafts : {std::vector<Graft*>{lora.get()}, {lora.get(), &prefix}}) {
    const auto run = [&](const std::vector<std::string>& specs, int64_t chunk, uint64_t seed) {
      KvCache kv(model.config(), DType::kF16, 256);
      DecodeRequest request;
      request.grafts = GraftsOf(grafts);
      request.drafters = DraftersOf(MakeDrafters(specs, {model, kv, tokenizer, Compute::kInt8, 128, grafts}));
      request.sampling.temperature = seed == 0 ? 0.0f : 1.0f;
      request.sampling.seed = seed;
      for (int i = 0; i < 24; ++i) request.prompt.push_back(65 + i % 7);
      request.max_tokens = -1;
      request.context = 100 - request.grafts->slots_before();
      const DecodeResult result = Answer(model, kv, request, {.prefill_rows = chunk});
      EXPECT_EQ(std::ssize(result.tokens) + std::ssize(request.prompt) + request.grafts->slots_before(), 100);
      return result.tokens;
    };
    for (uint64_t seed = 0; seed < 3; ++seed) {
      const std::vector<int32_t> plain = run({"none"}, 512, seed);
      EXPECT_EQ(run({"none"}, 5, seed), plain);
      EXPECT_EQ(run({"ngram"}, 512, seed), plain);
      EXPECT_EQ(run({"exit:layer=2"}, 512, seed), plain);
      EXPECT_EQ(run({"ngram", "exit:layer=1"}, 7, seed), plain);
    }
  }
}

TEST(GraftSpecs, AreParsedAndRefused) {
  EXPECT_EQ(ParseGraftSpec("a/b").path, "a/b");
  EXPECT_EQ(ParseGraftSpec("a/b").scale, 1);
  EXPECT_EQ(ParseGraftSpec("a=b=-0.5").path, "a=b");
  EXPECT_EQ(ParseGraftSpec("a=b=-0.5").scale, -0.5f);
  for (const char* bad : {"", "=2", "a=", "a=two", "a=1x", "a=nan", "a=inf"}) {
    EXPECT_THROW(ParseGraftSpec(bad), Error) << bad;
  }
}

TEST(GraftFiles, WhatIsNoGraftIsNamed) {
  ThreadPool pool(1);
  Transformer model(TinyModel(pool, 1), pool);
  const TempFolder folder;
  const std::string path = folder.path();
  const auto says = [&](const std::string& where) -> std::string {
    try {
      LoadGraft(where, model.base());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kData);
      return error.what();
    }
    return "";
  };
  EXPECT_NE(says(path + "/none").find("no such file"), std::string::npos);
  EXPECT_NE(says(path).find("no graft of a known kind"), std::string::npos);
  std::ofstream(path + "/adapter_config.json") << "{\"peft_type\": \"OFT\"}";
  EXPECT_NE(says(path).find("no graft of a known kind"), std::string::npos);
  std::ofstream(path + "/adapter_config.json") << "[1";
  EXPECT_NE(says(path).find("adapter_config.json"), std::string::npos);

  Transformer wider(TinyModel(pool, 1, {.hidden = 48}), pool);
  RandomLora(wider, 1, {.rank = 4})->Save(path);
  const std::string both = says(path);
  EXPECT_NE(both.find("[4, 48]"), std::string::npos) << both;
  EXPECT_NE(both.find("[4, 32]"), std::string::npos) << both;
}

// One engine, many requests: each has its own grafts, and the cache never carries one's keys into another.
TEST(SmolLM2, ARequestChoosesItsGrafts) {
  const std::string file = DefaultTestModel();
  if (file.empty()) GTEST_SKIP() << "the default model is not in the cache; ./try fetches it";
  const TempFolder folder;
  const std::string path = folder.path();
  {
    ThreadPool pool(2);
    Transformer model(LoadWeights(pool, file), pool);
    RandomLora(model, 7, {.rank = 4})->Save(path);
  }
  Engine engine = Engine::Load(file, {.threads = 2, .context = 256});
  const Adapter adapter = Adapter::Load(engine.model(), path);
  const std::vector<int32_t> prompt = engine.model().Tokenize("The old lighthouse keeper opened the door and");
  const auto generate = [&](std::vector<AdapterUse> adapters) {
    Request request;
    request.prompt = prompt;
    request.sampling.temperature = 0;
    request.max_tokens = 12;
    request.ignore_end = true;
    request.adapters = std::move(adapters);
    return engine.Generate(request).ids;
  };
  const auto base = generate({}), grafted = generate({{adapter}});
  EXPECT_NE(base, grafted);
  EXPECT_EQ(generate({}), base);
  EXPECT_EQ(generate({{adapter, 0}}), base);
  EXPECT_EQ(generate({{adapter}}), grafted);
  const double loss = engine.ScoreIds(prompt).loss;
  EXPECT_NE(engine.ScoreIds(prompt, {{adapter}}).loss, loss);
  EXPECT_EQ(engine.ScoreIds(prompt).loss, loss);
  EXPECT_EQ(generate({{adapter}}), grafted);
  EXPECT_THROW(Adapter::Load(engine.model(), path + "-none"), Error);
  EXPECT_EQ(generate({}), base);
}

}  // namespace
}  // namespace cambium
