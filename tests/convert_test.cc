#include "families/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "file_testing.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "families/hf_config.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/tokenizer_files.h"
#include "tensor/half.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

std::vector<float> Values(const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.size()));
  Dequantize(tensor.dtype, tensor.data, values.data(), tensor.size());
  return values;
}

class ConvertFamily : public ::testing::TestWithParam<const char*> {};

// To GGUF and back: the same values under the same names, and a config that reads the same.
TEST_P(ConvertFamily, ComesBack) {
  const TempFolder folder;
  const std::string original = folder / "original";
  std::filesystem::copy(std::string(CAMBIUM_TEST_DIR) + "/golden/families/" + GetParam(), original);
  if (GetParam() == std::string("gemma3")) {  // the golden's scale is one that GGUF cannot express
    testing::ExpectError(ErrorCode::kData, {"config.json", "query_pre_attn_scalar"},
                         [&] { ConvertToGguf(original, folder / "m.gguf"); });
    auto config = ParseJson(ReadTextFile(original + "/config.json"), "config");
    config["query_pre_attn_scalar"] = config["head_dim"];
    testing::WriteFile(original + "/config.json", config.dump());
  }
  ConvertToGguf(original, folder / "m.gguf");
  ConvertToHuggingFace(folder / "m.gguf", folder / "back", DType::kF32);

  const ShardedSafetensors before(original), after(folder / "back");
  const HfConfig a = ReadHfConfig(original), b = ReadHfConfig(folder / "back");
  EXPECT_EQ(a.family, b.family);
  EXPECT_EQ(a.vocab, b.vocab);
  EXPECT_EQ(a.hidden, b.hidden);
  EXPECT_EQ(a.layers, b.layers);
  EXPECT_EQ(a.heads, b.heads);
  EXPECT_EQ(a.kv_heads, b.kv_heads);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.ffn, b.ffn);
  EXPECT_EQ(a.context, b.context);
  EXPECT_EQ(a.tied_head, b.tied_head);
  EXPECT_EQ(a.activation, b.activation);
  EXPECT_EQ(a.rotary_dim, b.rotary_dim);
  EXPECT_EQ(a.parallel_residual, b.parallel_residual);
  EXPECT_EQ(a.attention_softcap, b.attention_softcap);
  EXPECT_EQ(a.logit_softcap, b.logit_softcap);
  EXPECT_FLOAT_EQ(a.embedding_scale, b.embedding_scale);
  EXPECT_FLOAT_EQ(a.residual_scale, b.residual_scale);
  EXPECT_FLOAT_EQ(a.logit_scale, b.logit_scale);
  EXPECT_FLOAT_EQ(a.attention_scale, b.attention_scale);
  EXPECT_EQ(a.sliding_window, b.sliding_window);
  EXPECT_EQ(a.layer_slides, b.layer_slides);
  EXPECT_EQ(a.rope_scaling.type, b.rope_scaling.type);
  EXPECT_EQ(a.rope_scaling.factor, b.rope_scaling.factor);
  EXPECT_EQ(a.rope_scaling.original_context, b.rope_scaling.type == "default" ? 0 : b.rope_scaling.original_context);
  EXPECT_FLOAT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_FLOAT_EQ(a.norm_eps, b.norm_eps);
  int compared = 0;
  for (const NamedTensor& tensor : before.tensors()) {
    if (a.tied_head && tensor.name == "lm_head.weight") continue;
    const Tensor* back = after.FindTensor(tensor.name);
    if (back == nullptr) back = after.FindTensor("transformer." + tensor.name);
    ASSERT_NE(back, nullptr) << tensor.name;
    EXPECT_EQ(back->shape, tensor.view.shape) << tensor.name;
    const std::vector<float> x = Values(tensor.view), y = Values(*back);
    // Gemma's gains go through 1 + gain in f32.
    for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], 1e-7f) << tensor.name << " " << i;
    ++compared;
  }
  EXPECT_GT(compared, 10);
}
INSTANTIATE_TEST_SUITE_P(All, ConvertFamily,
                         ::testing::Values("llama", "llama3", "mistral", "qwen2", "qwen3", "gemma3", "gpt2", "phi3",
                                           "phi4mini", "gemma2", "olmo2", "granite", "starcoder2", "gptneox",
                                           "gptneox_serial"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Convert, RefusesWhatItDoesNotKnow) {
  testing::ExpectError(ErrorCode::kData, {"model.layers.0.mystery.weight", "llama"},
                       [] { RenameTensor(*FindFamily("llama"), ConvertDirection::kToGguf, "model.layers.0.mystery.weight"); });
  testing::ExpectError(ErrorCode::kData, {"blk.weight"},
                       [] { RenameTensor(*FindFamily("llama"), ConvertDirection::kToHuggingFace, "blk.weight"); });
  EXPECT_EQ(RenameTensor(*FindFamily("gpt2"), ConvertDirection::kToGguf, "transformer.h.3.attn.c_attn.weight").name,
            "blk.3.attn_qkv.weight");
  EXPECT_TRUE(RenameTensor(*FindFamily("gpt2"), ConvertDirection::kToGguf, "transformer.h.3.attn.c_attn.weight").transposed);
  EXPECT_EQ(RenameTensor(*FindFamily("gpt2"), ConvertDirection::kToGguf, "h.3.attn.bias").name, "");
  EXPECT_EQ(
      RenameTensor(*FindFamily("gemma3_text"), ConvertDirection::kToGguf, "model.language_model.layers.0.mlp.up_proj.weight").name,
      "blk.0.ffn_up.weight");
}

// A tokenizer.json that went through GGUF gives the same ids.
void ExpectSameIds(const Tokenizer& a, const Tokenizer& b) {
  ASSERT_EQ(a.vocab_size(), b.vocab_size());
  for (const char* text : {"", "Hello, world! It's 12345.", "  two  spaces\n\n\tand tabs ",
                           "na\xc3\xafve \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80", "<|im_start|>user\nhi<|im_end|>",
                           "<bos>x<eos>", "\xff\xfe"}) {
    EXPECT_EQ(a.Encode(text, true, true), b.Encode(text, true, true)) << text;
    EXPECT_EQ(a.Encode(text, false, false), b.Encode(text, false, false)) << text;
  }
  EXPECT_EQ(a.bos(), b.bos());
  EXPECT_EQ(a.eos(), b.eos());
  EXPECT_EQ(a.chat_template(), b.chat_template());
}

class ConvertTokenizer : public ::testing::TestWithParam<const char*> {};

TEST_P(ConvertTokenizer, ComesBack) {
  // The goldens hold the tokenizer.json text beside their cases.
  const std::string golden = std::string(CAMBIUM_TEST_DIR) + "/golden/" + GetParam();
  const auto parsed = ParseJson(ReadTextFile(golden), golden);
  const TempFolder folder;
  const auto& tokenizer = parsed.contains("tokenizer") ? parsed["tokenizer"] : parsed;
  testing::WriteFile(folder / "tokenizer.json",
                     tokenizer.is_string() ? tokenizer.get<std::string>() : tokenizer.dump());
  const std::string path = folder / "tokenizer.json";
  const Tokenizer original = Tokenizer::FromJsonFile(path);

  GgufWriter writer;
  WithTokenizerJson(path, [&](const TokenizerSpec& spec) { SetTokenizer(writer, spec, original.vocab_size()); });
  writer.Write(folder / "t.gguf");
  const GgufFile file(folder / "t.gguf");
  ExpectSameIds(original, Tokenizer::FromGguf(file));
  std::filesystem::create_directory(folder / "back");
  WriteTokenizerJson(TokenizerSpecFromGguf(file), folder / "back");
  ExpectSameIds(original, Tokenizer::FromJsonFile(folder / "back/tokenizer.json"));
}
INSTANTIATE_TEST_SUITE_P(All, ConvertTokenizer,
                         ::testing::Values("tiny_gpt2.json", "tiny_llama3.json", "tiny_qwen2.json", "tiny_smollm.json",
                                           "tiny_spm.json"),
                         [](const auto& info) { return std::string(info.param).substr(5, 3); });

}  // namespace
}  // namespace cambium
