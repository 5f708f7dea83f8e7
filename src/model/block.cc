#include "model/block.h"

#include <algorithm>

#include "model/experts.h"

namespace cambium {
namespace {

void Norm(BlockRun& run, const NormWeights& weights, Tensor x, Tensor y) {
  const float eps = run.config.norm_eps;
  if (run.config.norm == ModelConfig::Norm::kRms) {
    RmsNorm(run.pool, x, weights.gain.view, eps, y);
  } else {
    LayerNorm(run.pool, x, weights.gain.view, weights.bias.view, eps, y);
  }
}

// dx = gradient of Norm's input x given the gradient dy of its output; statistics are computed again.
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

Tensor Heads(Tensor x, int64_t heads, int64_t head_dim) { return Tensor(x.data, x.dtype, {x.rows(), heads, head_dim}); }

Tensor InvFreq(const BlockRun& run, int layer) {
  return run.config.Slides(layer) && run.inv_freq_sliding ? run.inv_freq_sliding : run.inv_freq;
}
float RopeScale(const BlockRun& run, int layer) {
  return run.config.Slides(layer) && run.inv_freq_sliding ? run.config.rope_scale_sliding : run.config.rope_scale;
}

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

struct SiteResult {
  SiteKind kind;
  Tensor y;
};

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
  for (auto range = run.graft_ranges.rbegin(); range != run.graft_ranges.rend(); ++range) {
    for (auto graft = range->grafts.rbegin(); graft != range->grafts.rend(); ++graft) {
      if ((*graft)->ActsAt(site)) {
        (*graft)->AtLinearBackward(run.context(), site, x.Rows(range->begin, range->count),
                                   dy.Rows(range->begin, range->count), dx.Rows(range->begin, range->count));
      }
    }
  }
}

void AtBranch(BlockRun& run, int layer, Graft::Branch branch, Tensor x, Tensor h) {
  ForRanges(
      run, [&](const Graft* graft) { return graft->ActsAtBranch(layer, branch); },
      [&](const GraftContext& context, const BlockRun::GraftRange& range, Graft* graft) {
        graft->AtBranch(context, layer, branch, x.Rows(range.begin, range.count), h.Rows(range.begin, range.count));
      });
}

void AtBranchBackward(BlockRun& run, int layer, Graft::Branch branch, Tensor dh, Tensor dx) {
  for (auto range = run.graft_ranges.rbegin(); range != run.graft_ranges.rend(); ++range) {
    for (auto graft = range->grafts.rbegin(); graft != range->grafts.rend(); ++graft) {
      if ((*graft)->ActsAtBranch(layer, branch)) {
        (*graft)->AtBranchBackward(run.context(), layer, branch, dh.Rows(range->begin, range->count),
                                   dx.Rows(range->begin, range->count));
      }
    }
  }
}

// The layer's pages: the cache's, or the one training layer, which then holds the prefix graft's rows too.
KvLayer LayerPages(BlockRun& run, int layer) {
  if (run.pass.kv != nullptr) return run.pass.kv->layer(run.pass.kv_layer + layer);
  const ModelConfig& c = run.config;
  const int kv_heads = static_cast<int>(c.kv_heads), head_dim = static_cast<int>(c.head_dim);
  const KvLayer pages = {run.training_kv, DType::kF32, kv_heads, head_dim,
                         KvLayer::PageBytes(DType::kF32, kv_heads, head_dim)};
  if (run.prefix_length > 0) {
    const Graft::Kv prefix = run.prefix_graft->PrefixKv(layer);
    for (const AttentionSegment& segment : run.segments) {
      if (segment.past == 0) continue;
      const AttentionSegment slots = {segment.pages, 0, 0, run.prefix_length, {}};
      StoreKv(run.pool, pages, {&slots, 1}, prefix.k, prefix.v);
    }
  }
  return pages;
}

// h [rows, hidden] = attention branch of the normed input.
void AttentionBranch(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor h) {
  const ModelConfig& c = run.config;
  Workspace& ws = run.workspace;
  const int64_t rows = normed.rows();
  Tensor q = ws.New({rows, c.heads * c.head_dim});
  Tensor k = ws.New({rows, c.kv_heads * c.head_dim});
  Tensor v = ws.New({rows, c.kv_heads * c.head_dim});
  const Product products[] = {w[SiteKind::kQ].To(q), w[SiteKind::kK].To(k), w[SiteKind::kV].To(v)};
  MatMul(run.pool, ws, run.pass.compute, normed, products);
  const SiteResult projected[] = {{SiteKind::kQ, q}, {SiteKind::kK, k}, {SiteKind::kV, v}};
  AtLinears(run, layer, normed, projected);

  const Tensor q_heads = Heads(q, c.heads, c.head_dim), k_heads = Heads(k, c.kv_heads, c.head_dim);
  if (c.qk_norm) {
    if (run.tape != nullptr) {
      run.tape->Push(run.pool, q);
      run.tape->Push(run.pool, k);
    }
    const Tensor q_normed = c.wide_qk_norm ? q : q_heads, k_normed = c.wide_qk_norm ? k : k_heads;
    RmsNorm(run.pool, q_normed, w.q_norm.gain.view, c.norm_eps, q_normed);
    RmsNorm(run.pool, k_normed, w.k_norm.gain.view, c.norm_eps, k_normed);
    AtNorm(run, layer, NormKind::kQ, q);
    AtNorm(run, layer, NormKind::kK, k);
  }
  if (c.rope) {
    Rope(run.pool, q_heads, run.pass.positions, InvFreq(run, layer), RopeScale(run, layer));
    Rope(run.pool, k_heads, run.pass.positions, InvFreq(run, layer), RopeScale(run, layer));
  }

  const KvLayer pages = LayerPages(run, layer);
  Tensor out = ws.New({rows, c.heads * c.head_dim});
  Tensor lse = run.tape != nullptr ? ws.New({rows, c.heads}) : Tensor();
  StoreKv(run.pool, pages, run.segments, k_heads, Heads(v, c.kv_heads, c.head_dim));
  Attention(run.pool, ws, c.Shape(layer), pages, run.segments, q_heads, Heads(out, c.heads, c.head_dim), lse);
  if (run.tape != nullptr) {
    run.tape->Push(run.pool, q);
    run.tape->Push(run.pool, k);
    run.tape->Push(run.pool, v);
    run.tape->Push(run.pool, out);
    run.tape->PushExact(run.pool, lse);
  }

  const Product project[] = {w[SiteKind::kO].To(h)};
  MatMul(run.pool, ws, run.pass.compute, out, project);
  const SiteResult mixed[] = {{SiteKind::kO, h}};
  AtLinears(run, layer, out, mixed);
}

// dnormed = gradient of the normed input, given dh.
void AttentionBranchBackward(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor dh,
                             Tensor dnormed) {
  const ModelConfig& c = run.config;
  Workspace& ws = run.workspace;
  const Compute compute = run.pass.compute;
  const int64_t rows = normed.rows();
  Tensor lse = run.tape->PopF32(run.pool, ws);
  Tensor out = run.tape->PopF32(run.pool, ws);
  Tensor v = run.tape->PopF32(run.pool, ws);
  Tensor k = run.tape->PopF32(run.pool, ws);
  Tensor q = run.tape->PopF32(run.pool, ws);

  Tensor dout = ws.New({rows, c.heads * c.head_dim});
  MatMulBackward(run.pool, ws, compute, dh, w[SiteKind::kO].w, dout);
  AtLinearBackward(run, {layer, SiteKind::kO}, out, dh, dout);

  Tensor dq = ws.New({rows, c.heads * c.head_dim});
  Tensor dk = ws.New({rows, c.kv_heads * c.head_dim});
  Tensor dv = ws.New({rows, c.kv_heads * c.head_dim});
  const Tensor dq_heads = Heads(dq, c.heads, c.head_dim), dk_heads = Heads(dk, c.kv_heads, c.head_dim);
  Graft::Kv prefix, dprefix;
  if (run.prefix_length > 0) {
    prefix = run.prefix_graft->PrefixKv(layer);
    dprefix.k = ws.New({run.prefix_length, c.kv_heads, c.head_dim});
    dprefix.v = ws.New({run.prefix_length, c.kv_heads, c.head_dim});
    Scale(run.pool, 0.0f, dprefix.k);
    Scale(run.pool, 0.0f, dprefix.v);
  }
  AttentionBackward(run.pool, ws, c.Shape(layer), run.segments, Heads(q, c.heads, c.head_dim),
                    Heads(k, c.kv_heads, c.head_dim), Heads(v, c.kv_heads, c.head_dim), prefix.k, prefix.v,
                    Heads(out, c.heads, c.head_dim), lse, Heads(dout, c.heads, c.head_dim), dq_heads, dk_heads,
                    Heads(dv, c.kv_heads, c.head_dim), dprefix.k, dprefix.v);
  if (run.prefix_length > 0) run.prefix_graft->PrefixKvBackward(layer, dprefix.k, dprefix.v);

  if (c.rope) {
    RopeBackward(run.pool, dq_heads, run.pass.positions, InvFreq(run, layer), RopeScale(run, layer));
    RopeBackward(run.pool, dk_heads, run.pass.positions, InvFreq(run, layer), RopeScale(run, layer));
  }
  if (c.qk_norm) {
    const Tensor k_raw = run.tape->PopF32(run.pool, ws), q_raw = run.tape->PopF32(run.pool, ws);
    const auto head_norm_backward = [&](const NormWeights& norm, NormKind kind, Tensor raw, Tensor d) {
      const int64_t width = norm.gain.view.size(), count = raw.size() / width;
      Tensor y = ws.New({count, width}), inv = ws.New({count}), dx = ws.New({count, width});
      const Tensor flat = Tensor(raw.f32(), {count, width}), dy = Tensor(d.f32(), {count, width});
      RmsNorm(run.pool, flat, norm.gain.view, c.norm_eps, y, inv);
      RmsNormBackward(run.pool, dy, flat, norm.gain.view, inv, dx, run.NormGradientOf(layer, kind).dgain);
      Convert(run.pool, dx, dy);
    };
    head_norm_backward(w.k_norm, NormKind::kK, k_raw, dk_heads);
    head_norm_backward(w.q_norm, NormKind::kQ, q_raw, dq_heads);
  }

  MatMulBackward(run.pool, ws, compute, dq, w[SiteKind::kQ].w, dnormed);
  MatMulBackward(run.pool, ws, compute, dk, w[SiteKind::kK].w, dnormed, true);
  MatMulBackward(run.pool, ws, compute, dv, w[SiteKind::kV].w, dnormed, true);
  AtLinearBackward(run, {layer, SiteKind::kV}, normed, dv, dnormed);
  AtLinearBackward(run, {layer, SiteKind::kK}, normed, dk, dnormed);
  AtLinearBackward(run, {layer, SiteKind::kQ}, normed, dq, dnormed);
}

// h [rows, hidden] = feed-forward layer of the normed input.
void Ffn(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor h) {
  const ModelConfig& c = run.config;
  const int64_t width = w[SiteKind::kUp].out();
  Workspace& ws = run.workspace;
  Tensor up = ws.New({normed.rows(), width});
  Tensor activated = up;
  if (c.gated) {
    Tensor gate = ws.New({normed.rows(), width});
    const Product products[] = {w[SiteKind::kGate].To(gate), w[SiteKind::kUp].To(up)};
    MatMul(run.pool, ws, run.pass.compute, normed, products);
    const SiteResult opened[] = {{SiteKind::kGate, gate}, {SiteKind::kUp, up}};
    AtLinears(run, layer, normed, opened);
    if (run.tape != nullptr) {
      run.tape->Push(run.pool, gate);
      run.tape->Push(run.pool, up);
    }
    GatedActivation(run.pool, c.activation, gate, up, activated);
  } else {
    const Product products[] = {w[SiteKind::kUp].To(up)};
    MatMul(run.pool, ws, run.pass.compute, normed, products);
    const SiteResult opened[] = {{SiteKind::kUp, up}};
    AtLinears(run, layer, normed, opened);
    if (run.tape != nullptr) run.tape->Push(run.pool, up);
    Activate(run.pool, c.activation, up, activated);
  }
  const Product project[] = {w[SiteKind::kDown].To(h)};
  MatMul(run.pool, ws, run.pass.compute, activated, project);
  const SiteResult closed[] = {{SiteKind::kDown, h}};
  AtLinears(run, layer, activated, closed);
}

void FfnBackward(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor dh, Tensor dnormed) {
  const ModelConfig& c = run.config;
  const int64_t width = w[SiteKind::kUp].out();
  Workspace& ws = run.workspace;
  const Compute compute = run.pass.compute;
  Tensor up = run.tape->PopF32(run.pool, ws);
  Tensor gate = c.gated ? run.tape->PopF32(run.pool, ws) : Tensor();
  Tensor activated = ws.New({normed.rows(), width});
  if (c.gated) {
    GatedActivation(run.pool, c.activation, gate, up, activated);
  } else {
    Activate(run.pool, c.activation, up, activated);
  }

  Tensor dactivated = ws.New({normed.rows(), width});
  MatMulBackward(run.pool, ws, compute, dh, w[SiteKind::kDown].w, dactivated);
  AtLinearBackward(run, {layer, SiteKind::kDown}, activated, dh, dactivated);

  Tensor dup = ws.New({normed.rows(), width});
  if (c.gated) {
    Tensor dgate = ws.New({normed.rows(), width});
    GatedActivationBackward(run.pool, c.activation, dactivated, gate, up, dgate, dup);
    MatMulBackward(run.pool, ws, compute, dgate, w[SiteKind::kGate].w, dnormed);
    MatMulBackward(run.pool, ws, compute, dup, w[SiteKind::kUp].w, dnormed, true);
    AtLinearBackward(run, {layer, SiteKind::kUp}, normed, dup, dnormed);
    AtLinearBackward(run, {layer, SiteKind::kGate}, normed, dgate, dnormed);
  } else {
    ActivateBackward(run.pool, c.activation, dactivated, up, dup);
    MatMulBackward(run.pool, ws, compute, dup, w[SiteKind::kUp].w, dnormed);
    AtLinearBackward(run, {layer, SiteKind::kUp}, normed, dup, dnormed);
  }
}

// h [rows, hidden] = feed-forward branch of the normed input.
void FfnBranch(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor h) {
  if (w[SiteKind::kUp].w) {
    Ffn(run, w, layer, normed, h);
  } else {
    Scale(run.pool, 0.0f, h);
  }
  if (w.experts != nullptr) ExpertsBranch(run, *w.experts, layer, normed, h);
}

void FfnBranchBackward(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor dh, Tensor dnormed) {
  if (w.experts == nullptr) return FfnBackward(run, w, layer, normed, dh, dnormed);
  Tensor routed = run.workspace.New({normed.rows(), normed.columns()});
  Scale(run.pool, 0.0f, routed);
  ExpertsBranchBackward(run, *w.experts, layer, normed, dh, routed);
  if (!w[SiteKind::kUp].w) return Convert(run.pool, routed, dnormed);
  FfnBackward(run, w, layer, normed, dh, dnormed);
  Add(run.pool, routed, dnormed);
}

// The two sub-layers share this frame: stream += post_norm(branch(norm(x))), where either norm may be missing, and x is
// the stream itself or, in parallel, what the block began with.
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

void RunSubLayer(BlockRun& run, const BlockWeights& w, int layer, const SubLayer& sub, Tensor x) {
  const Workspace::Mark mark = run.workspace.GetMark();
  Tensor normed = x;
  Tensor h = run.workspace.New({x.rows(), x.columns()});
  if (run.config.pre_norms) {
    normed = run.workspace.New({x.rows(), x.columns()});
    Norm(run, sub.norm, x, normed);
    AtNorm(run, layer, sub.norm_kind, normed);
  }
  sub.forward(run, w, layer, normed, h);
  if (run.config.post_norms) {
    if (run.tape != nullptr) run.tape->Push(run.pool, h);
    Norm(run, sub.post_norm, h, h);
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

// Adds the gradient that the branch makes of dstream, the stream's behind it, to dx; the two may be one.
void RunSubLayerBackward(BlockRun& run, const BlockWeights& w, int layer, const SubLayer& sub, Tensor dstream,
                         Tensor dx) {
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
    Norm(run, sub.norm, x, normed);
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
  RunSubLayerBackward(run, weights, layer, AttentionSubLayer(weights), dstream, dx);
  run.workspace.Release(mark);
}

}  // namespace cambium
