#include "model/weights.h"

namespace cambium {

const char* SiteName(SiteKind kind) {
  static constexpr const char* kNames[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  return kNames[static_cast<int>(kind)];
}

const char* NormName(NormKind kind) {
  static constexpr const char* kNames[] = {"attention_norm", "attention_post_norm", "ffn_norm",  "ffn_post_norm",
                                           "q_norm",         "k_norm",              "final_norm"};
  return kNames[static_cast<int>(kind)];
}

int64_t ModelWeights::bytes() const {
  int64_t total = embedding.bytes() + separate_head.bytes() + positions.view.bytes();
  for (const BlockWeights& block : blocks) {
    for (const Linear& linear : block.linears) total += linear.w.bytes();
  }
  return total;
}

}  // namespace cambium
