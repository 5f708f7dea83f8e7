// Every family of tools/make_family_goldens.py against transformers, peft and gguf-py: the same checks for each.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <set>

#include "families/convert.h"
#include "families/family.h"
#include "file_testing.h"
#include "grafts/full.h"
#include "grafts/grafts.h"
#include "grafts/merge.h"
#include "io/gguf.h"
#include "io/json.h"
#include "model/load.h"
#include "model/transformer.h"
#include "serving.h"
#include "train/loss_head.h"

namespace cambium {
namespace {

using nlohmann::json;

const std::string kGolden = std::string(CAMBIUM_TEST_DIR) + "/golden/families/";
constexpr double kTolerance = 1e-4;

class FamilyGolden : public ::testing::TestWithParam<const char*> {
 protected:
  std::string Path() const { return kGolden + GetParam(); }
  std::vector<int32_t> Ids() const { return golden_["ids"].get<std::vector<int32_t>>(); }
  Tensor Logits(const std::string& path, std::vector<Graft*> grafts = {}) {
    model_ = std::make_unique<Transformer>(LoadWeights(pool_, path), pool_);
    logits_.push_back(ExactLogits(*model_, grafts, Ids()));
    return logits_.back().view;
  }
  Tensor AdaptedLogits(const std::string& path, const std::string& adapter) {
    model_ = std::make_unique<Transformer>(LoadWeights(pool_, path), pool_);
    const std::unique_ptr<Graft> graft = LoadGraft(adapter, model_->base());
    Graft* const grafts[] = {graft.get()};
    logits_.push_back(ExactLogits(*model_, grafts, Ids()));
    return logits_.back().view;
  }
  // The rows that the golden keeps, against its field.
  void ExpectRows(Tensor logits, const char* field) const {
    for (size_t i = 0; i < golden_["rows"].size(); ++i) {
      const auto want = golden_[field][i].get<std::vector<float>>();
      const float* const got = logits.row(golden_["rows"][i]);
      for (size_t j = 0; j < want.size(); ++j) {
        ASSERT_NEAR(got[j], want[j], kTolerance * std::max(1.0f, std::fabs(want[j]))) << "row " << i << " token " << j;
      }
    }
  }
  static void ExpectNear(Tensor a, Tensor b, double tolerance) {
    ASSERT_EQ(a.size(), b.size());
    for (int64_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a.f32()[i], b.f32()[i], tolerance) << i;
  }
  // Gemma's files differ by the 1 of its gains, which rounds them.
  double Rounding() const { return std::string(GetParam()).starts_with("gemma") ? 1e-4 : 0; }

  const json golden_ = ParseJson(ReadTextFile(Path() + "/golden.json"), "golden.json");
  ThreadPool pool_{2};
  const TempFolder folder_;
  std::unique_ptr<Transformer> model_;
  std::vector<OwnedTensor> logits_;
};

TEST_P(FamilyGolden, LogitsAreTransformers) { ExpectRows(Logits(Path()), "logits"); }

TEST_P(FamilyGolden, GreedyTextIsTransformers) {
  Transformer model(LoadWeights(pool_, Path()), pool_);
  KvCache kv(model.config(), DType::kF32, 256);
  SchedulerOptions options;
  options.compute = Compute::kF32;
  Scheduler scheduler(model, kv, options);
  DecodeRequest request;
  const std::vector<int32_t> ids = Ids(), want = golden_["greedy"].get<std::vector<int32_t>>();
  request.prompt.assign(ids.begin(), ids.begin() + 8);
  request.sampling.temperature = 0;
  request.max_tokens = std::ssize(want);
  request.context = model.config().context;
  EXPECT_EQ(RunToEnd(scheduler, std::move(request)).tokens, want);
}

// The gradient of every parameter, through the file's own names: a matrix's rows times the golden's fixed vector.
TEST_P(FamilyGolden, GradientsAreTransformers) {
  Transformer model(LoadWeights(pool_, Path()), pool_);
  FullGraft graft({}, model.base());
  std::map<std::string, OwnedTensor> gradients;
  graft.VisitParams([&](Parameter& p) {
    OwnedTensor& grad = gradients[p.name] =
        p.value.rank == 1 ? OwnedTensor({p.value.size()}) : OwnedTensor({p.value.rows(), p.value.columns()});
    std::memset(grad.view.data, 0, static_cast<size_t>(grad.view.bytes()));
    p.grad = grad.view;
  });
  Graft* const grafts[] = {&graft};
  std::vector<int32_t> ids = Ids();
  ids.resize(40);
  Pass pass;
  Tape tape;
  pass.compute = Compute::kF32;
  pass.training.tape = &tape;
  pass.Append(0, 0, ids).grafts = grafts;
  model.Forward(pass);
  std::vector<int32_t> targets(ids.begin() + 1, ids.end());
  targets.push_back(-1);
  OwnedTensor dhidden({40, model.config().hidden});
  const double loss =
      LossHead(model, Compute::kF32, pass.result.hidden, targets, 1.0f / 39, dhidden.view, graft.HeadGradient());
  model.Backward(pass, dhidden.view);
  EXPECT_NEAR(loss / 39, golden_["loss"].get<double>(), kTolerance);

  const ModelConfig& c = model.config();
  const TensorNames names = NamesOf(c, Dialect::kHuggingFace);
  std::map<std::string, std::vector<double>> got;  // by Hugging Face's name
  std::set<std::string> placed;
  const auto probed = [&](const std::string& ours) {
    placed.insert(ours);
    const Tensor grad = gradients.at(ours).view;
    std::vector<double> values;
    for (int64_t r = 0; r < (grad.rank == 1 ? grad.size() : grad.rows()); ++r) {
      double sum = grad.rank == 1 ? double{grad.f32()[r]} : 0;
      for (int64_t j = 0; grad.rank == 2 && j < grad.columns(); ++j) {
        sum += double{grad.row(r)[j]} * std::cos(static_cast<double>(j + 1));
      }
      values.push_back(sum);
    }
    return values;
  };
  const auto norm = [&](Role role, int64_t layer, const std::string& ours) {
    if (!gradients.contains(ours)) return;
    got[names.Weight(role, layer)] = probed(ours);
    if (gradients.contains(ours + ".bias")) got[names.Bias(role, layer)] = probed(ours + ".bias");
  };
  got[names.Weight(Role::kEmbedding)] = probed("embedding");
  if (gradients.contains("positions")) got[names.Weight(Role::kPositions)] = probed("positions");
  if (gradients.contains("head")) got[names.Weight(Role::kHead)] = probed("head");
  norm(Role::kFinalNorm, 0, "final_norm");
  for (int layer = 0; layer < static_cast<int>(c.layers); ++layer) {
    const std::string at = "layers." + std::to_string(layer) + ".";
    norm(Role::kAttentionNorm, layer, at + "attention_norm");
    norm(Role::kAttentionPostNorm, layer, at + "attention_post_norm");
    norm(Role::kFfnNorm, layer, at + "ffn_norm");
    norm(Role::kFfnPostNorm, layer, at + "ffn_post_norm");
    norm(Role::kQNorm, layer, at + "q_norm");
    norm(Role::kKNorm, layer, at + "k_norm");
    for (int i = 0; i < kSiteKinds; ++i) {
      const Site site{layer, static_cast<SiteKind>(i)};
      const std::string ours = at + SiteName(site.kind);
      if (!gradients.contains(ours)) continue;
      const LinearPlace place = PlaceOf(c, names, site);
      for (const char* suffix : {"", ".bias"}) {
        if (!gradients.contains(ours + suffix)) continue;
        const bool bias = *suffix != 0;
        auto& whole = got[bias ? names.Bias(place.role, layer) : names.Weight(place.role, layer)];
        whole.resize(static_cast<size_t>(place.all));
        const std::vector<double> rows = probed(ours + suffix);
        for (size_t r = 0; r < rows.size(); ++r) whole[static_cast<size_t>(place.rows[r])] = rows[r];
      }
    }
  }
  EXPECT_EQ(placed.size(), gradients.size()) << "each parameter of ours is compared";
  EXPECT_EQ(got.size(), golden_["gradients"].size());
  for (const auto& [name, want] : golden_["gradients"].items()) {
    ASSERT_TRUE(got.contains(name)) << name;
    ASSERT_EQ(got[name].size(), want.size()) << name;
    double difference = 0, length = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      difference += std::pow(got[name][i] - want[i].get<double>(), 2);
      length += std::pow(want[i].get<double>(), 2);
    }
    // A bias of k changes all scores of a row alike: its gradient is zero, and what stands there is rounding.
    EXPECT_LT(std::sqrt(difference), kTolerance * std::max(std::sqrt(length), 0.1)) << name;
  }
}

TEST_P(FamilyGolden, PeftsLoraActsAndComesBack) {
  const Tensor want = AdaptedLogits(Path(), Path() + "/lora");
  ExpectRows(want, "lora_logits");
  Transformer base(LoadWeights(pool_, Path()), pool_);  // AdaptedLogits makes a new one each time
  const std::unique_ptr<Graft> graft = LoadGraft(Path() + "/lora", base.base());
  graft->Save(folder_ / "saved");
  ExpectNear(AdaptedLogits(Path(), folder_ / "saved"), want, 0);
  const json before = ParseJson(ReadTextFile(Path() + "/lora/adapter_config.json"), "before");
  const json after = ParseJson(ReadTextFile(folder_ / "saved/adapter_config.json"), "after");
  EXPECT_EQ(before["target_modules"], after["target_modules"]);
  EXPECT_EQ(before["fan_in_fan_out"], after["fan_in_fan_out"]);
  graft->Save(folder_ / "lora.gguf");
  ExpectNear(AdaptedLogits(Path(), folder_ / "lora.gguf"), want, kTolerance);
}

// A LoRA of ours, whose linears have factors of their own also where a file fuses them.
TEST_P(FamilyGolden, OurLoraComesBack) {
  Transformer model(LoadWeights(pool_, Path()), pool_);
  const auto graft = MakeGraft("lora", {.rank = 2, .alpha = 3, .seed = 5}, model.base());
  int64_t step = 0;
  graft->VisitParams([&](Parameter& p) {
    for (int64_t i = 0; i < p.value.size(); ++i) p.value.f32()[i] += 0.05f * std::sin(static_cast<float>(++step));
  });
  graft->AfterUpdate();
  Graft* const grafts[] = {graft.get()};
  const OwnedTensor want = ExactLogits(model, grafts, Ids());
  graft->Save(folder_ / "own");
  graft->Save(folder_ / "own.gguf");
  ExpectNear(AdaptedLogits(Path(), folder_ / "own"), want.view, kTolerance);
  ExpectNear(AdaptedLogits(Path(), folder_ / "own.gguf"), want.view, kTolerance);
}

TEST_P(FamilyGolden, GgufIsTheSameModelUnderLlamaCppsNames) {
  const Tensor want = Logits(Path());
  ConvertToGguf(Path(), folder_ / "m.gguf");
  ExpectNear(Logits(folder_ / "m.gguf"), want, Rounding());
  const GgufFile file(folder_ / "m.gguf");
  std::set<std::string> expected, there;
  const bool tied = model_->config().tied_head;
  for (const auto& [hf, gguf] : golden_["gguf_names"].items()) {
    if (!tied || gguf != "output.weight") expected.insert(gguf.get<std::string>());
  }
  for (const NamedTensor& tensor : file.tensors()) there.insert(tensor.name);
  EXPECT_EQ(there, expected);
  ConvertToHuggingFace(folder_ / "m.gguf", folder_ / "back", DType::kF32);
  ExpectNear(Logits(folder_ / "back"), want, Rounding());
}

TEST_P(FamilyGolden, MergesAndFullTuningComeBack) {
  const Tensor adapted = AdaptedLogits(Path(), Path() + "/lora");
  const std::unique_ptr<Graft> graft = LoadGraft(Path() + "/lora", model_->base());
  Graft* const grafts[] = {graft.get()};
  for (const char* out : {"merged", "merged.gguf"}) {
    WriteMerged(model_->base(), grafts, Path(), folder_ / out, DType::kF32);
    Transformer merged(LoadWeights(pool_, folder_ / out), pool_);
    ExpectNear(ExactLogits(merged, {}, Ids()).view, adapted, kTolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(All, FamilyGolden,
                         ::testing::Values("phi3", "phi4mini", "gemma2", "olmo2", "granite", "starcoder2", "gptneox",
                                           "gptneox_serial", "gpt2_small"),
                         [](const auto& info) { return std::string(info.param); });

// Both tables are whole: each role once in a dialect, but for what a block may hold besides.
TEST(FamilyTable, NamesEachRoleOnce) {
  for (const Family* family : Families()) {
    std::set<std::string_view> hf, gguf;
    for (const TensorRow& row : family->tensors) {
      EXPECT_TRUE(row.hf.empty() || hf.insert(row.hf).second) << family->hf_type << " " << row.hf;
      EXPECT_TRUE(row.gguf.empty() || gguf.insert(row.gguf).second) << family->hf_type << " " << row.gguf;
    }
    EXPECT_EQ(FindFamily(family->hf_type), family);
  }
}

}  // namespace
}  // namespace cambium
