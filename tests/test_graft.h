#pragma once

// A graft for tests: low-rank terms at every linear, an adapter at every branch, a vector at the embedding, a prefix,
// and the norms' gradients. Written for plainness; the real grafts are elsewhere.

#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "tiny_model.h"

namespace cambium {

struct TestGraftParts {
  bool linears = true, branches = false, embedding = false, norms = false;
  int64_t prefix = 0;
};

class TestGraft : public Graft {
 public:
  TestGraft(const Transformer& model, uint64_t seed, TestGraftParts parts = {}, int64_t rank = 2)
      : config_(model.config()), parts_(parts), rank_(rank) {
    uint64_t stream = 1000;
    const auto add = [&](const std::string& name, std::initializer_list<int64_t> shape, float spread, bool decay) {
      values_.push_back(std::make_unique<OwnedTensor>(tiny_internal::Normals(seed, ++stream, shape, spread)));
      params_.push_back(std::make_unique<Parameter>());
      params_.back()->name = name;
      params_.back()->value = values_.back()->view;
      params_.back()->decay = decay;
      return params_.back().get();
    };
    for (int layer = 0; layer < static_cast<int>(config_.layers); ++layer) {
      Layer l;
      const std::string at = "layer." + std::to_string(layer) + ".";
      for (int kind = 0; parts.linears && kind < kSiteKinds; ++kind) {
        const Linear& linear = model.weights().blocks[static_cast<size_t>(layer)].linears[kind];
        if (!linear.w) continue;
        const std::string name = at + SiteName(static_cast<SiteKind>(kind));
        l.a[kind] = add(name + ".a", {rank, linear.in()}, 0.2f, true);
        l.b[kind] = add(name + ".b", {linear.out(), rank}, 0.2f, true);
      }
      for (int branch = 0; parts.branches && branch < 2; ++branch) {
        l.down[branch] = add(at + "down" + std::to_string(branch), {rank, config_.hidden}, 0.2f, true);
        l.up[branch] = add(at + "up" + std::to_string(branch), {config_.hidden, rank}, 0.2f, true);
      }
      if (parts.prefix > 0) {
        l.k = add(at + "prefix_k", {parts.prefix, config_.kv_heads, config_.head_dim}, 0.5f, true);
        l.v = add(at + "prefix_v", {parts.prefix, config_.kv_heads, config_.head_dim}, 0.5f, true);
      }
      layers_.push_back(l);
    }
    if (parts.embedding) embedding_ = add("embedding", {config_.hidden}, 0.3f, false);
    if (parts.norms) {
      const auto norm = [&](int layer, NormKind kind, int64_t size) {
        norms_.push_back({layer, kind, OwnedTensor({size}), OwnedTensor({size})});
      };
      for (int layer = 0; layer < static_cast<int>(config_.layers); ++layer) {
        for (const NormKind kind : {NormKind::kAttention, NormKind::kFfn}) norm(layer, kind, config_.hidden);
        if (config_.post_norms) {
          for (const NormKind kind : {NormKind::kAttentionPost, NormKind::kFfnPost}) norm(layer, kind, config_.hidden);
        }
        if (config_.qk_norm) {
          for (const NormKind kind : {NormKind::kQ, NormKind::kK}) norm(layer, kind, config_.head_dim);
        }
      }
      norm(static_cast<int>(config_.layers), NormKind::kFinal, config_.hidden);
    }
  }

  std::string kind() const override { return "test"; }

  void AtEmbedding(const GraftContext& context, std::span<const int32_t>, Tensor x) override {
    if (embedding_ != nullptr) AddBias(context.pool, embedding_->value, x);
  }
  void AtEmbeddingBackward(const GraftContext& context, std::span<const int32_t>, Tensor dx) override {
    if (embedding_ != nullptr) BiasBackward(context.pool, dx, embedding_->grad);
  }

  bool ActsAt(Site site) const override { return At(site).a[static_cast<int>(site.kind)] != nullptr; }
  void AtLinear(const GraftContext& c, Site site, Tensor x, Tensor y) override {
    const Layer& l = At(site);
    LowRank(c, l.a[static_cast<int>(site.kind)], l.b[static_cast<int>(site.kind)], x, y);
  }
  void AtLinearBackward(const GraftContext& c, Site site, Tensor x, Tensor dy, Tensor dx) override {
    const Layer& l = At(site);
    LowRankBackward(c, l.a[static_cast<int>(site.kind)], l.b[static_cast<int>(site.kind)], x, dy, dx);
  }

  // h += up down h + up down x: both inputs of an adapter.
  bool ActsAtBranch(int, Branch) const override { return parts_.branches; }
  void AtBranch(const GraftContext& c, int layer, Branch branch, Tensor x, Tensor h) override {
    const Layer& l = layers_[static_cast<size_t>(layer)];
    const int b = static_cast<int>(branch);
    Tensor copy = c.workspace.New({h.rows(), h.columns()});
    Convert(c.pool, h, copy);
    if (c.tape != nullptr) {
      c.tape->Push(c.pool, copy);
      c.tape->Push(c.pool, x);
    }
    LowRank(c, l.down[b], l.up[b], copy, h);
    LowRank(c, l.down[b], l.up[b], x, h);
  }
  void AtBranchBackward(const GraftContext& c, int layer, Branch branch, Tensor dh, Tensor dx) override {
    const Layer& l = layers_[static_cast<size_t>(layer)];
    const int b = static_cast<int>(branch);
    const Tensor x = c.tape->PopF32(c.pool, c.workspace), h = c.tape->PopF32(c.pool, c.workspace);
    Tensor dy = c.workspace.New({dh.rows(), dh.columns()});
    Convert(c.pool, dh, dy);
    LowRankBackward(c, l.down[b], l.up[b], x, dy, dx);
    LowRankBackward(c, l.down[b], l.up[b], h, dy, dh);
  }

  int64_t prefix_length() const override { return parts_.prefix; }
  Kv PrefixKv(int layer) override {
    const Layer& l = layers_[static_cast<size_t>(layer)];
    return {l.k->value, l.v->value};
  }
  void PrefixKvBackward(int layer, Tensor dk, Tensor dv) override {
    const Layer& l = layers_[static_cast<size_t>(layer)];
    for (int64_t i = 0; i < dk.size(); ++i) {
      l.k->grad.f32()[i] += dk.f32()[i];
      l.v->grad.f32()[i] += dv.f32()[i];
    }
  }

  struct NormSlot {
    int layer;
    NormKind kind;
    OwnedTensor dgain, dbias;
  };
  std::vector<NormSlot>& norms() { return norms_; }
  NormGradient NormGradientOf(int layer, NormKind kind) override {
    for (NormSlot& slot : norms_) {
      if (slot.layer == layer && slot.kind == kind) return {slot.dgain.view, slot.dbias.view};
    }
    return {};
  }

  void VisitParams(const std::function<void(Parameter&)>& visit) override {
    for (const auto& param : params_) visit(*param);
  }
  void Save(const std::string& path) override { std::ofstream(path + "/saved") << "test\n"; }

 private:
  struct Layer {
    Parameter *a[kSiteKinds] = {}, *b[kSiteKinds] = {};
    Parameter *down[2] = {}, *up[2] = {}, *k = nullptr, *v = nullptr;
  };
  const Layer& At(Site site) const { return layers_[static_cast<size_t>(site.layer)]; }

  // y += b (a x)
  void LowRank(const GraftContext& c, const Parameter* a, const Parameter* b, Tensor x, Tensor y) const {
    Tensor t = c.workspace.New({x.rows(), rank_});
    Gemm(c.pool, c.workspace, Compute::kF32, false, true, 1, x, a->value, 0, t);
    Gemm(c.pool, c.workspace, Compute::kF32, false, true, 1, t, b->value, 1, y);
  }
  void LowRankBackward(const GraftContext& c, Parameter* a, Parameter* b, Tensor x, Tensor dy, Tensor dx) const {
    Tensor t = c.workspace.New({x.rows(), rank_}), dt = c.workspace.New({x.rows(), rank_});
    Gemm(c.pool, c.workspace, Compute::kF32, false, true, 1, x, a->value, 0, t);
    Gemm(c.pool, c.workspace, Compute::kF32, true, false, 1, dy, t, 1, b->grad);
    Gemm(c.pool, c.workspace, Compute::kF32, false, false, 1, dy, b->value, 0, dt);
    Gemm(c.pool, c.workspace, Compute::kF32, true, false, 1, dt, x, 1, a->grad);
    Gemm(c.pool, c.workspace, Compute::kF32, false, false, 1, dt, a->value, 1, dx);
  }

  ModelConfig config_;
  TestGraftParts parts_;
  int64_t rank_;
  std::vector<std::unique_ptr<OwnedTensor>> values_;
  std::vector<std::unique_ptr<Parameter>> params_;
  std::vector<Layer> layers_;
  Parameter* embedding_ = nullptr;
  std::vector<NormSlot> norms_;
};

}  // namespace cambium
