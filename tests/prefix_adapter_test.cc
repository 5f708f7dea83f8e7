// Prefixes and bottleneck adapters on tiny models of every family: what they start as, their gradients, mixed in one
// pass, resumed, and what is refused.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "grafts/adapter.h"
#include "grafts/prefix.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "temp_folder.h"
#include "tiny_model.h"
#include "train/loss_head.h"
#include "train/trainer.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;
using Rows = std::vector<std::vector<float>>;

std::vector<int32_t> Ids(int64_t count, int32_t salt = 0) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((i * 7 + i * i * 3 + salt) % 61));
  return ids;
}

// Random parameters, so that a graft acts.
void Shake(Graft& graft, uint64_t seed, double spread = 0.2) {
  const Philox noise(seed);
  uint64_t stream = 0;
  graft.VisitParams([&](Parameter& p) {
    ++stream;
    for (int64_t i = 0; i < p.value.size(); ++i) {
      p.value.f32()[i] += static_cast<float>(spread * noise.Normal(static_cast<uint64_t>(i), stream));
    }
  });
  graft.AfterUpdate();
}

GraftOptions Options(int64_t length = 5) {
  GraftOptions options;
  options.length = length;
  options.reduction = 8;
  options.init_ids = Ids(3, 5);
  options.seed = 4;
  return options;
}

struct Sequence {
  std::vector<int32_t> ids;
  std::vector<Graft*> grafts;
};

// Logits of every row of several sequences: the whole texts in one pass, then (for `steps`) one row of each a pass.
Rows Serve(Transformer& model, Compute compute, DType kv_type, const std::vector<Sequence>& sequences, int steps = 0) {
  KvCache kv(model.config(), kv_type, 1024);
  std::vector<KvCache::Id> ids;
  for (const Sequence& s : sequences) {
    ids.push_back(kv.Open());
    model.BeginSequence(kv, ids.back(), s.grafts);
  }
  Rows rows(sequences.size());
  for (int step = 0; step <= steps; ++step) {
    Pass pass;
    pass.compute = compute;
    pass.kv = &kv;
    std::vector<size_t> owner;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const std::span<const int32_t> all = sequences[i].ids;
      const auto split = all.size() - static_cast<size_t>(steps);
      const auto part = step == 0 ? all.first(split) : all.subspan(split + static_cast<size_t>(step) - 1, 1);
      pass.Append(ids[i], kv.length(ids[i]), part).grafts = sequences[i].grafts;
      owner.insert(owner.end(), part.size(), i);
    }
    for (int64_t i = 0; i < pass.rows(); ++i) pass.logit_rows.push_back(static_cast<int32_t>(i));
    model.Forward(pass);
    for (int64_t i = 0; i < pass.rows(); ++i) {
      std::vector<float>& row = rows[owner[static_cast<size_t>(i)]];
      row.insert(row.end(), pass.result.logits.row(i), pass.result.logits.row(i) + pass.result.logits.columns());
    }
    CommitAll(pass);
  }
  return rows;
}

class PrefixAdapter : public ::testing::TestWithParam<TinyFamily> {
 protected:
  ThreadPool pool_{2};
  Transformer model_{TinyModel(pool_, 11, {.family = GetParam(), .layers = 3}), pool_};
};

TEST_P(PrefixAdapter, ACompiledTextIsTheTextInContext) {
  const std::vector<int32_t> text = Ids(21, 9), ids = Ids(13);
  std::vector<int32_t> both = text;
  both.insert(both.end(), ids.begin(), ids.end());
  for (const auto& [compute, kv_type] :
       {std::pair{Compute::kF32, DType::kF32}, std::pair{Compute::kInt8, DType::kF16}}) {
    const auto prefix = PrefixGraft::Compile(model_.base(), text, compute, kv_type);
    EXPECT_EQ(prefix->prefix_length(), 21);
    const std::vector<float> with = Serve(model_, compute, kv_type, {{ids, {prefix.get()}}}, 4)[0];
    const std::vector<float> whole = Serve(model_, compute, kv_type, {{both, {}}}, 4)[0];
    EXPECT_EQ(with, std::vector<float>(whole.end() - static_cast<ptrdiff_t>(with.size()), whole.end()));
    EXPECT_NE(with, Serve(model_, compute, kv_type, {{ids, {}}}, 4)[0]);
  }
}

TEST_P(PrefixAdapter, TextInitIsTheTextWithAnMlpToo) {
  GraftOptions options = Options(5);
  std::vector<int32_t> text;
  for (size_t i = 0; i < 5; ++i) text.push_back(options.init_ids[i % 3]);
  const OwnedTensor wanted = KeysAndValuesOf(model_.base(), text, Compute::kF32, DType::kF32);
  for (const int64_t width : {0, 16}) {
    options.mlp_width = width;
    const std::unique_ptr<Graft> graft = MakeGraft("prefix", options, model_.base());
    const int64_t size = wanted.view.size() / (2 * model_.config().layers);
    for (int layer = 0; layer < 3; ++layer) {
      const Graft::Kv kv = graft->PrefixKv(layer);
      for (int64_t i = 0; i < size; ++i) {
        EXPECT_NEAR(kv.k.f32()[i], wanted.view.f32()[2 * layer * size + i], width == 0 ? 0 : 2e-5);
        EXPECT_NEAR(kv.v.f32()[i], wanted.view.f32()[(2 * layer + 1) * size + i], width == 0 ? 0 : 2e-5);
      }
    }
  }
}

TEST_P(PrefixAdapter, ZeroIsZeroWithAnMlpToo) {
  GraftOptions options = Options();
  options.prefix_init = "zero";
  for (const int64_t width : {0, 7}) {
    options.mlp_width = width;
    const auto graft = MakeGraft("prefix", options, model_.base());
    const Graft::Kv kv = graft->PrefixKv(2);
    for (int64_t i = 0; i < kv.k.size(); ++i) EXPECT_EQ(std::fabs(kv.k.f32()[i]) + std::fabs(kv.v.f32()[i]), 0);
  }
}

TEST_P(PrefixAdapter, AFreshZeroUpAdapterDoesNothing) {
  const std::vector<int32_t> ids = Ids(17);
  for (const char* variant : {"houlsby", "pfeiffer", "parallel", "scaled-parallel"}) {
    GraftOptions options = Options();
    options.variant = variant;
    const std::unique_ptr<Graft> fresh = MakeGraft("adapter", options, model_.base());
    EXPECT_EQ(Serve(model_, Compute::kInt8, DType::kF16, {{ids, {fresh.get()}}}, 3),
              Serve(model_, Compute::kInt8, DType::kF16, {{ids, {}}}, 3))
        << variant;
    options.adapter_init = "bert";
    const std::unique_ptr<Graft> acting = MakeGraft("adapter", options, model_.base());
    EXPECT_NE(Serve(model_, Compute::kInt8, DType::kF16, {{ids, {acting.get()}}}, 3),
              Serve(model_, Compute::kInt8, DType::kF16, {{ids, {}}}, 3))
        << variant;
  }
}

// A LoRA with a prefix on one row, an adapter on the next, nothing on the third, in prefill and in steps of decoding.
TEST_P(PrefixAdapter, AnyMixInOnePassIsEachAlone) {
  GraftOptions options = Options(19);
  const std::unique_ptr<Graft> lora = MakeGraft("lora", options, model_.base()),
                               prefix = MakeGraft("prefix", options, model_.base());
  options.variant = "houlsby";
  const std::unique_ptr<Graft> houlsby = MakeGraft("adapter", options, model_.base());
  options.variant = "scaled-parallel";
  const std::unique_ptr<Graft> parallel = MakeGraft("adapter", options, model_.base());
  const std::unique_ptr<Graft> prompt = MakeGraft("prompt", options, model_.base());
  const std::unique_ptr<Graft> factors = GetParam() == TinyFamily::kGpt2 ? MakeGraft("lora", options, model_.base())
                                                                         : MakeGraft("ia3", options, model_.base());
  uint64_t seed = 0;
  for (Graft* graft : {lora.get(), prefix.get(), houlsby.get(), parallel.get(), prompt.get(), factors.get()}) {
    Shake(*graft, ++seed);
  }
  const std::vector<Sequence> sequences = {{Ids(9), {lora.get(), prefix.get()}},
                                           {Ids(14, 3), {houlsby.get()}},
                                           {Ids(11, 8), {}},
                                           {Ids(6, 2), {parallel.get(), prefix.get(), lora.get()}},
                                           {Ids(7, 1), {prefix.get(), houlsby.get()}},
                                           {Ids(8, 4), {prompt.get()}},
                                           {Ids(9, 5), {prompt.get(), factors.get(), prefix.get(), lora.get()}},
                                           {Ids(12, 7), {factors.get()}}};
  for (const auto& [compute, kv_type] :
       {std::pair{Compute::kF32, DType::kF32}, std::pair{Compute::kInt8, DType::kF16}}) {
    const Rows together = Serve(model_, compute, kv_type, sequences, 4);
    for (size_t i = 0; i < sequences.size(); ++i) {
      EXPECT_EQ(together[i], Serve(model_, compute, kv_type, {sequences[i]}, 4)[0]) << "sequence " << i;
    }
  }
}

// Where no graft is on two rows, each row's run on a thread of their own, from their first call on.
TEST_P(PrefixAdapter, GraftsSideBySideAreEachAlone) {
  GraftOptions options = Options(3);
  options.variant = "houlsby";
  std::vector<std::unique_ptr<Graft>> grafts;
  const auto make = [&](const char* kind) {
    grafts.push_back(MakeGraft(kind, options, model_.base()));
    Shake(*grafts.back(), grafts.size());
    return grafts.back().get();
  };
  std::vector<Sequence> sequences = {{Ids(9), {make("lora")}}, {Ids(14, 3), {make("adapter"), make("prefix")}}};
  options.dora = true;
  sequences.push_back({Ids(11, 8), {make("lora"), make("prompt")}});
  options.variant = "parallel";
  sequences.push_back({Ids(6, 2), {make("adapter")}});
  if (GetParam() != TinyFamily::kGpt2) sequences.push_back({Ids(6, 1), {make("ia3")}});
  for (const auto& [compute, kv_type] :
       {std::pair{Compute::kF32, DType::kF32}, std::pair{Compute::kInt8, DType::kF16}}) {
    for (const auto& graft : grafts) graft->AfterUpdate();
    const Rows together = Serve(model_, compute, kv_type, sequences, 4);
    for (size_t i = 0; i < sequences.size(); ++i) {
      EXPECT_EQ(together[i], Serve(model_, compute, kv_type, {sequences[i]}, 4)[0]) << "sequence " << i;
    }
  }
}

// Every parameter's gradient against central differences of the loss, along one direction a parameter.
TEST_P(PrefixAdapter, GradientsAreThoseOfTheLoss) {
  struct Case {
    const char *kind, *variant;
    int64_t mlp;
    const char* activation;
  };
  for (const Case& c :
       {Case{"prefix", "pfeiffer", 0, ""}, Case{"prefix", "pfeiffer", 6, ""}, Case{"adapter", "houlsby", 0, ""},
        Case{"adapter", "pfeiffer", 0, "gelu"}, Case{"adapter", "parallel", 0, "tanh"},
        Case{"adapter", "scaled-parallel", 0, "gelu_new"}, Case{"ia3", "pfeiffer", 0, ""}}) {
    if (c.kind == std::string("ia3") && GetParam() == TinyFamily::kGpt2) continue;  // its linears have no names there
    GraftOptions options = Options(3);
    options.variant = c.variant;
    options.mlp_width = c.mlp;
    options.activation = c.activation;
    const std::unique_ptr<Graft> graft = MakeGraft(c.kind, options, model_.base());
    Shake(*graft, 21);
    std::vector<OwnedTensor> grads;
    grads.reserve(64);
    graft->VisitParams([&](Parameter& p) {
      grads.emplace_back(std::initializer_list<int64_t>{p.value.size()});
      p.grad = p.value;
      p.grad.data = grads.back().view.data;
    });
    std::vector<Graft*> grafts = {graft.get()};
    const auto loss = [&](bool backward, bool checkpoint) {
      Pass pass;
      Tape tape;
      pass.compute = Compute::kF32;
      if (backward) pass.training.tape = &tape;
      pass.training.checkpoint = checkpoint;
      std::vector<int32_t> targets;
      for (const std::vector<int32_t>& ids : {Ids(6), Ids(9, 4)}) {
        pass.Append(0, graft->prefix_length(), ids).grafts = grafts;
        targets.insert(targets.end(), ids.begin() + 1, ids.end());
        targets.push_back(-1);
      }
      model_.Forward(pass);
      if (!backward) return LossHead(model_, Compute::kF32, pass.result.hidden, targets, 1.0f);
      Tensor dhidden = model_.workspace().New({pass.rows(), model_.config().hidden});
      const double value = LossHead(model_, Compute::kF32, pass.result.hidden, targets, 1.0f, dhidden);
      model_.Backward(pass, dhidden);
      return value;
    };
    loss(true, false);
    std::vector<std::vector<float>> plain;
    for (OwnedTensor& grad : grads) {
      plain.emplace_back(grad.view.f32(), grad.view.f32() + grad.view.size());
      std::memset(grad.view.data, 0, static_cast<size_t>(grad.view.bytes()));
    }
    loss(true, true);
    for (size_t i = 0; i < grads.size(); ++i) {
      EXPECT_EQ(plain[i], std::vector<float>(grads[i].view.f32(), grads[i].view.f32() + grads[i].view.size()));
    }
    size_t index = 0;
    graft->VisitParams([&](Parameter& p) {
      const std::vector<float>& grad = plain[index++];
      double norm = 0, slope = 0;
      for (float g : grad) norm += static_cast<double>(g) * static_cast<double>(g);
      norm = std::sqrt(norm);
      if (norm < 1e-4) return;
      const double step = 5e-3;
      const std::vector<float> value(p.value.f32(), p.value.f32() + p.value.size());
      for (const double sign : {1.0, -1.0}) {
        for (size_t i = 0; i < value.size(); ++i) {
          p.value.f32()[i] = value[i] + static_cast<float>(sign * step * static_cast<double>(grad[i]) / norm);
        }
        graft->AfterUpdate();
        slope += sign * loss(false, false) / (2 * step);
      }
      std::copy(value.begin(), value.end(), p.value.f32());
      graft->AfterUpdate();
      EXPECT_NEAR(slope, norm, 2e-2 * norm + 2e-3) << c.kind << " " << c.variant << " " << p.name;
    });
  }
}

// Behind a prompt of real words stand the numbers of those words in context.
TEST_P(PrefixAdapter, APromptOfWordsIsTheWordsInContext) {
  GraftOptions options = Options(6);
  options.init_ids = Ids(6, 9);
  const std::unique_ptr<Graft> prompt = MakeGraft("prompt", options, model_.base());
  const std::vector<int32_t> ids = Ids(13);
  std::vector<int32_t> both = options.init_ids;
  both.insert(both.end(), ids.begin(), ids.end());
  const std::vector<float> with = Serve(model_, Compute::kF32, DType::kF32, {{ids, {prompt.get()}}}, 4)[0];
  const std::vector<float> whole = Serve(model_, Compute::kF32, DType::kF32, {{both, {}}}, 4)[0];
  EXPECT_EQ(with, std::vector<float>(whole.end() - static_cast<ptrdiff_t>(with.size()), whole.end()));
  EXPECT_NE(with, Serve(model_, Compute::kF32, DType::kF32, {{ids, {}}}, 4)[0]);
}

// Through the trainer, which puts the prompt's rows before each example: against differences of the validation loss.
TEST_P(PrefixAdapter, APromptsGradientIsThatOfTheLoss) {
  const std::unique_ptr<Graft> prompt = MakeGraft("prompt", Options(3), model_.base());
  Shake(*prompt, 5);
  std::vector<Example> examples(2);
  for (int i = 0; i < 2; ++i) {
    examples[static_cast<size_t>(i)].ids = Ids(6 + 3 * i, i);
    examples[static_cast<size_t>(i)].trained.assign(static_cast<size_t>(6 + 3 * i), 1);
  }
  TrainOptions options;
  options.precision = Precision::kFp32;
  options.steps = 1;
  const std::vector<Example> none;
  Trainer trainer(model_, *prompt, examples, none, options, "");
  const auto loss = [&] {
    trainer.optimizer().gradients().BeginRound(0);
    return trainer.ForwardBackward({&examples[0], &examples[1]}, 1.0f, 0);
  };
  loss();
  prompt->VisitParams([&](Parameter& p) {
    const std::vector<float> grad(p.grad.f32(), p.grad.f32() + p.grad.size());
    const std::vector<float> value(p.value.f32(), p.value.f32() + p.value.size());
    double norm = 0, slope = 0;
    for (float g : grad) norm += static_cast<double>(g) * static_cast<double>(g);
    norm = std::sqrt(norm);
    EXPECT_GT(norm, 1e-2);
    const double step = 5e-3;
    for (const double sign : {1.0, -1.0}) {
      for (size_t i = 0; i < value.size(); ++i) {
        p.value.f32()[i] = value[i] + static_cast<float>(sign * step * static_cast<double>(grad[i]) / norm);
      }
      slope += sign * loss() / (2 * step);
    }
    EXPECT_NEAR(slope, norm, 2e-2 * norm + 2e-3);
  });
}

INSTANTIATE_TEST_SUITE_P(Families, PrefixAdapter, ::testing::ValuesIn(kTinyFamilies));

class Files : public ::testing::Test {
 protected:
  // Writes the config with one field changed.
  void Change(const std::function<void(nlohmann::json&)>& change) {
    const std::string file = path_ + "/adapter_config.json";
    nlohmann::json config = ParseJson(ReadTextFile(file), file);
    change(config);
    std::ofstream(file) << config;
  }
  std::string Says(Transformer& model, float scale = 1) {
    try {
      LoadGraft(path_, model.base(), scale);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  }
  static void ExpectParts(const std::string& text, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
    EXPECT_EQ(text.find('\n'), std::string::npos);
  }

  const TempFolder folder_;
  const std::string path_ = folder_.path();
  ThreadPool pool_{2};
  Transformer model_{TinyModel(pool_, 11), pool_};
};

// The MLP is trained, checkpointed and resumed bit for bit; the export has none and gives the same logits.
TEST_F(Files, AnMlpResumesAndIsDroppedOnExport) {
  GraftOptions graft_options = Options(4);
  graft_options.mlp_width = 12;
  TrainOptions options;
  options.precision = Precision::kBf16;
  options.batch.batch_size = 2;
  options.optimizer.lr = 1e-2f;
  options.save_every = 2;
  std::vector<Example> examples, none;
  for (int32_t i = 0; i < 6; ++i) {
    Example& example = examples.emplace_back();
    example.ids = Ids(7 + i, i);
    example.trained.assign(example.ids.size(), 1);
  }
  const auto values = [](Graft& graft) {
    std::vector<float> all;
    graft.VisitParams([&](Parameter& p) { all.insert(all.end(), p.value.f32(), p.value.f32() + p.value.size()); });
    return all;
  };
  options.steps = 6;
  fs::create_directories(path_ + "/whole");
  fs::create_directories(path_ + "/halves");
  const std::unique_ptr<Graft> whole = MakeGraft("prefix", graft_options, model_.base());
  const std::vector<float> before = values(*whole);
  Trainer(model_, *whole, examples, none, options, path_ + "/whole").Run({});
  EXPECT_NE(values(*whole), before);

  std::atomic<bool> stop = false;
  const std::unique_ptr<Graft> first = MakeGraft("prefix", graft_options, model_.base());
  Trainer::Callbacks callbacks;
  callbacks.stop = &stop;
  callbacks.on_step = [&](const StepReport& m) { stop = m.step == 3; };
  Trainer(model_, *first, examples, none, options, path_ + "/halves").Run(callbacks);
  graft_options.prefix_init = "random";  // whatever it is made as, the checkpoint holds the MLP
  const std::unique_ptr<Graft> second = MakeGraft("prefix", graft_options, model_.base());
  Trainer again(model_, *second, examples, none, options, path_ + "/halves");
  std::vector<std::string> notes;
  ASSERT_TRUE(again.Resume(notes));
  EXPECT_EQ(again.step(), 3);
  again.Run({});
  EXPECT_EQ(values(*second), values(*whole));

  second->Save(path_);
  EXPECT_EQ(SafetensorsFile(path_ + "/adapter_model.safetensors").tensors().size(), 1u);
  const std::unique_ptr<Graft> loaded = LoadGraft(path_, model_.base());
  EXPECT_EQ(Serve(model_, Compute::kF32, DType::kF32, {{Ids(9), {loaded.get()}}}),
            Serve(model_, Compute::kF32, DType::kF32, {{Ids(9), {second.get()}}}));
}

TEST_F(Files, PrefixesThatDoNotFitAreNamed) {
  MakeGraft("prefix", Options(), model_.base())->Save(path_);
  EXPECT_EQ(Says(model_), "nothing");
  ExpectParts(Says(model_, 0.5f), {path_, "0.5"});
  Transformer more_heads(TinyModel(pool_, 1, {.kv_heads = 4}), pool_),
      deeper(TinyModel(pool_, 1, {.layers = 3}), pool_);
  ExpectParts(Says(more_heads), {"adapter_config.json", "\"num_attention_heads\" is 2", "4 key-value heads"});
  ExpectParts(Says(deeper), {"adapter_config.json", "\"num_layers\" is 2", "3 layers"});
  Change([](nlohmann::json& c) { c["num_virtual_tokens"] = 7; });
  ExpectParts(Says(model_), {"\"num_virtual_tokens\" is 7", "5 rows"});
  Change([](nlohmann::json& c) { c["num_virtual_tokens"] = "many"; });
  ExpectParts(Says(model_), {"\"num_virtual_tokens\" is \"many\"", "whole number"});

  // The embedding of a projected prefix alone.
  OwnedTensor embedding({5, 16});
  std::vector<TensorToWrite> tensors;
  tensors.push_back({.name = "prompt_embeddings", .view = embedding.view});
  WriteSafetensors(path_ + "/adapter_model.safetensors", std::move(tensors));
  Change([](nlohmann::json& c) { c["num_virtual_tokens"] = 5, c["prefix_projection"] = true; });
  ExpectParts(Says(model_),
              {"adapter_model.safetensors", "[5, 16]", "[5, 64]", "\"prefix_projection\" is true", "MLP"});
}

TEST_F(Files, AdaptersThatDoNotFitAreNamed) {
  MakeGraft("adapter", Options(), model_.base())->Save(path_);
  EXPECT_EQ(Says(model_), "nothing");
  Transformer wider(TinyModel(pool_, 1, {.hidden = 48}), pool_),
      qwen(TinyModel(pool_, 1, {.family = TinyFamily::kQwen3}), pool_);
  ExpectParts(Says(wider), {"adapter_config.json", "\"hidden_size\" is 32", "48"});
  ExpectParts(Says(qwen), {"adapter_config.json", "\"model_type\" is \"llama\"", "qwen3"});
  Transformer deeper(TinyModel(pool_, 1, {.layers = 3}), pool_);
  ExpectParts(Says(deeper), {"adapter.safetensors", "layers.2.output_adapters", "missing"});
  Transformer shallower(TinyModel(pool_, 1, {.layers = 1}), pool_);
  ExpectParts(Says(shallower), {"adapter.safetensors", "layers.1.output_adapters", "no sub-layer"});
  const std::pair<const char*, nlohmann::json> bad[] = {{"reduction_factor", 4},
                                                        {"reduction_factor", 0},
                                                        {"reduction_factor", {{"0", 8}}},
                                                        {"non_linearity", "mish"},
                                                        {"ln_before", true},
                                                        {"use_gating", true},
                                                        {"phm_layer", true},
                                                        {"scaling", "channel"},
                                                        {"original_ln_after", false},
                                                        {"residual_before_ln", "post_add"}};
  for (const auto& [field, value] : bad) {
    MakeGraft("adapter", Options(), model_.base())->Save(path_);
    Change([&](nlohmann::json& c) { c["config"][field] = value; });
    const std::string says = Says(model_);
    ExpectParts(says, {field, path_});
    EXPECT_NE(says, "nothing");
  }
  MakeGraft("adapter", Options(), model_.base())->Save(path_);
  fs::rename(path_ + "/adapter.safetensors", path_ + "/pytorch_adapter.bin");
  ExpectParts(Says(model_), {"pytorch_adapter.bin", "pickle"});
}

TEST_F(Files, PromptsAndFactorsThatDoNotFitAreNamed) {
  Transformer wider(TinyModel(pool_, 1, {.hidden = 48}), pool_),
      more_heads(TinyModel(pool_, 1, {.kv_heads = 4}), pool_);
  Transformer shallower(TinyModel(pool_, 1, {.layers = 1}), pool_);
  MakeGraft("prompt", Options(), model_.base())->Save(path_);
  EXPECT_EQ(Says(model_), "nothing");
  ExpectParts(Says(model_, 0.5f), {path_, "0.5"});
  ExpectParts(Says(wider), {"adapter_config.json", "\"token_dim\" is 32", "48 values"});
  Change([](nlohmann::json& c) { c["token_dim"] = 48; });
  ExpectParts(Says(wider), {"adapter_model.safetensors", "[5, 32]", "[5, 48]"});
  Change([](nlohmann::json& c) { c["token_dim"] = 32, c["num_virtual_tokens"] = 7; });
  ExpectParts(Says(model_), {"\"num_virtual_tokens\" is 7", "5 rows"});
  MakeGraft("ia3", Options(), model_.base())->Save(path_);
  EXPECT_EQ(Says(model_), "nothing");
  ExpectParts(Says(model_, 2), {path_, "2"});
  ExpectParts(Says(more_heads), {"adapter_model.safetensors", "k_proj.ia3_l is [16, 1]", "[32, 1]"});
  ExpectParts(Says(shallower), {"adapter_model.safetensors", "layers.1", "no linear of this base"});
  Change([](nlohmann::json& c) { c["modules_to_save"] = {"lm_head"}; });
  ExpectParts(Says(model_), {"\"modules_to_save\" is [\"lm_head\"]"});
}

TEST_F(Files, OtherDialectsAreNamed) {
  std::ofstream(path_ + "/adapter_config.json") << R"({"fine_tune_type": "lora", "lora_parameters": {"rank": 8}})";
  ExpectParts(Says(model_), {"adapter_config.json", "\"lora_parameters\" is {\"rank\":8}", "scale"});
  std::ofstream(path_ + "/adapter_config.json") << R"({"fine_tune_type": "full"})";
  ExpectParts(Says(model_), {"adapter_config.json", "\"fine_tune_type\" is \"full\"", "lora and dora"});
  std::ofstream(path_ + "/adapter_config.json")
      << R"({"config": {"architecture": "prefix_tuning"}, "version": "adapters.1.0.0"})";
  ExpectParts(Says(model_), {"adapter_config.json", "\"architecture\" is \"prefix_tuning\"", "AdapterHub"});
  std::ofstream(path_ + "/adapter_config.json") << R"({"peft_type": "OFT"})";
  ExpectParts(Says(model_), {"adapter_config.json", "\"peft_type\" is \"OFT\""});
}

TEST_F(Files, OptionsOutOfRangeAreRefused) {
  const auto refused = [&](const char* kind, const std::function<void(GraftOptions&)>& change) {
    GraftOptions options = Options();
    change(options);
    try {
      MakeGraft(kind, options, model_.base());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage) << error.what();
      return true;
    }
    return false;
  };
  EXPECT_TRUE(refused("prefix", [](GraftOptions& o) { o.length = 0; }));
  EXPECT_TRUE(refused("prefix", [](GraftOptions& o) { o.length = 256; }));
  EXPECT_TRUE(refused("prefix", [](GraftOptions& o) { o.prefix_init = "words"; }));
  EXPECT_TRUE(refused("prefix", [](GraftOptions& o) { o.init_ids.clear(); }));
  EXPECT_TRUE(refused("prefix", [](GraftOptions& o) { o.mlp_width = -1; }));
  EXPECT_TRUE(refused("adapter", [](GraftOptions& o) { o.variant = "serial"; }));
  EXPECT_TRUE(refused("adapter", [](GraftOptions& o) { o.reduction = 0; }));
  EXPECT_TRUE(refused("adapter", [](GraftOptions& o) { o.activation = "mish"; }));
  EXPECT_TRUE(refused("adapter", [](GraftOptions& o) { o.adapter_init = "zero"; }));
  EXPECT_FALSE(refused("adapter", [](GraftOptions& o) { o.activation = "gelu"; }));
  EXPECT_TRUE(refused("prompt", [](GraftOptions& o) { o.length = 0; }));
  EXPECT_TRUE(refused("prompt", [](GraftOptions& o) { o.prefix_init = "words"; }));
  EXPECT_TRUE(refused("ia3", [](GraftOptions& o) { o.targets = {"w_proj"}; }));
}

// Two prefixes, or two adapters at one sub-layer, would act one upon the other's result in an order nobody chose.
TEST_F(Files, StacksThatActTwiceAreRefused) {
  const std::unique_ptr<Graft> prefix = MakeGraft("prefix", Options(), model_.base()),
                               other = MakeGraft("prefix", Options(), model_.base());
  const std::unique_ptr<Graft> adapter = MakeGraft("adapter", Options(), model_.base()),
                               twice = MakeGraft("adapter", Options(), model_.base());
  const std::unique_ptr<Graft> lora = MakeGraft("lora", Options(), model_.base());
  const auto says = [&](const std::vector<Graft*>& grafts) -> std::string {
    try {
      CheckStack({"a", "b"}, grafts, model_.config());
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  EXPECT_EQ(says({prefix.get(), adapter.get()}), "nothing");
  EXPECT_EQ(says({lora.get(), adapter.get()}), "nothing");
  ExpectParts(says({prefix.get(), other.get()}), {"b:", "a", "5"});
  ExpectParts(says({adapter.get(), twice.get()}), {"b:", "a", "layer 0"});
  ExpectParts(says({lora.get(), lora.get()}), {"b:", "a", "twice"});
  const std::unique_ptr<Graft> prompt = MakeGraft("prompt", Options(), model_.base()),
                               second = MakeGraft("prompt", Options(), model_.base());
  EXPECT_EQ(says({prompt.get(), prefix.get()}), "nothing");
  ExpectParts(says({prompt.get(), second.get()}), {"b:", "a", "prompt of 5"});
}

}  // namespace
}  // namespace cambium
