// GPT-NeoX (Black et al. 2022), Pythia among them: both branches read the block's input, a part of each head is turned,
// and Hugging Face keeps q, k and v of each head together.
#include <nlohmann/json.hpp>

#include "families/gguf_config.h"
#include "families/hf_config.h"
#include "families/hf_fields.h"
#include "families/tensors.h"
#include "io/gguf.h"

namespace cambium {
namespace {

constexpr TensorRow kRows[] = {
    {Role::kEmbedding, "gpt_neox.embed_in", "token_embd"},
    {Role::kFinalNorm, "gpt_neox.final_layer_norm", "output_norm"},
    {Role::kHead, "embed_out", "output"},
    {Role::kAttentionNorm, "gpt_neox.layers.{}.input_layernorm", "blk.{}.attn_norm"},
    {Role::kFfnNorm, "gpt_neox.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"},
    {Role::kQkv, "gpt_neox.layers.{}.attention.query_key_value", "blk.{}.attn_qkv", Layout::kHeadThirds},
    {Role::kO, "gpt_neox.layers.{}.attention.dense", "blk.{}.attn_output"},
    {Role::kUp, "gpt_neox.layers.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up"},
    {Role::kDown, "gpt_neox.layers.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down"}};
constexpr std::string_view kHfKeys[] = {"layer_norm_eps", "rotary_pct", "rotary_emb_base", "partial_rotary_factor",
                                        "use_parallel_residual"};
constexpr std::string_view kGgufKeys[] = {"use_parallel_residual"};

void ReadHf(const HfFields& fields, HfConfig& c) {
  if (fields.Find("rotary_emb_base")) c.rope_theta = fields.Positive("rotary_emb_base");  // the older name
  c.parallel_residual = fields.Bool("use_parallel_residual", true);
}

void WriteHf(const HfConfig& c, nlohmann::ordered_json& json) {
  json["rotary_emb_base"] = Decimal(c.rope_theta);
  json["use_parallel_residual"] = c.parallel_residual;
}

void ReadGguf(const GgufFile& file, HfConfig& c) {
  c.parallel_residual = file.Bool("gptneox.use_parallel_residual", true);
}

void WriteGguf(const HfConfig& c, GgufKeys& keys) { keys.SetBool("use_parallel_residual", c.parallel_residual); }

}  // namespace

extern const Family kGptNeox = {
    .hf_type = "gpt_neox",
    .hf_class = "GPTNeoXForCausalLM",
    .gguf = "gptneox",
    .hf_base = "gpt_neox.",
    .tensors = kRows,
    .traits = {.norm = BlockTraits::Norm::kLayer, .gated = false},
    .keys = {.kv_heads = nullptr, .head_dim = nullptr, .norm_eps = "layer_norm_eps", .rotary = "rotary_pct"},
    .defaults = {.norm_eps = 1e-5, .rotary = 0.25, .activation = "gelu", .attention_bias = true},
    .hf_keys = kHfKeys,
    .gguf_keys = kGgufKeys,
    .read_hf = ReadHf,
    .write_hf = WriteHf,
    .read_gguf = ReadGguf,
    .write_gguf = WriteGguf};

}  // namespace cambium
