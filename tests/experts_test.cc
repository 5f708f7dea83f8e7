// Mixtures of experts: routing, products by group, matrices that wait for their first use, and the whole in a model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "file_testing.h"
#include "isa_testing.h"
#include "random_lora.h"
#include "slope_testing.h"
#include "tiny_experts.h"
#include "train/loss_head.h"

namespace cambium {
namespace {

using tiny_internal::Normals;

constexpr RouteRule kRules[] = {
    {.used = 3, .normalise = false}, {.used = 3, .normalise = true}, {.used = 1, .normalise = false}};

// The definition: a softmax over all, the greatest kept, divided by their sum where the rule says so.
std::vector<std::pair<int, double>> PlainRoute(const RouteRule& rule, const float* logits, int experts) {
  std::vector<std::pair<int, double>> all;
  double sum = 0, kept = 0;
  for (int e = 0; e < experts; ++e) {
    all.emplace_back(e, std::exp(static_cast<double>(logits[e])));
    sum += all.back().second;
  }
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  all.resize(static_cast<size_t>(rule.used));
  for (auto& [expert, weight] : all) kept += weight /= sum;
  for (auto& [expert, weight] : all) weight /= rule.normalise ? kept : 1;
  return all;
}

TEST(Route, IsTheDefinition) {
  ThreadPool pool(2);
  constexpr int kRows = 40, kExperts = 9;
  const OwnedTensor logits = Normals(1, 1, {kRows, kExperts}, 1.5f);
  for (int e = 0; e < kExperts; ++e) logits.view.row(3)[e] = 0.25f;  // all equal: the first ones
  logits.view.row(4)[7] = logits.view.row(4)[2] = 9;
  for (const RouteRule& rule : kRules) {
    std::vector<int32_t> chosen(static_cast<size_t>(kRows * rule.used));
    const OwnedTensor weights({kRows, rule.used});
    Route(pool, rule, logits.view, chosen, weights.view);
    for (int row = 0; row < kRows; ++row) {
      const auto expected = PlainRoute(rule, logits.view.row(row), kExperts);
      for (int64_t k = 0; k < rule.used; ++k) {
        const size_t at = static_cast<size_t>(k);
        ASSERT_EQ(chosen[static_cast<size_t>(row * rule.used) + at], expected[at].first) << row << " " << k;
        ASSERT_NEAR(weights.view.row(row)[k], expected[at].second, 1e-6) << row << " " << k;
      }
    }
  }
}

TEST(Route, ChoosesEachExpertOnceWhateverTheLogits) {
  ThreadPool pool(1);
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
  for (const float odd : {kNan, kInf, -kInf}) {
    for (int first = 0; first < 5; ++first) {
      OwnedTensor logits({1, 5});
      for (int e = first; e < 5; ++e) logits.view.f32()[e] = odd;
      std::vector<int32_t> chosen(3, -1);
      const OwnedTensor weights({1, 3});
      Route(pool, {.used = 3, .normalise = true}, logits.view, chosen, weights.view);
      std::sort(chosen.begin(), chosen.end());
      EXPECT_GE(chosen[0], 0);
      EXPECT_LT(chosen[2], 5);
      EXPECT_EQ(std::adjacent_find(chosen.begin(), chosen.end()), chosen.end());
    }
  }
}

TEST(Route, GradientIsTheSlope) {
  ThreadPool pool(1);
  constexpr int kExperts = 6;
  for (const RouteRule& rule : kRules) {
    const OwnedTensor logits = Normals(2, 5, {1, kExperts}, 1), dweights = Normals(2, 6, {1, rule.used}, 1);
    std::vector<int32_t> chosen(static_cast<size_t>(rule.used));
    const OwnedTensor weights({1, rule.used}), dlogits({1, kExperts});
    Route(pool, rule, logits.view, chosen, weights.view);
    RouteBackward(pool, rule, logits.view, chosen, dweights.view, dlogits.view);
    for (int e = 0; e < kExperts; ++e) {
      double slope = 0;
      for (const double side : {1.0, -1.0}) {
        std::vector<float> moved(logits.view.f32(), logits.view.f32() + kExperts);
        moved[static_cast<size_t>(e)] += static_cast<float>(side * 1e-3);
        const auto route = PlainRoute(rule, moved.data(), kExperts);
        for (size_t k = 0; k < route.size(); ++k) {
          slope += side * route[k].second * static_cast<double>(dweights.view.f32()[k]) / 2e-3;
        }
      }
      EXPECT_NEAR(dlogits.view.f32()[e], slope, 1e-4) << e;
    }
  }
}

// Groups of rows with matrices of their own give, bit for bit, what each group gives by itself.
TEST(MatMulGroups, AreTheProductsOfEachGroup) {
  ThreadPool pool(2);
  constexpr int64_t kIn = 256, kOut = 37, kCounts[] = {1, 0, 9, 8, 70, 3};
  const OwnedTensor x = Normals(3, 1, {91, kIn}, 1);
  testing::ForEachIsa([&] {
    for (const DType type : {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K}) {
      std::vector<PackedMatrix> matrices;
      for (uint64_t i = 0; i < 2 * std::size(kCounts); ++i) {
        const OwnedTensor values = Normals(4, i, {kOut, kIn}, 0.1f), stored(type, {kOut, kIn});
        Quantize(type, values.view.f32(), stored.view.data, values.view.size());
        matrices.emplace_back(pool, stored.view);
      }
      for (const Compute compute : {Compute::kInt8, Compute::kF32, Compute::kBF16}) {
        Workspace workspace;
        const OwnedTensor y({2 * 91, kOut});
        std::vector<Product> products;
        std::vector<RowProducts> groups;
        products.reserve(matrices.size());
        int64_t begin = 0;
        for (const int64_t count : kCounts) {
          for (const int64_t half : {0, 91}) {
            products.push_back({&matrices[products.size()], y.view.Rows(half + begin, count), nullptr});
          }
          groups.push_back({begin, count, std::span(products).last(2)});
          begin += count;
        }
        MatMulGroups(pool, workspace, compute, x.view, groups);
        for (const RowProducts& group : groups) {
          for (const Product& product : group.products) {
            const OwnedTensor alone({std::max<int64_t>(group.count, 1), kOut});
            if (group.count == 0) continue;
            const Product one{product.w, alone.view, nullptr};
            MatMul(pool, workspace, compute, x.view.Rows(group.begin, group.count), {&one, 1});
            EXPECT_EQ(CopyOf(alone.view), CopyOf(product.y)) << Info(type).name << " " << group.begin;
          }
        }
      }
    }
  });
}

class Shelf : public StoredWeights {
 public:
  void WasRead(const Tensor& weights) const override {
    ++reads;
    if (cut) Fail(ErrorCode::kData, "the file was truncated");
    EXPECT_EQ(weights.rows(), 37);
  }
  mutable int reads = 0;
  bool cut = false;
};

TEST(PackedMatrix, IsPackedWhenAProductFirstNeedsIt) {
  ThreadPool pool(2);
  const OwnedTensor values = Normals(5, 1, {37, 64}, 1), x = Normals(5, 2, {2, 64}, 1);
  const auto shelf = std::make_shared<Shelf>();
  const PackedMatrix eager(pool, values.view), late(shelf, values.view);
  EXPECT_TRUE(static_cast<bool>(late));
  EXPECT_EQ(late.bytes(), eager.bytes());
  EXPECT_EQ(shelf->reads, 0);
  const auto product = [&](const PackedMatrix& w) {
    Workspace workspace;
    const OwnedTensor y({2, 37});
    const Product one{&w, y.view, nullptr};
    MatMul(pool, workspace, Compute::kInt8, x.view, {&one, 1});
    return CopyOf(y.view);
  };
  shelf->cut = true;
  testing::ExpectError(ErrorCode::kData, {"truncated"}, [&] { product(late); });
  shelf->cut = false;
  EXPECT_EQ(product(late), product(eager));
  EXPECT_EQ(product(late), product(eager));
  EXPECT_EQ(shelf->reads, 2);
  OwnedTensor decoded({37, 64});
  late.Unpack(pool, decoded.view);
  EXPECT_EQ(CopyOf(decoded.view), CopyOf(values.view));
}

std::vector<int32_t> Text(int64_t length, uint64_t seed = 3) {
  std::vector<int32_t> ids;
  const Philox noise(seed);
  for (int64_t i = 0; i < length; ++i) ids.push_back(static_cast<int32_t>(noise(static_cast<uint64_t>(i))[0] % 61));
  return ids;
}

// Logits of every row of `text`, `chunk` rows a pass.
std::vector<float> Logits(Transformer& model, Compute compute, std::span<const int32_t> text, int64_t chunk,
                          std::span<Graft* const> grafts = {}) {
  KvCache kv(model.config(), DType::kF32, static_cast<int64_t>(text.size()) + 16);
  const KvCache::Id sequence = kv.Open();
  std::vector<float> logits;
  for (size_t begin = 0; begin < text.size(); begin += static_cast<size_t>(chunk)) {
    const size_t count = std::min(static_cast<size_t>(chunk), text.size() - begin);
    Pass pass;
    pass.compute = compute;
    pass.kv = &kv;
    pass.Append(sequence, static_cast<int64_t>(begin), text.subspan(begin, count)).grafts = grafts;
    for (size_t i = 0; i < count; ++i) pass.logit_rows.push_back(static_cast<int32_t>(i));
    model.Forward(pass);
    const std::vector<float> rows = CopyOf(pass.result.logits);
    logits.insert(logits.end(), rows.begin(), rows.end());
    CommitAll(pass);
  }
  return logits;
}

struct ModelCase {
  DType weights;
  Compute compute;
};

TEST(Experts, ARowDoesNotKnowItsCompany) {
  const std::vector<int32_t> text = Text(75);
  const ModelCase cases[] = {{DType::kQ4_0, Compute::kInt8},
                             {DType::kQ4_K, Compute::kInt8},
                             {DType::kQ8_0, Compute::kF32},
                             {DType::kBF16, Compute::kInt8},
                             {DType::kF32, Compute::kF32}};
  for (const ModelCase& c : cases) {
    SCOPED_TRACE(Info(c.weights).name);
    const TinyExpertsOptions options = {
        .base = {.family = TinyFamily::kQwen3, .hidden = 256, .head_dim = 64, .ffn = 256, .weights = c.weights},
        .ffn = 256,
        .shared_ffn = 256,
        .first_dense = true};
    ThreadPool one(1), three(3);
    Transformer alone(TinyExperts(one, 5, options), one), together(TinyExperts(three, 5, options), three);
    const std::vector<float> expected = Logits(alone, c.compute, text, 1);
    for (const int64_t chunk : {2, 9, 75}) EXPECT_EQ(Logits(together, c.compute, text, chunk), expected) << chunk;
  }
}

// Each expert's matrix counts, and only where the router sends rows.
TEST(Experts, EveryExpertIsUsedAndOnlyWhereItIsChosen) {
  ThreadPool pool(2);
  const std::vector<int32_t> text = Text(60);
  Transformer whole(TinyExperts(pool, 5), pool);
  const std::vector<float> expected = Logits(whole, Compute::kF32, text, 60);
  const auto first = std::span(text).first(1);  // sees nothing but itself: it changes for its own experts alone
  int changed = 0;
  for (size_t e = 0; e < static_cast<size_t>(whole.config().experts); ++e) {
    std::unique_ptr<ModelWeights> weights = TinyExperts(pool, 5);
    const OwnedTensor zeros({weights->config.hidden, weights->config.expert_ffn});
    weights->blocks[0].experts->experts[e].down.w = PackedMatrix(pool, zeros.view);
    Transformer without(std::move(weights), pool);
    EXPECT_NE(Logits(without, Compute::kF32, text, 60), expected) << e;
    const std::vector<float> logits = Logits(without, Compute::kF32, first, 1);
    changed += !std::equal(logits.begin(), logits.end(), expected.begin());
  }
  EXPECT_EQ(changed, whole.config().route.used);
}

GraftOptions EveryLinear() {
  return {
      .rank = 2, .alpha = 2, .targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}};
}

TEST(Experts, GraftsOfABatchActOnTheirOwnRows) {
  ThreadPool pool(2);
  Transformer model(
      TinyExperts(pool, 5,
                  {.base = {.family = TinyFamily::kQwen3, .ffn = 64, .weights = DType::kQ8_0}, .shared_ffn = 32}),
      pool);
  const std::unique_ptr<Graft> a = RandomLora(model, 1, EveryLinear()), b = RandomLora(model, 2, EveryLinear());
  const std::vector<Graft*> carried[] = {{a.get()}, {}, {b.get()}, {a.get(), b.get()}, {a.get()}};
  for (const Compute compute : {Compute::kInt8, Compute::kF32}) {
    KvCache kv(model.config(), DType::kF32, 512);
    Pass pass;
    pass.compute = compute;
    pass.kv = &kv;
    std::vector<float> expected;
    for (size_t i = 0; i < std::size(carried); ++i) {
      const std::vector<int32_t> text = Text(7, i);
      const std::vector<float> alone = Logits(model, compute, text, 7, carried[i]);
      expected.insert(expected.end(), alone.begin(), alone.end());
      if (i > 0) EXPECT_NE(alone, Logits(model, compute, text, 7, carried[i - 1]));
      pass.Append(kv.Open(), 0, text).grafts = carried[i];
    }
    for (int32_t row = 0; row < pass.rows(); ++row) pass.logit_rows.push_back(row);
    model.Forward(pass);
    EXPECT_EQ(CopyOf(pass.result.logits), expected);
  }
}

struct GradientCase {
  const char* name;
  TinyExpertsOptions options;
  bool checkpoint;
  uint64_t seed = 11;  // one that gives every expert rows, none of them near another choice
};

class ExpertsGradient : public ::testing::TestWithParam<GradientCase> {};

TEST_P(ExpertsGradient, AgreesWithDifferences) {
  ThreadPool pool(2);
  Transformer model(TinyExperts(pool, GetParam().seed, GetParam().options), pool);
  const std::unique_ptr<Graft> lora = RandomLora(model, 4, EveryLinear(), 0.2f);
  Graft* const grafts[] = {lora.get()};
  std::vector<std::unique_ptr<OwnedTensor>> grads;
  std::vector<Parameter*> params;
  lora->VisitParams([&](Parameter& param) {
    grads.emplace_back(std::make_unique<OwnedTensor>(std::initializer_list<int64_t>{param.value.size()}));
    param.grad = param.value;
    param.grad.data = grads.back()->view.data;
    params.push_back(&param);
  });
  const auto run = [&](bool backward) {
    lora->AfterUpdate();
    Pass pass;
    Tape tape;
    pass.compute = Compute::kF32;
    pass.training.checkpoint = GetParam().checkpoint;
    if (backward) pass.training.tape = &tape;
    std::vector<int32_t> targets;
    for (const int64_t length : {17, 1, 9}) {
      const std::vector<int32_t> ids = Text(length, static_cast<uint64_t>(length));
      pass.Append(0, 0, ids).grafts = grafts;
      targets.insert(targets.end(), ids.begin() + 1, ids.end());
      targets.push_back(-1);
    }
    model.Forward(pass);
    if (!backward) return LossHead(model, Compute::kF32, pass.result.hidden, targets, 1.0f);
    Tensor dhidden = model.workspace().New({pass.rows(), model.config().hidden});
    const double loss = LossHead(model, Compute::kF32, pass.result.hidden, targets, 1.0f, dhidden);
    model.Backward(pass, dhidden);
    return loss;
  };
  run(true);
  EXPECT_GT(params.size(), 60u);
  for (Parameter* param : params) {
    EXPECT_TRUE(SlopeAgrees(param->name, param->value, CopyOf(param->grad), [&] { return run(false); }));
  }
}

INSTANTIATE_TEST_SUITE_P(All, ExpertsGradient,
                         ::testing::Values(GradientCase{"Normalised", {}, false},
                                           GradientCase{"Shared", {.shared_ffn = 24, .normalise = false}, false},
                                           GradientCase{
                                               "Checkpointed", {.shared_ffn = 24, .first_dense = true}, true, 14}),
                         [](const auto& info) { return info.param.name; });

TEST(Experts, AreAdaptedWhereTheyAreNamed) {
  ThreadPool pool(2);
  Transformer model(TinyExperts(pool, 5), pool);
  std::vector<std::string> names;
  MakeGraft("lora", {}, model.base())->VisitParams([&](Parameter& p) { names.push_back(p.name); });
  EXPECT_EQ(names.size(), 2u * 2 * 4) << "attention alone";
  names.clear();
  MakeGraft("lora", {.targets = {"down_proj"}}, model.base())->VisitParams([&](Parameter& p) {
    names.push_back(p.name);
  });
  EXPECT_EQ(names.size(), 2u * 2 * 6);
  EXPECT_EQ(names.front(), "layers.0.experts.0.down_proj.lora_A");
  for (const char* kind : {"full", "ia3", "vera"}) {
    testing::ExpectError(ErrorCode::kUsage, {"graft", kind}, [&] { MakeGraft(kind, {}, model.base()); });
  }
  EXPECT_NO_THROW(MakeGraft("ia3", {.targets = {"k_proj", "v_proj"}}, model.base()));
}

}  // namespace
}  // namespace cambium
