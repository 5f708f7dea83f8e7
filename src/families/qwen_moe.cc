// Qwen2-MoE (Qwen1.5-MoE, Qwen2-57B-A14B) and Qwen3-MoE (Yang et al. 2025): Qwen's attention before mixtures of
// experts; the older one has an expert besides that all rows go through, its result scaled by a gate.
#include <nlohmann/json.hpp>

#include "families/experts.h"
#include "families/gguf_config.h"
#include "families/hf_config.h"
#include "families/hf_fields.h"
#include "families/tensors.h"
#include "io/gguf.h"

namespace cambium {
namespace {

constexpr TensorRow kSharedRows[] = {
    {Role::kSharedGate, "model.layers.{}.mlp.shared_expert.gate_proj", "blk.{}.ffn_gate_shexp"},
    {Role::kSharedUp, "model.layers.{}.mlp.shared_expert.up_proj", "blk.{}.ffn_up_shexp"},
    {Role::kSharedDown, "model.layers.{}.mlp.shared_expert.down_proj", "blk.{}.ffn_down_shexp"},
    {Role::kSharedRouter, "model.layers.{}.mlp.shared_expert_gate", "blk.{}.ffn_gate_inp_shexp"}};
constexpr auto kQwen2Rows = Rows(kModelRows, kPreNormRows, kAttentionRows, kGatedRows, kRoutedRows, kSharedRows);
constexpr auto kQwen3Rows = Rows(kModelRows, kPreNormRows, kQkNormRows, kAttentionRows, kGatedRows, kRoutedRows);

constexpr std::string_view kHfKeys[] = {"num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob",
                                        "decoder_sparse_step", "mlp_only_layers", kRouterTrainingKeys[0],
                                        kRouterTrainingKeys[1],
                                        // Qwen2-MoE's
                                        "shared_expert_intermediate_size", "qkv_bias"};
constexpr std::span<const std::string_view> kQwen3Keys(kHfKeys, std::size(kHfKeys) - 2);

// What a file leaves out means, in transformers' configuration_qwen2_moe.py and configuration_qwen3_moe.py.
void ReadHf(const HfFields& fields, int64_t count, int64_t used, int64_t ffn, HfConfig& c) {
  c.experts.count = fields.Int("num_experts", count);
  c.experts.used = fields.Int("num_experts_per_tok", used);
  c.experts.ffn = fields.Int("moe_intermediate_size", ffn);
  c.experts.normalise = fields.Bool("norm_topk_prob", false);
  CheckExperts(c, "num_experts", "num_experts_per_tok");
  ReadHfRoutedLayers(fields, c);
}

void WriteHf(const HfConfig& c, nlohmann::ordered_json& json) {
  json["num_experts"] = c.experts.count;
  json["num_experts_per_tok"] = c.experts.used;
  json["moe_intermediate_size"] = c.experts.ffn;
  json["norm_topk_prob"] = c.experts.normalise;
  WriteHfRoutedLayers(c, json);
}

void ReadHfQwen2(const HfFields& fields, HfConfig& c) {
  ReadHf(fields, 60, 4, 1408, c);
  c.experts.shared_ffn = fields.Int("shared_expert_intermediate_size", 5632);
}

void WriteHfQwen2(const HfConfig& c, nlohmann::ordered_json& json) {
  WriteHf(c, json);
  json["shared_expert_intermediate_size"] = c.experts.shared_ffn;
}

// A window is all layers' (Qwen3MoeModel).
void ReadHfQwen3(const HfFields& fields, HfConfig& c) {
  ReadHf(fields, 128, 8, 768, c);
  if (!fields.Bool("use_sliding_window", false)) return;
  c.sliding_window = fields.Int("sliding_window", 4096);
  c.layer_slides.assign(static_cast<size_t>(c.layers), 1);
}

// llama.cpp normalises Qwen3's weights and not Qwen2's (llm_build_qwen3moe, llm_build_qwen2moe).
void ReadGgufQwen2(const GgufFile& file, HfConfig& c) { ReadGgufExperts(file, false, c); }
void WriteGgufQwen2(const HfConfig& c, GgufKeys& keys) { WriteGgufExperts(c, false, keys); }
void ReadGgufQwen3(const GgufFile& file, HfConfig& c) { ReadGgufExperts(file, true, c); }
void WriteGgufQwen3(const HfConfig& c, GgufKeys& keys) { WriteGgufExperts(c, true, keys); }

}  // namespace

extern const Family kQwen2Moe = {.hf_type = "qwen2_moe",
                                 .hf_class = "Qwen2MoeForCausalLM",
                                 .gguf = "qwen2moe",
                                 .tensors = kQwen2Rows,
                                 .keys = {.attention_bias = "qkv_bias"},
                                 .defaults = {.kv_heads = 16, .context = 32768, .attention_bias = true},
                                 .sliding = Sliding::kLast,
                                 .hf_keys = kHfKeys,
                                 .gguf_keys = kGgufExpertKeys,
                                 .read_hf = ReadHfQwen2,
                                 .write_hf = WriteHfQwen2,
                                 .read_gguf = ReadGgufQwen2,
                                 .write_gguf = WriteGgufQwen2};

extern const Family kQwen3Moe = {.hf_type = "qwen3_moe",
                                 .hf_class = "Qwen3MoeForCausalLM",
                                 .gguf = "qwen3moe",
                                 .tensors = kQwen3Rows,
                                 .traits = {.qk_norm = true},
                                 .defaults = {.kv_heads = 4, .context = 32768},
                                 .sliding = Sliding::kLast,
                                 .hf_keys = kQwen3Keys,
                                 .gguf_keys = kGgufExpertKeys,
                                 .read_hf = ReadHfQwen3,
                                 .write_hf = WriteHf,
                                 .read_gguf = ReadGgufQwen3,
                                 .write_gguf = WriteGgufQwen3};

}  // namespace cambium
