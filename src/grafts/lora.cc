#include "grafts/lora.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/random.h"
#include "cambium/error.h"

namespace cambium {
namespace {

std::vector<SiteKind> TargetKinds(const std::vector<std::string>& names, const BlockWeights& block) {
  std::vector<SiteKind> kinds;
  std::string known;
  for (int kind = 0; kind < kSiteKinds; ++kind) {
    if (!block.linears[kind].w) continue;
    const std::string name = SiteName(static_cast<SiteKind>(kind));
    known += (known.empty() ? "" : ", ") + name;
    if (names.empty() || std::find(names.begin(), names.end(), name) != names.end()) {
      kinds.push_back(static_cast<SiteKind>(kind));
    }
  }
  for (const std::string& name : names) {
    const bool found = std::any_of(kinds.begin(), kinds.end(), [&](SiteKind kind) { return SiteName(kind) == name; });
    if (!found) Fail(ErrorCode::kUsage, "target \"", name, "\" is no linear of this model; it has ", known);
  }
  return kinds;
}

}  // namespace

std::unique_ptr<LoraGraft::Term> LoraGraft::MakeTerm(const Transformer& model, Site site, int64_t rank, float scale) {
  const Linear& linear = model.weights().blocks[static_cast<size_t>(site.layer)][site.kind];
  auto term = std::make_unique<Term>();
  term->site = site;
  term->in = linear.in();
  term->out = linear.out();
  term->rank = rank;
  term->scale = scale;
  term->a_values = OwnedTensor({rank, term->in});
  term->b_values = OwnedTensor({term->out, rank});
  const std::string name = "layers." + std::to_string(site.layer) + "." + SiteName(site.kind);
  term->a.name = name + ".lora_A";
  term->b.name = name + ".lora_B";
  term->a.value = term->a_values.view;
  term->b.value = term->b_values.view;
  return term;
}

LoraGraft::LoraGraft(Transformer& model, const GraftOptions& options, std::vector<std::unique_ptr<Term>> terms)
    : model_(model), options_(options), terms_(std::move(terms)) {
  Index();
}

LoraGraft::LoraGraft(const GraftOptions& options, Transformer& model) : model_(model), options_(options) {
  if (options.rank < 1 || options.rank > model.config().hidden) {
    Fail(ErrorCode::kUsage, "rank is ", options.rank, ", expected 1 to ", model.config().hidden);
  }
  if (!(options.dropout >= 0 && options.dropout < 1)) {
    Fail(ErrorCode::kUsage, "dropout is ", options.dropout, ", expected 0 to 1");
  }
  const double rank = static_cast<double>(options.rank);
  const float scale = static_cast<float>(options.alpha / (options.rslora ? std::sqrt(rank) : rank));
  const std::vector<SiteKind> kinds = TargetKinds(options.targets, model.weights().blocks.front());
  const Philox noise(options.seed);
  for (int layer = 0; layer < static_cast<int>(model.config().layers); ++layer) {
    for (const SiteKind kind : kinds) {
      auto term = MakeTerm(model, {layer, kind}, options.rank, scale);
      const double bound = 1 / std::sqrt(static_cast<double>(term->in));
      const uint64_t stream = 0x6c6f7261 + static_cast<uint64_t>(layer * kSiteKinds) + static_cast<uint64_t>(kind);
      for (int64_t i = 0; i < term->a.value.size(); ++i) {
        term->a.value.f32()[i] = static_cast<float>(bound * (2 * noise.Uniform(static_cast<uint64_t>(i), stream) - 1));
      }
      terms_.push_back(std::move(term));
    }
  }
  Index();
}

std::unique_ptr<Graft> LoraGraft::Make(const GraftOptions& options, Transformer& model) {
  return std::make_unique<LoraGraft>(options, model);
}

void LoraGraft::Index() {
  by_site_.assign(static_cast<size_t>(model_.config().layers * kSiteKinds), nullptr);
  for (const auto& term : terms_) {
    by_site_[static_cast<size_t>(term->site.layer * kSiteKinds) + static_cast<size_t>(term->site.kind)] = term.get();
  }
}

// Inverted dropout; the draw of an element depends on the pass's key, the site and the element's place alone, so the
// backward pass draws it again.
void LoraGraft::MaskGradient(const GraftContext& context, const Term& term, Tensor dx) const {
  if (context.noise == 0 || options_.dropout == 0) return;
  const Philox noise(context.noise);
  const float keep = static_cast<float>(1 / (1 - options_.dropout));
  const uint32_t limit = static_cast<uint32_t>(options_.dropout * 4294967295.0);
  const uint64_t stream = static_cast<uint64_t>(term.site.layer * kSiteKinds) + static_cast<uint64_t>(term.site.kind);
  const int64_t columns = dx.columns();
  context.pool.Run(dx.rows(), [&](int64_t row, int) {
    float* const values = dx.row(row);
    for (int64_t i = 0; i < columns; i += 4) {
      const Philox::Block draws = noise(static_cast<uint64_t>(row * columns + i), stream);
      for (int64_t j = i; j < std::min(i + 4, columns); ++j) {
        values[j] = draws[static_cast<size_t>(j - i)] < limit ? 0.0f : values[j] * keep;
      }
    }
  });
}

Tensor LoraGraft::Dropped(const GraftContext& context, const Term& term, Tensor x) const {
  if (context.noise == 0 || options_.dropout == 0) return x;
  Tensor copy = context.workspace.New({x.rows(), x.columns()});
  Convert(context.pool, x, copy);
  MaskGradient(context, term, copy);
  return copy;
}

void LoraGraft::AtLinear(const GraftContext& context, Site site, Tensor x, Tensor y) {
  const Term& term = *Find(site);
  const Workspace::Mark mark = context.workspace.GetMark();
  Tensor low = context.workspace.New({x.rows(), term.rank});
  const Compute compute = context.compute == Compute::kInt8 ? Compute::kF32 : context.compute;
  Gemm(context.pool, context.workspace, compute, false, true, 1, Dropped(context, term, x), term.a.value, 0, low);
  Gemm(context.pool, context.workspace, compute, false, true, term.scale, low, term.b.value, 1, y);
  context.workspace.Release(mark);
}

void LoraGraft::AtLinearBackward(const GraftContext& context, Site site, Tensor x, Tensor dy, Tensor dx) {
  Term& term = *Find(site);
  const Workspace::Mark mark = context.workspace.GetMark();
  Tensor low = context.workspace.New({x.rows(), term.rank}), dlow = context.workspace.New({x.rows(), term.rank});
  const auto product = [&](bool ta, bool tb, float alpha, Tensor a, Tensor b, float beta, Tensor c) {
    Gemm(context.pool, context.workspace, context.compute, ta, tb, alpha, a, b, beta, c);
  };
  const Tensor dropped = Dropped(context, term, x);
  product(false, true, 1, dropped, term.a.value, 0, low);
  product(false, false, term.scale, dy, term.b.value, 0, dlow);
  if (term.a.grad) {
    product(true, false, term.scale, dy, low, 1, term.b.grad);
    product(true, false, 1, dlow, dropped, 1, term.a.grad);
  }
  if (context.noise == 0 || options_.dropout == 0) {
    product(false, false, 1, dlow, term.a.value, 1, dx);
  } else {
    Tensor through = context.workspace.New({dx.rows(), dx.columns()});
    product(false, false, 1, dlow, term.a.value, 0, through);
    MaskGradient(context, term, through);
    Add(context.pool, through, dx);
  }
  context.workspace.Release(mark);
}

void LoraGraft::VisitParams(const std::function<void(Parameter&)>& visit) {
  for (const auto& term : terms_) {
    visit(term->a);
    visit(term->b);
  }
}

int64_t LoraGraft::LowestLayer() const { return terms_.empty() ? model_.config().layers : terms_.front()->site.layer; }

bool LoraGraft::MergeInto(const std::function<Tensor(Site)>& weight) {
  for (const auto& term : terms_) {
    Gemm(model_.pool(), model_.workspace(), Compute::kF32, false, false, term->scale, term->b.value, term->a.value, 1,
         weight(term->site));
  }
  return true;
}

}  // namespace cambium
