// LoRA's files and kinds against PEFT's numbers (tools/make_peft_golden.py), and the identities that its files keep.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/random.h"
#include "grafts/describe.h"
#include "grafts/lora.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "temp_folder.h"
#include "tiny_model.h"
#include "train/loss_head.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

const std::string kGolden = std::string(CAMBIUM_TEST_DIR) + "/golden/";

std::vector<std::vector<float>> Logits(Transformer& model, std::vector<Graft*> grafts, std::span<const int32_t> ids,
                                       Compute compute = Compute::kF32) {
  Pass pass;
  pass.compute = compute;
  pass.Append(0, 0, ids).grafts = grafts;
  for (size_t i = 0; i < ids.size(); ++i) pass.logit_rows.push_back(static_cast<int32_t>(i));
  model.Forward(pass);
  std::vector<std::vector<float>> rows;
  for (int64_t i = 0; i < pass.result.logits.rows(); ++i) {
    rows.emplace_back(pass.result.logits.row(i), pass.result.logits.row(i) + pass.result.logits.columns());
  }
  return rows;
}

double LargestDifference(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  double largest = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    for (size_t j = 0; j < a[i].size(); ++j) largest = std::max(largest, double{std::fabs(a[i][j] - b[i][j])});
  }
  return largest;
}

std::vector<int32_t> Ids(int64_t count) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((i * 7 + i * i * 3) % 61));
  return ids;
}

// Gives every parameter of the graft other values.
void Randomize(Graft& graft, uint64_t seed) {
  uint64_t stream = 0;
  graft.VisitParams([&](Parameter& p) {
    const Philox noise(seed);
    ++stream;
    for (int64_t i = 0; i < p.value.size(); ++i) {
      const float draw = 0.1f * static_cast<float>(noise.Normal(static_cast<uint64_t>(i), stream));
      p.value.f32()[i] = p.name.ends_with("magnitude_vector") ? p.value.f32()[i] * (1 + draw) : draw;
    }
  });
  graft.AfterUpdate();
}

class PeftGolden : public testing::TestWithParam<const char*> {
 protected:
  PeftGolden() : model_(LoadWeights(pool_, kGolden + "families/llama"), pool_) {}
  ThreadPool pool_{2};
  Transformer model_;
  std::string path_ = kGolden + "peft/" + GetParam();
  nlohmann::json golden_ = ParseJson(ReadTextFile(path_ + "/golden.json"), "golden.json");
};

TEST_P(PeftGolden, LogitsAreThoseOfPeft) {
  const auto graft = LoadGraft(path_, model_.base());
  const auto ids = golden_["ids"].get<std::vector<int32_t>>();
  const auto logits = Logits(model_, {graft.get()}, ids);
  std::vector<std::vector<float>> rows;
  for (const int row : golden_["rows"]) rows.push_back(logits[static_cast<size_t>(row)]);
  auto want = golden_["logits"].get<std::vector<std::vector<float>>>();
  EXPECT_LT(LargestDifference(rows, want), 5e-5);
  want[1][3] += 1e-3f;
  EXPECT_GT(LargestDifference(rows, want), 5e-5) << "the comparison sees a wrong value";
}

TEST_P(PeftGolden, GradientsAreThoseOfPyTorch) {
  const auto graft = LoadGraft(path_, model_.base());
  std::vector<std::unique_ptr<OwnedTensor>> memory;
  std::map<std::string, Tensor> grads;
  graft->VisitParams([&](Parameter& p) {
    memory.push_back(std::make_unique<OwnedTensor>());
    *memory.back() = p.value.rank == 1 ? OwnedTensor({p.value.size()}) : OwnedTensor({p.value.rows(), p.value.columns()});
    p.grad = memory.back()->view;
    grads[p.name] = p.grad;
  });
  const auto ids = golden_["ids"].get<std::vector<int32_t>>();
  std::vector<Graft*> grafts = {graft.get()};
  Pass pass;
  Tape tape;
  pass.compute = Compute::kF32;
  pass.training.tape = &tape;
  pass.Append(0, 0, ids).grafts = grafts;
  std::vector<int32_t> targets(ids.begin() + 1, ids.end());
  targets.push_back(-1);
  model_.Forward(pass);
  Tensor dhidden = model_.workspace().New({pass.rows(), model_.config().hidden});
  const float weight = 1.0f / static_cast<float>(ids.size() - 1);
  const double loss = LossHead(model_, Compute::kF32, pass.result.hidden, targets, weight, dhidden) * double{weight};
  EXPECT_NEAR(loss, golden_["loss"].get<double>(), 1e-5);
  model_.Backward(pass, dhidden);
  for (const auto& [key, want] : golden_["grads"].items()) {
    // base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight -> layers.0.q_proj.lora_A
    const std::string layer = key.substr(key.find("layers."), 8);
    const size_t part = key.find(".lora_"), module = key.rfind('.', part - 1);
    const Tensor grad = grads[layer + key.substr(module, key.rfind(".weight") - module)];
    ASSERT_TRUE(grad) << key;
    double square = 0;
    for (int64_t i = 0; i < grad.size(); ++i) square += double{grad.f32()[i]} * double{grad.f32()[i]};
    const double norm = want["norm"];
    EXPECT_NEAR(std::sqrt(square), norm, 1e-4 * norm) << key;
    const auto first = want["first"].get<std::vector<double>>();
    for (size_t i = 0; i < first.size(); ++i) EXPECT_NEAR(grad.f32()[i], first[i], 1e-4 * norm) << key;
  }
}

// What PEFT reads of our file is what it wrote: the same tensors, bit for bit, and the same values of every key we write.
TEST_P(PeftGolden, SavesWhatPeftSaves) {
  const TempFolder dir;
  LoadGraft(path_, model_.base())->Save(dir / "saved");
  const SafetensorsFile ours(dir / "saved/adapter_model.safetensors"), theirs(path_ + "/adapter_model.safetensors");
  EXPECT_EQ(ours.tensors().size(), theirs.tensors().size());
  for (const NamedTensor& tensor : theirs.tensors()) {
    const Tensor* const found = ours.FindTensor(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    ASSERT_EQ(found->size(), tensor.view.size());
    EXPECT_TRUE(std::equal(found->f32(), found->f32() + found->size(), tensor.view.f32())) << tensor.name;
  }
  const auto config = [](const std::string& path) { return ParseJson(ReadTextFile(path), path); };
  const nlohmann::json a = config(dir / "saved/adapter_config.json"), b = config(path_ + "/adapter_config.json");
  for (const char* key : {"peft_type", "task_type", "r", "lora_alpha", "use_rslora", "use_dora", "bias", "fan_in_fan_out"}) {
    EXPECT_EQ(a[key], b[key]) << key;
  }
  const auto ids = golden_["ids"].get<std::vector<int32_t>>();
  const auto first = LoadGraft(path_, model_.base()), again = LoadGraft(dir / "saved", model_.base());
  EXPECT_EQ(Logits(model_, {first.get()}, ids), Logits(model_, {again.get()}, ids)) << "ranks and alphas by pattern";
}

TEST_P(PeftGolden, MergedIntoTheMatricesItIsTheSameModel) {
  const auto graft = LoadGraft(path_, model_.base());
  const auto ids = golden_["ids"].get<std::vector<int32_t>>();
  const auto want = Logits(model_, {graft.get()}, ids), base = Logits(model_, {}, ids);
  for (int layer = 0; layer < static_cast<int>(model_.config().layers); ++layer) {
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      const Site site{layer, static_cast<SiteKind>(kind)};
      if (!graft->ActsAt(site)) continue;
      PackedMatrix& w = model_.base().mutable_weights().blocks[static_cast<size_t>(layer)].linears[kind].w;
      OwnedTensor values({w.out(), w.in()});
      w.Unpack(pool_, values.view);
      graft->MergeInto(site, values.view);
      w = PackedMatrix(pool_, values.view);
    }
  }
  EXPECT_LT(LargestDifference(Logits(model_, {}, ids), want), 5e-5);
  EXPECT_GT(LargestDifference(base, want), 0.1);
}

INSTANTIATE_TEST_SUITE_P(Kinds, PeftGolden, testing::Values("lora", "dora"));

class LoraKinds : public testing::Test {
 protected:
  LoraKinds() : model_(TinyModel(pool_, 3), pool_) {}
  std::unique_ptr<Graft> Make(GraftOptions options, uint64_t seed) {
    auto graft = MakeGraft("lora", options, model_.base());
    Randomize(*graft, seed);
    return graft;
  }
  std::string Error(const std::string& path) {
    try {
      LoadGraft(path, model_.base());
    } catch (const cambium::Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kData);
      return error.what();
    }
    return "nothing was refused";
  }
  ThreadPool pool_{2};
  Transformer model_;
  const std::vector<int32_t> ids_ = Ids(30);
};

TEST_F(LoraKinds, PissaBeginsAtTheBaseAndSavesAPlainLora) {
  GraftOptions options;
  options.rank = 4;
  options.pissa = true;
  for (const bool rslora : {false, true}) {
    options.rslora = rslora;
    const auto graft = MakeGraft("lora", options, model_.base());
    const auto base = Logits(model_, {}, ids_);
    EXPECT_LT(LargestDifference(Logits(model_, {graft.get()}, ids_), base), 2e-5);
    const auto* lora = dynamic_cast<LoraGraft*>(graft.get());
    ASSERT_NE(lora, nullptr);
    // A and B are not zero: the leading part is W's.
    double size = 0;
    graft->VisitParams([&](Parameter& p) { size += SquaredNorm(pool_, p.value); });
    EXPECT_GT(size, 1);
    Randomize(*graft, 5);
    const TempFolder dir;
    graft->Save(dir / "saved");
    const auto loaded = LoadGraft(dir / "saved", model_.base());
    const auto want = Logits(model_, {graft.get()}, ids_);
    EXPECT_LT(LargestDifference(Logits(model_, {loaded.get()}, ids_), want), 2e-5);
    EXPECT_GT(LargestDifference(base, want), 0.1);
    EXPECT_EQ(ParseJson(ReadTextFile(dir / "saved/adapter_config.json"), "")["r"], 8);
  }
}

// The rank-r part that PiSSA begins with leaves what the singular values beyond r leave, and no more than 2 % above.
TEST_F(LoraKinds, PissaTakesTheLeadingPart) {
  GraftOptions options;
  options.rank = 4;
  options.alpha = 4;
  options.pissa = true;
  options.targets = {"q_proj"};
  const auto graft = MakeGraft("lora", options, model_.base());
  std::vector<Tensor> factors;
  graft->VisitParams([&](Parameter& p) { factors.push_back(p.value); });
  const PackedMatrix& w = model_.weights().blocks[0][SiteKind::kQ].w;
  OwnedTensor rest({w.out(), w.in()});
  w.Unpack(pool_, rest.view);
  // Deflation by power iteration gives the optimum: sum of squares minus the four largest squared singular values.
  OwnedTensor deflated({w.out(), w.in()});
  std::copy_n(rest.view.f32(), rest.view.size(), deflated.view.f32());
  for (int k = 0; k < 4; ++k) {
    std::vector<double> v(static_cast<size_t>(w.in()), 1), u(static_cast<size_t>(w.out()));
    for (int round = 0; round < 400; ++round) {
      double norm = 0;
      for (int64_t o = 0; o < w.out(); ++o) {
        u[static_cast<size_t>(o)] = 0;
        for (int64_t i = 0; i < w.in(); ++i) u[static_cast<size_t>(o)] += double{deflated.view.row(o)[i]} * v[static_cast<size_t>(i)];
      }
      for (const double x : u) norm += x * x;
      for (double& x : u) x /= std::sqrt(norm);
      for (int64_t i = 0; i < w.in(); ++i) {
        v[static_cast<size_t>(i)] = 0;
        for (int64_t o = 0; o < w.out(); ++o) v[static_cast<size_t>(i)] += double{deflated.view.row(o)[i]} * u[static_cast<size_t>(o)];
      }
    }
    for (int64_t o = 0; o < w.out(); ++o) {
      for (int64_t i = 0; i < w.in(); ++i) deflated.view.row(o)[i] -= static_cast<float>(u[static_cast<size_t>(o)] * v[static_cast<size_t>(i)]);
    }
  }
  Workspace workspace;
  Gemm(pool_, workspace, Compute::kF32, false, false, -1, factors[1], factors[0], 1, rest.view);
  const double left = SquaredNorm(pool_, rest.view), best = SquaredNorm(pool_, deflated.view);
  EXPECT_GE(left, 0.999 * best);
  EXPECT_LT(left, 1.02 * best);
}

TEST_F(LoraKinds, DoraBeginsAtTheBase) {
  GraftOptions options;
  options.dora = true;
  const auto graft = MakeGraft("lora", options, model_.base());
  EXPECT_LT(LargestDifference(Logits(model_, {graft.get()}, ids_), Logits(model_, {}, ids_)), 2e-5);
}

TEST_F(LoraKinds, PatternsChooseRanksAndAlphas) {
  GraftOptions options;
  options.rank = 3;
  options.rank_pattern = {{"q_proj", 5}};
  options.alpha_pattern = {{"down_proj", 2}};
  const auto graft = Make(options, 1);
  int64_t fives = 0;
  graft->VisitParams([&](Parameter& p) { fives += p.name.ends_with("q_proj.lora_A") && p.value.rows() == 5; });
  EXPECT_EQ(fives, model_.config().layers);
  const TempFolder dir;
  graft->Save(dir / "peft");
  graft->Save(dir / "adapter.gguf");
  const auto want = Logits(model_, {graft.get()}, ids_);
  EXPECT_EQ(Logits(model_, {LoadGraft(dir / "peft", model_.base()).get()}, ids_), want);
  EXPECT_LT(LargestDifference(Logits(model_, {LoadGraft(dir / "adapter.gguf", model_.base()).get()}, ids_), want), 1e-5);
  options.rank_pattern = {{"query", 5}};
  EXPECT_THROW(MakeGraft("lora", options, model_.base()), cambium::Error);
  options.rank_pattern = {{"q_proj", 2.5}};
  EXPECT_THROW(MakeGraft("lora", options, model_.base()), cambium::Error);
}

TEST_F(LoraKinds, GgufAdaptersComeBack) {
  GraftOptions options;
  options.rank = 4;
  options.alpha = 6;
  options.rslora = true;
  const auto graft = Make(options, 2);
  const TempFolder dir;
  graft->Save(dir / "a.gguf");
  const GgufFile file(dir / "a.gguf");
  EXPECT_EQ(file.Str("adapter.type"), "lora");
  EXPECT_EQ(file.F64("adapter.lora.alpha"), 6);
  EXPECT_EQ(file.FindTensor("blk.1.attn_q.weight.lora_a")->shape[0], 4);
  // Rows of q follow the base file's interleaved order: HF row 1 of a head is row 2.
  Tensor b;
  graft->VisitParams([&](Parameter& p) { b = p.name == "layers.0.q_proj.lora_B" ? p.value : b; });
  const Tensor stored = *file.FindTensor("blk.0.attn_q.weight.lora_b");
  const float fold = 4.0f / 2.0f;  // alpha / sqrt(4) over alpha / 4
  for (int64_t k = 0; k < 4; ++k) EXPECT_FLOAT_EQ(stored.row(2)[k], fold * b.row(1)[k]);
  const auto loaded = LoadGraft(dir / "a.gguf", model_.base()), half = LoadGraft(dir / "a.gguf", model_.base(), 0.5f);
  const auto want = Logits(model_, {graft.get()}, ids_);
  EXPECT_LT(LargestDifference(Logits(model_, {loaded.get()}, ids_), want), 1e-5);
  EXPECT_GT(LargestDifference(Logits(model_, {half.get()}, ids_), want), 1e-2);

  GgufWriter other;
  other.Set("general.architecture", "qwen3");
  other.Set("general.type", "adapter");
  other.Set("adapter.type", "lora");
  other.Write(dir / "other.gguf");
  EXPECT_NE(Error(dir / "other.gguf").find("qwen3"), std::string::npos);
  other.Set("general.architecture", "llama");
  other.Write(dir / "other.gguf");
  EXPECT_NE(Error(dir / "other.gguf").find("no LoRA tensors"), std::string::npos);
  ThreadPool pool(1);
  Transformer wide(TinyModel(pool, 1, {.hidden = 48}), pool);
  MakeGraft("lora", options, wide.base())->Save(dir / "wide.gguf");
  const std::string shapes = Error(dir / "wide.gguf");
  EXPECT_NE(shapes.find("[4, 48]"), std::string::npos) << shapes;
  EXPECT_NE(shapes.find("[4, 32]"), std::string::npos) << shapes;
  options.dora = true;
  EXPECT_THROW(MakeGraft("lora", options, model_.base())->Save(dir / "dora.gguf"), cambium::Error);
}

// mlx-lm's files: transposed, one rank and one scale for all, DoRA's lengths as "m".
TEST_F(LoraKinds, MlxAdaptersComeBack) {
  GraftOptions options;
  options.rank = 4;
  options.alpha = 6;
  options.targets = {"q_proj", "v_proj", "down_proj"};
  options.rank_pattern = {{"v_proj", 2}};
  options.alpha_pattern = {{"down_proj", 3}};
  for (const bool dora : {false, true}) {
    options.dora = dora;
    const auto graft = Make(options, 2);
    const TempFolder dir;
    dynamic_cast<const LoraGraft&>(*graft).SaveMlx(dir / "a");
    const nlohmann::json config = ParseJson(ReadTextFile(dir / "a/adapter_config.json"), "");
    EXPECT_EQ(config["fine_tune_type"], dora ? "dora" : "lora");
    EXPECT_EQ(config["num_layers"], model_.config().layers);
    EXPECT_EQ(config["lora_parameters"]["scale"], 1.5);
    EXPECT_EQ(config["lora_parameters"]["keys"], nlohmann::json({"mlp.down_proj", "self_attn.q_proj", "self_attn.v_proj"}));
    const SafetensorsFile file(dir / "a/adapters.safetensors");
    Tensor a, b;
    graft->VisitParams([&](Parameter& p) {
      if (p.name == "layers.1.v_proj.lora_A") a = p.value;
      if (p.name == "layers.1.v_proj.lora_B") b = p.value;
    });
    const Tensor mlx_a = *file.FindTensor("model.layers.1.self_attn.v_proj.lora_a");
    const Tensor mlx_b = *file.FindTensor("model.layers.1.self_attn.v_proj.lora_b");
    ASSERT_EQ(mlx_a.columns(), 4);
    EXPECT_EQ(mlx_a.row(5)[1], a.row(1)[5]);
    EXPECT_EQ(mlx_a.row(5)[2], 0);                  // filled up to the largest rank
    EXPECT_EQ(mlx_b.row(1)[7], 2 * b.row(7)[1]);    // 6 / 2 over 6 / 4
    EXPECT_EQ(file.FindTensor("model.layers.1.self_attn.v_proj.m") != nullptr, dora);
    const auto loaded = LoadGraft(dir / "a", model_.base());
    const auto want = Logits(model_, {graft.get()}, ids_);
    EXPECT_LT(LargestDifference(Logits(model_, {loaded.get()}, ids_), want), 1e-5);
    EXPECT_GT(LargestDifference(Logits(model_, {}, ids_), want), 1e-2);
    loaded->Save(dir / "peft");
    EXPECT_LT(LargestDifference(Logits(model_, {LoadGraft(dir / "peft", model_.base()).get()}, ids_), want), 1e-5);

    ThreadPool pool(1);
    Transformer wide(TinyModel(pool, 1, {.hidden = 48}), pool);
    std::string says;
    try {
      LoadGraft(dir / "a", wide.base());
    } catch (const cambium::Error& error) {
      says = error.what();
    }
    EXPECT_NE(says.find("lora_a is [32, 4], this base and field \"rank\" want [48, 4]"), std::string::npos) << says;
  }
}

TEST_F(LoraKinds, AdaptersAreDescribedWithoutTheirBase) {
  GraftOptions options;
  options.rank = 4;
  options.targets = {"q_proj", "v_proj"};
  options.base = "a-base";
  const auto graft = Make(options, 2);
  const TempFolder dir;
  graft->Save(dir / "peft");
  graft->Save(dir / "a.gguf");
  dynamic_cast<const LoraGraft&>(*graft).SaveMlx(dir / "mlx");
  const int64_t parameters = 2 * (4 * 32 + 32 * 4 + 4 * 32 + 16 * 4);
  for (const auto& [name, dialect] : {std::pair{"peft", "PEFT"}, std::pair{"a.gguf", "GGUF"}, std::pair{"mlx", "MLX"}}) {
    const nlohmann::ordered_json about = DescribeAdapter(dir / name);
    EXPECT_EQ(about["dialect"], dialect);
    EXPECT_EQ(about["kind"], "lora") << name;
    EXPECT_EQ(about["rank"], 4) << name;
    EXPECT_EQ(about["layers"], 2) << name;
    EXPECT_EQ(about["base"], "a-base") << name;
    EXPECT_EQ(about["parameters"], parameters) << name;
    const nlohmann::ordered_json& linears = about["linears"];
    ASSERT_EQ(linears.size(), 2u) << name;
    EXPECT_EQ(linears.back(), nlohmann::ordered_json({32, 16})) << name;
  }
  EXPECT_TRUE(DescribeAdapter(kGolden + "families/llama").is_null());
  const auto golden = [&](const char* name) { return DescribeAdapter(kGolden + "grafts/" + name); };
  EXPECT_EQ(golden("prefix")["kind"], "prefix");
  EXPECT_EQ(golden("prefix")["length"], 4);
  EXPECT_EQ(golden("prefix")["head_dim"], 16);
  EXPECT_EQ(golden("prompt")["hidden"], 64);
  EXPECT_EQ(golden("ia3")["linears"]["down_proj"], nlohmann::ordered_json({1, 96}));
  EXPECT_EQ(golden("houlsby")["dialect"], "AdapterHub");
  EXPECT_EQ(golden("houlsby")["variant"], "houlsby");
  EXPECT_EQ(golden("scaled_parallel")["variant"], "scaled-parallel");
  EXPECT_EQ(golden("pfeiffer")["hidden"], 64);
  // Another library's weights beside the config.
  fs::create_directories(dir / "mixed");
  fs::copy(dir / "peft/adapter_config.json", dir / "mixed/adapter_config.json");
  fs::copy(dir / "mlx/adapters.safetensors", dir / "mixed/adapters.safetensors");
  const std::string says = Error(dir / "mixed");
  for (const char* const part : {"adapter_config.json", "\"peft_type\"", "PEFT", "adapter_model.safetensors", "MLX", "adapters.safetensors"}) {
    EXPECT_NE(says.find(part), std::string::npos) << part << " in: " << says;
  }
}

TEST_F(LoraKinds, CombiningIsExactOrCutBySingularValues) {
  GraftOptions options;
  options.rank = 3;
  const auto a = Make(options, 1);
  options.targets = {"q_proj", "up_proj"};
  options.rank = 2;
  const auto b = Make(options, 2);
  const TempFolder dir;
  a->Save(dir / "a");
  b->Save(dir / "b");
  const auto half = LoadGraft(dir / "a", model_.base(), 0.5f), minus = LoadGraft(dir / "b", model_.base(), -1.5f);
  const std::vector<const LoraGraft*> parts = {dynamic_cast<LoraGraft*>(half.get()), dynamic_cast<LoraGraft*>(minus.get())};
  const auto want = Logits(model_, {half.get(), minus.get()}, ids_);
  double kept = 0;
  const auto cat = LoraGraft::Combine(parts, model_.base(), 0, &kept);
  EXPECT_EQ(kept, 1);
  EXPECT_LT(LargestDifference(Logits(model_, {cat.get()}, ids_), want), 2e-5);
  cat->Save(dir / "cat");
  EXPECT_LT(LargestDifference(Logits(model_, {LoadGraft(dir / "cat", model_.base()).get()}, ids_), want), 2e-5);
  // Enough ranks lose nothing; fewer lose the more.
  double error = 0;
  for (const int64_t rank : {5, 4, 2, 1}) {
    const auto cut = LoraGraft::Combine(parts, model_.base(), rank, &kept);
    const double now = LargestDifference(Logits(model_, {cut.get()}, ids_), want);
    EXPECT_GE(now, error) << rank;
    if (rank == 5) EXPECT_LT(now, 2e-5);
    if (rank < 4) EXPECT_LT(kept, 0.999);
    error = now;
  }
  EXPECT_GT(error, 1e-2);
  options.dora = true;
  const auto dora = Make(options, 3);
  const LoraGraft* const one[] = {dynamic_cast<LoraGraft*>(dora.get())};
  EXPECT_THROW(LoraGraft::Combine(one, model_.base(), 0, nullptr), cambium::Error);
}

TEST_F(LoraKinds, ABadRankTargetOrBaseIsNamed) {
  const auto refusal = [](const auto& make) -> std::string {
    try {
      make();
    } catch (const cambium::Error& error) {
      return error.what();
    }
    return "nothing was refused";
  };
  const auto made = [&](const GraftOptions& options) { return refusal([&] { Make(options, 1); }); };
  EXPECT_EQ(made({.rank = 0}), "rank is 0, expected 1 to 32");
  EXPECT_EQ(made({.rank = -1}), "rank is -1, expected 1 to 32");
  EXPECT_EQ(made({.targets = {"q_proj", "w_proj"}}),
            "target \"w_proj\" is no linear of this model; it has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
            "down_proj");
  // Both shapes are named where the base is another one.
  const TempFolder dir;
  Make({.rank = 2}, 1)->Save(dir / "a");
  Transformer other(TinyModel(pool_, 7, {.hidden = 64}), pool_);
  const std::string why = refusal([&] { LoadGraft(dir / "a", other.base()); });
  EXPECT_NE(why.find("lora_A is [2, 32], this base and rank want [2, 64]; is the adapter for another base?"),
            std::string::npos) << why;
}

// An adapter on some layers is written as one on those: PEFT would give every layer a term otherwise.
TEST_F(LoraKinds, LayersWithoutATermStayWithoutOne) {
  const TempFolder dir;
  Make({.rank = 2, .targets = {"q_proj", "up_proj"}}, 1)->Save(dir / "all");
  const auto config = [](const std::string& path) {
    return ParseJson(ReadTextFile(path + "/adapter_config.json"), path);
  };
  EXPECT_TRUE(config(dir / "all")["layers_to_transform"].is_null());
  EXPECT_EQ(config(dir / "all")["target_modules"], nlohmann::json({"q_proj", "up_proj"}));
  const SafetensorsFile whole(dir / "all/adapter_model.safetensors");
  // Keeps the tensors whose names hold none of `without`, as PEFT's file for them.
  const auto cut = [&](const std::string& path, std::initializer_list<const char*> without) {
    fs::create_directories(path);
    std::vector<TensorToWrite> tensors;
    for (const NamedTensor& tensor : whole.tensors()) {
      const bool gone =
          std::ranges::any_of(without, [&](const char* part) { return tensor.name.find(part) != std::string::npos; });
      if (!gone) tensors.push_back({.name = tensor.name, .view = tensor.view});
    }
    WriteSafetensors(path + "/adapter_model.safetensors", std::move(tensors));
    nlohmann::json read = config(dir / "all");
    read["revision"] = "v2";
    std::ofstream(path + "/adapter_config.json") << read;
  };
  const auto again = [&](const std::string& path) {
    LoadGraft(path, model_.base())->Save(path + "-again");
    EXPECT_EQ(LargestDifference(Logits(model_, {LoadGraft(path, model_.base()).get()}, Ids(9)),
                                Logits(model_, {LoadGraft(path + "-again", model_.base()).get()}, Ids(9))),
              0);
    return config(path + "-again");
  };
  cut(dir / "some", {"layers.1."});
  const nlohmann::json some = again(dir / "some");
  std::vector<int> layers;
  for (int layer = 0; layer < static_cast<int>(model_.config().layers); ++layer) {
    if (layer != 1) layers.push_back(layer);
  }
  EXPECT_EQ(some["layers_to_transform"], nlohmann::json(layers));
  EXPECT_EQ(some["layers_pattern"], "layers");
  EXPECT_EQ(some["target_modules"], nlohmann::json({"q_proj", "up_proj"}));
  EXPECT_EQ(some["revision"], "v2");
  cut(dir / "mixed", {"layers.1.mlp"});
  const nlohmann::json mixed = again(dir / "mixed");
  EXPECT_TRUE(mixed["layers_to_transform"].is_null());
  EXPECT_EQ(mixed["target_modules"].size(), static_cast<size_t>(2 * model_.config().layers - 1));
  EXPECT_TRUE(std::ranges::count(mixed["target_modules"], nlohmann::json("model.layers.1.self_attn.q_proj")) == 1);
}

TEST_F(LoraKinds, IntegersAreNoFactors) {
  const TempFolder dir;
  Make({.rank = 2, .targets = {"q_proj"}}, 1)->Save(dir / "a");
  const std::string path = dir / "a/adapter_model.safetensors";
  const std::string bytes = ReadTextFile(path);
  for (const DType type : {DType::kI32, DType::kI64}) {
    const SafetensorsFile whole("whole", {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    std::vector<TensorToWrite> tensors;
    std::vector<OwnedTensor> memory;
    for (const NamedTensor& tensor : whole.tensors()) {
      memory.emplace_back(type, std::initializer_list<int64_t>{tensor.shape[0], tensor.shape[1]});
      tensors.push_back({.name = tensor.name, .view = memory.back().view});
    }
    WriteSafetensors(path, std::move(tensors));
    const std::string said = Error(dir / "a");
    EXPECT_NE(said.find("lora_A"), std::string::npos) << said;
    EXPECT_NE(said.find(Info(type).name), std::string::npos) << said;
  }
}

TEST_F(LoraKinds, KeysThatMeanSomethingAreRefusedByName) {
  const TempFolder dir;
  Make({}, 1)->Save(dir / "a");
  const std::string path = dir / "a/adapter_config.json";
  const nlohmann::json good = ParseJson(ReadTextFile(path), path);
  const auto with = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json changed = good;
    changed[key] = value;
    std::ofstream(path) << changed;
    return Error(dir / "a");
  };
  const std::pair<const char*, nlohmann::json> bad[] = {{"bias", "all"},
                                                        {"fan_in_fan_out", true},
                                                        {"layer_replication", {{0, 1}}},
                                                        {"modules_to_save", {"lm_head"}},
                                                        {"a_key_of_tomorrow", 3},
                                                        {"init_lora_weights", "pissa_niter_4"},
                                                        {"use_dora", true},
                                                        {"r", 0},
                                                        {"rank_pattern", {{"layers\\.(0|1)", 4}}}};
  for (const auto& [key, value] : bad) {
    const std::string said = with(key, value);
    const std::string named = key == std::string("use_dora") ? "lora_magnitude_vector" : key;
    EXPECT_NE(said.find(named), std::string::npos) << said;
  }
  for (const auto& [key, value] : {std::pair<const char*, nlohmann::json>{"eva_config", {{"rho", 2}}},
                                   {"megatron_core", "megatron.core"},
                                   {"a_key_of_tomorrow", false},
                                   {"init_lora_weights", "gaussian"},
                                   {"target_modules", "all-linear"}}) {
    EXPECT_EQ(with(key, value), "nothing was refused") << key;
  }
}

}  // namespace
}  // namespace cambium
