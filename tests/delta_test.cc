#include "grafts/delta.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "cambium/error.h"
#include "grafts/extract.h"
#include "grafts/full.h"
#include "grafts/merge.h"
#include "families/convert.h"
#include "model/save.h"
#include "temp_folder.h"
#include "tiny_model.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

class DeltaTest : public ::testing::Test {
 protected:
  std::string Write(const WeightDelta& delta, const std::string& name) {
    const std::string path = directory_ + "/" + name;
    fs::create_directories(path);
    if (const auto terms = delta.Terms(0, "base"); terms) terms->Save(path);
    WriteSafetensors(path + "/whole.safetensors", delta.Whole());
    return path;
  }
  ThreadPool pool_{2};
  const TempFolder folder_;
  const std::string directory_ = folder_.path();
};

const std::vector<int32_t> kIds = {3, 14, 15, 9, 2, 6, 5};

// A model of the family whose every parameter is a little off the one of the same seed.
std::unique_ptr<ModelWeights> Tuned(ThreadPool& pool, TinyFamily family, float step) {
  Transformer model(TinyModel(pool, 7, {.family = family}), pool);
  FullGraft graft({}, model.base());
  const Philox noise(11);
  uint64_t stream = 0;
  graft.VisitParams([&](Parameter& p) {
    for (int64_t i = 0; i < p.value.size(); ++i) {
      p.value.f32()[i] += step * static_cast<float>(noise.Normal(static_cast<uint64_t>(i), stream));
    }
    ++stream;
  });
  graft.AfterUpdate();
  return std::make_unique<ModelWeights>(std::move(model.base().mutable_weights()));
}

TEST_F(DeltaTest, SingularValuesAreNumpys) {
  Transformer base(TinyModel(pool_, 7), pool_);
  const auto tuned = TinyModel(pool_, 7);
  PackedMatrix& w = (*tuned).blocks[0][SiteKind::kUp].w;  // 48 x 32
  OwnedTensor values({w.out(), w.in()});
  w.Unpack(pool_, values.view);
  for (int64_t i = 0; i < w.out(); ++i) {
    for (int64_t j = 0; j < w.in(); ++j) {
      const double x = static_cast<double>(i), y = static_cast<double>(j);
      values.view.row(i)[j] += static_cast<float>(0.1 * std::sin(0.37 * x * y + x) / (1 + y));
    }
  }
  w.Repack(pool_, values.view);
  const WeightDelta delta(base.base(), *tuned, 0, 0.99);
  ASSERT_EQ(delta.spectra().size(), 1u);
  const WeightDelta::Spectrum& spectrum = delta.spectra()[0];
  EXPECT_EQ(spectrum.site.kind, SiteKind::kUp);
  // numpy.linalg.svd(0.1 * sin(0.37 * i * j + i) / (1 + j))
  const double expected[] = {0.4862210, 0.2462659, 0.1636108, 0.1242232, 0.1009327, 0.0830482};
  for (size_t i = 0; i < std::size(expected); ++i) {
    EXPECT_NEAR(std::sqrt(spectrum.squares[i]), expected[i], 1e-5 * expected[0]) << i;
  }
  double within = 0;
  for (int64_t i = 0; i < spectrum.kept; ++i) within += spectrum.squares[static_cast<size_t>(i)];
  EXPECT_GE(within, 0.99 * spectrum.energy);
  EXPECT_LT(within - spectrum.squares[static_cast<size_t>(spectrum.kept) - 1], 0.99 * spectrum.energy);
}

TEST_F(DeltaTest, FindsTheRankOfALora) {
  Transformer base(TinyModel(pool_, 7), pool_), other(TinyModel(pool_, 7), pool_);
  const auto lora = MakeGraft("lora", {.rank = 3, .alpha = 3, .seed = 5}, base.base());
  const Philox noise(3);
  uint64_t stream = 0;
  lora->VisitParams([&](Parameter& p) {
    for (int64_t i = 0; i < p.value.size(); ++i) {
      p.value.f32()[i] = 0.2f * static_cast<float>(noise.Normal(static_cast<uint64_t>(i), stream));
    }
    ++stream;
  });
  lora->AfterUpdate();
  ModelWeights& tuned = other.base().mutable_weights();
  for (int layer = 0; layer < 2; ++layer) {
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      PackedMatrix& w = tuned.blocks[static_cast<size_t>(layer)].linears[kind].w;
      if (!w) continue;
      OwnedTensor values({w.out(), w.in()});
      w.Unpack(pool_, values.view);
      lora->MergeInto({layer, static_cast<SiteKind>(kind)}, values.view);
      w.Repack(pool_, values.view);
    }
  }
  const WeightDelta delta(base.base(), tuned, 0, 0.999999);
  ASSERT_EQ(delta.spectra().size(), 14u);
  EXPECT_EQ(delta.max_rank(), 3);
  EXPECT_TRUE(delta.Whole().empty());
  EXPECT_NEAR(delta.EnergyWithin(3), 1, 1e-6);
  const auto terms = delta.Terms(0, "base");
  const std::vector<Graft*> found = {terms.get()}, original = {lora.get()};
  EXPECT_LT(Compare(ExactLogits(base, found, kIds).view, ExactLogits(base, original, kIds).view).largest, 2e-5);
}

TEST_F(DeltaTest, AllOfItServesAsTheTunedModel) {
  for (const TinyFamily family : {TinyFamily::kLlama, TinyFamily::kQwen3, TinyFamily::kGemma3}) {
    Transformer base(TinyModel(pool_, 7, {.family = family}), pool_);
    Transformer tuned(Tuned(pool_, family, 0.02f), pool_);
    const WeightDelta delta(base.base(), tuned.weights(), 0, 1.0);
    const std::string path = Write(delta, tuned.config().family);
    const auto graft = LoadGraft(path, base.base());
    EXPECT_EQ(graft->kind(), "delta");
    const std::vector<Graft*> grafts = {graft.get()};
    const OwnedTensor wanted = ExactLogits(tuned, {}, kIds);
    const LogitDifference effect = Compare(ExactLogits(base, {}, kIds).view, wanted.view);
    // What is left is the rounding of the embedding's difference to bf16.
    EXPECT_LT(Compare(ExactLogits(base, grafts, kIds).view, wanted.view).rms, 3e-3 * effect.rms)
        << tuned.config().family;
    // Without its whole part it is not the tuned model: the comparison can fail.
    const auto terms = delta.Terms(0, "base");
    const std::vector<Graft*> part = {terms.get()};
    EXPECT_GT(Compare(ExactLogits(base, part, kIds).view, wanted.view).rms, 0.1 * effect.rms) << tuned.config().family;
    const auto none = LoadGraft(path, base.base(), 0);
    const std::vector<Graft*> off = {none.get()};
    EXPECT_LT(Compare(ExactLogits(base, off, kIds).view, ExactLogits(base, {}, kIds).view).rms, 1e-6);
  }
}

TEST_F(DeltaTest, RowsOfOthersDoNotSeeIt) {
  Transformer base(TinyModel(pool_, 7), pool_);
  const auto tuned = Tuned(pool_, TinyFamily::kLlama, 0.02f);
  const auto graft = LoadGraft(Write(WeightDelta(base.base(), *tuned, 0, 1.0), "rows"), base.base());
  const std::vector<Graft*> grafts = {graft.get()};
  const auto alone = [&](std::span<Graft* const> some) { return ExactLogits(base, some, kIds); };
  const OwnedTensor with = alone(grafts), without = alone({});
  KvCache kv(base.config(), DType::kF32, 256);
  Pass pass;
  pass.compute = Compute::kF32;
  pass.kv = &kv;
  pass.Append(kv.Open(), 0, kIds);
  pass.Append(kv.Open(), 0, kIds).grafts = grafts;
  pass.Append(kv.Open(), 0, kIds);
  const int32_t count = static_cast<int32_t>(kIds.size());
  for (int32_t i = 0; i < 3 * count; ++i) pass.logit_rows.push_back(i);
  base.Forward(pass);
  for (int32_t i = 0; i < 3 * count; ++i) {
    const float* const expected = (i / count == 1 ? with : without).view.row(i % count);
    EXPECT_TRUE(std::equal(expected, expected + pass.result.logits.columns(), pass.result.logits.row(i))) << i;
  }
}

TEST_F(DeltaTest, MergesIntoTheTunedModel) {
  const std::string hf = std::string(CAMBIUM_TEST_DIR) + "/golden/families/qwen3";
  const std::string path = directory_ + "/base.gguf";
  ConvertToGguf(hf, path);
  Transformer base(LoadWeights(pool_, path), pool_), tuned(LoadWeights(pool_, path), pool_);
  FullGraft full({.base = path}, tuned.base());
  full.VisitParams([&](Parameter& p) {
    for (int64_t i = 0; i < p.value.size(); ++i) p.value.f32()[i] += 1e-3f * static_cast<float>((i * i) % 11);
  });
  full.AfterUpdate();
  const auto graft = LoadGraft(Write(WeightDelta(base.base(), tuned.weights(), 0, 1.0), "delta"), base.base());
  const std::vector<Graft*> grafts = {graft.get()};
  WriteMerged(base.base(), grafts, path, directory_ + "/merged.gguf", DType::kF32);
  Transformer merged(LoadWeights(pool_, directory_ + "/merged.gguf"), pool_);
  const OwnedTensor wanted = ExactLogits(tuned, {}, kIds);
  const double effect = Compare(ExactLogits(base, {}, kIds).view, wanted.view).rms;
  EXPECT_LT(Compare(ExactLogits(merged, {}, kIds).view, wanted.view).rms, 1e-4 * effect);
}

TEST_F(DeltaTest, RefusesOtherModels) {
  Transformer base(TinyModel(pool_, 7), pool_);
  const auto refused = [&](const TinyOptions& options, const std::string& what) {
    try {
      const WeightDelta delta(base.base(), *TinyModel(pool_, 7, options), 1, 1.0);
      ADD_FAILURE() << what;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    }
  };
  refused({.ffn = 64}, "layers.0.gate_proj is 64 x 32, the base's is 48 x 32");
  refused({.layers = 3}, "3 layers");
  refused({.vocab = 62}, "embedding is 62 x 32, the base's is 61 x 32");
  Transformer gpt2(TinyModel(pool_, 7, {.family = TinyFamily::kGpt2}), pool_);
  EXPECT_THROW(WeightDelta(gpt2.base(), gpt2.weights(), 1, 1.0), Error);

  const auto tuned = Tuned(pool_, TinyFamily::kLlama, 0.02f);
  const std::string path = Write(WeightDelta(base.base(), *tuned, 1, 1.0), "delta");
  Transformer other(TinyModel(pool_, 7, {.vocab = 62}), pool_);
  try {
    LoadGraft(path, other.base());
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("61 x 32, the base has F32 of 62 x 32"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace cambium
