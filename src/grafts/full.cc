#include "grafts/full.h"

#include "cambium/error.h"
#include "model/save.h"

namespace cambium {

std::unique_ptr<Graft> FullGraft::Make(const GraftOptions& options, BaseModel& model) {
  return std::make_unique<FullGraft>(options, model);
}

Parameter* FullGraft::Add(const std::string& name, Tensor value, bool decay) {
  params_.push_back(std::make_unique<Parameter>());
  Parameter* const param = params_.back().get();
  param->name = name;
  param->value = value;
  param->decay = decay;
  param->is_master = true;
  return param;
}

Parameter* FullGraft::AddMatrix(const std::string& name, PackedMatrix& packed) {
  OwnedTensor values({packed.out(), packed.in()});
  packed.Unpack(model_.pool(), values.view);
  packed = PackedMatrix();
  matrices_.push_back({&packed, std::move(values)});
  return Add(name, matrices_.back().values.view, true);
}

FullGraft::NormParams FullGraft::AddNorm(const std::string& name, NormWeights& norm) {
  NormParams params;
  params.gain = Add(name, norm.gain.view, false);
  if (norm.bias.view) params.bias = Add(name + ".bias", norm.bias.view, false);
  return params;
}

FullGraft::FullGraft(const GraftOptions& options, BaseModel& model) : model_(model), options_(options) {
  ModelWeights& weights = model.mutable_weights();
  const ModelConfig& config = model.config();
  embedding_ = AddMatrix("embedding", weights.embedding);
  if (weights.positions.view) positions_ = Add("positions", weights.positions.view, true);
  for (int layer = 0; layer < static_cast<int>(config.layers); ++layer) {
    BlockWeights& block = weights.blocks[static_cast<size_t>(layer)];
    const std::string at = "layers." + std::to_string(layer) + ".";
    const std::pair<NormKind, NormWeights*> norms[] = {
        {NormKind::kAttention, &block.attention_norm}, {NormKind::kAttentionPost, &block.attention_post_norm},
        {NormKind::kFfn, &block.ffn_norm},             {NormKind::kFfnPost, &block.ffn_post_norm},
        {NormKind::kQ, &block.q_norm},                 {NormKind::kK, &block.k_norm},
        {NormKind::kCross, &block.cross_norm}};
    for (const auto& [kind, norm] : norms) {
      if (norm->gain.view) norms_[{layer, kind}] = AddNorm(at + NormName(kind), *norm);
    }
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      Linear& linear = block.linears[kind];
      LinearParams& params = linears_.emplace_back();
      if (!linear.w) continue;
      const std::string name = at + SiteName(static_cast<SiteKind>(kind));
      params.weight = AddMatrix(name, linear.w);
      params.weight->adds_once = true;
      if (linear.bias.view) params.bias = Add(name + ".bias", linear.bias.view, false);
    }
  }
  const auto stack = [&](const std::string& at, int64_t first, int64_t last, NormWeights& embedding, NormWeights& final) {
    if (embedding.gain.view) {
      norms_[{static_cast<int>(first), NormKind::kEmbedding}] = AddNorm(at + NormName(NormKind::kEmbedding), embedding);
    }
    if (final.gain.view) {
      norms_[{static_cast<int>(last), NormKind::kFinal}] = AddNorm(at + NormName(NormKind::kFinal), final);
    }
  };
  stack("", config.encoder_layers, config.layers, weights.embedding_norm, weights.final_norm);
  if (config.has_encoder()) {
    if (weights.encoder.positions.view) {
      encoder_positions_ = Add("encoder.positions", weights.encoder.positions.view, true);
    }
    stack("encoder.", 0, config.encoder_layers, weights.encoder.embedding_norm, weights.encoder.final_norm);
  }
  if (weights.separate_head) head_ = AddMatrix("head", weights.separate_head);
  for (const Matrix& matrix : matrices_) {
    OwnedTensor stored(options.working, {matrix.values.view.rows(), matrix.values.view.columns()});
    Convert(model.pool(), matrix.values.view, stored.view);
    *matrix.packed = PackedMatrix(model.pool(), stored.view);
  }
}

void FullGraft::AtLinearBackward(const GraftContext& context, Site site, Tensor x, Tensor dy, Tensor /*dx*/) {
  const LinearParams& params = linears_[static_cast<size_t>(site.layer * kSiteKinds) + static_cast<size_t>(site.kind)];
  if (!params.weight->grad) return;
  Gemm(context.pool, context.workspace, context.compute, true, false, 1, dy, x, 1, params.weight->grad);
  if (params.bias != nullptr) BiasBackward(context.pool, dy, params.bias->grad);
}

Graft::NormGradient FullGraft::NormGradientOf(int layer, NormKind kind) {
  const auto found = norms_.find({layer, kind});
  if (found == norms_.end()) return {};
  const NormParams& params = found->second;
  return {params.gain->grad, params.bias != nullptr ? params.bias->grad : Tensor()};
}

void FullGraft::VisitParams(const std::function<void(Parameter&)>& visit) {
  for (const auto& param : params_) visit(*param);
}

void FullGraft::AfterUpdate() {
  for (const Matrix& matrix : matrices_) matrix.packed->Repack(model_.pool(), matrix.values.view);
}

void FullGraft::Save(const std::string& path) { SaveWeights(model_.pool(), model_.weights(), options_.base, path); }

}  // namespace cambium
