#pragma once

#include <array>

#include "families/family.h"

namespace cambium {

// Lines that several families share, for their tables.
inline constexpr TensorRow kModelRows[] = {{Role::kEmbedding, "model.embed_tokens", "token_embd"},
                                           {Role::kFinalNorm, "model.norm", "output_norm"},
                                           {Role::kHead, "lm_head", "output"}};
inline constexpr TensorRow kPreNormRows[] = {
    {Role::kAttentionNorm, "model.layers.{}.input_layernorm", "blk.{}.attn_norm"},
    {Role::kFfnNorm, "model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"}};
inline constexpr TensorRow kQkNormRows[] = {{Role::kQNorm, "model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"},
                                            {Role::kKNorm, "model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"}};
inline constexpr TensorRow kAttentionRows[] = {{Role::kQ, "model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"},
                                               {Role::kK, "model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"},
                                               {Role::kV, "model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"},
                                               {Role::kO, "model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"}};
inline constexpr TensorRow kPairedAttentionRows[] = {
    {Role::kQ, "model.layers.{}.self_attn.q_proj", "blk.{}.attn_q", Layout::kRopePairs},
    {Role::kK, "model.layers.{}.self_attn.k_proj", "blk.{}.attn_k", Layout::kRopePairs},
    {Role::kV, "model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"},
    {Role::kO, "model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"}};
inline constexpr TensorRow kGatedRows[] = {{Role::kGate, "model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"},
                                           {Role::kUp, "model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"},
                                           {Role::kDown, "model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"}};
inline constexpr TensorRow kRoutedRows[] = {
    {Role::kRouter, "model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"},
    {Role::kExpertGate, "model.layers.{}.mlp.experts.{}.gate_proj", "blk.{}.ffn_gate_exps"},
    {Role::kExpertUp, "model.layers.{}.mlp.experts.{}.up_proj", "blk.{}.ffn_up_exps"},
    {Role::kExpertDown, "model.layers.{}.mlp.experts.{}.down_proj", "blk.{}.ffn_down_exps"}};
// A module that predicts further tokens (DeepSeek-V3), a block behind the last; with a block of the family's own.
inline constexpr TensorRow kNextTokenRows[] = {
    {Role::kNextToken, "model.layers.{}.eh_proj", "blk.{}.nextn.eh_proj"},
    {Role::kNextToken, "model.layers.{}.enorm", "blk.{}.nextn.enorm"},
    {Role::kNextToken, "model.layers.{}.hnorm", "blk.{}.nextn.hnorm"},
    {Role::kNextToken, "model.layers.{}.embed_tokens", "blk.{}.nextn.embed_tokens"},
    {Role::kNextToken, "model.layers.{}.shared_head.norm", "blk.{}.nextn.shared_head_norm"},
    {Role::kNextToken, "model.layers.{}.shared_head.head", "blk.{}.nextn.shared_head_head"}};

// A table of such parts, one behind the other.
template <size_t... N>
constexpr auto Rows(const TensorRow (&... parts)[N]) {
  std::array<TensorRow, (N + ...)> rows{};
  size_t at = 0;
  const auto append = [&](const TensorRow* part, size_t count) {
    for (size_t i = 0; i < count; ++i) rows[at++] = part[i];
  };
  (append(parts, N), ...);
  return rows;
}

}  // namespace cambium
