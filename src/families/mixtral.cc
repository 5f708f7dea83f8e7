// Mixtral (Jiang et al. 2024): Mistral with a mixture of experts in every layer. GGUF calls it llama.
#include <nlohmann/json.hpp>

#include "families/experts.h"
#include "families/gguf_config.h"
#include "families/hf_config.h"
#include "families/hf_fields.h"
#include "families/tensors.h"
#include "io/gguf.h"

namespace cambium {
namespace {

constexpr TensorRow kMixtralRows[] = {
    {Role::kRouter, "model.layers.{}.block_sparse_moe.gate", "blk.{}.ffn_gate_inp"},
    {Role::kExpertGate, "model.layers.{}.block_sparse_moe.experts.{}.w1", "blk.{}.ffn_gate_exps"},
    {Role::kExpertUp, "model.layers.{}.block_sparse_moe.experts.{}.w3", "blk.{}.ffn_up_exps"},
    {Role::kExpertDown, "model.layers.{}.block_sparse_moe.experts.{}.w2", "blk.{}.ffn_down_exps"}};
constexpr auto kRows = Rows(kModelRows, kPreNormRows, kPairedAttentionRows, kMixtralRows);

constexpr std::string_view kHfKeys[] = {"num_local_experts", "num_experts_per_tok", kRouterTrainingKeys[0],
                                        kRouterTrainingKeys[1], kRouterTrainingKeys[2]};

bool Claims(const GgufFile& file) { return file.U64("llama.expert_count", 0) > 0; }

// A softmax over the chosen experts, which is one over all, normalised.
void ReadHf(const HfFields& fields, HfConfig& c) {
  c.experts.count = fields.Int("num_local_experts", 8);
  c.experts.used = fields.Int("num_experts_per_tok", 2);
  c.experts.ffn = c.ffn;
  c.experts.normalise = true;
  CheckExperts(c, "num_local_experts", "num_experts_per_tok");
}

void WriteHf(const HfConfig& c, nlohmann::ordered_json& json) {
  if (c.experts.ffn != c.ffn) {
    Fail(ErrorCode::kData, c.path, ": llama.expert_feed_forward_length is ", c.experts.ffn, ", feed_forward_length ",
         c.ffn, "; config.json has one field for both");
  }
  json["num_local_experts"] = c.experts.count;
  json["num_experts_per_tok"] = c.experts.used;
}

void ReadGguf(const GgufFile& file, HfConfig& c) { ReadGgufExperts(file, true, c); }
void WriteGguf(const HfConfig& c, GgufKeys& keys) { WriteGgufExperts(c, true, keys); }

}  // namespace

extern const Family kMixtral = {.hf_type = "mixtral",
                                .hf_class = "MixtralForCausalLM",
                                .gguf = "llama",
                                .tensors = kRows,
                                .keys = {.attention_bias = nullptr},
                                .defaults = {.kv_heads = 8, .context = 4096 * 32, .norm_eps = 1e-5, .rope_theta = 1e6},
                                .sliding = Sliding::kAll,
                                .claims = Claims,
                                .hf_keys = kHfKeys,
                                .gguf_keys = kGgufExpertKeys,
                                .read_hf = ReadHf,
                                .write_hf = WriteHf,
                                .read_gguf = ReadGguf,
                                .write_gguf = WriteGguf};

}  // namespace cambium
