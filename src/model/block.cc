#include "model/block.h"

#include <algorithm>

#include "model/block_parts.h"

namespace cambium {
namespace {

// f(context, range, graft) for every graft that acts. A row's numbers are the same on one thread as on all (law 2).
template <class Acts, class F>
void ForRanges(BlockRun& run, const Acts& acts, const F& f) {
  const auto any = [&](const BlockRun::GraftRange& range) { return std::ranges::any_of(range.grafts, acts); };
  const auto each = [&](const GraftContext& context, const BlockRun::GraftRange& range) {
    for (Graft* graft : range.grafts) {
      if (acts(graft)) f(context, range, graft);
    }
  };
  if (run.range_threads == nullptr || std::ranges::none_of(run.graft_ranges, any)) {
    for (const BlockRun::GraftRange& range : run.graft_ranges) each(run.context(), range);
    return;
  }
  RangeThreads& threads = *run.range_threads;
  threads.errors.assign(run.graft_ranges.size(), nullptr);
  run.pool.Run(static_cast<int64_t>(run.graft_ranges.size()), [&](int64_t task, int thread) {
    Workspace& workspace = threads.workspaces[static_cast<size_t>(thread)];
    try {
      each({threads.one, workspace, run.pass.compute, nullptr, run.pass.training.noise},
           run.graft_ranges[static_cast<size_t>(task)]);
    } catch (...) {
      threads.errors[static_cast<size_t>(task)] = std::current_exception();
    }
  });
  for (const std::exception_ptr& error : threads.errors) {
    if (error) std::rethrow_exception(error);
  }
}

void AtBranch(BlockRun& run, int layer, Graft::Branch branch, Tensor x, Tensor h) {
  ForRanges(
      run, [&](const Graft* graft) { return graft->ActsAtBranch(layer, branch); },
      [&](const GraftContext& context, const BlockRun::GraftRange& range, Graft* graft) {
        graft->AtBranch(context, layer, branch, x.Rows(range.begin, range.count), h.Rows(range.begin, range.count));
      });
}

// f(range, graft) for every graft that acts, the last first.
template <class Acts, class F>
void ForRangesBackward(BlockRun& run, const Acts& acts, const F& f) {
  for (auto range = run.graft_ranges.rbegin(); range != run.graft_ranges.rend(); ++range) {
    for (auto graft = range->grafts.rbegin(); graft != range->grafts.rend(); ++graft) {
      if (acts(*graft)) f(*range, *graft);
    }
  }
}

void AtBranchBackward(BlockRun& run, int layer, Graft::Branch branch, Tensor dh, Tensor dx) {
  ForRangesBackward(
      run, [&](const Graft* graft) { return graft->ActsAtBranch(layer, branch); },
      [&](const BlockRun::GraftRange& range, Graft* graft) {
        graft->AtBranchBackward(run.context(), layer, branch, dh.Rows(range.begin, range.count),
                                dx.Rows(range.begin, range.count));
      });
}

// The sub-layers share this frame: stream += post_norm(branch(norm(x))), where either norm may be missing, and x is the
// stream itself or, in parallel, what the block began with; with residual norms stream = norm(x + branch(x)).
struct SubLayer {
  Graft::Branch branch;
  const NormWeights& norm;
  NormKind norm_kind;
  const NormWeights& post_norm;
  NormKind post_norm_kind;
  void (*forward)(BlockRun&, const BlockWeights&, int, Tensor, Tensor);
  void (*backward)(BlockRun&, const BlockWeights&, int, Tensor, Tensor, Tensor);
};

SubLayer AttentionSubLayer(const BlockWeights& w) {
  return {Graft::Branch::kAttention, w.attention_norm, NormKind::kAttention,   w.attention_post_norm,
          NormKind::kAttentionPost,  AttentionBranch,  AttentionBranchBackward};
}
SubLayer FfnSubLayer(const BlockWeights& w) {
  return {Graft::Branch::kFfn, w.ffn_norm, NormKind::kFfn,   w.ffn_post_norm,
          NormKind::kFfnPost,  FfnBranch,  FfnBranchBackward};
}

SubLayer CrossSubLayer(const BlockWeights& w) {
  return {Graft::Branch::kCross,    w.cross_norm, NormKind::kCross,   w.attention_post_norm,
          NormKind::kAttentionPost, CrossBranch,  CrossBranchBackward};
}

void RunResidualNorm(BlockRun& run, const BlockWeights& w, int layer, const SubLayer& sub) {
  const Workspace::Mark mark = run.workspace.GetMark();
  Tensor h = run.workspace.New({run.x.rows(), run.x.columns()});
  sub.forward(run, w, layer, run.x, h);
  AtBranch(run, layer, sub.branch, run.x, h);
  if (run.tape != nullptr) run.tape->Push(run.pool, run.x);
  Add(run.pool, h, run.x);
  if (run.tape != nullptr) run.tape->Push(run.pool, run.x);
  ApplyNorm(run, sub.norm, run.x, run.x);
  AtNorm(run, layer, sub.norm_kind, run.x);
  run.workspace.Release(mark);
}

void RunSubLayer(BlockRun& run, const BlockWeights& w, int layer, const SubLayer& sub, Tensor x) {
  if (run.config.residual_norm) return RunResidualNorm(run, w, layer, sub);
  const Workspace::Mark mark = run.workspace.GetMark();
  Tensor normed = x;
  Tensor h = run.workspace.New({x.rows(), x.columns()});
  if (run.config.pre_norms) {
    normed = run.workspace.New({x.rows(), x.columns()});
    ApplyNorm(run, sub.norm, x, normed);
    AtNorm(run, layer, sub.norm_kind, normed);
  }
  sub.forward(run, w, layer, normed, h);
  if (run.config.post_norms) {
    if (run.tape != nullptr) run.tape->Push(run.pool, h);
    ApplyNorm(run, sub.post_norm, h, h);
    AtNorm(run, layer, sub.post_norm_kind, h);
  }
  AtBranch(run, layer, sub.branch, x, h);
  if (run.tape != nullptr) run.tape->Push(run.pool, x);
  AddScaled(run.pool, run.config.residual_scale, h, run.x);
  run.workspace.Release(mark);
}

// Passes dx through its 16-bit storage, so that mixed precision loses here what it would lose in memory.
void RoundGradient(BlockRun& run, Tensor dx) {
  if (run.pass.training.gradient_storage == DType::kF32) return;
  Tensor stored = run.workspace.New(run.pass.training.gradient_storage, {dx.rows(), dx.columns()});
  Convert(run.pool, dx, stored);
  Convert(run.pool, stored, dx);
}

void RunResidualNormBackward(BlockRun& run, const BlockWeights& w, int layer, const SubLayer& sub, Tensor dx) {
  const Workspace::Mark mark = run.workspace.GetMark();
  const int64_t rows = dx.rows(), hidden = dx.columns();
  Tensor sum = run.tape->PopF32(run.pool, run.workspace);
  Tensor dsum = run.workspace.New({rows, hidden});
  NormBackward(run, sub.norm, layer, sub.norm_kind, dx, sum, dsum);
  Tensor x = run.tape->PopF32(run.pool, run.workspace);
  Tensor dh = run.workspace.New({rows, hidden});
  Convert(run.pool, dsum, dh);
  AtBranchBackward(run, layer, sub.branch, dh, dsum);
  sub.backward(run, w, layer, x, dh, dx);
  Add(run.pool, dsum, dx);
  if (run.pass.training.observe_gradient) run.pass.training.observe_gradient(layer, dx);
  RoundGradient(run, dx);
  run.workspace.Release(mark);
}

// Adds the gradient that the branch makes of dstream, the stream's behind it, to dx; the two may be one.
void RunSubLayerBackward(BlockRun& run, const BlockWeights& w, int layer, const SubLayer& sub, Tensor dstream,
                         Tensor dx) {
  if (run.config.residual_norm) return RunResidualNormBackward(run, w, layer, sub, dx);
  const Workspace::Mark mark = run.workspace.GetMark();
  const int64_t rows = dx.rows(), hidden = dx.columns();
  Tensor x = run.tape->PopF32(run.pool, run.workspace);
  Tensor dh = run.workspace.New({rows, hidden});
  Convert(run.pool, dstream, dh);
  if (run.config.residual_scale != 1) Scale(run.pool, run.config.residual_scale, dh);
  AtBranchBackward(run, layer, sub.branch, dh, dx);
  if (run.config.post_norms) {
    Tensor h = run.tape->PopF32(run.pool, run.workspace);
    Tensor d = run.workspace.New({rows, hidden});
    NormBackward(run, sub.post_norm, layer, sub.post_norm_kind, dh, h, d);
    dh = d;
  }
  Tensor normed = x;
  if (run.config.pre_norms) {
    normed = run.workspace.New({rows, hidden});
    ApplyNorm(run, sub.norm, x, normed);
  }
  Tensor dnormed = run.workspace.New({rows, hidden});
  sub.backward(run, w, layer, normed, dh, dnormed);
  if (run.config.pre_norms) {
    NormBackward(run, sub.norm, layer, sub.norm_kind, dnormed, x, dh);
    dnormed = dh;
  }
  Add(run.pool, dnormed, dx);
  if (run.pass.training.observe_gradient) run.pass.training.observe_gradient(layer, dx);
  RoundGradient(run, dx);
  run.workspace.Release(mark);
}

}  // namespace

void ApplyNorm(BlockRun& run, const NormWeights& weights, Tensor x, Tensor y) {
  const float eps = run.config.norm_eps;
  if (run.config.norm == ModelConfig::Norm::kRms) {
    RmsNorm(run.pool, x, weights.gain.view, eps, y);
  } else {
    LayerNorm(run.pool, x, weights.gain.view, weights.bias.view, eps, y);
  }
}

// dx = gradient of ApplyNorm's input x given the gradient dy of its output; statistics are computed again.
void NormBackward(BlockRun& run, const NormWeights& weights, int layer, NormKind kind, Tensor dy, Tensor x, Tensor dx) {
  const Graft::NormGradient grads = run.NormGradientOf(layer, kind);
  const float eps = run.config.norm_eps;
  Tensor y = run.workspace.New({x.rows(), x.columns()});
  Tensor mean = run.workspace.New({x.rows()}), inv = run.workspace.New({x.rows()});
  if (run.config.norm == ModelConfig::Norm::kRms) {
    RmsNorm(run.pool, x, weights.gain.view, eps, y, inv);
    RmsNormBackward(run.pool, dy, x, weights.gain.view, inv, dx, grads.dgain);
  } else {
    LayerNorm(run.pool, x, weights.gain.view, weights.bias.view, eps, y, mean, inv);
    LayerNormBackward(run.pool, dy, x, weights.gain.view, mean, inv, dx, grads.dgain, grads.dbias);
  }
}

// Lets grafts act on the linears of one layer that read x: site by site where backward follows in mirrored order, and
// all of a range's sites at once where ranges run side by side.
void AtLinears(BlockRun& run, int layer, Tensor x, std::span<const SiteResult> results) {
  if (run.tape != nullptr && results.size() > 1) {
    for (size_t i = 0; i < results.size(); ++i) AtLinears(run, layer, x, results.subspan(i, 1));
    return;
  }
  const auto acts = [&](const Graft* graft, const SiteResult& at) { return graft->ActsAt({layer, at.kind}); };
  ForRanges(
      run,
      [&](const Graft* graft) {
        return std::ranges::any_of(results, [&](const SiteResult& at) { return acts(graft, at); });
      },
      [&](const GraftContext& context, const BlockRun::GraftRange& range, Graft* graft) {
        for (const SiteResult& at : results) {
          if (!acts(graft, at)) continue;
          graft->AtLinear(context, {layer, at.kind}, x.Rows(range.begin, range.count),
                          at.y.Rows(range.begin, range.count));
        }
      });
}

void AtLinearBackward(BlockRun& run, Site site, Tensor x, Tensor dy, Tensor dx) {
  ForRangesBackward(
      run, [&](const Graft* graft) { return graft->ActsAt(site); },
      [&](const BlockRun::GraftRange& range, Graft* graft) {
        graft->AtLinearBackward(run.context(), site, x.Rows(range.begin, range.count),
                                dy.Rows(range.begin, range.count), dx.Rows(range.begin, range.count));
      });
}

Graft::NormGradient BlockRun::NormGradientOf(int layer, NormKind kind) const {
  for (const GraftRange& range : graft_ranges) {
    for (Graft* graft : range.grafts) {
      if (const Graft::NormGradient grads = graft->NormGradientOf(layer, kind); grads.dgain) return grads;
    }
  }
  return {};
}

void AtNorm(BlockRun& run, int layer, NormKind kind, Tensor y) {
  for (const BlockRun::GraftRange& range : run.graft_ranges) {
    for (Graft* graft : range.grafts) {
      if (graft->ActsAtNorm(layer, kind)) graft->AtNorm(run.context(), layer, kind, y.Rows(range.begin, range.count));
    }
  }
}

void Block(BlockRun& run, const BlockWeights& weights, int layer) {
  const Workspace::Mark mark = run.workspace.GetMark();
  Tensor input = run.x;
  if (run.config.parallel_residual) {
    input = run.workspace.New({run.x.rows(), run.x.columns()});
    Convert(run.pool, run.x, input);
  }
  RunSubLayer(run, weights, layer, AttentionSubLayer(weights), input);
  if (run.config.cross(layer)) RunSubLayer(run, weights, layer, CrossSubLayer(weights), input);
  RunSubLayer(run, weights, layer, FfnSubLayer(weights), input);
  run.workspace.Release(mark);
}

void BlockBackward(BlockRun& run, const BlockWeights& weights, int layer, Tensor dx) {
  const Workspace::Mark mark = run.workspace.GetMark();
  Tensor dstream = dx;
  if (run.config.parallel_residual) {
    dstream = run.workspace.New({dx.rows(), dx.columns()});
    Convert(run.pool, dx, dstream);
  }
  RunSubLayerBackward(run, weights, layer, FfnSubLayer(weights), dstream, dx);
  if (run.config.cross(layer)) RunSubLayerBackward(run, weights, layer, CrossSubLayer(weights), dstream, dx);
  RunSubLayerBackward(run, weights, layer, AttentionSubLayer(weights), dstream, dx);
  run.workspace.Release(mark);
}

}  // namespace cambium
