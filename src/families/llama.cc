// Llama (Touvron et al. 2023) and what shares its architecture under its name: SmolLM2, Vicuna, ...
#include "families/tensors.h"

namespace cambium {
namespace {

constexpr auto kRows = Rows(kModelRows, kPreNormRows, kPairedAttentionRows, kGatedRows, kNextTokenRows);

}  // namespace

extern const Family kLlama = {
    .hf_type = "llama", .hf_class = "LlamaForCausalLM", .gguf = "llama", .tensors = kRows, .keys = {}};

}  // namespace cambium
