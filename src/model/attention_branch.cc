#include "model/block_parts.h"

namespace cambium {
namespace {

Tensor ByHeads(Tensor x, int64_t heads, int64_t head_dim) {
  return Tensor(x.data, x.dtype, {x.rows(), heads, head_dim});
}

Tensor InvFreq(const BlockRun& run, int layer) {
  return run.config.Slides(layer) && run.inv_freq_sliding ? run.inv_freq_sliding : run.inv_freq;
}
float RopeScale(const BlockRun& run, int layer) {
  return run.config.Slides(layer) && run.inv_freq_sliding ? run.config.rope_scale_sliding : run.config.rope_scale;
}

// The pages of a pass without a cache: one layer's, which every layer writes anew.
KvLayer OwnPages(const BlockRun& run) {
  const int kv_heads = static_cast<int>(run.config.kv_heads), head_dim = static_cast<int>(run.config.head_dim);
  return {run.training_kv, DType::kF32, kv_heads, head_dim, KvLayer::PageBytes(DType::kF32, kv_heads, head_dim)};
}

// Puts a prefix into the first slots of the segments that have one.
void StorePrefix(BlockRun& run, const KvLayer& pages, std::span<const AttentionSegment> segments,
                 const Graft::Kv& prefix) {
  for (const AttentionSegment& segment : segments) {
    if (segment.past == 0) continue;
    const AttentionSegment slots = {segment.pages, 0, 0, segment.past, {}};
    StoreKv(run.pool, pages, {&slots, 1}, prefix.k, prefix.v);
  }
}

// The layer's pages: the cache's, or the pass's own, which then hold the prefix graft's rows too.
KvLayer LayerPages(BlockRun& run, int layer) {
  if (run.pass.kv != nullptr) return run.pass.kv->layer(run.pass.kv_layer + layer - run.first_layer);
  const KvLayer pages = OwnPages(run);
  if (run.prefix_length > 0) StorePrefix(run, pages, run.segments, run.prefix_graft->PrefixKv(layer));
  return pages;
}

// h = the output product of what attention gave.
void Mix(BlockRun& run, const BlockWeights& w, Site site, Tensor out, Tensor h) {
  const Product project[] = {w[site.kind].To(h)};
  MatMul(run.pool, run.workspace, run.pass.compute, out, project);
  const SiteResult mixed[] = {{site.kind, h}};
  AtLinears(run, site.layer, out, mixed);
}

// The gradient of what attention gave, given that of its output product.
Tensor MixBackward(BlockRun& run, const BlockWeights& w, Site site, Tensor out, Tensor dh) {
  Tensor dout = run.workspace.New({out.rows(), out.columns()});
  MatMulBackward(run.pool, run.workspace, run.pass.compute, dh, w[site.kind].w, dout);
  AtLinearBackward(run, site, out, dh, dout);
  return dout;
}

// What backward needs of attention, and what attention gave.
struct Attended {
  Tensor q, k, v, out, lse;
};

void Push(BlockRun& run, const Attended& a) {
  if (run.tape == nullptr) return;
  for (const Tensor& kept : {a.q, a.k, a.v, a.out}) run.tape->Push(run.pool, kept);
  run.tape->PushExact(run.pool, a.lse);
}

Attended Pop(BlockRun& run) {
  Attended a;
  for (Tensor* kept : {&a.lse, &a.out, &a.v, &a.k, &a.q}) *kept = run.tape->PopF32(run.pool, run.workspace);
  return a;
}

// The gradients of q, k and v, given that of attention's result.
Attended Backward(BlockRun& run, int layer, std::span<const AttentionSegment> segments, const Attended& a, Tensor dout,
                  const Graft::Kv& prefix, const Graft::Kv& dprefix) {
  const ModelConfig& c = run.config;
  Workspace& ws = run.workspace;
  Attended d;
  d.q = ws.New({a.q.rows(), a.q.columns()});
  d.k = ws.New({a.k.rows(), a.k.columns()});
  d.v = ws.New({a.v.rows(), a.v.columns()});
  const auto kv = [&](Tensor x) { return ByHeads(x, c.kv_heads, c.head_dim); };
  const auto all = [&](Tensor x) { return ByHeads(x, c.heads, c.head_dim); };
  AttentionBackward(run.pool, ws, c.Shape(layer), segments, all(a.q), kv(a.k), kv(a.v), prefix.k, prefix.v, all(a.out),
                    a.lse, all(dout), all(d.q), kv(d.k), kv(d.v), dprefix.k, dprefix.v);
  return d;
}

// Zeros for the gradient of a prefix of `length` rows; empty where there is none.
Graft::Kv PrefixGradient(BlockRun& run, int64_t length) {
  if (length == 0) return {};
  Graft::Kv d;
  for (Tensor* part : {&d.k, &d.v}) {
    *part = run.workspace.New({length, run.config.kv_heads, run.config.head_dim});
    Scale(run.pool, 0.0f, *part);
  }
  return d;
}

}  // namespace

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

  const Tensor q_heads = ByHeads(q, c.heads, c.head_dim), k_heads = ByHeads(k, c.kv_heads, c.head_dim);
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
  StoreKv(run.pool, pages, run.segments, k_heads, ByHeads(v, c.kv_heads, c.head_dim));
  Attention(run.pool, ws, c.Shape(layer), pages, run.segments, q_heads, ByHeads(out, c.heads, c.head_dim), lse);
  Push(run, {q, k, v, out, lse});
  Mix(run, w, {layer, SiteKind::kO}, out, h);
}

void AttentionBranchBackward(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor dh,
                             Tensor dnormed) {
  const ModelConfig& c = run.config;
  Workspace& ws = run.workspace;
  const Compute compute = run.pass.compute;
  const Attended a = Pop(run);
  const Tensor dout = MixBackward(run, w, {layer, SiteKind::kO}, a.out, dh);
  Graft::Kv prefix;
  if (run.prefix_length > 0) prefix = run.prefix_graft->PrefixKv(layer);
  const Graft::Kv dprefix = PrefixGradient(run, run.prefix_length);
  const Attended d = Backward(run, layer, run.segments, a, dout, prefix, dprefix);
  const Tensor dq = d.q, dk = d.k, dv = d.v;
  const Tensor dq_heads = ByHeads(dq, c.heads, c.head_dim), dk_heads = ByHeads(dk, c.kv_heads, c.head_dim);
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

void MemoryKv(BlockRun& encoder, const BlockWeights& w, int layer, Tensor k, Tensor v) {
  const Product products[] = {w[SiteKind::kCrossK].To(k), w[SiteKind::kCrossV].To(v)};
  MatMul(encoder.pool, encoder.workspace, encoder.pass.compute, encoder.memory, products);
  const SiteResult projected[] = {{SiteKind::kCrossK, k}, {SiteKind::kCrossV, v}};
  AtLinears(encoder, layer, encoder.memory, projected);
}

void CrossBranch(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor h) {
  const ModelConfig& c = run.config;
  Workspace& ws = run.workspace;
  Tensor q = ws.New({normed.rows(), c.heads * c.head_dim}), k, v;
  const Product products[] = {w[SiteKind::kCrossQ].To(q)};
  MatMul(run.pool, ws, run.pass.compute, normed, products);
  const SiteResult projected[] = {{SiteKind::kCrossQ, q}};
  AtLinears(run, layer, normed, projected);

  KvLayer pages;
  if (run.source == nullptr) {
    pages = run.pass.memory->layer(layer - run.first_layer);
  } else {
    pages = OwnPages(run);
    k = ws.New({run.source->memory.rows(), c.kv_heads * c.head_dim});
    v = ws.New({run.source->memory.rows(), c.kv_heads * c.head_dim});
    MemoryKv(*run.source, w, layer, k, v);
    if (run.cross_prefix_length > 0) {
      StorePrefix(run, pages, run.cross_segments, run.prefix_graft->CrossPrefixKv(layer));
    }
    StoreKv(run.pool, pages, run.cross_segments, ByHeads(k, c.kv_heads, c.head_dim),
            ByHeads(v, c.kv_heads, c.head_dim));
  }
  Tensor out = ws.New({normed.rows(), c.heads * c.head_dim});
  Tensor lse = run.tape != nullptr ? ws.New({normed.rows(), c.heads}) : Tensor();
  Attention(run.pool, ws, c.Shape(layer), pages, run.cross_segments, ByHeads(q, c.heads, c.head_dim),
            ByHeads(out, c.heads, c.head_dim), lse);
  Push(run, {q, k, v, out, lse});
  Mix(run, w, {layer, SiteKind::kCrossO}, out, h);
}

void CrossBranchBackward(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor dh, Tensor dnormed) {
  Workspace& ws = run.workspace;
  const Compute compute = run.pass.compute;
  BlockRun& source = *run.source;
  const Attended a = Pop(run);
  const Tensor dout = MixBackward(run, w, {layer, SiteKind::kCrossO}, a.out, dh);
  Graft::Kv prefix;
  if (run.cross_prefix_length > 0) prefix = run.prefix_graft->CrossPrefixKv(layer);
  const Graft::Kv dprefix = PrefixGradient(run, run.cross_prefix_length);
  const Attended d = Backward(run, layer, run.cross_segments, a, dout, prefix, dprefix);
  if (run.cross_prefix_length > 0) run.prefix_graft->CrossPrefixKvBackward(layer, dprefix.k, dprefix.v);

  MatMulBackward(run.pool, ws, compute, d.k, w[SiteKind::kCrossK].w, source.dmemory, true);
  MatMulBackward(run.pool, ws, compute, d.v, w[SiteKind::kCrossV].w, source.dmemory, true);
  AtLinearBackward(source, {layer, SiteKind::kCrossV}, source.memory, d.v, source.dmemory);
  AtLinearBackward(source, {layer, SiteKind::kCrossK}, source.memory, d.k, source.dmemory);
  MatMulBackward(run.pool, ws, compute, d.q, w[SiteKind::kCrossQ].w, dnormed);
  AtLinearBackward(run, {layer, SiteKind::kCrossQ}, normed, d.q, dnormed);
}

}  // namespace cambium
