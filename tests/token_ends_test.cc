// End tokens and padding: from wherever a model's files state them, and kept by conversion.
#include <gtest/gtest.h>

#include <functional>

#include "cambium/warning.h"
#include "decode/sampler.h"
#include "file_testing.h"
#include "families/convert.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "families/hf_config.h"
#include "io/json.h"
#include "io/tokenizer.h"
#include "io/tokenizer_files.h"

namespace cambium {
namespace {

using nlohmann::json;
using testing::WriteFile;

const std::string kGolden = std::string(CAMBIUM_TEST_DIR) + "/golden/";

// A model with the tokenizer of the golden Qwen2, whose ids end where its embedding does.
struct Model {
  Model() {
    std::filesystem::copy(kGolden + "families/llama", path);
    const json golden = ParseJson(ReadTextFile(kGolden + "tiny_qwen2.json"), "golden");
    WriteFile(path + "/tokenizer.json", golden["tokenizer"].dump());
    vocab = Tokenizer::FromJsonFile(path + "/tokenizer.json").vocab_size();
  }
  void Set(const char* file, const json& values) const {
    const std::string name = path + "/" + file;
    json config = std::filesystem::exists(name) ? ParseJson(ReadTextFile(name), name) : json::object();
    config.update(values);
    WriteFile(name, config.dump());
  }
  std::vector<int32_t> Ends() const { return Tokenizer::FromJsonFile(path + "/tokenizer.json").end_of_generation(); }
  TempFolder folder;
  std::string path = folder / "model";
  int vocab = 0;
};

bool Holds(const std::vector<int32_t>& ends, std::initializer_list<int32_t> ids) {
  return std::ranges::all_of(ids, [&](int32_t id) { return std::ranges::find(ends, id) != ends.end(); });
}

TEST(Ends, StandInAnyFile) {
  const Model model;
  model.Set("config.json", {{"eos_token_id", {5, 7, 11}}});
  EXPECT_TRUE(Holds(model.Ends(), {5, 7, 11}));
  model.Set("config.json", {{"eos_token_id", 9}});
  EXPECT_TRUE(Holds(model.Ends(), {9}));
  EXPECT_FALSE(Holds(model.Ends(), {5}));
  model.Set("config.json", {{"eos_token_id", nullptr}, {"text_config", {{"eos_token_id", {3, 4}}}}});
  EXPECT_TRUE(Holds(model.Ends(), {3, 4}));
  // transformers takes config.json's only where generation_config.json has none.
  model.Set("generation_config.json", {{"temperature", 0.7}});
  EXPECT_TRUE(Holds(model.Ends(), {3, 4}));
  model.Set("generation_config.json", {{"eos_token_id", {12, 13}}});
  EXPECT_TRUE(Holds(model.Ends(), {12, 13}));
  EXPECT_FALSE(Holds(model.Ends(), {3}));
  const Tokenizer plain = Tokenizer::FromJsonFile(model.path + "/tokenizer.json");
  const std::string name(plain.Piece(20));
  model.Set("special_tokens_map.json", {{"eos_token", {{"content", name}}}});
  EXPECT_EQ(Tokenizer::FromJsonFile(model.path + "/tokenizer.json").eos(), 20);
  EXPECT_TRUE(Holds(model.Ends(), {20, 12}));
}

TEST(Ends, GoThroughGgufAndBack) {
  for (const size_t count : {1u, 2u, 3u, 5u}) {
    for (const char* where : {"config.json", "generation_config.json"}) {
      const Model model;
      std::vector<int32_t> ends;
      for (size_t i = 0; i < count; ++i) ends.push_back(static_cast<int32_t>(30 + i));
      model.Set("config.json", {{"vocab_size", 96}, {"eos_token_id", nullptr}});
      model.Set(where, {{"eos_token_id", ends}});
      const std::vector<int32_t> wanted = model.Ends();
      GgufWriter writer;
      WithTokenizerJson(model.path + "/tokenizer.json",
                        [&](const TokenizerSpec& spec) { SetTokenizer(writer, spec, model.vocab + 5); });
      writer.Write(model.folder / "t.gguf");
      const GgufFile file(model.folder / "t.gguf");
      const Tokenizer there = Tokenizer::FromGguf(file);
      EXPECT_EQ(there.end_of_generation(), wanted);
      EXPECT_EQ(there.vocab_size(), model.vocab + 5);
      EXPECT_EQ(there.text_size(), model.vocab);  // the padding is no text
    }
  }
}

TEST(Ends, ComeBackWithTheGenerationConfig) {
  const TempFolder folder;
  std::filesystem::copy(kGolden + "families/llama", folder / "model");
  const json generation = {{"eos_token_id", {2, 5, 7}}, {"temperature", 0.6},    {"top_k", 20},      {"top_p", 0.95},
                           {"repetition_penalty", 1.1}, {"max_new_tokens", 100}, {"do_sample", true}};
  WriteFile(folder / "model/generation_config.json", generation.dump());
  ConvertToGguf(folder / "model", folder / "m.gguf");
  const GgufFile file(folder / "m.gguf");
  EXPECT_FLOAT_EQ(static_cast<float>(file.F64("general.sampling.temp")), 0.6f);
  EXPECT_EQ(file.U64("general.sampling.top_k"), 20u);
  EXPECT_FLOAT_EQ(static_cast<float>(file.F64("general.sampling.penalty_repeat")), 1.1f);
  ConvertToHuggingFace(folder / "m.gguf", folder / "back", DType::kF32);
  EXPECT_EQ(ParseJson(ReadTextFile(folder / "back/generation_config.json"), "back"), generation);
}

// A GGUF file of another converter: ids under GGUF's own keys only.
TEST(Ends, OfGgufAreWrittenForTransformers) {
  const TempFolder folder;
  ConvertToGguf(kGolden + "families/llama", folder / "plain.gguf");
  const GgufFile plain(folder / "plain.gguf");
  GgufWriter writer;
  for (const auto& [key, value] : plain.metadata()) writer.Set(key, value);
  writer.Set("tokenizer.ggml.eos_token_id", uint32_t{2});
  writer.Set("tokenizer.ggml.eot_token_id", uint32_t{5});
  writer.Set("tokenizer.ggml.eom_token_id", uint32_t{5});
  writer.Set("tokenizer.ggml.padding_token_id", 0xFFFFFFFFu);
  writer.Set("general.sampling.temp", 0.6f);
  for (const NamedTensor& tensor : plain.tensors()) writer.AddTensor(tensor.name, tensor.view);
  writer.Write(folder / "m.gguf");
  ConvertToHuggingFace(folder / "m.gguf", folder / "back", DType::kF32);
  const json config = ParseJson(ReadTextFile(folder / "back/config.json"), "back");
  EXPECT_EQ(config["eos_token_id"], json({2, 5}));
  EXPECT_FALSE(config.contains("pad_token_id"));
  const json generation = ParseJson(ReadTextFile(folder / "back/generation_config.json"), "back");
  EXPECT_EQ(generation["eos_token_id"], json({2, 5}));
  EXPECT_EQ(generation["temperature"], 0.6);
}

TEST(Padding, NoneIsSaidInManyWays) {
  const TempFolder folder;
  std::filesystem::copy(kGolden + "families/llama", folder / "model");
  const std::string path = folder / "model/config.json";
  const json config = ParseJson(ReadTextFile(path), path);
  for (const json& none : {json(-1), json(nullptr)}) {
    json changed = config;
    changed["pad_token_id"] = none;
    changed["bos_token_id"] = none;
    changed["eos_token_id"] = json::array({2, -1});
    const HfConfig read = ParseHfConfig(changed.dump(), path);
    EXPECT_FALSE(read.pad_id);
    EXPECT_FALSE(read.bos_id);
    EXPECT_EQ(read.eos_ids, std::vector<int64_t>{2});
  }
  const int32_t minus_one = -1;
  const GgufValue negative{GgufType::kI32, GgufType::kI32, 1, {reinterpret_cast<const uint8_t*>(&minus_one), 4}};
  GgufWriter writer;
  writer.Set("tokenizer.ggml.padding_token_id", negative);
  writer.Set("tokenizer.ggml.bos_token_id", 0xFFFFFFFFu);
  writer.Write(folder / "t.gguf");
  const GgufFile file(folder / "t.gguf");
  EXPECT_EQ(GgufTokenId(file, "padding", 7), -1);
  EXPECT_EQ(GgufTokenId(file, "bos", 7), -1);
  EXPECT_EQ(GgufTokenId(file, "eos", 7), 7);
}

TEST(PreTokenizerName, IsWarnedOfWhereItIsMissing) {
  const Model model;
  GgufWriter writer;
  WithTokenizerJson(model.path + "/tokenizer.json",
                    [&](const TokenizerSpec& spec) { SetTokenizer(writer, spec, model.vocab); });
  writer.Write(model.folder / "t.gguf");
  const GgufFile whole(model.folder / "t.gguf");
  GgufWriter without;
  for (const auto& [key, value] : whole.metadata()) {
    if (key != "tokenizer.ggml.pre") without.Set(key, value);
  }
  without.Write(model.folder / "u.gguf");
  std::vector<std::string> said;
  SetWarningHandler([&](const std::string& text) { said.push_back(text); });
  Tokenizer::FromGguf(whole);
  EXPECT_TRUE(said.empty());
  Tokenizer::FromGguf(GgufFile(model.folder / "u.gguf"));
  SetWarningHandler({});
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("tokenizer.ggml.pre is missing"), std::string::npos);
}

// Rows of the embedding beyond the tokenizer's are never drawn, however likely.
TEST(Sampler, DrawsOnlyTokensOfText) {
  std::vector<float> logits(300, 0.0f);
  for (size_t i = 258; i < logits.size(); ++i) logits[i] = 50;
  logits[17] = 1;
  for (const double temperature : {0.0, 1.0, 5.0}) {
    SamplingOptions options;
    options.temperature = static_cast<float>(temperature);
    options.repeat_penalty = 1.1f;
    Sampler sampler(options, {.vocabulary = 258});
    const std::vector<int32_t> history = {299, 3};  // an id that was given as such
    for (int64_t position = 0; position < 200; ++position) EXPECT_LT(sampler.Draw(logits, history, position), 258);
    EXPECT_TRUE(temperature > 0 || sampler.Draw(logits, history, 0) == 17);
  }
}

}  // namespace
}  // namespace cambium
