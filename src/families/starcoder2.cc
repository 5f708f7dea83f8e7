// StarCoder2 (Lozhkov et al. 2024): LayerNorm, biases everywhere, no gate, a sliding window.
#include "families/tensors.h"

namespace cambium {
namespace {

constexpr TensorRow kFfnRows[] = {{Role::kUp, "model.layers.{}.mlp.c_fc", "blk.{}.ffn_up"},
                                  {Role::kDown, "model.layers.{}.mlp.c_proj", "blk.{}.ffn_down"}};
constexpr auto kRows = Rows(kModelRows, kPreNormRows, kAttentionRows, kFfnRows);
constexpr std::string_view kHfKeys[] = {"norm_epsilon", "use_bias"};

}  // namespace

extern const Family kStarcoder2 = {
    .hf_type = "starcoder2",
    .hf_class = "Starcoder2ForCausalLM",
    .gguf = "starcoder2",
    .tensors = kRows,
    .traits = {.norm = BlockTraits::Norm::kLayer, .gated = false},
    .keys = {.head_dim = nullptr, .norm_eps = "norm_epsilon", .attention_bias = "use_bias"},
    .defaults = {.kv_heads = 2,
                 .context = 4096,
                 .norm_eps = 1e-5,
                 .activation = "gelu_pytorch_tanh",
                 .tied_head = true,
                 .attention_bias = true},
    .sliding = Sliding::kAll,
    .hf_keys = kHfKeys};

}  // namespace cambium
