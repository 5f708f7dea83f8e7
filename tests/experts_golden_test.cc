// Mixtures of experts in files: tiny random models of transformers (tools/make_experts_golden.py), in both formats.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <numeric>

#include "families/convert.h"
#include "families/hf_config.h"
#include "file_testing.h"
#include "grafts/grafts.h"
#include "grafts/merge.h"
#include "io/gguf.h"
#include "io/json.h"
#include "io/quantize_model.h"
#include "io/safetensors.h"
#include "train/loss_head.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;
using Rows = std::vector<std::vector<float>>;

const std::string kGolden = std::string(CAMBIUM_TEST_DIR) + "/golden/experts/";

Rows Logits(Transformer& model, std::span<const int32_t> ids, Compute compute = Compute::kF32,
            std::span<Graft* const> grafts = {}) {
  KvCache kv(model.config(), DType::kF32, static_cast<int64_t>(ids.size()) + 16);
  Pass pass;
  pass.compute = compute;
  pass.kv = &kv;
  pass.Append(kv.Open(), 0, ids).grafts = grafts;
  pass.logit_rows.resize(ids.size());
  std::iota(pass.logit_rows.begin(), pass.logit_rows.end(), 0);
  model.Forward(pass);
  Rows rows;
  for (size_t i = 0; i < ids.size(); ++i) {
    const float* row = pass.result.logits.row(static_cast<int64_t>(i));
    rows.emplace_back(row, row + pass.result.logits.columns());
  }
  return rows;
}

double Difference(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    if (!(difference <= worst)) worst = difference;
  }
  return worst;
}

class ExpertsGolden : public ::testing::TestWithParam<const char*> {
 protected:
  void ExpectLogits(const Rows& got, const nlohmann::json& want, double limit = 1e-4) {
    for (size_t i = 0; i < golden_["rows"].size(); ++i) {
      const auto row = golden_["rows"][i].get<size_t>();
      EXPECT_LT(Difference(got[row], want[i].get<std::vector<float>>()), limit) << "row " << row;
    }
  }
  bool mixed() const { return std::string(GetParam()).ends_with("mixed"); }

  ThreadPool pool_{2};
  std::string path_ = kGolden + GetParam();
  nlohmann::json golden_ = ParseJson(ReadTextFile(path_ + "/golden.json"), "golden.json");
  std::vector<int32_t> ids_ = golden_["ids"].get<std::vector<int32_t>>();
};

TEST_P(ExpertsGolden, LogitsAreThoseOfTransformers) {
  Transformer model(LoadWeights(pool_, path_), pool_);
  const Rows got = Logits(model, ids_);
  ExpectLogits(got, golden_["logits"]);
  auto wrong = golden_["logits"][0].get<std::vector<float>>();
  wrong[3] += 1e-3f;
  EXPECT_GT(Difference(got[0], wrong), 1e-4) << "the comparison sees a wrong value";
}

TEST_P(ExpertsGolden, GreedyTextIsThatOfTransformers) {
  Transformer model(LoadWeights(pool_, path_), pool_);
  std::vector<int32_t> text(ids_.begin(), ids_.begin() + 8);
  for (const auto& next : golden_["greedy"]) {
    const std::vector<float> last = Logits(model, text).back();
    text.push_back(static_cast<int32_t>(std::max_element(last.begin(), last.end()) - last.begin()));
    ASSERT_EQ(text.back(), next.get<int32_t>()) << "token " << text.size();
  }
}

// "...layers.1.mlp.experts.3.gate_proj.lora_A.weight" -> "layers.1.experts.3.gate_proj.lora_A"
std::string OwnName(std::string key) {
  for (const auto& [theirs, ours] : {std::pair{".w1.", ".gate_proj."},
                                     {".w2.", ".down_proj."},
                                     {".w3.", ".up_proj."},
                                     {".block_sparse_moe", ""},
                                     {".self_attn", ""},
                                     {".mlp", ""},
                                     {".shared_expert", ""},
                                     {".weight", ""},
                                     {"base_model.model.model.", ""}}) {
    if (const size_t at = key.find(theirs); at != std::string::npos) key.replace(at, std::string(theirs).size(), ours);
  }
  return key;
}

TEST_P(ExpertsGolden, LoraAndItsGradientsAreThoseOfPeft) {
  Transformer model(LoadWeights(pool_, path_), pool_);
  const auto graft = LoadGraft(path_ + "/lora", model.base());
  Graft* const grafts[] = {graft.get()};
  ExpectLogits(Logits(model, ids_, Compute::kF32, grafts), golden_["lora"]["logits"]);

  std::vector<std::unique_ptr<OwnedTensor>> memory;
  std::map<std::string, Tensor> grads;
  graft->VisitParams([&](Parameter& p) {
    memory.push_back(std::make_unique<OwnedTensor>(std::initializer_list<int64_t>{p.value.rows(), p.value.columns()}));
    p.grad = memory.back()->view;
    grads[p.name] = p.grad;
  });
  Pass pass;
  Tape tape;
  pass.compute = Compute::kF32;
  pass.training.tape = &tape;
  pass.Append(0, 0, ids_).grafts = grafts;
  std::vector<int32_t> targets(ids_.begin() + 1, ids_.end());
  targets.push_back(-1);
  model.Forward(pass);
  Tensor dhidden = model.workspace().New({pass.rows(), model.config().hidden});
  const float weight = 1.0f / static_cast<float>(ids_.size() - 1);
  const double loss = LossHead(model, Compute::kF32, pass.result.hidden, targets, weight, dhidden) * double{weight};
  EXPECT_NEAR(loss, golden_["lora"]["loss"].get<double>(), 1e-5);
  model.Backward(pass, dhidden);
  EXPECT_EQ(grads.size(), golden_["lora"]["grads"].size());
  for (const auto& [key, want] : golden_["lora"]["grads"].items()) {
    ASSERT_TRUE(grads.contains(OwnName(key))) << key;
    const Tensor grad = grads[OwnName(key)];
    double square = 0;
    for (int64_t i = 0; i < grad.size(); ++i) square += double{grad.f32()[i]} * double{grad.f32()[i]};
    const double norm = want["norm"], limit = 1e-4 * norm + 1e-8;
    EXPECT_NEAR(std::sqrt(square), norm, limit) << key;
    const auto first = want["first"].get<std::vector<double>>();
    for (size_t i = 0; i < first.size(); ++i) EXPECT_NEAR(grad.f32()[i], first[i], limit) << key;
  }
}

TEST_P(ExpertsGolden, LoraIsSavedAsPeftSavesIt) {
  const TempFolder folder;
  Transformer model(LoadWeights(pool_, path_), pool_);
  LoadGraft(path_ + "/lora", model.base())->Save(folder / "saved");
  const SafetensorsFile ours(folder / "saved/adapter_model.safetensors"),
      theirs(path_ + "/lora/adapter_model.safetensors");
  ASSERT_EQ(ours.tensors().size(), theirs.tensors().size());
  for (const NamedTensor& tensor : theirs.tensors()) {
    const Tensor* const found = ours.FindTensor(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    ASSERT_EQ(found->size(), tensor.view.size()) << tensor.name;
    EXPECT_TRUE(std::equal(found->f32(), found->f32() + found->size(), tensor.view.f32())) << tensor.name;
  }
  // A name's end would mean other linears as well.
  const auto config = ParseJson(ReadTextFile(folder / "saved/adapter_config.json"), "config");
  EXPECT_EQ(config["target_modules"].size(), theirs.tensors().size() / 2);
  testing::ExpectError(ErrorCode::kUsage, {"experts", "PEFT"},
                       [&] { LoadGraft(path_ + "/lora", model.base())->Save(folder / "a.gguf"); });
}

TEST_P(ExpertsGolden, GoesToGgufAndBack) {
  const TempFolder folder;
  if (mixed()) {
    for (const char* field : {"norm_topk_prob", "decoder_sparse_step"}) {  // one of them is wrong at a time
      fs::copy(path_, folder / field);
      auto config = ParseJson(ReadTextFile(path_ + "/config.json"), "config");
      config["norm_topk_prob"] = std::string(field) != "norm_topk_prob";
      testing::WriteFile(folder / field + "/config.json", config.dump());
      testing::ExpectError(ErrorCode::kData, {"config.json", field},
                           [&] { ConvertToGguf(folder / field, folder / "m.gguf"); });
    }
    return;
  }
  ConvertToGguf(path_, folder / "m.gguf");
  ConvertToHuggingFace(folder / "m.gguf", folder / "back", DType::kF32);
  const ShardedSafetensors before(path_), after(folder / "back");
  ASSERT_EQ(before.tensors().size(), after.tensors().size());
  for (const NamedTensor& tensor : before.tensors()) {
    const Tensor* const found = after.FindTensor(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    if (tensor.shape.size() == 1) continue;
    ASSERT_EQ(found->dtype, tensor.view.dtype) << tensor.name;
    ASSERT_EQ(found->rows(), tensor.view.rows()) << tensor.name;
    EXPECT_EQ(std::memcmp(found->data, tensor.view.data, static_cast<size_t>(found->bytes())), 0) << tensor.name;
  }
  const HfConfig a = ReadHfConfig(path_), b = ReadHfConfig(folder / "back");
  EXPECT_EQ(a.family, b.family);
  EXPECT_EQ(a.experts.count, b.experts.count);
  EXPECT_EQ(a.experts.used, b.experts.used);
  EXPECT_EQ(a.experts.ffn, b.experts.ffn);
  EXPECT_EQ(a.experts.shared_ffn, b.experts.shared_ffn);
  EXPECT_EQ(a.experts.normalise, b.experts.normalise);
  EXPECT_EQ(a.sliding_window, b.sliding_window);

  Transformer hf(LoadWeights(pool_, path_), pool_), gguf(LoadWeights(pool_, folder / "m.gguf"), pool_);
  EXPECT_EQ(Logits(hf, ids_), Logits(gguf, ids_));
  const GgufFile file(folder / "m.gguf");
  EXPECT_EQ(file.FindTensor("blk.1.ffn_down_exps.weight")->rank, 3);
  EXPECT_EQ(file.FindTensor("blk.1.ffn_gate_inp.weight")->dtype, DType::kF32);
}

TEST_P(ExpertsGolden, QuantisesExpertsAndLeavesRouters) {
  if (mixed()) return;
  const TempFolder folder;
  ConvertToGguf(path_, folder / "m.gguf");
  QuantizeModel(pool_, folder / "m.gguf", folder / "q.gguf", DType::kQ8_0, false, {});
  const GgufFile file(folder / "q.gguf");
  for (const NamedTensor& tensor : file.tensors()) {
    const bool router = tensor.name.find("ffn_gate_inp") != std::string::npos;
    if (tensor.name.find("exps") != std::string::npos) EXPECT_EQ(tensor.view.dtype, DType::kQ8_0) << tensor.name;
    if (router) EXPECT_EQ(tensor.view.dtype, DType::kF32) << tensor.name;
  }
  Transformer exact(LoadWeights(pool_, folder / "m.gguf"), pool_),
      quantised(LoadWeights(pool_, folder / "q.gguf"), pool_);
  // The first row alone: further on a choice of experts may turn on rounding.
  const auto first = std::span(ids_).first(1);
  EXPECT_LT(Difference(Logits(quantised, first)[0], Logits(exact, first)[0]), 0.2);
  ConvertToHuggingFace(folder / "q.gguf", folder / "back", DType::kF32);
  Transformer back(LoadWeights(pool_, folder / "back"), pool_);
  EXPECT_EQ(Logits(back, ids_), Logits(quantised, ids_));
}

TEST_P(ExpertsGolden, MergedLoraIsTheLora) {
  const TempFolder folder;
  Transformer model(LoadWeights(pool_, path_), pool_);
  const auto graft = LoadGraft(path_ + "/lora", model.base());
  Graft* const grafts[] = {graft.get()};
  const Rows expected = Logits(model, ids_, Compute::kF32, grafts);
  WriteMerged(model.base(), grafts, path_, folder / "hf", DType::kF32, {});
  Transformer merged(LoadWeights(pool_, folder / "hf"), pool_);
  const Rows got = Logits(merged, ids_);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_LT(Difference(got[i], expected[i]), 1e-4) << i;
}

TEST_P(ExpertsGolden, AFileThatIsCutMeanwhileIsAnError) {
  const TempFolder folder;
  fs::copy(path_, folder / "model");
  Transformer model(LoadWeights(pool_, folder / "model"), pool_);
  fs::resize_file(folder / "model/model.safetensors", 8192);
  testing::ExpectError(ErrorCode::kData, {"model.safetensors"}, [&] { Logits(model, ids_); });
}

INSTANTIATE_TEST_SUITE_P(All, ExpertsGolden, ::testing::Values("qwen3_moe", "qwen3_moe_mixed", "qwen2_moe", "mixtral"),
                         [](const auto& info) { return std::string(info.param); });

TEST(ExpertsConfig, WhatDoesNotFitIsRefusedByName) {
  const std::string good = ReadTextFile(kGolden + "qwen3_moe/config.json");
  const auto expect = [&](const char* field, const nlohmann::json& value) {
    auto config = nlohmann::json::parse(good);
    config[field] = value;
    testing::ExpectError(ErrorCode::kData, {"config.json", field},
                         [&] { ParseHfConfig(config.dump(), "config.json"); });
  };
  expect("num_experts_per_tok", 7);
  expect("num_experts_per_tok", 0);
  expect("num_experts", -1);
  expect("num_experts", "six");
  expect("decoder_sparse_step", 0);
  expect("mlp_only_layers", 3);
  expect("mlp_only_layers", {"one"});
  auto llama =
      nlohmann::json::parse(ReadTextFile(std::string(CAMBIUM_TEST_DIR) + "/golden/families/llama/config.json"));
  llama["num_experts"] = 4;
  testing::ExpectError(ErrorCode::kData, {"num_experts"}, [&] { ParseHfConfig(llama.dump(), "config.json"); });
}

TEST(ExpertsConfig, AnExpertThatIsMissingIsNamed) {
  const TempFolder folder;
  ThreadPool pool(1);
  fs::copy(kGolden + "mixtral", folder / "model");
  std::vector<TensorToWrite> tensors;
  const ShardedSafetensors whole(kGolden + "mixtral");
  const std::string missing = "model.layers.1.block_sparse_moe.experts.4.w2.weight";
  for (const NamedTensor& tensor : whole.tensors()) {
    if (tensor.name != missing) tensors.push_back({tensor.name, tensor.view});
  }
  WriteSafetensors(folder / "model/model.safetensors", std::move(tensors));
  testing::ExpectError(ErrorCode::kData, {missing}, [&] { LoadWeights(pool, folder / "model"); });
  testing::ExpectError(ErrorCode::kData, {"expert 4", "blk.1.ffn_down_exps"},
                       [&] { ConvertToGguf(folder / "model", folder / "m.gguf"); });
}

}  // namespace
}  // namespace cambium
