// Phi-3 (Abdin et al. 2024) and Phi-4: q, k and v in one matrix, gate and up in another. Phi-4-mini turns a part of
// each head. "longrope", whose factors change with the length of the text, is refused.
#include "cambium/error.h"
#include "families/hf_config.h"
#include "families/tensors.h"
#include "io/gguf.h"

namespace cambium {
namespace {

constexpr TensorRow kLinearRows[] = {{Role::kQkv, "model.layers.{}.self_attn.qkv_proj", "blk.{}.attn_qkv"},
                                     {Role::kO, "model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"},
                                     {Role::kGateUp, "model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up"},
                                     {Role::kDown, "model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"}};
constexpr auto kRows = Rows(kModelRows, kPreNormRows, kLinearRows);
constexpr std::string_view kHfKeys[] = {"partial_rotary_factor"};

void ReadGguf(const GgufFile& file, HfConfig&) {
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"}) {
    if (file.FindTensor(name) == nullptr) continue;
    Fail(ErrorCode::kData, file.path(), ": tensor ", name, ": RoPE of the type longrope is not supported");
  }
}

}  // namespace

extern const Family kPhi3 = {
    .hf_type = "phi3",
    .hf_class = "Phi3ForCausalLM",
    .gguf = "phi3",
    .tensors = kRows,
    .keys = {.head_dim = nullptr, .attention_bias = nullptr, .rotary = "partial_rotary_factor"},
    .defaults = {.context = 4096, .norm_eps = 1e-5},
    .sliding = Sliding::kAll,
    .hf_keys = kHfKeys,
    .read_gguf = ReadGguf};

}  // namespace cambium
