#include "model/experts.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace cambium {
namespace {

// Rows as the experts take them: those of one expert side by side, in the pass's order.
struct Routed {
  struct Group {
    int expert;
    int64_t begin, count;  // of the routed rows
  };
  std::vector<int32_t> chosen;  // [rows * used]
  std::vector<int32_t> rows;    // [rows * used] the pass's row of each routed one
  std::vector<int32_t> places;  // [rows * used] where a row's k-th choice lies among the routed ones
  std::vector<Group> groups;    // experts that have rows
  Tensor weights;               // [rows, used]
  int64_t count() const { return static_cast<int64_t>(rows.size()); }
};

Routed RouteRows(BlockRun& run, Tensor logits) {
  const int64_t used = run.config.route.used, rows = logits.rows();
  Routed routed;
  routed.chosen.resize(static_cast<size_t>(rows * used));
  routed.rows.resize(routed.chosen.size());
  routed.places.resize(routed.chosen.size());
  routed.weights = run.workspace.New({rows, used});
  Route(run.pool, run.config.route, logits, routed.chosen, routed.weights);
  std::vector<int64_t> next(static_cast<size_t>(logits.columns()));  // place of each expert's next row
  for (const int32_t expert : routed.chosen) ++next[static_cast<size_t>(expert)];
  int64_t begin = 0;
  for (size_t expert = 0; expert < next.size(); ++expert) {
    const int64_t count = next[expert];
    if (count > 0) routed.groups.push_back({static_cast<int>(expert), begin, count});
    next[expert] = begin;
    begin += count;
  }
  for (size_t i = 0; i < routed.chosen.size(); ++i) {
    const int64_t place = next[static_cast<size_t>(routed.chosen[i])]++;
    routed.places[i] = static_cast<int32_t>(place);
    routed.rows[static_cast<size_t>(place)] = static_cast<int32_t>(static_cast<int64_t>(i) / used);
  }
  return routed;
}

struct ExpertResult {
  SiteKind kind;
  Tensor y;  // [routed rows, out]
};

// The products of x [routed rows, in] with each group's own expert.
void Multiply(BlockRun& run, const ExpertWeights& w, const Routed& routed, Tensor x,
              std::span<const ExpertResult> results) {
  std::vector<Product> products;
  std::vector<RowProducts> groups;
  products.reserve(routed.groups.size() * results.size());
  for (const Routed::Group& group : routed.groups) {
    for (const ExpertResult& result : results) {
      const Linear& linear = w.experts[static_cast<size_t>(group.expert)][result.kind];
      products.push_back(linear.To(result.y.Rows(group.begin, group.count)));
    }
    groups.push_back({group.begin, group.count, std::span(products).last(results.size())});
  }
  MatMulGroups(run.pool, run.workspace, run.pass.compute, x, groups);
}

void MultiplyBackward(BlockRun& run, const ExpertWeights& w, const Routed& routed, SiteKind kind, Tensor dy, Tensor dx,
                      bool add) {
  for (const Routed::Group& group : routed.groups) {
    MatMulBackward(run.pool, run.workspace, run.pass.compute, dy.Rows(group.begin, group.count),
                   w.experts[static_cast<size_t>(group.expert)][kind].w, dx.Rows(group.begin, group.count), add);
  }
}

// The routed rows of an expert that lie in a range of the pass's rows.
Routed::Group Within(const Routed& routed, const Routed::Group& group, const BlockRun::GraftRange& range) {
  const auto first = routed.rows.begin() + group.begin, last = first + group.count;
  const auto begin = std::lower_bound(first, last, range.begin);
  const auto end = std::lower_bound(begin, last, range.begin + range.count);
  return {group.expert, begin - routed.rows.begin(), end - begin};
}

// f(graft, site, first routed row, count) wherever a graft acts, in one order, or in its reverse.
template <class F>
void ForSites(const BlockRun& run, const Routed& routed, int layer, SiteKind kind, bool backward, const F& f) {
  const auto at = [backward](const auto& all, size_t i) -> const auto& { return all[backward ? all.size() - 1 - i : i]; };
  for (size_t r = 0; r < run.graft_ranges.size(); ++r) {
    const BlockRun::GraftRange& range = at(run.graft_ranges, r);
    for (size_t g = 0; g < range.grafts.size(); ++g) {
      Graft* const graft = at(range.grafts, g);
      if (!graft->ActsAtExperts(layer)) continue;
      for (size_t e = 0; e < routed.groups.size(); ++e) {
        const Routed::Group& group = at(routed.groups, e);
        const Site site{layer, kind, group.expert};
        const Routed::Group rows = Within(routed, group, range);
        if (rows.count > 0 && graft->ActsAt(site)) f(graft, site, rows.begin, rows.count);
      }
    }
  }
}

void AtExperts(BlockRun& run, int layer, const Routed& routed, Tensor x, const ExpertResult& result) {
  ForSites(run, routed, layer, result.kind, false, [&](Graft* graft, Site site, int64_t begin, int64_t count) {
    graft->AtLinear(run.context(), site, x.Rows(begin, count), result.y.Rows(begin, count));
  });
}

void AtExpertsBackward(BlockRun& run, int layer, const Routed& routed, SiteKind kind, Tensor x, Tensor dy, Tensor dx) {
  ForSites(run, routed, layer, kind, true, [&](Graft* graft, Site site, int64_t begin, int64_t count) {
    graft->AtLinearBackward(run.context(), site, x.Rows(begin, count), dy.Rows(begin, count), dx.Rows(begin, count));
  });
}

}  // namespace

double WeightsRead(const ModelWeights& weights, int64_t rows) {
  const ModelConfig& c = weights.config;
  if (c.experts == 0) return 1;
  double routed = 0;  // bytes of one expert of every layer
  for (const BlockWeights& block : weights.blocks) {
    if (block.experts == nullptr) continue;
    const ExpertWeights::Expert& one = block.experts->experts.front();
    routed += static_cast<double>(one.gate.w.bytes() + one.up.w.bytes() + one.down.w.bytes());
  }
  const double count = static_cast<double>(c.experts), used = static_cast<double>(c.route.used);
  const int64_t lookup = weights.separate_head ? weights.embedding.bytes() : 0;  // rows of it alone
  const double dense = static_cast<double>(weights.bytes() - lookup) - count * routed;
  const double awake = count * (1 - std::pow(1 - used / count, static_cast<double>(rows)));
  return (dense + awake * routed) / (dense + used * routed);
}

// The router computes in f32 whatever the pass does: a choice must not hang on rounding.
void ExpertsBranch(BlockRun& run, const ExpertWeights& w, int layer, Tensor normed, Tensor h) {
  const ModelConfig& c = run.config;
  Workspace& ws = run.workspace;
  if (w.shared_gate.w) {
    Tensor gate = ws.New({h.rows(), 1});
    const Product product[] = {w.shared_gate.To(gate)};
    MatMul(run.pool, ws, Compute::kF32, normed, product);
    if (run.tape != nullptr) {
      run.tape->PushExact(run.pool, gate);
      run.tape->Push(run.pool, h);
    }
    GateRows(run.pool, gate, h);
  }
  Tensor logits = ws.New({h.rows(), c.experts});
  const Product route[] = {w.router.To(logits)};
  MatMul(run.pool, ws, Compute::kF32, normed, route);
  const Routed routed = RouteRows(run, logits);

  Tensor x = ws.New({routed.count(), c.hidden}), y = ws.New({routed.count(), c.hidden});
  GatherRows(run.pool, normed, routed.rows, x);
  Tensor gate = ws.New({routed.count(), c.expert_ffn}), up = ws.New({routed.count(), c.expert_ffn});
  const ExpertResult opened[] = {{SiteKind::kGate, gate}, {SiteKind::kUp, up}};
  Multiply(run, w, routed, x, opened);
  for (const ExpertResult& result : opened) AtExperts(run, layer, routed, x, result);
  if (run.tape != nullptr) {
    run.tape->PushExact(run.pool, logits);
    run.tape->Push(run.pool, gate);
    run.tape->Push(run.pool, up);
  }
  GatedActivation(run.pool, c.activation, gate, up, up);
  const ExpertResult closed[] = {{SiteKind::kDown, y}};
  Multiply(run, w, routed, up, closed);
  AtExperts(run, layer, routed, up, closed[0]);
  if (run.tape != nullptr) run.tape->Push(run.pool, y);
  AddGathered(run.pool, y, routed.places, routed.weights, h);
}

void ExpertsBranchBackward(BlockRun& run, const ExpertWeights& w, int layer, Tensor normed, Tensor dh, Tensor dnormed) {
  const ModelConfig& c = run.config;
  Workspace& ws = run.workspace;
  Tensor y = run.tape->PopF32(run.pool, ws);
  Tensor up = run.tape->PopF32(run.pool, ws);
  Tensor gate = run.tape->PopF32(run.pool, ws);
  Tensor logits = run.tape->PopF32(run.pool, ws);
  const Routed routed = RouteRows(run, logits);
  const int64_t count = routed.count();

  Tensor dy = ws.New({count, c.hidden}), dweights = ws.New({dh.rows(), c.route.used});
  AddGatheredBackward(run.pool, dh, y, routed.places, routed.weights, dy, dweights);
  Tensor activated = ws.New({count, c.expert_ffn}), dactivated = ws.New({count, c.expert_ffn});
  GatedActivation(run.pool, c.activation, gate, up, activated);
  MultiplyBackward(run, w, routed, SiteKind::kDown, dy, dactivated, false);
  AtExpertsBackward(run, layer, routed, SiteKind::kDown, activated, dy, dactivated);

  Tensor dgate = ws.New({count, c.expert_ffn}), dup = ws.New({count, c.expert_ffn});
  GatedActivationBackward(run.pool, c.activation, dactivated, gate, up, dgate, dup);
  Tensor x = ws.New({count, c.hidden}), dx = ws.New({count, c.hidden});
  GatherRows(run.pool, normed, routed.rows, x);
  MultiplyBackward(run, w, routed, SiteKind::kGate, dgate, dx, false);
  MultiplyBackward(run, w, routed, SiteKind::kUp, dup, dx, true);
  AtExpertsBackward(run, layer, routed, SiteKind::kUp, x, dup, dx);
  AtExpertsBackward(run, layer, routed, SiteKind::kGate, x, dgate, dx);
  AddGathered(run.pool, dx, routed.places, Tensor(), dnormed);

  Tensor dlogits = ws.New({logits.rows(), c.experts});
  RouteBackward(run.pool, c.route, logits, routed.chosen, dweights, dlogits);
  MatMulBackward(run.pool, ws, Compute::kF32, dlogits, w.router.w, dnormed, true);
  if (!w.shared_gate.w) return;
  Tensor shared = run.tape->PopF32(run.pool, ws);
  Tensor shared_gate = run.tape->PopF32(run.pool, ws);
  Tensor dshared_gate = ws.New({dh.rows(), 1});
  GateRowsBackward(run.pool, shared_gate, shared, dh, dshared_gate);
  MatMulBackward(run.pool, ws, Compute::kF32, dshared_gate, w.shared_gate.w, dnormed, true);
}

}  // namespace cambium
