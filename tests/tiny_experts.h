#pragma once

#include "tiny_model.h"

namespace cambium {

struct TinyExpertsOptions {
  TinyOptions base = {.family = TinyFamily::kQwen3};
  int64_t experts = 6, used = 2, ffn = 32;
  int64_t shared_ffn = 0;  // with a gate of its own
  bool normalise = true;
  bool first_dense = false;  // the first layer routes nothing
};

// TinyModel with a mixture of experts in the place of its feed-forward layers.
inline std::unique_ptr<ModelWeights> TinyExperts(ThreadPool& pool, uint64_t seed, const TinyExpertsOptions& o = {}) {
  std::unique_ptr<ModelWeights> model = TinyModel(pool, seed, o.base);
  ModelConfig& c = model->config;
  c.experts = o.experts;
  c.expert_ffn = o.ffn;
  c.shared_ffn = o.shared_ffn;
  c.route = {.used = o.used, .normalise = o.normalise};
  uint64_t stream = 7000;
  const auto linear = [&](int64_t out, int64_t in, DType type, float spread = 1) {
    const OwnedTensor values =
        tiny_internal::Normals(seed, ++stream, {out, in}, spread / std::sqrt(static_cast<float>(in)));
    const OwnedTensor stored(type, {out, in});
    Quantize(type, values.view.f32(), stored.view.data, values.view.size());
    Linear result;
    result.w = PackedMatrix(pool, stored.view);
    return result;
  };
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    c.layer_routes.push_back(layer > 0 || !o.first_dense);
    if (!c.Routes(layer)) continue;
    BlockWeights& block = model->blocks[static_cast<size_t>(layer)];
    block.experts = std::make_unique<ExpertWeights>();
    block.experts->router = linear(o.experts, c.hidden, DType::kF32, 2);
    for (const SiteKind kind : {SiteKind::kGate, SiteKind::kUp, SiteKind::kDown}) {
      block[kind] = Linear();
      if (o.shared_ffn == 0) continue;
      const bool down = kind == SiteKind::kDown;
      block[kind] = linear(down ? c.hidden : o.shared_ffn, down ? o.shared_ffn : c.hidden, o.base.weights);
    }
    if (o.shared_ffn > 0) block.experts->shared_gate = linear(1, c.hidden, DType::kF32);
    for (int64_t e = 0; e < o.experts; ++e) {
      ExpertWeights::Expert& expert = block.experts->experts.emplace_back();
      expert.gate = linear(o.ffn, c.hidden, o.base.weights);
      expert.up = linear(o.ffn, c.hidden, o.base.weights);
      expert.down = linear(c.hidden, o.ffn, o.base.weights);
    }
  }
  return model;
}

}  // namespace cambium
