// Gemma 3 (Gemma Team 2025): norms before and behind each branch, windows on all but every sixth layer.
#include <cmath>
#include <nlohmann/json.hpp>

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
constexpr auto kGemma3Rows = Rows(kModelRows, kNormRows, kQkNormRows, kAttentionRows, kGatedRows, kNextTokenRows);

constexpr int64_t kGemma3Layers27B = 62;

// What llama.cpp scales scores by, as GGUF has no key for it: 1 / sqrt of the head dimension, but for the 27B models.
double UsualScale(const HfConfig& c, int64_t layers_27b) {
  return 1 / std::sqrt(static_cast<double>(c.layers == layers_27b ? c.hidden / c.heads : c.head_dim));
}

double EmbeddingScale(const HfConfig& c) { return std::sqrt(static_cast<double>(c.hidden)); }

void ReadHf(const HfFields& fields, HfConfig& c) {
  c.attention_scale = 1 / std::sqrt(fields.Positive("query_pre_attn_scalar", 256));
  c.embedding_scale = EmbeddingScale(c);
  c.local_rope = true;
}

void WriteHf(const HfConfig& c, nlohmann::ordered_json& json) {
  json["rope_local_base_freq"] = Decimal(c.rope_local_theta);
  json["query_pre_attn_scalar"] = Decimal(1 / (c.attention_scale * c.attention_scale));
}

void ReadGguf(const GgufFile& file, HfConfig& c) {
  if (c.attention_scale == 0) c.attention_scale = UsualScale(c, kGemma3Layers27B);
  c.embedding_scale = EmbeddingScale(c);
  c.local_rope = true;
  c.rope_local_theta = file.F64("gemma3.rope.freq_base_swa", 1e4);
}

void WriteGguf(const HfConfig& c, GgufKeys& keys) {
  const double usual = UsualScale(c, kGemma3Layers27B);
  if (std::fabs(c.attention_scale - usual) > 1e-6 * usual) keys.Inexpressible("query_pre_attn_scalar");
  keys.SetFloat("rope.freq_base_swa", c.rope_local_theta);
}

}  // namespace

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
                               .read_hf = ReadHf,
                               .write_hf = WriteHf,
                               .read_gguf = ReadGguf,
                               .write_gguf = WriteGguf};

}  // namespace cambium
