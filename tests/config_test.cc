// What the files of a model say beside its weights: honoured, refused by name, or warned of (docs/configuration.md).
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>

#include "cambium/warning.h"
#include "families/convert.h"
#include "families/hf_config.h"
#include "file_testing.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/tokenizer.h"
#include "model/load.h"

namespace cambium {
namespace {

using nlohmann::json;
using testing::ExpectError;
using testing::WriteFile;

const std::string kFamilies = std::string(CAMBIUM_TEST_DIR) + "/golden/families/";

json LlamaConfig() { return ParseJson(ReadTextFile(kFamilies + "llama/config.json"), "config"); }
HfConfig Parse(const json& config) { return ParseHfConfig(config.dump(), "config.json"); }

// What is said while `run` runs.
std::vector<std::string> Warnings(const std::function<void()>& run) {
  std::vector<std::string> said;
  SetWarningHandler([&](const std::string& text) { said.push_back(text); });
  run();
  SetWarningHandler({});
  return said;
}

// The golden llama as a GGUF file with other metadata.
std::string GgufWith(const TempFolder& folder, const std::function<void(GgufWriter&)>& change,
                     const char* family = "llama") {
  ConvertToGguf(kFamilies + family, folder / "plain.gguf");
  const GgufFile file(folder / "plain.gguf");
  GgufWriter writer;
  for (const auto& [key, value] : file.metadata()) writer.Set(key, value);
  change(writer);
  for (const NamedTensor& tensor : file.tensors()) writer.AddTensor(tensor.name, tensor.view);
  return writer.Write(folder / "changed.gguf");
}

std::string CopyOf(const TempFolder& folder, const char* family) {
  std::filesystem::copy(kFamilies + family, folder / family);
  return folder / family;
}

void ChangeJson(const std::string& path, const std::function<void(json&)>& change) {
  json config = std::filesystem::exists(path) ? ParseJson(ReadTextFile(path), path) : json::object();
  change(config);
  WriteFile(path, config.dump());
}

// Frequencies and the attention's factor, against transformers.
TEST(Rope, IsTransformers) {
  const json cases = ParseJson(ReadTextFile(std::string(CAMBIUM_TEST_DIR) + "/golden/rope.json"), "rope.json");
  ASSERT_GT(cases.size(), 40u);
  for (const json& item : cases) {
    for (const char* field : {"rope_scaling", "rope_parameters"}) {
      json config = LlamaConfig();
      for (const char* old : {"rope_scaling", "rope_parameters"}) config.erase(old);
      config["max_position_embeddings"] = 512;
      config["rope_theta"] = item["rope_theta"];
      config[field] = item["rope_scaling"];
      const HfConfig read = Parse(config);
      const RopeTable table = MakeRopeTable(read.rope_theta, 64, read.rope_scaling);
      ASSERT_EQ(table.inv_freq.size(), item["inv_freq"].size());
      for (size_t i = 0; i < table.inv_freq.size(); ++i) {
        const double wanted = item["inv_freq"][i];
        EXPECT_NEAR(table.inv_freq[i], wanted, 1e-6 * wanted) << item["rope_scaling"].dump() << " pair " << i;
      }
      EXPECT_NEAR(table.scale, item["attention"].get<double>(), 1e-6) << item["rope_scaling"].dump();
    }
  }
}

TEST(Rope, EachTypeOfLayerHasItsOwn) {
  json config = ParseJson(ReadTextFile(kFamilies + "gemma3/config.json"), "config");
  for (const char* old : {"rope_scaling", "rope_theta", "rope_local_base_freq"}) config.erase(old);
  config["rope_parameters"] = {{"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 2e6}}},
                               {"sliding_attention", {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 5e3}}}};
  const HfConfig read = Parse(config);
  EXPECT_EQ(read.rope_theta, 2e6);
  EXPECT_EQ(read.rope_scaling.factor, 8);
  EXPECT_EQ(read.rope_local_theta, 5e3);
  EXPECT_EQ(read.rope_local_scaling.type, "linear");
  EXPECT_EQ(read.rope_local_scaling.factor, 2);
}

TEST(Rope, WhatIsNotSupportedIsRefusedByName) {
  const auto refuses = [](const json& scaling, std::initializer_list<const char*> words) {
    json config = LlamaConfig();
    config.erase("rope_parameters");
    config["rope_scaling"] = scaling;
    std::vector<std::string_view> said(words.begin(), words.end());
    try {
      Parse(config);
      ADD_FAILURE() << scaling.dump() << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kData);
      for (const std::string_view word : said)
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  };
  refuses({{"rope_type", "longrope"}, {"factor", 4.0}}, {"rope_scaling", "longrope"});
  refuses({{"type", "dynamic"}, {"factor", 4.0}}, {"rope_scaling", "dynamic"});
  refuses({{"factor", 4.0}}, {"factor", "4.0", "rope_type"});
  refuses({{"rope_type", "linear"}, {"factor", 4.0}, {"partial_rotary_factor", 0.5}}, {"partial_rotary_factor", "0.5"});
  refuses({{"rope_type", "yarn"}, {"factor", 4.0}, {"attn_factor", 2.0}}, {"attn_factor", "2.0"});
  refuses({{"rope_type", "default"}, {"mrope_section", {16, 24, 24}}}, {"mrope_section"});
  json both = LlamaConfig();
  both["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  both["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}};
  ExpectError(ErrorCode::kData, {"rope_scaling", "rope_parameters", "disagree"}, [&] { Parse(both); });
}

// As llama.cpp reads the keys: linear where no type is given, and attn_factor times what YaRN's factor gives.
TEST(Rope, GgufKeysAreHonoured) {
  const TempFolder folder;
  ThreadPool pool(2);
  const auto load = [&](const std::function<void(GgufWriter&)>& change) {
    return LoadGguf(pool, GgufWith(folder, change))->config;
  };
  const ModelConfig plain = load([](GgufWriter&) {});
  const auto quarter = [&](const ModelConfig& config) {
    for (size_t i = 0; i < plain.inv_freq.size(); ++i) EXPECT_FLOAT_EQ(config.inv_freq[i], plain.inv_freq[i] / 4);
    EXPECT_EQ(config.rope_scale, 1);
  };
  quarter(load([](GgufWriter& w) { w.Set("llama.rope.scaling.factor", 4.0f); }));
  quarter(load([](GgufWriter& w) { w.Set("llama.rope.scale_linear", 4.0f); }));
  quarter(load([](GgufWriter& w) {
    w.Set("llama.rope.scale_linear", 8.0f);  // the old name gives way
    w.Set("llama.rope.scaling.factor", 4.0f);
  }));
  EXPECT_EQ(load([](GgufWriter& w) {
              w.Set("llama.rope.scaling.type", "none");
              w.Set("llama.rope.scaling.factor", 4.0f);
            }).inv_freq,
            plain.inv_freq);
  const auto yarn = [&](const std::function<void(GgufWriter&)>& more) {
    return load([&](GgufWriter& w) {
      w.Set("llama.rope.scaling.type", "yarn");
      w.Set("llama.rope.scaling.factor", 4.0f);
      w.Set("llama.rope.scaling.original_context_length", uint32_t{32});
      more(w);
    });
  };
  const float grown = static_cast<float>(0.1 * std::log(4.0) + 1);
  EXPECT_FLOAT_EQ(yarn([](GgufWriter&) {}).rope_scale, grown);
  EXPECT_FLOAT_EQ(yarn([](GgufWriter& w) { w.Set("llama.rope.scaling.attn_factor", 0.5f); }).rope_scale, 0.5f * grown);
  EXPECT_FLOAT_EQ(yarn([](GgufWriter& w) { w.Set("llama.rope.scaling.yarn_log_multiplier", 1.0f); }).rope_scale, 1);
  const ModelConfig betas = yarn([](GgufWriter& w) {
    w.Set("llama.rope.scaling.yarn_beta_fast", 8.0f);
    w.Set("llama.rope.scaling.yarn_beta_slow", 0.5f);
  });
  const RopeScaling wanted = {.type = "yarn", .factor = 4, .beta_fast = 8, .beta_slow = 0.5, .original_context = 32};
  EXPECT_EQ(betas.inv_freq, MakeRopeTable(100000, plain.head_dim, wanted).inv_freq);
  ExpectError(ErrorCode::kData, {"rope.scaling.type", "longrope"},
              [&] { load([](GgufWriter& w) { w.Set("llama.rope.scaling.type", "longrope"); }); });
  ExpectError(ErrorCode::kData, {"yarn_ext_factor"},
              [&] { yarn([](GgufWriter& w) { w.Set("llama.rope.scaling.yarn_ext_factor", 0.5f); }); });
}

// What config.json says of RoPE comes back from GGUF, or the conversion says which field cannot.
TEST(Rope, ComesBackFromGguf) {
  const json cases = ParseJson(ReadTextFile(std::string(CAMBIUM_TEST_DIR) + "/golden/rope.json"), "rope.json");
  const TempFolder folder;
  const std::string model = CopyOf(folder, "llama");
  int back = 0;
  for (size_t i = 0; i < cases.size() / 2; ++i) {
    const json& scaling = cases[i]["rope_scaling"];
    ChangeJson(model + "/config.json", [&](json& config) {
      config.erase("rope_parameters");
      config["rope_scaling"] = scaling;
      config["max_position_embeddings"] = 512;
    });
    const HfConfig before = ReadHfConfig(model);
    if (!before.rope_scaling.truncate) {
      ExpectError(ErrorCode::kData, {"truncate"}, [&] { ConvertToGguf(model, folder / "m.gguf"); });
      continue;
    }
    ConvertToGguf(model, folder / "m.gguf");
    ConvertToHuggingFace(folder / "m.gguf", folder / "back", DType::kF32);
    const HfConfig after = ReadHfConfig(folder / "back");
    const RopeTable a = MakeRopeTable(before.rope_theta, 64, before.rope_scaling);
    const RopeTable b = MakeRopeTable(after.rope_theta, 64, after.rope_scaling);
    for (size_t pair = 0; pair < a.inv_freq.size(); ++pair) {
      EXPECT_NEAR(a.inv_freq[pair], b.inv_freq[pair], 1e-5 * a.inv_freq[pair]) << scaling.dump();
    }
    EXPECT_NEAR(a.scale, b.scale, 1e-6) << scaling.dump();
    ++back;
  }
  EXPECT_GT(back, 15);
}

TEST(Keys, WhatWouldChangeTheResultIsRefused) {
  const auto refuses = [](const char* field, const json& value) {
    json config = LlamaConfig();
    config[field] = value;
    ExpectError(ErrorCode::kData, {"config.json", field, value.dump()}, [&] { Parse(config); });
  };
  refuses("partial_rotary_factor", 0.5);
  refuses("final_logit_softcapping", 30.0);
  refuses("rope_interleaved", true);
  refuses("quantization_config", {{"bits", 4}});
  refuses("suppress_tokens", {1, 2});
  refuses("residual_multiplier", 0.22);
  json config = LlamaConfig();  // and passes where it says nothing
  config["partial_rotary_factor"] = 1.0;
  config["final_logit_softcapping"] = nullptr;
  config["rope_interleaved"] = false;
  config["quantization_config"] = json::object();
  EXPECT_TRUE(Warnings([&] { Parse(config); }).empty());
}

// What one family honours is refused or checked elsewhere, and what it lacks has a name.
TEST(Keys, OfAFamily) {
  const auto refuses = [](const char* family, const char* field, const json& value,
                          std::initializer_list<std::string_view> words) {
    json config = ParseJson(ReadTextFile(kFamilies + family + "/config.json"), "config");
    config[field] = value;
    ExpectError(ErrorCode::kData, words, [&] { Parse(config); });
  };
  refuses("phi3", "rope_scaling", {{"type", "longrope"}, {"short_factor", {1.0}}, {"long_factor", {2.0}}},
          {"longrope"});
  refuses("phi3", "partial_rotary_factor", 0.1, {"partial_rotary_factor", "0.1"});
  refuses("phi3", "partial_rotary_factor", 1.5, {"partial_rotary_factor", "1.5"});
  refuses("gptneox", "rotary_pct", -1, {"rotary_pct", "-1"});
  refuses("gemma2", "attn_logit_softcapping", -3.0, {"attn_logit_softcapping", "-3"});
  refuses("granite", "logits_scaling", 0, {"logits_scaling", "0"});
  refuses("granite", "residual_multiplier", "big", {"residual_multiplier", "big"});
  refuses("starcoder2", "norm_type", "rms_norm", {"norm_type", "rms_norm"});
  refuses("olmo2", "logits_scaling", 2.0, {"logits_scaling", "2"});
  refuses("llama", "model_type", "deepseek_v9", {"deepseek_v9", "phi3", "gemma2", "olmo2", "granite", "gpt_neox"});
  json uncapped = ParseJson(ReadTextFile(kFamilies + "gemma2/config.json"), "config");
  uncapped["attn_logit_softcapping"] = nullptr;
  uncapped.erase("final_logit_softcapping");
  EXPECT_EQ(Parse(uncapped).attention_softcap, 0);
  EXPECT_EQ(Parse(uncapped).logit_softcap, 30);

  const TempFolder folder;
  ThreadPool pool(1);
  const auto load = [&](const char* family, const std::function<void(GgufWriter&)>& change) {
    return LoadGguf(pool, GgufWith(folder, change, family));
  };
  const float factors[2] = {1, 1};
  ExpectError(ErrorCode::kData, {"rope_factors_long.weight", "longrope"}, [&] {
    load("phi3",
         [&](GgufWriter& w) { w.AddTensor("rope_factors_long.weight", Tensor(const_cast<float*>(factors), {2})); });
  });
  ExpectError(ErrorCode::kData, {"rope.dimension_count", "9"},
              [&] { load("phi3", [](GgufWriter& w) { w.Set("phi3.rope.dimension_count", uint32_t{9}); }); });
  ExpectError(ErrorCode::kData, {"final_logit_softcapping", "-1"},
              [&] { load("gemma2", [](GgufWriter& w) { w.Set("gemma2.final_logit_softcapping", -1.0f); }); });
  ExpectError(ErrorCode::kData, {"granite.residual_scale", "-1"},
              [&] { load("granite", [](GgufWriter& w) { w.Set("granite.residual_scale", -1.0f); }); });
}

TEST(Keys, UnknownOnesAreWarnedOf) {
  json config = LlamaConfig();
  config["my_own_note"] = "hello";
  config["unknown_but_null"] = nullptr;
  const std::vector<std::string> said = Warnings([&] { Parse(config); });
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("my_own_note"), std::string::npos);
  EXPECT_EQ(said[0].find("unknown_but_null"), std::string::npos);
}

TEST(Keys, OfGgufAreSorted) {
  const TempFolder folder;
  ThreadPool pool(1);
  for (const auto& [key, value] : {std::pair{"llama.final_logit_softcapping", 30.0f}, {"llama.logit_scale", 0.25f}}) {
    ExpectError(ErrorCode::kData, {key},
                [&] { LoadGguf(pool, GgufWith(folder, [&](GgufWriter& w) { w.Set(key, value); })); });
  }
  ExpectError(ErrorCode::kData, {"llama.attention.causal"},
              [&] { LoadGguf(pool, GgufWith(folder, [](GgufWriter& w) { w.Set("llama.attention.causal", false); })); });
  ExpectError(ErrorCode::kData, {"llama.attention.value_length"}, [&] {
    LoadGguf(pool, GgufWith(folder, [](GgufWriter& w) { w.Set("llama.attention.value_length", uint32_t{6}); }));
  });
  const std::string odd = GgufWith(folder, [](GgufWriter& w) {
    w.Set("llama.some_new_key", uint32_t{1});
    w.Set("llama.logit_scale", 1.0f);
    w.Set("somebody.note", "hello");
  });
  const std::vector<std::string> said = Warnings([&] { LoadGguf(pool, odd); });
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("llama.some_new_key"), std::string::npos);
  const std::string scaled = GgufWith(folder, [](GgufWriter& w) { w.Set("llama.attention.scale", 0.125f); });
  EXPECT_EQ(LoadGguf(pool, scaled)->config.attention_scale, 0.125f);
}

// A text model that a multimodal one wraps: under each of the names that its tensors have had.
TEST(Wrapped, LoadsUnderEveryName) {
  const TempFolder folder;
  ThreadPool pool(1);
  const SafetensorsFile plain(kFamilies + "llama/model.safetensors");
  const auto wanted = LoadHuggingFace(pool, kFamilies + "llama");
  int number = 0;
  for (const char* prefix : {"language_model.model.", "model.language_model.", "language_model.", ""}) {
    const std::string model = folder / std::to_string(number++);
    std::filesystem::create_directories(model);
    std::vector<TensorToWrite> tensors;
    for (const NamedTensor& tensor : plain.tensors()) {
      std::string name = tensor.name;
      if (name.starts_with("model.")) name = prefix + name.substr(6);
      tensors.push_back({.name = name, .view = tensor.view});
    }
    WriteSafetensors(model + "/model.safetensors", std::move(tensors));
    json text = LlamaConfig();
    const json config = {{"model_type", "llava"}, {"text_config", text}, {"vision_config", json::object()}};
    WriteFile(model + "/config.json", config.dump());
    const auto loaded = LoadHuggingFace(pool, model);
    EXPECT_EQ(loaded->config.inv_freq, wanted->config.inv_freq) << prefix;
    OwnedTensor a({wanted->config.hidden, wanted->config.hidden}), b({wanted->config.hidden, wanted->config.hidden});
    wanted->blocks[0][SiteKind::kO].w.Unpack(pool, a.view);
    loaded->blocks[0][SiteKind::kO].w.Unpack(pool, b.view);
    EXPECT_EQ(std::memcmp(a.view.data, b.view.data, static_cast<size_t>(a.view.bytes())), 0) << prefix;
    ConvertToGguf(model, folder / "wrapped.gguf");  // converts under each of them too
    EXPECT_EQ(GgufFile(folder / "wrapped.gguf").tensors().size(), plain.tensors().size());
  }
}

TEST(Integers, AreNoWeights) {
  const TempFolder folder;
  ThreadPool pool(1);
  const std::string model = CopyOf(folder, "llama");
  for (const DType type : {DType::kI32, DType::kI64}) {
    for (const char* which : {"model.norm.weight", "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"}) {
      const SafetensorsFile plain(kFamilies + "llama/model.safetensors");
      std::vector<TensorToWrite> tensors;
      std::vector<std::vector<uint8_t>> memory;
      for (const NamedTensor& tensor : plain.tensors()) {
        Tensor view = tensor.view;
        if (tensor.name == which) {
          memory.emplace_back(static_cast<size_t>(view.size()) * 8);
          view.data = memory.back().data();
          view.dtype = type;
        }
        tensors.push_back({.name = tensor.name, .view = view});
      }
      WriteSafetensors(model + "/model.safetensors", std::move(tensors));
      ExpectError(ErrorCode::kData, {which, Info(type).name}, [&] { LoadHuggingFace(pool, model); });
      ExpectError(ErrorCode::kData, {which, Info(type).name}, [&] { ConvertToGguf(model, folder / "m.gguf"); });
    }
  }
}

}  // namespace
}  // namespace cambium
