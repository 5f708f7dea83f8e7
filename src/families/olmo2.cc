// OLMo 2 (Team OLMo 2025): no norm before a branch, one behind it; q and k are normed over all heads at once.
#include "families/tensors.h"

namespace cambium {
namespace {

constexpr TensorRow kNormRows[] = {
    {Role::kAttentionPostNorm, "model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"},
    {Role::kFfnPostNorm, "model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm"}};
constexpr auto kRows = Rows(kModelRows, kNormRows, kQkNormRows, kAttentionRows, kGatedRows);

}  // namespace

extern const Family kOlmo2 = {.hf_type = "olmo2",
                              .hf_class = "Olmo2ForCausalLM",
                              .gguf = "olmo2",
                              .tensors = kRows,
                              .traits = {.pre_norms = false, .post_norms = true, .qk_norm = true, .wide_qk_norm = true},
                              .keys = {.head_dim = nullptr},
                              .defaults = {.norm_eps = 1e-5}};

}  // namespace cambium
