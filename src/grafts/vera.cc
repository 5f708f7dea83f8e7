#include "grafts/vera.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/random.h"
#include "cambium/error.h"
#include "grafts/adapter_config.h"
#include "io/safetensors.h"

namespace cambium {
namespace {

constexpr float kInitialD = 0.1f;  // PEFT's d_initial
constexpr uint64_t kStreamA = 0x76657261, kStreamB = 0x76657262;

const Linear& LinearAt(const BaseModel& model, Site site) {
  return model.weights().blocks[static_cast<size_t>(site.layer)][site.kind];
}

// rows[r] *= factors
void Multiply(ThreadPool& pool, Tensor factors, Tensor rows) {
  pool.Run((rows.rows() + 15) / 16, [&](int64_t task, int) {
    for (int64_t r = task * 16; r < std::min(rows.rows(), (task + 1) * 16); ++r) {
      float* const row = rows.row(r);
      for (int64_t i = 0; i < rows.columns(); ++i) row[i] *= factors.f32()[i];
    }
  });
}

// x *= y
void MultiplyAll(ThreadPool& pool, Tensor y, Tensor x) {
  pool.Run(x.rows(), [&](int64_t row, int) {
    for (int64_t i = 0; i < x.columns(); ++i) x.row(row)[i] *= y.row(row)[i];
  });
}

// Uniform with the bound of Kaiming's initialisation as PEFT has it, sqrt(6 / (1 + 5)) / sqrt(columns).
void Randomise(Tensor matrix, uint64_t seed, uint64_t stream) {
  const Philox noise(seed);
  const double bound = 1 / std::sqrt(static_cast<double>(matrix.columns()));
  for (int64_t i = 0; i < matrix.size(); ++i) {
    matrix.f32()[i] = static_cast<float>(bound * (2 * noise.Uniform(static_cast<uint64_t>(i), stream) - 1));
  }
}

void RequireShape(const SafetensorsFile& file, const std::string& name, const Tensor& t, int64_t rows,
                  int64_t columns) {
  if (t.size() == rows * columns && t.columns() == columns) return;
  Fail(ErrorCode::kData, file.path(), ": ", name, " is [", t.rows(), ", ", t.columns(), "], this base and rank want [",
       rows, ", ", columns, "]; is the adapter for another base?");
}

}  // namespace

VeraGraft::Term* VeraGraft::Find(Site site) const {
  const auto found = std::ranges::find_if(terms_, [&](const std::unique_ptr<Term>& term) {
    return term->site.layer == site.layer && term->site.kind == site.kind;
  });
  return found == terms_.end() ? nullptr : found->get();
}

void VeraGraft::SetShared(int64_t rank, int64_t in, int64_t out) {
  a_ = OwnedTensor({rank, in});
  b_ = OwnedTensor({out, rank});
}

VeraGraft::Term& VeraGraft::Add(Site site) {
  Term& term = *terms_.emplace_back(std::make_unique<Term>());
  const Linear& linear = LinearAt(model_, site);
  term.site = site;
  term.d_values = OwnedTensor({a_.view.rows()});
  term.b_values = OwnedTensor({linear.out()});
  std::fill_n(term.d_values.view.f32(), term.d_values.view.size(), kInitialD);
  std::fill_n(term.b_values.view.f32(), term.b_values.view.size(), 0.0f);
  const std::string name = HfModule(model_.config(), site);
  term.d.name = name + ".vera_lambda_d";
  term.b.name = name + ".vera_lambda_b";
  term.d.value = term.d_values.view;
  term.b.value = term.b_values.view;
  return term;
}

std::unique_ptr<Graft> VeraGraft::Make(const GraftOptions& options, BaseModel& model) {
  std::unique_ptr<VeraGraft> graft(new VeraGraft(model));
  graft->base_ = options.base;
  if (options.rank < 1 || options.rank > 65536) {
    Fail(ErrorCode::kUsage, "rank is ", options.rank, ", expected 1 to 65536");
  }
  std::vector<SiteKind> kinds;
  std::string known;
  int64_t in = 0, out = 0;
  for (int kind = 0; kind < kSiteKinds; ++kind) {
    const Linear& linear = model.weights().blocks.front().linears[kind];
    if (!linear.w) continue;
    const std::string name = SiteName(static_cast<SiteKind>(kind));
    known += (known.empty() ? "" : ", ") + name;
    if (!options.targets.empty() && std::ranges::find(options.targets, name) == options.targets.end()) continue;
    kinds.push_back(static_cast<SiteKind>(kind));
    in = std::max(in, linear.in());
    out = std::max(out, linear.out());
  }
  for (const std::string& name : options.targets) {
    const bool found = std::ranges::any_of(kinds, [&](SiteKind kind) { return SiteName(kind) == name; });
    if (!found) Fail(ErrorCode::kUsage, "target \"", name, "\" is no linear of this model; it has ", known);
  }
  graft->SetShared(options.rank, in, out);
  Randomise(graft->a_.view, options.seed, kStreamA);
  Randomise(graft->b_.view, options.seed, kStreamB);
  for (int layer = 0; layer < static_cast<int>(model.config().layers); ++layer) {
    for (const SiteKind kind : kinds) graft->Add({layer, kind});
  }
  return graft;
}

Tensor VeraGraft::DownOf(int64_t in) {
  OwnedTensor& cut = a_cut_[in];
  if (!cut.view) {
    cut = OwnedTensor({a_.view.rows(), in});
    for (int64_t k = 0; k < a_.view.rows(); ++k) std::copy_n(a_.view.row(k), in, cut.view.row(k));
  }
  return cut.view;
}

void VeraGraft::Refresh(Term& term) {
  if (!term.stale) return;
  const Tensor a = DownOf(LinearAt(model_, term.site).in());
  const int64_t rank = a.rows(), out = term.b_values.view.size();
  term.down = OwnedTensor({rank, a.columns()});
  term.up = OwnedTensor({rank, out});
  for (int64_t k = 0; k < rank; ++k) {
    const float d = term.d.value.f32()[k];
    for (int64_t i = 0; i < a.columns(); ++i) term.down.view.row(k)[i] = d * a.row(k)[i];
    for (int64_t o = 0; o < out; ++o) term.up.view.row(k)[o] = term.b.value.f32()[o] * b_.view.row(o)[k];
  }
  term.stale = false;
}

void VeraGraft::AtLinear(const GraftContext& context, Site site, Tensor x, Tensor y) {
  Term& term = *Find(site);
  Refresh(term);
  LowRank(context.pool, context.workspace, x, term.down.view, term.up.view, scale_, y);
}

// With low = A x: dd = sum over rows of low * B^T (b dy), db = sum of dy * B (d low), dx += A^T (d B^T (b dy)).
void VeraGraft::AtLinearBackward(const GraftContext& c, Site site, Tensor x, Tensor dy, Tensor dx) {
  Term& term = *Find(site);
  Refresh(term);
  const Workspace::Mark mark = c.workspace.GetMark();
  const auto product = [&](bool ta, bool tb, float alpha, Tensor a, Tensor b, float beta, Tensor to) {
    Gemm(c.pool, c.workspace, c.compute, ta, tb, alpha, a, b, beta, to);
  };
  const Tensor a = DownOf(x.columns()), b = b_.view.Rows(0, dy.columns());
  const int64_t rank = a.rows();
  Tensor dlow = c.workspace.New({x.rows(), rank});
  product(false, true, scale_, dy, term.up.view, 0, dlow);
  product(false, false, 1, dlow, term.down.view, 1, dx);
  if (term.d.grad) {
    Tensor low = c.workspace.New({x.rows(), rank}), through = c.workspace.New({dy.rows(), dy.columns()});
    product(false, true, 1, x, a, 0, low);
    MultiplyAll(c.pool, low, dlow);
    BiasBackward(c.pool, dlow, term.d.grad);
    Multiply(c.pool, term.d.value, low);
    product(false, true, scale_, low, b, 0, through);
    MultiplyAll(c.pool, dy, through);
    BiasBackward(c.pool, through, term.b.grad);
  }
  c.workspace.Release(mark);
}

void VeraGraft::VisitParams(const std::function<void(Parameter&)>& visit) {
  for (const auto& term : terms_) {
    visit(term->d);
    visit(term->b);
  }
}

void VeraGraft::AfterUpdate() {
  for (const auto& term : terms_) term->stale = true;
}

void VeraGraft::MergeInto(Site site, Tensor weight) {
  Term& term = *Find(site);
  Refresh(term);
  Workspace scratch;
  Gemm(model_.pool(), scratch, Compute::kF32, true, false, scale_, term.up.view, term.down.view, 1, weight);
}

bool VeraGraft::Recognises(const std::string& path) {
  const std::optional<AdapterConfig> config = AdapterConfig::Read(path);
  return config && config->Is(AdapterConfig::Dialect::kPeft, "VERA");
}

// PEFT's (peft/tuners/vera): MODULE.vera_lambda_d [rank], MODULE.vera_lambda_b [out], base_model.vera_A and vera_B.
void VeraGraft::Save(const std::string& path) {
  if (scale_ != 1) Fail(ErrorCode::kUsage, path, ": VeRA's files have no scale, this one has ", scale_);
  std::vector<Site> sites;
  std::vector<TensorToWrite> tensors;
  for (const auto& term : terms_) {
    sites.push_back(term->site);
    for (const Parameter* param : {&term->b, &term->d}) {
      tensors.push_back({.name = "base_model.model." + param->name, .view = param->value});
    }
  }
  tensors.push_back({.name = "base_model.vera_A", .view = a_.view});
  tensors.push_back({.name = "base_model.vera_B", .view = b_.view});
  nlohmann::json config = {{"peft_type", "VERA"},      {"task_type", task_type_}, {"base_model_name_or_path", base_},
                           {"r", a_.view.rows()},      {"d_initial", 0.1},        {"vera_dropout", 0.0},
                           {"projection_prng_key", 0}, {"save_projection", true}, {"bias", "none"},
                           {"fan_in_fan_out", false},  {"init_weights", true},    {"modules_to_save", nullptr},
                           {"inference_mode", true}};
  config.update(PeftTargets(model_.config(), sites));
  WriteAdapterConfig(path, config);
  WriteSafetensors(path + "/adapter_model.safetensors", std::move(tensors), {{"format", "pt"}});
}

std::unique_ptr<Graft> VeraGraft::Load(const std::string& path, const BaseModel& model, float scale) {
  const AdapterConfig config = *AdapterConfig::Read(path);
  if (const auto saved = config.fields().find("modules_to_save"); saved != config.fields().end() && !saved->is_null()) {
    config.Refuse("modules_to_save", "which is not supported");
  }
  if (config.Text("bias", "none") != "none") config.Refuse("bias", "of which only \"none\" is supported");
  if (!config.Bool("save_projection", true)) {
    config.Refuse("save_projection", "and only torch can make the shared matrices again; save the adapter with them");
  }
  const SafetensorsFile file(config.WeightsPath());
  std::unique_ptr<VeraGraft> graft(new VeraGraft(model));
  graft->base_ = config.Text("base_model_name_or_path", "");
  graft->task_type_ = config.Text("task_type", graft->task_type_);
  graft->scale_ = scale;
  const Tensor *const a = file.FindTensor("base_model.vera_A"), *const b = file.FindTensor("base_model.vera_B");
  if (a == nullptr || b == nullptr) Fail(ErrorCode::kData, file.path(), ": no base_model.vera_A or vera_B");
  const int64_t rank = config.Int("r", 256);
  if (rank < 1 || rank != a->rows()) {
    Fail(ErrorCode::kData, config.path(), ": field \"r\" is ", rank, ", vera_A has ", a->rows(), " rows");
  }
  RequireShape(file, "base_model.vera_B", *b, b->rows(), rank);
  graft->SetShared(rank, a->columns(), b->rows());
  Convert(model.pool(), *a, graft->a_.view);
  Convert(model.pool(), *b, graft->b_.view);
  size_t used = 2;
  for (int layer = 0; layer < static_cast<int>(model.config().layers); ++layer) {
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      const Site site{layer, static_cast<SiteKind>(kind)};
      const Linear& linear = LinearAt(model, site);
      if (!linear.w) continue;
      const std::string module = "base_model.model." + HfModule(model.config(), site);
      const Tensor *const d = file.FindTensor(module + ".vera_lambda_d"), *const l = file.FindTensor(module +
                                                                                                     ".vera_lambda_b");
      if (d == nullptr && l == nullptr) continue;
      if (d == nullptr || l == nullptr) {
        Fail(ErrorCode::kData, file.path(), ": ", module, " has only one of vera_lambda_d, vera_lambda_b");
      }
      RequireShape(file, module + ".vera_lambda_d", *d, 1, rank);
      RequireShape(file, module + ".vera_lambda_b", *l, 1, linear.out());
      if (linear.in() > a->columns() || linear.out() > b->rows()) {
        Fail(ErrorCode::kData, file.path(), ": the shared matrices are [", rank, ", ", a->columns(), "] and [",
             b->rows(), ", ", rank, "], ", module, " of this base is [", linear.out(), ", ", linear.in(),
             "]; is the adapter for another?");
      }
      Term& term = graft->Add(site);
      Convert(model.pool(), Tensor(d->data, d->dtype, {rank}), term.d.value);
      Convert(model.pool(), Tensor(l->data, l->dtype, {linear.out()}), term.b.value);
      used += 2;
    }
  }
  file.CheckIntact();
  if (graft->terms_.empty()) Fail(ErrorCode::kData, file.path(), ": no tensor of VeRA (MODULE.vera_lambda_b)");
  if (used == file.tensors().size()) return graft;
  for (const NamedTensor& tensor : file.tensors()) {
    const bool known =
        tensor.name.starts_with("base_model.vera_") ||
        std::ranges::any_of(graft->terms_, [&](const std::unique_ptr<Term>& term) {
          return tensor.name == "base_model.model." + term->d.name || tensor.name == "base_model.model." + term->b.name;
        });
    if (!known) Fail(ErrorCode::kData, file.path(), ": tensor ", tensor.name, " belongs to no linear of this base");
  }
  return graft;
}

}  // namespace cambium
