// Draft heads: against PyTorch's numbers, gradients against differences, files there and back, and drafting with them.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cambium/error.h"
#include "drafters/drafters.h"
#include "drafters/tree_shape.h"
#include "grafts/grafts.h"
#include "grafts/mtp.h"
#include "heads_testing.h"
#include "serving.h"
#include "temp_folder.h"
#include "tiny_model.h"
#include "tiny_tokenizer.h"
#include "train/trainer.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

TEST(HeadsGolden, LogitsArePyTorchs) {
  ThreadPool pool(2);
  Transformer model(LoadWeights(pool, std::string(CAMBIUM_TEST_DIR) + "/golden/families/llama"), pool);
  std::ifstream file(std::string(CAMBIUM_TEST_DIR) + "/golden/heads.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  constexpr int64_t kRows = 6;
  const int64_t width = model.config().hidden;
  OwnedTensor hidden({kRows, width});
  for (int64_t i = 0; i < hidden.view.size(); ++i) {
    const double x = static_cast<double>(i);
    hidden.view.f32()[i] = static_cast<float>(std::sin(0.3 * x) + 0.5 * std::cos(0.011 * x));
  }
  std::vector<int32_t> tokens[2];
  for (int32_t d = 0; d < 2; ++d) {
    for (int32_t t = 0; t < kRows; ++t) tokens[d].push_back((7 * t + 3 * d + 11) % static_cast<int32_t>(model.config().vocab));
  }
  GraftOptions options;
  options.heads = 2;
  const auto medusa = MakeGraft("medusa", options, model.base());
  Fill(*medusa, 0.15);
  for (int64_t d = 0; d < 2; ++d) {
    const Guess guess = RunHeads(*medusa->heads(), pool, d, hidden.view, tokens[0]);
    EXPECT_LT(Furthest(guess.logits.view, golden["medusa"][static_cast<size_t>(d)]), 1e-4);
  }
  options.own_heads = true;
  const auto medusa1 = MakeGraft("medusa", options, model.base());
  Fill(*medusa1, 0.15);
  for (int64_t d = 0; d < 2; ++d) {
    const Guess guess = RunHeads(*medusa1->heads(), pool, d, hidden.view, tokens[0]);
    EXPECT_LT(Furthest(guess.logits.view, golden["medusa1"][static_cast<size_t>(d)]), 1e-4);
    EXPECT_GT(Furthest(guess.logits.view, golden["medusa"][static_cast<size_t>(d)]), 1e-2) << "the comparison sees nothing";
  }
  const auto mtp = MakeGraft("mtp", options, model.base());
  Fill(*mtp, 0.15);
  const Guess first = RunHeads(*mtp->heads(), pool, 0, hidden.view, tokens[0]);
  const Guess second = RunHeads(*mtp->heads(), pool, 1, first.state.view, tokens[1]);
  EXPECT_LT(Furthest(first.logits.view, golden["mtp"][0]), 1e-4);
  EXPECT_LT(Furthest(second.logits.view, golden["mtp"][1]), 1e-4);
  EXPECT_GT(Furthest(second.logits.view, golden["mtp"][0]), 1e-2) << "the comparison sees nothing";
}

std::vector<Example> Texts(int64_t count, int32_t vocab) {
  std::vector<Example> texts;
  for (int64_t i = 0; i < count; ++i) {
    Example text;
    for (int32_t j = 0; j < 9 + i % 4; ++j) text.ids.push_back((static_cast<int32_t>(i) * 5 + j * 3 + j * j) % vocab);
    text.trained.assign(text.ids.size(), 1);
    text.trained[0] = 0;
    texts.push_back(text);
  }
  return texts;
}

struct Kind {
  const char* name;
  const char* kind;
  bool own, parallel;
};
constexpr Kind kKinds[] = {{"Medusa2", "medusa", false, false},
                           {"Medusa1", "medusa", true, false},
                           {"DeepSeek", "mtp", false, false},
                           {"Meta", "mtp", false, true},
                           {"Exit", "exit", false, false}};

GraftOptions OptionsOf(const Kind& kind) {
  GraftOptions options;
  options.heads = 3;
  options.own_heads = kind.own;
  options.parallel = kind.parallel;
  for (int32_t id = 0; id < 61; id += id % 3 == 0 ? 1 : 2) options.draft_tokens.push_back(id);
  options.end_tokens = {0};
  return options;
}

class HeadsOfKind : public testing::TestWithParam<Kind> {
 protected:
  HeadsOfKind() : pool_(2), model_(TinyModel(pool_, 7, {.layers = 3}), pool_) {}
  ThreadPool pool_;
  Transformer model_;
  const TempFolder folder_;
  const std::string directory_ = folder_.path();
};

// Away from where some gradients are zero.
void Shake(Graft& graft, double size) {
  graft.VisitParams([&](Parameter& p) {
    for (int64_t i = 0; i < p.value.size(); ++i) {
      p.value.f32()[i] += static_cast<float>(size * std::sin(0.9 * static_cast<double>(i)));
    }
  });
}

// Along each parameter's own gradient the loss must rise as fast as the gradient says.
TEST_P(HeadsOfKind, GradientsAreDifferences) {
  const auto graft = MakeGraft(GetParam().kind, OptionsOf(GetParam()), model_.base());
  Shake(*graft, GetParam().kind == std::string("mtp") ? 0.02 : 0.1);
  const std::vector<Example> texts = Texts(3, 61);
  TrainOptions options;
  options.precision = Precision::kFp32;
  options.heads.cache_gb = 0;
  options.heads.feature_weight = 3;
  Trainer trainer(model_, *graft, texts, {}, options, "");
  const std::vector<const Example*> micro = {&texts[0], &texts[1], &texts[2]};
  HeadsLoss& loss = *trainer.heads_loss();
  trainer.optimizer().gradients().BeginRound(0);
  loss.Run(micro, 1);
  int64_t checked = 0;
  graft->VisitParams([&](Parameter& p) {
    double square = 0;
    for (int64_t i = 0; i < p.grad.size(); ++i) square += std::pow(static_cast<double>(p.grad.f32()[i]), 2);
    const double norm = std::sqrt(square), step = 4e-3;
    ASSERT_GT(norm, 1e-4) << p.name;
    const std::vector<float> values(p.value.f32(), p.value.f32() + p.value.size());
    const auto at = [&](double t) {
      for (size_t i = 0; i < values.size(); ++i) {
        p.value.f32()[i] = values[i] + static_cast<float>(t * static_cast<double>(p.grad.f32()[i]) / norm);
      }
      graft->AfterUpdate();
      return loss.Run(micro, 0);
    };
    const double slope = (at(step) - at(-step)) / (2 * step);
    at(0);
    EXPECT_NEAR(slope / norm, 1, 0.02) << p.name;
    ++checked;
  });
  EXPECT_GE(checked, 3);
}

TEST_P(HeadsOfKind, TheCacheOfHiddenStatesChangesNothing) {
  const std::vector<Example> texts = Texts(5, 61);
  std::vector<float> values[2];
  for (const int cached : {0, 1}) {
    const auto graft = MakeGraft(GetParam().kind, OptionsOf(GetParam()), model_.base());
    TrainOptions options;
    options.batch = {.batch_size = 2, .seed = 1};
    options.steps = 7;
    options.save_every = 0;
    options.optimizer.lr = 1e-3f;
    options.heads.cache_gb = cached * 1e-5;  // ten kilobytes: not all of it
    options.heads.feature_weight = 1;
    const std::string directory = directory_ + "/" + std::to_string(cached);
    fs::create_directories(directory);
    Trainer trainer(model_, *graft, texts, {}, options, directory);
    std::vector<const Example*> all;
    for (const Example& text : texts) all.push_back(&text);
    const double before = trainer.heads_loss()->Run(all, 0);
    trainer.Run({});
    EXPECT_LT(trainer.heads_loss()->Run(all, 0), before);
    graft->VisitParams([&](Parameter& p) {
      values[cached].insert(values[cached].end(), p.value.f32(), p.value.f32() + p.value.size());
    });
  }
  EXPECT_EQ(values[0], values[1]);
}

TEST_P(HeadsOfKind, FilesThereAndBack) {
  const auto graft = MakeGraft(GetParam().kind, OptionsOf(GetParam()), model_.base());
  Fill(*graft, 0.1);
  graft->Save(directory_);
  const auto again = LoadGraft(directory_, model_.base());
  std::vector<std::pair<std::string, float>> before, after;
  graft->VisitParams([&](Parameter& p) { before.emplace_back(p.name, p.value.f32()[p.value.size() - 1]); });
  again->VisitParams([&](Parameter& p) { after.emplace_back(p.name, p.value.f32()[p.value.size() - 1]); });
  EXPECT_EQ(before, after);
  ASSERT_NE(again->heads(), nullptr);
  EXPECT_EQ(again->heads()->depths(), graft->heads()->depths());
  EXPECT_EQ(again->heads()->draft_tokens().size(), OptionsOf(GetParam()).draft_tokens.size());

  Transformer wide(TinyModel(pool_, 7, {.hidden = 64, .head_dim = 16}), pool_);
  try {
    LoadGraft(directory_, wide.base());
    ADD_FAILURE() << "taken by a base of another width";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("hidden_size is 32, this base has 64"), std::string::npos) << error.what();
  }
  Transformer large(TinyModel(pool_, 7, {.vocab = 70}), pool_);
  try {
    LoadGraft(directory_, large.base());
    ADD_FAILURE() << "taken by a base of another vocabulary";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("vocab_size is 61, this base has 70"), std::string::npos) << error.what();
  }
}

// Every token is as without, whatever the heads guess; and heads that learned the model's own text are often right.
TEST_P(HeadsOfKind, DraftingLeavesEveryTokenAsItIs) {
  const Tokenizer tokenizer = TinyTokenizer();
  TinyOptions tiny;
  tiny.vocab = tokenizer.vocab_size();
  Transformer model(TinyModel(pool_, 5, tiny), pool_);
  const auto answer = [&](std::shared_ptr<DrafterSet> drafters, std::shared_ptr<const GraftSet> grafts, KvCache& kv,
                          uint64_t seed) {
    DecodeRequest request;
    request.grafts = std::move(grafts);
    request.drafters = std::move(drafters);
    request.sampling.temperature = seed % 2 == 0 ? 0.0f : 1.0f;
    request.sampling.seed = seed;
    for (int i = 0; i < 20; ++i) request.prompt.push_back(static_cast<int32_t>(65 + (i + static_cast<int>(seed)) % 7));
    request.max_tokens = 50;
    request.context = 128;
    return Answer(model, kv, request, {.prefill_rows = 7});
  };
  std::vector<Example> texts;
  std::vector<std::vector<int32_t>> plain;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    KvCache kv(model.config(), DType::kF16, 256);
    plain.push_back(answer(nullptr, nullptr, kv, seed).tokens);
    Example& text = texts.emplace_back();
    for (int i = 0; i < 20; ++i) text.ids.push_back(static_cast<int32_t>(65 + (i + static_cast<int>(seed)) % 7));
    text.ids.insert(text.ids.end(), plain.back().begin(), plain.back().end());
    text.trained.assign(text.ids.size(), 1);
  }
  GraftOptions heads_options = OptionsOf(GetParam());
  heads_options.draft_tokens.clear();
  const auto graft = MakeGraft(GetParam().kind, heads_options, model.base());
  TrainOptions options;
  options.precision = Precision::kFp32;
  options.steps = 60;
  options.batch.batch_size = 6;
  options.optimizer.lr = 1e-2f;
  Trainer(model, *graft, texts, {}, options, "").Run({});

  KvCache kv(model.config(), DType::kF16, 256);
  Graft* const carried[] = {graft.get()};
  const auto grafts = GraftsOf({graft.get()});
  const DrafterTarget target = {model, kv, tokenizer, Compute::kInt8, 128, carried};
  const auto entry = std::ranges::find_if(DrafterList(), [](const auto& e) { return e.name == std::string(GetParam().kind); });
  const auto raw = DraftersOf(entry->make({GetParam().kind, {}}, target), false);
  const auto planned = DraftersOf(MakeDrafters({}, target));  // auto: takes the heads that the request carries
  int64_t accepted = 0;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    for (const auto& drafters : {raw, planned}) {
      const DecodeResult drafted = answer(drafters, grafts, kv, seed);
      EXPECT_EQ(drafted.tokens, plain[seed]) << GetParam().name << " seed " << seed;
      if (drafters == raw) accepted += drafted.counters.num_accepted_tokens;
    }
  }
  EXPECT_GT(accepted, 40) << "of some 300";
}

INSTANTIATE_TEST_SUITE_P(Kinds, HeadsOfKind, testing::ValuesIn(kKinds),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(HeadsFiles, WhatIsWrongIsNamed) {
  ThreadPool pool(1);
  Transformer model(TinyModel(pool, 7), pool);
  const TempFolder folder;
  const std::string directory = folder.path();
  const auto write = [&](const std::string& name, const std::string& text) { std::ofstream(directory + "/" + name) << text; };
  GraftOptions options;
  options.draft_tokens = {1, 2, 3};
  options.end_tokens = {9};
  Refused("draft vocabulary of 3 tokens lacks the end token 9", [&] { MakeGraft("medusa", options, model.base()); });
  options.draft_tokens = {1, 99};
  Refused("draft token 99 is outside the base's vocabulary of 61", [&] { MakeGraft("mtp", options, model.base()); });
  options.heads = 99;
  Refused("heads is 99", [&] { MakeGraft("medusa", options, model.base()); });

  write("medusa_lm_head.pt", "not to be read");
  Refused("medusa_lm_head.pt: a pickle runs code", [&] { LoadGraft(directory, model.base()); });
  options = {};
  MakeGraft("medusa", options, model.base())->Save(directory);
  write("config.json", R"({"medusa_num_heads": 7})");
  Refused("medusa_num_heads is 7", [&] { LoadGraft(directory, model.base()); });
  fs::remove(directory + "/config.json");
  options.rank = 2;
  options.base = "one";
  MakeGraft("lora", options, model.base())->Save(directory);
  write("heads.json", R"({"kind":"medusa","base_model_name_or_path":"other","hidden_size":32,"vocab_size":61})");
  Refused("the adapter is for the base one, the heads beside it for other", [&] { LoadGrafts(directory, model.base()); });
  write("heads.json", R"({"kind":"medusa","base_model_name_or_path":"one","hidden_size":32,"vocab_size":61})");
  EXPECT_EQ(LoadGrafts(directory, model.base()).size(), 2u);

  const std::string tree = directory + "/tree.py";
  const auto read = [&](const std::string& text) {
    write("tree.py", text);
    return ReadTreeShape(tree, 3);
  };
  EXPECT_EQ(read("mc_sim = [[0], [0, 0], [1], [0, 1], [0, 0, 3]]").size(), 5u);
  Refused("node [1,0] lacks its parent [1]", [&] { read("[[0], [1, 0]]"); });
  Refused("node [0] is there twice", [&] { read("[[0], [0]]"); });
  Refused("node [0,0,0,0] is at depth 4, the heads guess 3", [&] { read("[[0], [0,0], [0,0,0], [0,0,0,0]]"); });
  Refused("expected 0 to 63", [&] { read("[[-1]]"); });
  Refused("no list", [&] { read("nothing"); });
}

// L_main + W * L_heads: along each parameter's gradient, the graft's too, the sum must rise as fast as it says.
void BesideGradientsAreDifferences(const Kind& kind, const std::string& trunk, bool teacher) {
  SCOPED_TRACE(std::string(kind.name) + " beside " + trunk + (teacher ? ", near its teacher" : ""));
  ThreadPool pool(2);
  Transformer model(TinyModel(pool, 7, {.layers = 3}), pool);
  GraftOptions graft_options = OptionsOf(kind);
  if (trunk == "full") graft_options.draft_tokens.clear();
  graft_options.rank = 2;
  const auto heads = MakeGraft(kind.kind, graft_options, model.base());
  const auto graft = MakeGraft(trunk, graft_options, model.base());
  if (trunk == "lora") Shake(*graft, 0.1);
  Shake(*heads, kind.kind == std::string("mtp") ? 0.02 : 0.1);
  const std::vector<Example> texts = Texts(3, 61);
  TrainOptions options;
  options.precision = Precision::kFp32;
  options.heads.teacher = teacher;
  options.with_heads = heads.get();
  options.heads_weight = 0.5f;
  if (trunk == "full") options.heads.owner = graft.get();
  Trainer trainer(model, *graft, texts, {}, options, "");
  const std::vector<const Example*> micro = {&texts[0], &texts[1], &texts[2]};
  const auto loss = [&] {
    const double before = trainer.heads_sum(), main = trainer.ForwardBackward(micro, 1, 0);
    return main + 0.5 * (trainer.heads_sum() - before);
  };
  trainer.optimizer().gradients().BeginRound(0);
  loss();
  std::vector<std::vector<float>> grads;  // further runs add to the parameters'
  for (const Parameter* p : trainer.optimizer().params()) grads.emplace_back(p->grad.f32(), p->grad.f32() + p->grad.size());
  for (size_t k = 0; k < grads.size(); ++k) {
    Parameter* const p = trainer.optimizer().params()[k];
    const std::vector<float>& grad = grads[k];
    const std::vector<float> values(p->value.f32(), p->value.f32() + p->value.size());
    double square = 0;
    for (const float g : grad) square += std::pow(static_cast<double>(g), 2);
    const double norm = std::sqrt(square), step = 4e-3;
    ASSERT_GT(norm, 1e-4) << p->name;
    const auto at = [&](double t) {
      for (size_t i = 0; i < values.size(); ++i) p->value.f32()[i] = values[i] + static_cast<float>(t * static_cast<double>(grad[i]) / norm);
      graft->AfterUpdate();
      heads->AfterUpdate();
      return loss();
    };
    const double slope = (at(step) - at(-step)) / (2 * step);
    at(0);
    EXPECT_NEAR(slope / norm, 1, 0.02) << p->name;
  }
  EXPECT_GE(grads.size(), 10u);
}

TEST(HeadsBeside, GradientsAreDifferences) {
  for (const Kind& kind : kKinds) BesideGradientsAreDifferences(kind, "lora", false);
  BesideGradientsAreDifferences(kKinds[0], "lora", true);
  BesideGradientsAreDifferences(kKinds[2], "full", false);
}

TEST(HeadsBeside, WithoutWeightTheGraftIsThePlainOne) {
  ThreadPool pool(2);
  Transformer model(TinyModel(pool, 7, {.layers = 3}), pool);
  const std::vector<Example> texts = Texts(6, 61);
  const auto train = [&](const char* kind, float weight) {
    GraftOptions graft_options;
    graft_options.heads = 2;
    const auto graft = MakeGraft("lora", graft_options, model.base());
    const auto heads = MakeGraft(kind == nullptr ? "mtp" : kind, graft_options, model.base());
    TrainOptions options;
    options.steps = 6;
    options.batch = {.batch_size = 2, .seed = 1};
    options.optimizer.lr = 1e-2f;
    options.heads.teacher = false;
    if (kind != nullptr) options.with_heads = heads.get();
    options.heads_weight = weight;
    options.heads_lr_scale = 2;
    std::vector<double> heads_loss;
    Trainer::Callbacks callbacks;
    callbacks.on_step = [&](const StepReport& m) { heads_loss.push_back(m.heads_loss.value_or(-1)); };
    Trainer(model, *graft, texts, {}, options, "").Run(callbacks);
    EXPECT_EQ(heads_loss[0] > 0, kind != nullptr);
    if (weight > 0) EXPECT_LT(heads_loss.back(), heads_loss.front()) << kind;
    std::vector<float> values;
    graft->VisitParams([&](Parameter& p) { values.insert(values.end(), p.value.f32(), p.value.f32() + p.value.size()); });
    return values;
  };
  const std::vector<float> plain = train(nullptr, 0);
  for (const char* kind : {"mtp", "medusa", "exit"}) {
    EXPECT_EQ(train(kind, 0), plain) << kind;
    EXPECT_NE(train(kind, 0.3f), plain) << kind << ": the comparison sees nothing";
  }
}


TEST(BestTree, TakesTheLikeliestNodesFirst) {
  const std::vector<std::vector<double>> accuracy = {{0.6, 0.2}, {0.5, 0.1}};
  const std::vector<ShapeNode> tree = BestTree(accuracy, 4, false);
  ASSERT_EQ(tree.size(), 4u);
  EXPECT_EQ(tree[0].path, (std::vector<int32_t>{0}));
  EXPECT_EQ(tree[1].path, (std::vector<int32_t>{0, 0}));
  EXPECT_NEAR(tree[1].chance, 0.3, 1e-12);
  EXPECT_EQ(tree[2].path, (std::vector<int32_t>{1}));
  EXPECT_EQ(tree[3].path, (std::vector<int32_t>{1, 0}));
  for (const ShapeNode& node : BestTree(accuracy, 9, true)) {
    EXPECT_TRUE(node.path.size() == 1 || node.path[0] == 0) << "a chain goes on from its best guess only";
  }
}

}  // namespace
}  // namespace cambium
