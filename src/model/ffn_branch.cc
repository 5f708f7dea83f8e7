#include "model/block_parts.h"
#include "model/experts.h"

namespace cambium {
namespace {

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

}  // namespace

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

}  // namespace cambium
