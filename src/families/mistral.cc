// Mistral (Jiang et al. 2023): Llama with a sliding window. GGUF calls it llama; one without a window is one.
#include "families/tensors.h"
#include "io/gguf.h"

namespace cambium {
namespace {

constexpr auto kRows = Rows(kModelRows, kPreNormRows, kPairedAttentionRows, kGatedRows, kNextTokenRows);

bool Claims(const GgufFile& file) { return file.U64("llama.attention.sliding_window", 0) > 0; }

}  // namespace

extern const Family kMistral = {.hf_type = "mistral",
                                .hf_class = "MistralForCausalLM",
                                .gguf = "llama",
                                .tensors = kRows,
                                .sliding = Sliding::kAll,
                                .claims = Claims};

}  // namespace cambium
