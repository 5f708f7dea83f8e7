#include "grafts/lora.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "base/random.h"
#include "cambium/error.h"
#include "grafts/adapter_config.h"

namespace cambium {
namespace {

// The linears that are asked for: by our name, or by Hugging Face's for the module that holds them.
std::vector<SiteKind> TargetKinds(const std::vector<std::string>& names, const ModelConfig& config,
                                  std::span<const Site> sites) {
  std::vector<SiteKind> kinds;
  std::set<std::string> found;
  std::string known;
  for (int index = 0; index < kSiteKinds; ++index) {
    const SiteKind kind = static_cast<SiteKind>(index);
    if (std::none_of(sites.begin(), sites.end(), [&](const Site& site) { return site.kind == kind; })) continue;
    const std::string ours = SiteName(kind), theirs = TargetName(config, {0, kind});
    for (const std::string& name : {ours, theirs}) {
      if (known.find(name) == std::string::npos) known += (known.empty() ? "" : ", ") + name;
    }
    bool wanted = names.empty();
    for (const std::string& name : names) {
      if (name != ours && name != theirs) continue;
      found.insert(name);
      wanted = true;
    }
    if (wanted) kinds.push_back(kind);
  }
  for (const std::string& name : names) {
    if (found.contains(name)) continue;
    Fail(ErrorCode::kUsage, "target \"", name, "\" is no linear of this model; it has ", known);
  }
  return kinds;
}

double ScaleOf(const GraftOptions& options, double rank, double alpha) {
  return alpha / (options.rslora ? std::sqrt(rank) : rank);
}

// The transpose of b [out, rank].
OwnedTensor Transposed(ThreadPool& pool, Tensor b) {
  OwnedTensor rows({b.columns(), b.rows()});
  pool.Run((b.rows() + 255) / 256, [&](int64_t task, int) {
    for (int64_t o = task * 256; o < std::min(b.rows(), (task + 1) * 256); ++o) {
      for (int64_t k = 0; k < b.columns(); ++k) rows.view.row(k)[o] = b.row(o)[k];
    }
  });
  return rows;
}

}  // namespace

std::unique_ptr<LoraGraft::Term> LoraGraft::MakeTerm(const BaseModel& model, Site site, int64_t rank, float scale) {
  const Linear& linear = Base(model, site);
  auto term = std::make_unique<Term>();
  term->site = site;
  term->in = linear.in();
  term->out = linear.out();
  term->rank = rank;
  term->scale = scale;
  term->a_values = OwnedTensor({rank, term->in});
  term->b_values = OwnedTensor({term->out, rank});
  const std::string expert = site.expert < 0 ? "" : "experts." + std::to_string(site.expert) + ".";
  const std::string name = "layers." + std::to_string(site.layer) + "." + expert + SiteName(site.kind);
  term->a.name = name + ".lora_A";
  term->b.name = name + ".lora_B";
  term->a.value = term->a_values.view;
  term->b.value = term->b_values.view;
  term->magnitude.name = name + ".lora_magnitude_vector";
  term->magnitude.decay = false;
  return term;
}

LoraGraft::LoraGraft(const BaseModel& model, const GraftOptions& options, std::vector<std::unique_ptr<Term>> terms)
    : model_(model), options_(options), terms_(std::move(terms)) {
  IndexTerms();
}

LoraGraft::LoraGraft(const GraftOptions& options, const BaseModel& model) : model_(model), options_(options) {
  if (!(options.dropout >= 0 && options.dropout < 1)) {
    Fail(ErrorCode::kUsage, "dropout is ", options.dropout, ", expected 0 to 1");
  }
  const std::vector<Site> sites = model.weights().sites();
  const std::vector<SiteKind> kinds = TargetKinds(options.targets, model.config(), sites);
  for (const auto* pattern : {&options.rank_pattern, &options.alpha_pattern}) {
    for (const auto& entry : *pattern) {
      const std::string& name = entry.first;  // clang 14 captures no structured bindings
      const bool used =
          std::any_of(kinds.begin(), kinds.end(), [&](SiteKind kind) { return name == SiteName(kind); });
      if (!used) Fail(ErrorCode::kUsage, "pattern \"", name, "\" names no linear that is adapted");
    }
  }
  const auto pattern = [](const std::map<std::string, double>& values, SiteKind kind, double otherwise) {
    const auto found = values.find(SiteName(kind));
    return found == values.end() ? otherwise : found->second;
  };
  const Philox noise(options.seed);
  for (const Site site : sites) {
    // Experts are adapted where their linears are asked for by name: there are many, and each sees few rows.
    const bool expert = site.expert >= 0;
    if ((expert && options.targets.empty()) || std::find(kinds.begin(), kinds.end(), site.kind) == kinds.end()) continue;
    const double rank = pattern(options.rank_pattern, site.kind, static_cast<double>(options.rank));
    const double alpha = pattern(options.alpha_pattern, site.kind, options.alpha);
    if (!(rank >= 1 && rank <= static_cast<double>(model.config().hidden)) || rank != std::floor(rank)) {
      Fail(ErrorCode::kUsage, "rank is ", rank, ", expected 1 to ", model.config().hidden);
    }
    auto term = MakeTerm(model, site, static_cast<int64_t>(rank), static_cast<float>(ScaleOf(options, rank, alpha)));
    const double bound = 1 / std::sqrt(static_cast<double>(term->in));
    const uint64_t stream = 0x6c6f7261 + static_cast<uint64_t>(Index(site));
    for (int64_t i = 0; i < term->a.value.size(); ++i) {
      term->a.value.f32()[i] = static_cast<float>(bound * (2 * noise.Uniform(static_cast<uint64_t>(i), stream) - 1));
    }
    terms_.push_back(std::move(term));
  }
  IndexTerms();
  if (options.pissa) StartFromSingularVectors();
  if (options.dora) {
    for (const auto& term : terms_) AddMagnitude(model, *term);
  }
}

std::unique_ptr<Graft> LoraGraft::Make(const GraftOptions& options, BaseModel& model) {
  return std::make_unique<LoraGraft>(options, model);
}

size_t LoraGraft::Index(Site site) const {
  const int64_t experts = model_.config().experts, kind = static_cast<int64_t>(site.kind);
  const int64_t place = site.expert < 0
                            ? kind
                            : kSiteKinds + (kind - static_cast<int64_t>(SiteKind::kGate)) * experts + site.expert;
  return static_cast<size_t>(site.layer * (kSiteKinds + 3 * experts) + place);
}

void LoraGraft::IndexTerms() {
  const int64_t layers = model_.config().layers;
  by_site_.assign(Index({static_cast<int>(layers), static_cast<SiteKind>(0)}), nullptr);
  at_experts_.assign(static_cast<size_t>(layers), 0);
  for (const auto& term : terms_) {
    by_site_[Index(term->site)] = term.get();
    if (term->site.expert >= 0) at_experts_[static_cast<size_t>(term->site.layer)] = 1;
  }
}

void LoraGraft::AddMagnitude(const BaseModel& model, Term& term) {
  const PackedMatrix& w = Base(model, term.site).w;
  term.squares = OwnedTensor({term.out});
  term.magnitude_values = OwnedTensor({term.out});
  term.magnitude.value = term.magnitude_values.view;
  term.gain = OwnedTensor({term.out});
  term.inv_length = OwnedTensor({term.out});
  model.pool().Run((term.out + 31) / 32, [&](int64_t task, int) {
    std::vector<float> row(static_cast<size_t>(term.in));
    for (int64_t o = task * 32; o < std::min(term.out, (task + 1) * 32); ++o) {
      w.UnpackRow(o, row.data());
      double sum = 0;
      for (const float value : row) sum += double{value} * value;
      term.squares.view.f32()[o] = static_cast<float>(sum);
      term.magnitude.value.f32()[o] = static_cast<float>(std::sqrt(sum));
    }
  });
}

void LoraGraft::Pack(ThreadPool& pool) {
  const auto plain = [](const Term& term) { return !term.magnitude.value && !term.a_start.view; };
  int64_t size = 0;
  for (const auto& term : terms_) {
    if (plain(*term)) size += PackedLowRank::Size(term->in, term->rank, term->out);
  }
  packed_.assign(by_site_.size(), {});
  if (size == 0) return;
  packed_memory_ = OwnedTensor(DType::kF16, {size});
  uint16_t* to = static_cast<uint16_t*>(packed_memory_.view.data);
  for (const auto& term : terms_) {
    if (!plain(*term)) continue;
    Refresh(pool, *term);
    packed_[Index(term->site)] = PackedLowRank(term->a.value, term->b_rows.view, term->scale, to);
    to += PackedLowRank::Size(term->in, term->rank, term->out);
  }
}

void LoraGraft::Refresh(ThreadPool& pool, Term& term) {
  if (!term.stale) return;
  term.stale = false;
  term.b_rows = Transposed(pool, term.b.value);
  if (term.b_start.view) term.b_start_rows = Transposed(pool, term.b_start.view);
  if (!term.magnitude.value) return;
  // |w + s b A|^2 = |w|^2 + 2 s b . (A w) + s^2 b (A A^T) b^T, row by row.
  OwnedTensor products({term.rank, term.out}), gram({term.rank, term.rank});
  Workspace scratch;
  const Product product[] = {{&Base(model_, term.site).w, products.view, nullptr}};
  MatMul(pool, scratch, Compute::kF32, term.a.value, product);
  Gemm(pool, scratch, Compute::kF32, false, true, 1, term.a.value, term.a.value, 0, gram.view);
  const double scale = static_cast<double>(term.scale);
  pool.Run((term.out + 255) / 256, [&](int64_t task, int) {
    for (int64_t o = task * 256; o < std::min(term.out, (task + 1) * 256); ++o) {
      const float* const b = term.b.value.row(o);
      double square = double{term.squares.view.f32()[o]};
      for (int64_t k = 0; k < term.rank; ++k) {
        double sum = 2 * scale * double{products.view.row(k)[o]};
        for (int64_t l = 0; l < term.rank; ++l) sum += scale * scale * double{gram.view.row(k)[l]} * double{b[l]};
        square += double{b[k]} * sum;
      }
      const double length = std::sqrt(std::max(square, 1e-30));
      term.inv_length.view.f32()[o] = static_cast<float>(1 / length);
      term.gain.view.f32()[o] = static_cast<float>(double{term.magnitude.value.f32()[o]} / length);
    }
  });
}

// Inverted dropout; the draw of an element depends on the pass's key, the site and the element's place alone, so the
// backward pass draws it again.
void LoraGraft::MaskGradient(const GraftContext& context, const Term& term, Tensor dx) const {
  if (!Drops(context)) return;
  const Philox noise(context.noise);
  const float keep = static_cast<float>(1 / (1 - options_.dropout));
  const uint32_t limit = static_cast<uint32_t>(options_.dropout * 4294967295.0);
  const uint64_t stream = static_cast<uint64_t>(Index(term.site));
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
  if (!Drops(context)) return x;
  Tensor copy = context.workspace.New({x.rows(), x.columns()});
  Convert(context.pool, x, copy);
  MaskGradient(context, term, copy);
  return copy;
}

// The many-row products of bf16 training go through Gemm; all else through one kernel, so that a row has the same bits
// alone and in a batch.
void LoraGraft::AddTerm(const GraftContext& context, const Term& term, Tensor x, Tensor y) const {
  const auto add = [&](float scale, Tensor a, Tensor b, Tensor b_rows) {
    if (context.compute != Compute::kBF16) return LowRank(context.pool, context.workspace, x, a, b_rows, scale, y);
    Tensor low = context.workspace.New({x.rows(), a.rows()});
    Gemm(context.pool, context.workspace, context.compute, false, true, 1, x, a, 0, low);
    Gemm(context.pool, context.workspace, context.compute, false, true, scale, low, b, 1, y);
  };
  add(term.scale, term.a.value, term.b.value, term.b_rows.view);
  if (term.a_start.view) add(-term.scale, term.a_start.view, term.b_start.view, term.b_start_rows.view);
}

Tensor LoraGraft::BaseProduct(const GraftContext& context, const Term& term, Tensor x) const {
  Tensor y = context.workspace.New({x.rows(), term.out});
  const Product product[] = {{&Base(model_, term.site).w, y, nullptr}};
  MatMul(context.pool, context.workspace, context.compute, x, product);
  return y;
}

void LoraGraft::AtLinear(const GraftContext& context, Site site, Tensor x, Tensor y) {
  if (context.compute == Compute::kInt8) {
    if (packed_.empty()) Pack(context.pool);
    const PackedLowRank& packed = packed_[Index(site)];
    if (packed.values != nullptr) return LowRank(context.pool, context.workspace, x, packed, y);
  }
  Term& term = *Find(site);
  Refresh(context.pool, term);
  const Workspace::Mark mark = context.workspace.GetMark();
  const Tensor dropped = Dropped(context, term, x);
  if (!term.magnitude.value) {
    AddTerm(context, term, dropped, y);
  } else {
    // y += (gain - 1) W x + gain * scale B A x, with W x taken from y where dropout did not change it.
    Tensor change = context.workspace.New({y.rows(), y.columns()});
    Scale(context.pool, 0, change);
    AddTerm(context, term, dropped, change);
    const Tensor base = Drops(context) ? BaseProduct(context, term, dropped) : Tensor();
    const float* const bias = Base(model_, term.site).bias.view.f32();
    const float* const gain = term.gain.view.f32();
    context.pool.Run((y.rows() + 15) / 16, [&](int64_t task, int) {
      for (int64_t r = task * 16; r < std::min(y.rows(), (task + 1) * 16); ++r) {
        float *const to = y.row(r), *const added = change.row(r);
        for (int64_t o = 0; o < term.out; ++o) {
          const float wx = base ? base.row(r)[o] : bias != nullptr ? to[o] - bias[o] : to[o];
          to[o] += (gain[o] - 1) * wx + gain[o] * added[o];
        }
      }
    });
  }
  context.workspace.Release(mark);
}

void LoraGraft::AtLinearBackward(const GraftContext& context, Site site, Tensor x, Tensor dy, Tensor dx) {
  Term& term = *Find(site);
  const Workspace::Mark mark = context.workspace.GetMark();
  const auto product = [&](bool ta, bool tb, float alpha, Tensor a, Tensor b, float beta, Tensor c) {
    Gemm(context.pool, context.workspace, context.compute, ta, tb, alpha, a, b, beta, c);
  };
  const Tensor dropped = Dropped(context, term, x);
  Tensor through = dx;  // gets the gradient of the dropped input
  if (Drops(context)) {
    through = context.workspace.New({dx.rows(), dx.columns()});
    Scale(context.pool, 0, through);
  }
  if (term.magnitude.value) {
    // dmagnitude = sum over rows of dy (W x + scale B A x) / |...|; the base's own share of dx is corrected by gain
    // - 1.
    Tensor result = BaseProduct(context, term, dropped);
    AddTerm(context, term, dropped, result);
    const float* const gain = term.gain.view.f32();
    Tensor scaled = context.workspace.New({dy.rows(), dy.columns()});
    context.pool.Run((dy.rows() + 15) / 16, [&](int64_t task, int) {
      for (int64_t r = task * 16; r < std::min(dy.rows(), (task + 1) * 16); ++r) {
        for (int64_t o = 0; o < term.out; ++o) {
          result.row(r)[o] *= dy.row(r)[o] * term.inv_length.view.f32()[o];
          scaled.row(r)[o] = (gain[o] - 1) * dy.row(r)[o];
        }
      }
    });
    if (term.magnitude.grad) BiasBackward(context.pool, result, term.magnitude.grad);
    MatMulBackward(context.pool, context.workspace, context.compute, scaled, Base(model_, term.site).w, through, true);
    Add(context.pool, dy, scaled);
    dy = scaled;
  }
  Tensor low = context.workspace.New({x.rows(), term.rank}), dlow = context.workspace.New({x.rows(), term.rank});
  product(false, true, 1, dropped, term.a.value, 0, low);
  product(false, false, term.scale, dy, term.b.value, 0, dlow);
  if (term.a.grad) {
    product(true, false, term.scale, dy, low, 1, term.b.grad);
    product(true, false, 1, dlow, dropped, 1, term.a.grad);
  }
  product(false, false, 1, dlow, term.a.value, 1, through);
  if (term.a_start.view) {
    product(false, false, -term.scale, dy, term.b_start.view, 0, dlow);
    product(false, false, 1, dlow, term.a_start.view, 1, through);
  }
  if (Drops(context)) {
    MaskGradient(context, term, through);
    Add(context.pool, through, dx);
  }
  context.workspace.Release(mark);
}

void LoraGraft::VisitParams(const std::function<void(Parameter&)>& visit) {
  for (const auto& term : terms_) {
    visit(term->a);
    visit(term->b);
    if (term->magnitude.value) visit(term->magnitude);
  }
}

void LoraGraft::AfterUpdate() {
  for (const auto& term : terms_) term->stale = true;
  packed_.clear();
}

int64_t LoraGraft::LowestLayer() const { return terms_.empty() ? model_.config().layers : terms_.front()->site.layer; }

void LoraGraft::MergeInto(Site site, Tensor weight) {
  Term& term = *Find(site);
  Refresh(model_.pool(), term);
  Workspace scratch;
  const auto add = [&](float scale, Tensor a, Tensor b) {
    Gemm(model_.pool(), scratch, Compute::kF32, false, false, scale, b, a, 1, weight);
  };
  add(term.scale, term.a.value, term.b.value);
  if (term.a_start.view) add(-term.scale, term.a_start.view, term.b_start.view);
  if (!term.magnitude.value) return;
  // As in AtLinear, the gain is the base's own, and what earlier grafts added is multiplied too.
  const float* const gain = term.gain.view.f32();
  model_.pool().Run((term.out + 31) / 32, [&](int64_t task, int) {
    for (int64_t o = task * 32; o < std::min(term.out, (task + 1) * 32); ++o) {
      for (int64_t i = 0; i < term.in; ++i) weight.row(o)[i] *= gain[o];
    }
  });
}

}  // namespace cambium
