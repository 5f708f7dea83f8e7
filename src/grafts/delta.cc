#include "grafts/delta.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "cambium/error.h"
#include "model/load.h"

namespace cambium {
namespace {

constexpr const char* kWholeFile = "/whole.safetensors";

std::string ShapeText(Tensor tensor) {
  std::string text = std::to_string(tensor.shape[0]);
  for (int axis = 1; axis < tensor.rank; ++axis)
    text += " x " + std::to_string(tensor.shape[static_cast<size_t>(axis)]);
  return text;
}

}  // namespace

bool DeltaGraft::Recognises(const std::string& path) { return std::filesystem::is_regular_file(path + kWholeFile); }

std::unique_ptr<Graft> DeltaGraft::Load(const std::string& path, const BaseModel& model, float scale) {
  std::unique_ptr<Graft> terms;
  if (LoraGraft::Recognises(path)) terms = LoraGraft::Load(path, model, scale);
  return std::make_unique<DeltaGraft>(std::move(terms), path + kWholeFile, model, scale);
}

Tensor DeltaGraft::Need(const std::string& name, std::initializer_list<int64_t> shape) const {
  const Tensor* const tensor = whole_->FindTensor(name);
  if (tensor == nullptr) return {};
  const Tensor wanted(nullptr, DType::kF32, shape);
  if (tensor->dtype != DType::kF32 || tensor->rank != wanted.rank || tensor->shape != wanted.shape) {
    Fail(ErrorCode::kData, whole_->path(), ": tensor ", name, " is ", Info(tensor->dtype).name, " of ",
         ShapeText(*tensor), ", the base has F32 of ", ShapeText(wanted));
  }
  return *tensor;
}

PackedMatrix DeltaGraft::Difference(Tensor tuned, const PackedMatrix& base) const {
  OwnedTensor difference({base.out(), base.in()}), rounded(DType::kBF16, {base.out(), base.in()});
  base.Unpack(model_.pool(), difference.view);
  model_.pool().Run(base.out(), [&](int64_t o, int) {
    float* const to = difference.view.row(o);
    for (int64_t i = 0; i < base.in(); ++i) to[i] = scale_ * (tuned.row(o)[i] - to[i]);
  });
  Convert(model_.pool(), difference.view, rounded.view);
  return PackedMatrix(model_.pool(), rounded.view);
}

void DeltaGraft::ReadNorm(const std::string& name, const std::string& gguf_stem, int layer, NormKind kind,
                          const NormWeights& base) {
  const int64_t width = base.gain.view.size();
  const Tensor gain = Need(name, {width});
  const Tensor bias = base.bias.view ? Need(name + ".bias", {width}) : Tensor();
  if (gain) gguf_names_[gguf_stem + ".weight"] = name;
  if (bias) gguf_names_[gguf_stem + ".bias"] = name + ".bias";
  if (!gain && !bias) return;
  Affine affine = {OwnedTensor({width}), OwnedTensor({width})};
  for (int64_t i = 0; i < width; ++i) {
    const float before = base.gain.view.f32()[i], bias_before = base.bias.view ? base.bias.view.f32()[i] : 0.0f;
    const float after = gain ? before + scale_ * (gain.f32()[i] - before) : before;
    if (before == 0 && after != 0) {
      Fail(ErrorCode::kData, whole_->path(), ": tensor ", name, "[", i, "] is ", after,
           ", where the base's gain is 0: no factor makes one of the other");
    }
    const float factor = before == 0 ? 1 : after / before;
    const float bias_after = bias ? bias_before + scale_ * (bias.f32()[i] - bias_before) : bias_before;
    affine.factor.view.f32()[i] = factor;
    affine.shift.view.f32()[i] = bias_after - factor * bias_before;
  }
  norms_.emplace(std::pair(layer, kind), std::move(affine));
}

DeltaGraft::DeltaGraft(std::unique_ptr<Graft> terms, const std::string& whole, const BaseModel& model, float scale)
    : model_(model), terms_(std::move(terms)), whole_(std::make_shared<SafetensorsFile>(whole)), scale_(scale) {
  const ModelWeights& w = model.weights();
  if (w.config.learned_positions) Fail(ErrorCode::kUsage, whole, ": a delta of a model with learned positions");
  const TensorNames names = NamesOf(w.config, Dialect::kGguf);
  for (int layer = 0; layer < static_cast<int>(w.config.layers); ++layer) {
    const BlockWeights& block = w.blocks[static_cast<size_t>(layer)];
    const std::string ours = "layers." + std::to_string(layer) + ".";
    const auto norm = [&](Role role, NormKind kind, const NormWeights& base) {
      if (base.gain.view) ReadNorm(ours + NormName(kind), names.Stem(role, layer), layer, kind, base);
    };
    norm(Role::kAttentionNorm, NormKind::kAttention, block.attention_norm);
    norm(Role::kAttentionPostNorm, NormKind::kAttentionPost, block.attention_post_norm);
    norm(Role::kFfnNorm, NormKind::kFfn, block.ffn_norm);
    norm(Role::kFfnPostNorm, NormKind::kFfnPost, block.ffn_post_norm);
    norm(Role::kQNorm, NormKind::kQ, block.q_norm);
    norm(Role::kKNorm, NormKind::kK, block.k_norm);
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      const Linear& linear = block.linears[kind];
      const std::string name = ours + SiteName(static_cast<SiteKind>(kind)) + ".bias";
      const Tensor bias = linear.bias.view ? Need(name, {linear.out()}) : Tensor();
      if (!bias) continue;
      const Role role = RoleOf(w.config, {layer, static_cast<SiteKind>(kind)});
      if (!names.Has(role)) {
        Fail(ErrorCode::kUsage, whole_->path(), ": tensor ", name, ": GGUF fuses the biases of ", w.config.family);
      }
      OwnedTensor& difference = biases_[layer * kSiteKinds + kind] = OwnedTensor({linear.out()});
      for (int64_t o = 0; o < linear.out(); ++o) {
        difference.view.f32()[o] = scale_ * (bias.f32()[o] - linear.bias.view.f32()[o]);
      }
      gguf_names_[names.Bias(role, layer)] = name;
    }
  }
  ReadNorm(NormName(NormKind::kFinal), names.Stem(Role::kFinalNorm), static_cast<int>(w.config.layers), NormKind::kFinal,
           w.final_norm);
  const auto matrix = [&](const std::string& name, Role role, const PackedMatrix& base) {
    const Tensor tuned = base ? Need(name, {base.out(), base.in()}) : Tensor();
    if (!tuned) return PackedMatrix();
    gguf_names_[names.Weight(role)] = name;
    return Difference(tuned, base);
  };
  embedding_ = matrix("embedding", Role::kEmbedding, w.embedding);
  head_ = matrix("head", Role::kHead, w.separate_head);
  whole_->CheckIntact();
}

void DeltaGraft::AtEmbedding(const GraftContext& context, std::span<const int32_t> tokens, Tensor x) {
  if (!embedding_) return;
  const float scale = model_.config().embedding_scale;
  context.pool.Run(x.rows(), [&](int64_t row, int) {
    const int32_t token = tokens[static_cast<size_t>(row)];
    if (token < 0) return;
    std::vector<float> values(static_cast<size_t>(x.columns()));
    embedding_.UnpackRow(token, values.data());
    for (int64_t i = 0; i < x.columns(); ++i) x.row(row)[i] += scale * values[static_cast<size_t>(i)];
  });
}

void DeltaGraft::AtNorm(const GraftContext& context, int layer, NormKind kind, Tensor y) {
  const Affine& affine = norms_.at({layer, kind});
  const float *const factor = affine.factor.view.f32(), *const shift = affine.shift.view.f32();
  const int64_t width = affine.factor.view.size();
  context.pool.Run(y.rows(), [&](int64_t row, int) {
    float* const values = y.row(row);
    for (int64_t i = 0; i < y.columns(); ++i) values[i] = values[i] * factor[i % width] + shift[i % width];
  });
}

bool DeltaGraft::ActsAt(Site site) const {
  return (terms_ && terms_->ActsAt(site)) || biases_.contains(site.layer * kSiteKinds + static_cast<int>(site.kind));
}

void DeltaGraft::AtLinear(const GraftContext& context, Site site, Tensor x, Tensor y) {
  if (terms_ && terms_->ActsAt(site)) terms_->AtLinear(context, site, x, y);
  const auto found = biases_.find(site.layer * kSiteKinds + static_cast<int>(site.kind));
  if (found == biases_.end()) return;
  const float* const bias = found->second.view.f32();
  context.pool.Run(y.rows(), [&](int64_t row, int) {
    for (int64_t o = 0; o < y.columns(); ++o) y.row(row)[o] += bias[o];
  });
}

void DeltaGraft::AtHead(const GraftContext& context, Tensor hidden, Tensor logits) {
  Tensor more = context.workspace.New({logits.rows(), logits.columns()});
  const Product product[] = {{head_ ? &head_ : &embedding_, more, nullptr}};
  MatMul(context.pool, context.workspace, context.compute, hidden, product);
  Add(context.pool, more, logits);
}

void DeltaGraft::MergeInto(Site site, Tensor weight) {
  if (terms_ && terms_->ActsAt(site)) terms_->MergeInto(site, weight);
}

OwnedTensor DeltaGraft::MergedWhole(const std::string& gguf_name) const {
  const auto found = gguf_names_.find(gguf_name);
  if (found == gguf_names_.end()) return {};
  if (scale_ != 1) {
    Fail(ErrorCode::kUsage, whole_->path(), ": a delta with whole parameters is merged at scale 1, not ", scale_);
  }
  const Tensor tuned = *whole_->FindTensor(found->second);
  OwnedTensor values = tuned.rank == 1 ? OwnedTensor({tuned.size()}) : OwnedTensor({tuned.rows(), tuned.columns()});
  std::memcpy(values.view.data, tuned.data, static_cast<size_t>(tuned.bytes()));
  return values;
}

void DeltaGraft::Save(const std::string& path) {
  if (terms_) terms_->Save(path);
  std::vector<TensorToWrite> tensors;
  for (const NamedTensor& tensor : whole_->tensors()) {
    tensors.push_back({.name = tensor.name, .view = *whole_->FindTensor(tensor.name)});
  }
  WriteSafetensors(path + kWholeFile, std::move(tensors));
}

}  // namespace cambium
