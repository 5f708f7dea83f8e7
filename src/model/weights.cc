#include "model/weights.h"

namespace cambium {

const char* SiteName(SiteKind kind) {
  static constexpr const char* kNames[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
                                           "cross_q_proj", "cross_k_proj", "cross_v_proj", "cross_o_proj"};
  return kNames[static_cast<int>(kind)];
}

const char* NormName(NormKind kind) {
  static constexpr const char* kNames[] = {"attention_norm", "attention_post_norm", "ffn_norm",  "ffn_post_norm",
                                           "q_norm",         "k_norm",              "final_norm",
                                           "cross_norm",     "embedding_norm"};
  return kNames[static_cast<int>(kind)];
}

int64_t ModelWeights::bytes() const {
  int64_t total = embedding.bytes() + separate_head.bytes() + positions.view.bytes();
  for (const BlockWeights& block : blocks) {
    for (const Linear& linear : block.linears) total += linear.w.bytes();
    if (block.experts == nullptr) continue;
    total += block.experts->router.w.bytes() + block.experts->shared_gate.w.bytes();
    for (const ExpertWeights::Expert& expert : block.experts->experts) {
      total += expert.gate.w.bytes() + expert.up.w.bytes() + expert.down.w.bytes();
    }
  }
  return total;
}

std::vector<Site> ModelWeights::sites() const {
  std::vector<Site> sites;
  for (size_t layer = 0; layer < blocks.size(); ++layer) {
    for (int index = 0; index < kSiteKinds; ++index) {
      const Site site{static_cast<int>(layer), static_cast<SiteKind>(index)};
      if (blocks[layer].linears[index].w) sites.push_back(site);
      if (blocks[layer].experts == nullptr || site.kind < SiteKind::kGate || site.kind > SiteKind::kDown) continue;
      const int count = static_cast<int>(blocks[layer].experts->experts.size());
      for (int expert = 0; expert < count; ++expert) sites.push_back({site.layer, site.kind, expert});
    }
  }
  return sites;
}

const Linear& ModelWeights::At(Site site) const {
  const BlockWeights& block = blocks[static_cast<size_t>(site.layer)];
  return site.expert < 0 ? block[site.kind] : block.experts->experts[static_cast<size_t>(site.expert)][site.kind];
}

}  // namespace cambium
