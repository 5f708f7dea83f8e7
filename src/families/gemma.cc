// Gemma 2 (Gemma Team 2024) and 3 (2025): norms before and behind each branch, windows on all but every second or sixth
// layer. Gemma 2 caps scores and logits; Gemma 3 norms q and k instead.
#include <cmath>
#include <nlohmann/json.hpp>

#include "cambium/error.h"
#include "families/gguf_config.h"
#include "families/hf_config.h"
#include "families/hf_fields.h"
#include "families/tensors.h"
#include "io/gguf.h"

namespace cambium {
namespace {

constexpr TensorRow kNormRows[] = {
    {Role::kAttentionNorm, "model.layers.{}.input_layernorm", "blk.{}.attn_norm"},
    {Role::kAttentionPostNorm, "model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"},
    {Role::kFfnNorm, "model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm"},
    {Role::kFfnPostNorm, "model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm"}};
constexpr auto kGemma2Rows = Rows(kModelRows, kNormRows, kAttentionRows, kGatedRows);
constexpr auto kGemma3Rows = Rows(kModelRows, kNormRows, kQkNormRows, kAttentionRows, kGatedRows, kNextTokenRows);

constexpr std::string_view kCaps[] = {"attn_logit_softcapping", "final_logit_softcapping"};
constexpr double kScoreCap = 50, kLogitCap = 30;  // Gemma 2's, where a file does not say
constexpr int64_t kGemma2Layers27B = 46, kGemma3Layers27B = 62;

// What llama.cpp scales scores by, as GGUF has no key for it: 1 / sqrt of the head dimension, but for the 27B models.
double UsualScale(const HfConfig& c, int64_t layers_27b) {
  return 1 / std::sqrt(static_cast<double>(c.layers == layers_27b ? c.hidden / c.heads : c.head_dim));
}

double EmbeddingScale(const HfConfig& c) { return std::sqrt(static_cast<double>(c.hidden)); }

void ReadHf(const HfFields& fields, HfConfig& c) {
  c.attention_scale = 1 / std::sqrt(fields.Positive("query_pre_attn_scalar", 256));
  c.embedding_scale = EmbeddingScale(c);
}

void WriteHf(const HfConfig& c, nlohmann::ordered_json& json) {
  json["query_pre_attn_scalar"] = Decimal(1 / (c.attention_scale * c.attention_scale));
}

void ReadGguf(HfConfig& c, int64_t layers_27b) {
  if (c.attention_scale == 0) c.attention_scale = UsualScale(c, layers_27b);
  c.embedding_scale = EmbeddingScale(c);
}

void WriteGguf(const HfConfig& c, const GgufKeys& keys, int64_t layers_27b) {
  const double usual = UsualScale(c, layers_27b);
  if (std::fabs(c.attention_scale - usual) > 1e-6 * usual) keys.Inexpressible("query_pre_attn_scalar");
}

void ReadHf2(const HfFields& fields, HfConfig& c) {
  ReadHf(fields, c);
  const auto cap = [&](std::string_view name, double usual) {  // null: none
    return fields.Find(name) || !fields.object().contains(name) ? fields.Positive(name, usual) : 0;
  };
  c.attention_softcap = cap(kCaps[0], kScoreCap);
  c.logit_softcap = cap(kCaps[1], kLogitCap);
}

void WriteHf2(const HfConfig& c, nlohmann::ordered_json& json) {
  WriteHf(c, json);
  json[kCaps[0]] = Decimal(c.attention_softcap);
  json[kCaps[1]] = Decimal(c.logit_softcap);
}

void ReadGguf2(const GgufFile& file, HfConfig& c) {
  ReadGguf(c, kGemma2Layers27B);
  const auto cap = [&](std::string_view name, double usual) {
    const double value = file.F64("gemma2." + std::string(name), usual);
    if (!(value > 0) || !std::isfinite(value)) Fail(ErrorCode::kData, file.path(), ": gemma2.", name, " is ", value);
    return value;
  };
  c.attention_softcap = cap(kCaps[0], kScoreCap);
  c.logit_softcap = cap(kCaps[1], kLogitCap);
}

void WriteGguf2(const HfConfig& c, GgufKeys& keys) {
  WriteGguf(c, keys, kGemma2Layers27B);
  for (const auto& [name, value] : {std::pair{kCaps[0], c.attention_softcap}, {kCaps[1], c.logit_softcap}}) {
    if (value == 0) keys.Inexpressible(name);
    if (value > 0) keys.SetFloat(name.data(), value);
  }
}

void ReadHf3(const HfFields& fields, HfConfig& c) {
  ReadHf(fields, c);
  c.local_rope = true;
}

void WriteHf3(const HfConfig& c, nlohmann::ordered_json& json) {
  WriteHf(c, json);
  json["rope_local_base_freq"] = Decimal(c.rope_local_theta);
}

void ReadGguf3(const GgufFile& file, HfConfig& c) {
  ReadGguf(c, kGemma3Layers27B);
  c.local_rope = true;
  c.rope_local_theta = file.F64("gemma3.rope.freq_base_swa", 1e4);
}

void WriteGguf3(const HfConfig& c, GgufKeys& keys) {
  WriteGguf(c, keys, kGemma3Layers27B);
  keys.SetFloat("rope.freq_base_swa", c.rope_local_theta);
}

}  // namespace

extern const Family kGemma2 = {
    .hf_type = "gemma2",
    .hf_class = "Gemma2ForCausalLM",
    .gguf = "gemma2",
    .tensors = kGemma2Rows,
    .gain_offset = 1,
    .traits = {.post_norms = true},
    .keys = {.activation = "hidden_activation"},
    .defaults = {.kv_heads = 4, .head_dim = 256, .context = 8192, .activation = "gelu_pytorch_tanh", .tied_head = true},
    .states_attention_scale = true,
    .sliding = Sliding::kEvery,
    .sliding_window = 4096,
    .sliding_every = 2,
    .hf_keys = kCaps,
    .gguf_keys = kCaps,
    .read_hf = ReadHf2,
    .write_hf = WriteHf2,
    .read_gguf = ReadGguf2,
    .write_gguf = WriteGguf2};

extern const Family kGemma3 = {.hf_type = "gemma3_text",
                               .hf_class = "Gemma3ForCausalLM",
                               .gguf = "gemma3",
                               .hf_wrapper = "gemma3",
                               .tensors = kGemma3Rows,
                               .gain_offset = 1,
                               .traits = {.post_norms = true, .qk_norm = true},
                               .keys = {.activation = "hidden_activation"},
                               .defaults = {.vocab = 262208,
                                            .heads = 8,
                                            .kv_heads = 4,
                                            .head_dim = 256,
                                            .context = 131072,
                                            .rope_theta = 1e6,
                                            .activation = "gelu_pytorch_tanh",
                                            .tied_head = true},
                               .states_attention_scale = true,
                               .sliding = Sliding::kEvery,
                               .sliding_window = 4096,
                               .sliding_every = 6,
                               .read_hf = ReadHf3,
                               .write_hf = WriteHf3,
                               .read_gguf = ReadGguf3,
                               .write_gguf = WriteGguf3};

}  // namespace cambium
