// The transformer's backward against central differences of its forward, for every family and every kind of graft.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "grafts/full.h"
#include "slope_testing.h"
#include "test_graft.h"
#include "train/loss_head.h"

namespace cambium {
namespace {

struct Case {
  TinyFamily family;
  TestGraftParts parts;
  bool checkpoint = false;
  int threads = 2;
};

// Three sequences of unequal length in one pass; some rows without a target.
class Harness {
 public:
  explicit Harness(const Case& c)
      : pool_(c.threads),
        model_(TinyModel(pool_, 7, {.family = c.family}), pool_),
        graft_(model_, 11, c.parts),
        grafts_{&graft_},
        case_(c) {
    graft_.VisitParams([&](Parameter& param) {
      grads_.emplace_back(std::make_unique<OwnedTensor>(std::initializer_list<int64_t>{param.value.size()}));
      param.grad = param.value;
      param.grad.data = grads_.back()->view.data;
    });
    const Philox noise(3);
    for (const size_t length : {9, 1, 14}) {
      std::vector<int32_t> ids;
      for (size_t i = 0; i < length; ++i) {
        ids.push_back(static_cast<int32_t>(noise(i, length)[0] % static_cast<uint32_t>(model_.config().vocab)));
      }
      sequences_.push_back(ids);
    }
  }

  Transformer& model() { return model_; }
  TestGraft& graft() { return graft_; }

  double Loss() { return Run(false); }
  double LossAndGradients() { return Run(true); }

 private:
  double Run(bool backward) {
    Pass pass;
    pass.compute = Compute::kF32;
    Tape tape;
    if (backward) pass.training.tape = &tape;
    pass.training.checkpoint = case_.checkpoint;
    std::vector<int32_t> targets;
    for (const std::vector<int32_t>& ids : sequences_) {
      pass.Append(0, case_.parts.prefix, ids).grafts = grafts_;
      for (size_t i = 1; i < ids.size(); ++i) targets.push_back(i % 4 == 3 ? -1 : ids[i]);
      targets.push_back(-1);
    }
    model_.Forward(pass);
    if (!backward) return LossHead(model_, Compute::kF32, pass.result.hidden, targets, 1.0f);
    Tensor dhidden = model_.workspace().New({pass.rows(), model_.config().hidden});
    const double loss = LossHead(model_, Compute::kF32, pass.result.hidden, targets, 1.0f, dhidden);
    model_.Backward(pass, dhidden);
    return loss;
  }

  ThreadPool pool_;
  Transformer model_;
  TestGraft graft_;
  std::vector<Graft*> grafts_;
  Case case_;
  std::vector<std::unique_ptr<OwnedTensor>> grads_;
  std::vector<std::vector<int32_t>> sequences_;
};

class ModelGradient : public ::testing::TestWithParam<Case> {};

TEST_P(ModelGradient, AgreesWithDifferences) {
  Harness h(GetParam());
  h.LossAndGradients();
  h.graft().VisitParams([&](Parameter& param) {
    EXPECT_TRUE(SlopeAgrees(param.name, param.value, CopyOf(param.grad), [&] { return h.Loss(); }));
  });
  ModelWeights& weights = h.model().base().mutable_weights();
  for (TestGraft::NormSlot& slot : h.graft().norms()) {
    NormWeights* norm = &weights.final_norm;
    if (slot.kind != NormKind::kFinal) {
      BlockWeights& block = weights.blocks[static_cast<size_t>(slot.layer)];
      NormWeights* const norms[] = {&block.attention_norm, &block.attention_post_norm,
                                    &block.ffn_norm,       &block.ffn_post_norm,
                                    &block.q_norm,         &block.k_norm};
      norm = norms[static_cast<int>(slot.kind)];
    }
    const std::string name =
        "norm " + std::to_string(static_cast<int>(slot.kind)) + " of layer " + std::to_string(slot.layer);
    EXPECT_TRUE(SlopeAgrees(name, norm->gain.view, CopyOf(slot.dgain.view), [&] { return h.Loss(); }));
    if (norm->bias.view) {
      EXPECT_TRUE(SlopeAgrees(name + " bias", norm->bias.view, CopyOf(slot.dbias.view), [&] { return h.Loss(); }));
    }
  }
}

TEST_P(ModelGradient, DoesNotDependOnCheckpointingOrThreads) {
  Case with = GetParam();
  with.checkpoint = !with.checkpoint;
  with.threads = 3;
  Harness a(GetParam()), b(with);
  EXPECT_EQ(a.LossAndGradients(), b.LossAndGradients());
  std::vector<std::vector<float>> grads;
  a.graft().VisitParams([&](Parameter& param) { grads.push_back(CopyOf(param.grad)); });
  size_t i = 0;
  b.graft().VisitParams([&](Parameter& param) { EXPECT_EQ(grads[i++], CopyOf(param.grad)) << param.name; });
}

TEST(ModelGradientHelper, SlopeAgreesNoticesAFalseGradient) {
  Harness h({TinyFamily::kLlama, {}});
  h.LossAndGradients();
  h.graft().VisitParams([&](Parameter& param) {
    std::vector<float> wrong = CopyOf(param.grad);
    for (float& g : wrong) g *= 1.05f;
    EXPECT_FALSE(SlopeAgrees(param.name, param.value, wrong, [&] { return h.Loss(); }));
  });
}

// Full fine-tuning: every weight of the base, in every family.
class FullGradient : public ::testing::TestWithParam<TinyFamily> {};

TEST_P(FullGradient, AgreesWithDifferences) {
  ThreadPool pool(2);
  Transformer model(TinyModel(pool, 7, {.family = GetParam(), .context = 32}), pool);
  FullGraft graft({}, model.base());
  std::vector<Graft*> grafts = {&graft};
  std::vector<std::unique_ptr<OwnedTensor>> grads;
  std::vector<Parameter*> params;
  graft.VisitParams([&](Parameter& param) {
    grads.emplace_back(std::make_unique<OwnedTensor>(std::initializer_list<int64_t>{param.value.size()}));
    param.grad = param.value;
    param.grad.data = grads.back()->view.data;
    params.push_back(&param);
  });
  const std::vector<int32_t> ids = {5, 17, 5, 60, 0, 33, 17, 2, 41, 5, 8}, more = {9, 5, 1, 1, 30};
  const auto run = [&](bool backward) {
    Pass pass;
    Tape tape;
    pass.compute = Compute::kF32;
    if (backward) pass.training.tape = &tape;
    std::vector<int32_t> targets;
    for (const std::vector<int32_t>* sequence : {&ids, &more}) {
      pass.Append(0, 0, *sequence).grafts = grafts;
      targets.insert(targets.end(), sequence->begin() + 1, sequence->end());
      targets.push_back(-1);
    }
    model.Forward(pass);
    if (!backward) return LossHead(model, Compute::kF32, pass.result.hidden, targets, 1.0f);
    Tensor dhidden = model.workspace().New({pass.rows(), model.config().hidden});
    const double loss = LossHead(model, Compute::kF32, pass.result.hidden, targets, 1.0f, dhidden, graft.HeadGradient());
    model.Backward(pass, dhidden);
    return loss;
  };
  run(true);
  int64_t trained = 0;
  for (Parameter* param : params) {
    trained += param->value.size();
    const std::vector<float> gradient = CopyOf(param->grad);
    // A key's bias moves all of a row's scores alike: softmax does not see it.
    if (param->name.ends_with("k_proj.bias")) continue;
    EXPECT_TRUE(SlopeAgrees(param->name, param->value, gradient, [&] {
      graft.AfterUpdate();
      return run(false);
    }));
    graft.AfterUpdate();
  }
  EXPECT_GT(trained, model.config().vocab * model.config().hidden);
}
INSTANTIATE_TEST_SUITE_P(Families, FullGradient, ::testing::ValuesIn(kTinyFamilies));

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const TinyFamily family : kTinyFamilies) {
    cases.push_back({family, {.linears = true, .branches = false, .embedding = true, .norms = true}});
    cases.push_back(
        {family, {.linears = true, .branches = true, .embedding = false, .norms = false, .prefix = 3}, true});
  }
  return cases;
}
std::string CaseName(const ::testing::TestParamInfo<Case>& info) {
  static constexpr const char* kNames[] = {"Llama", "Qwen3", "Gemma3", "Gpt2"};
  return std::string(kNames[static_cast<int>(info.param.family)]) + (info.param.parts.prefix > 0 ? "Prefix" : "Plain");
}
INSTANTIATE_TEST_SUITE_P(Families, ModelGradient, ::testing::ValuesIn(Cases()), CaseName);

}  // namespace
}  // namespace cambium
