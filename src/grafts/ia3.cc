#include "grafts/ia3.h"

#include <algorithm>
#include <set>

#include "cambium/error.h"
#include "grafts/adapter_config.h"
#include "io/safetensors.h"

namespace cambium {
namespace {

const Linear& LinearAt(const BaseModel& model, Site site) {
  return model.weights().blocks[static_cast<size_t>(site.layer)][site.kind];
}

// y[row] *= factors
void Multiply(ThreadPool& pool, Tensor factors, Tensor y) {
  pool.Run((y.rows() + 15) / 16, [&](int64_t task, int) {
    for (int64_t r = task * 16; r < std::min(y.rows(), (task + 1) * 16); ++r) {
      for (int64_t i = 0; i < y.columns(); ++i) y.row(r)[i] *= factors.f32()[i];
    }
  });
}

}  // namespace

Ia3Graft::Factors& Ia3Graft::Add(Site module, bool input) {
  Factors& f = *factors_.emplace_back(std::make_unique<Factors>());
  f.module = module;
  f.acts = input ? SiteKind::kUp : module.kind;
  f.input = input;
  if (input && !model_.config().gated) {
    Fail(ErrorCode::kUsage, "IA3 on ", SiteName(module.kind), " wants a gated feed-forward part; this base is ",
         model_.config().family);
  }
  f.values = OwnedTensor({LinearAt(model_, {module.layer, f.acts}).out()});
  std::fill_n(f.values.view.f32(), f.values.view.size(), 1.0f);
  f.param.name = HfModule(model_.config(), module) + ".ia3_l";
  f.param.value = f.values.view;
  f.param.decay = false;  // it would draw them to 0, not to the 1 of no effect
  return f;
}

std::unique_ptr<Graft> Ia3Graft::Make(const GraftOptions& options, BaseModel& model) {
  std::unique_ptr<Ia3Graft> graft(new Ia3Graft(model));
  graft->base_ = options.base;
  const std::vector<std::string> targets =
      options.targets.empty() ? std::vector<std::string>{"k_proj", "v_proj", "down_proj"} : options.targets;
  for (const std::string& target : targets) {
    bool known = false;
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      const SiteKind at = static_cast<SiteKind>(kind);
      known = known || (target == SiteName(at) && LinearAt(model, {0, at}).w);
    }
    if (!known) Fail(ErrorCode::kUsage, "target \"", target, "\" is no linear of this model");
  }
  for (int layer = 0; layer < static_cast<int>(model.config().layers); ++layer) {
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      const SiteKind at = static_cast<SiteKind>(kind);
      if (std::find(targets.begin(), targets.end(), SiteName(at)) != targets.end()) {
        graft->Add({layer, at}, at == SiteKind::kDown);
      }
    }
  }
  return graft;
}

bool Ia3Graft::ActsAt(Site site) const {
  return std::any_of(factors_.begin(), factors_.end(), [&](const std::unique_ptr<Factors>& f) {
    return f->module.layer == site.layer && f->acts == site.kind;
  });
}

void Ia3Graft::AtLinear(const GraftContext& context, Site site, Tensor, Tensor y) {
  for (const auto& f : factors_) {
    if (f->module.layer == site.layer && f->acts == site.kind) Multiply(context.pool, f->values.view, y);
  }
}

// With y = l (W x + b), l the product of the factors: dl = sum over rows of dy (W x + b), and dx gets W^T (l - 1) dy besides
// the W^T dy that the base adds.
void Ia3Graft::AtLinearBackward(const GraftContext& c, Site site, Tensor x, Tensor dy, Tensor dx) {
  const Workspace::Mark mark = c.workspace.GetMark();
  const Linear& linear = LinearAt(model_, site);
  Tensor d = c.workspace.New({dy.rows(), dy.columns()}), product = c.workspace.New({dy.rows(), dy.columns()});
  const Product base[] = {linear.To(product)};
  MatMul(c.pool, c.workspace, c.compute, x, base);
  for (int64_t r = 0; r < dy.rows(); ++r) {
    for (int64_t i = 0; i < dy.columns(); ++i) product.row(r)[i] *= dy.row(r)[i];
  }
  Tensor all = c.workspace.New({dy.columns()});
  std::fill_n(all.f32(), all.size(), 1.0f);
  for (const auto& f : factors_) {
    if (f->module.layer != site.layer || f->acts != site.kind) continue;
    Multiply(c.pool, f->values.view, Tensor(all.f32(), {1, all.size()}));
    if (!f->param.grad) continue;
    Convert(c.pool, product, d);
    for (const auto& other : factors_) {
      const bool here = other->module.layer == site.layer && other->acts == site.kind;
      if (here && other != f) Multiply(c.pool, other->values.view, d);
    }
    BiasBackward(c.pool, d, f->param.grad);
  }
  Convert(c.pool, dy, d);
  for (int64_t i = 0; i < all.size(); ++i) all.f32()[i] -= 1;
  Multiply(c.pool, all, d);
  MatMulBackward(c.pool, c.workspace, c.compute, d, linear.w, dx, true);
  c.workspace.Release(mark);
}

void Ia3Graft::VisitParams(const std::function<void(Parameter&)>& visit) {
  for (const auto& f : factors_) visit(f->param);
}

bool Ia3Graft::Recognises(const std::string& path) {
  const std::optional<AdapterConfig> config = AdapterConfig::Read(path);
  return config && config->Is(AdapterConfig::Dialect::kPeft, "IA3");
}

// PEFT's IA3 files (peft/tuners/ia3/layer.py): MODULE.ia3_l is [out, 1], of a feedforward module [1, in].
void Ia3Graft::Save(const std::string& path) {
  std::vector<Site> sites, fed;  // all modules, and those whose inputs are scaled
  std::vector<TensorToWrite> tensors;
  for (const auto& f : factors_) {
    sites.push_back(f->module);
    if (f->input) fed.push_back(f->module);
    const int64_t size = f->values.view.size();
    const Tensor view = f->input ? Tensor(f->values.view.f32(), {1, size}) : Tensor(f->values.view.f32(), {size, 1});
    tensors.push_back({.name = "base_model.model." + f->param.name, .view = view});
  }
  // PEFT's IA3 has no layers_to_transform: modules by their whole names where it would need one.
  const auto names = [&](const std::vector<Site>& of) {
    const nlohmann::json targets = PeftTargets(model_.config(), of);
    if (of.empty() || targets["layers_to_transform"].is_null()) return targets["target_modules"];
    nlohmann::json whole = nlohmann::json::array();
    for (const Site site : of) whole.push_back(HfModule(model_.config(), site));
    return whole;
  };
  WriteAdapterConfig(path, {{"peft_type", "IA3"},
                            {"task_type", task_type_},
                            {"base_model_name_or_path", base_},
                            {"target_modules", names(sites)},
                            {"feedforward_modules", names(fed)},
                            {"fan_in_fan_out", false},
                            {"init_ia3_weights", true},
                            {"modules_to_save", nullptr},
                            {"inference_mode", true}});
  WriteSafetensors(path + "/adapter_model.safetensors", std::move(tensors), {{"format", "pt"}});
}

std::unique_ptr<Graft> Ia3Graft::Load(const std::string& path, const BaseModel& model, float scale) {
  if (scale != 1) Fail(ErrorCode::kUsage, path, ": IA3's factors have no scale, asked for ", scale);
  const AdapterConfig config = *AdapterConfig::Read(path);
  if (const auto saved = config.fields().find("modules_to_save"); saved != config.fields().end() && !saved->is_null()) {
    config.Refuse("modules_to_save", "which is not supported");
  }
  const SafetensorsFile file(config.WeightsPath());
  std::unique_ptr<Ia3Graft> graft(new Ia3Graft(model));
  graft->base_ = config.Text("base_model_name_or_path", "");
  graft->task_type_ = config.Text("task_type", graft->task_type_);
  for (int layer = 0; layer < static_cast<int>(model.config().layers); ++layer) {
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      const Site site{layer, static_cast<SiteKind>(kind)};
      if (!LinearAt(model, site).w) continue;
      const std::string name = "base_model.model." + HfModule(model.config(), site) + ".ia3_l";
      const Tensor* const stored = file.FindTensor(name);
      if (stored == nullptr) continue;
      const Linear& linear = LinearAt(model, site);
      const bool input = stored->rank == 2 && stored->shape[0] == 1 && linear.out() != 1;
      const int64_t wanted = input ? linear.in() : linear.out();
      if (stored->rank != 2 || stored->size() != wanted || (!input && stored->columns() != 1)) {
        Fail(ErrorCode::kData, file.path(), ": ", name, " is [", stored->rows(), ", ", stored->columns(),
             "], this base wants [", linear.out(), ", 1] or [1, ", linear.in(), "]; is it for another base?");
      }
      if (input && site.kind != SiteKind::kDown) {
        config.Refuse("feedforward_modules", "of which only down_proj is supported, and " + name + " is [1, in]");
      }
      Factors& f = graft->Add(site, input);
      Convert(model.pool(), Tensor(stored->data, stored->dtype, {wanted}), f.values.view);
    }
  }
  file.CheckIntact();
  if (graft->factors_.empty()) Fail(ErrorCode::kData, file.path(), ": no tensor of IA3 (MODULE.ia3_l)");
  for (const NamedTensor& tensor : file.tensors()) {
    const bool known = std::any_of(graft->factors_.begin(), graft->factors_.end(), [&](const std::unique_ptr<Factors>& f) {
      return tensor.name == "base_model.model." + f->param.name;
    });
    if (!known) Fail(ErrorCode::kData, file.path(), ": tensor ", tensor.name, " belongs to no linear of this base");
  }
  return graft;
}

}  // namespace cambium
