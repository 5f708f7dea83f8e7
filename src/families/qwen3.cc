// Qwen3 (Yang et al. 2025): q and k are normed head by head.
#include "families/tensors.h"

namespace cambium {
namespace {

constexpr auto kRows = Rows(kModelRows, kPreNormRows, kQkNormRows, kAttentionRows, kGatedRows, kNextTokenRows);

}  // namespace

extern const Family kQwen3 = {.hf_type = "qwen3",
                              .hf_class = "Qwen3ForCausalLM",
                              .gguf = "qwen3",
                              .tensors = kRows,
                              .traits = {.qk_norm = true},
                              .defaults = {.head_dim = 128},
                              .sliding = Sliding::kLast};

}  // namespace cambium
