// GPT-2 (Radford et al. 2019): LayerNorm, learned positions, q, k and v in one matrix, linears stored [in, out].
#include "families/tensors.h"

namespace cambium {
namespace {

constexpr TensorRow kRows[] = {{Role::kEmbedding, "transformer.wte", "token_embd"},
                               {Role::kPositions, "transformer.wpe", "position_embd"},
                               {Role::kFinalNorm, "transformer.ln_f", "output_norm"},
                               {Role::kHead, "lm_head", "output"},
                               {Role::kAttentionNorm, "transformer.h.{}.ln_1", "blk.{}.attn_norm"},
                               {Role::kQkv, "transformer.h.{}.attn.c_attn", "blk.{}.attn_qkv", Layout::kTransposed},
                               {Role::kO, "transformer.h.{}.attn.c_proj", "blk.{}.attn_output", Layout::kTransposed},
                               {Role::kFfnNorm, "transformer.h.{}.ln_2", "blk.{}.ffn_norm"},
                               {Role::kUp, "transformer.h.{}.mlp.c_fc", "blk.{}.ffn_up", Layout::kTransposed},
                               {Role::kDown, "transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down", Layout::kTransposed}};

}  // namespace

extern const Family kGpt2 = {
    .hf_type = "gpt2",
    .hf_class = "GPT2LMHeadModel",
    .gguf = "gpt2",
    .hf_base = "transformer.",
    .tensors = kRows,
    .traits = {.norm = BlockTraits::Norm::kLayer, .gated = false, .learned_positions = true, .rope = false},
    .keys = {.hidden = "n_embd",
             .layers = "n_layer",
             .heads = "n_head",
             .kv_heads = nullptr,
             .head_dim = nullptr,
             .ffn = "n_inner",
             .context = "n_positions",
             .norm_eps = "layer_norm_epsilon",
             .activation = "activation_function",
             .attention_bias = nullptr},
    .defaults = {.ffn_times = 4,
                 .context = 1024,
                 .norm_eps = 1e-5,
                 .activation = "gelu_new",
                 .tied_head = true,
                 .attention_bias = true}};

}  // namespace cambium
