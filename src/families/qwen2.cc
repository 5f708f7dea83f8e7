// Qwen2 and Qwen2.5 (Yang et al. 2024). Biases on q, k and v, of which config.json says nothing.
#include "families/tensors.h"

namespace cambium {
namespace {

constexpr auto kRows = Rows(kModelRows, kPreNormRows, kAttentionRows, kGatedRows, kNextTokenRows);

}  // namespace

extern const Family kQwen2 = {.hf_type = "qwen2",
                              .hf_class = "Qwen2ForCausalLM",
                              .gguf = "qwen2",
                              .tensors = kRows,
                              .keys = {.attention_bias = nullptr},
                              .defaults = {.attention_bias = true},
                              .sliding = Sliding::kLast};

}  // namespace cambium
