#include "grafts/adapter.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "cambium/error.h"
#include "grafts/adapter_config.h"

namespace cambium {
namespace {

// AdapterHub's BnConfig with the fields of its named configurations (adapters/configuration/adapter_config.py).
nlohmann::json BnConfig(const GraftOptions& options) {
  const bool houlsby = options.variant == "houlsby", pfeiffer = options.variant == "pfeiffer";
  const bool parallel = options.variant == "parallel", scaled = options.variant == "scaled-parallel";
  if (!houlsby && !pfeiffer && !parallel && !scaled) {
    Fail(ErrorCode::kUsage, "adapter variant is \"", options.variant,
         "\", expected houlsby, pfeiffer, parallel or scaled-parallel");
  }
  if (!(options.reduction > 0)) Fail(ErrorCode::kUsage, "reduction is ", options.reduction, ", expected more than 0");
  const std::string init = options.adapter_init == "zero-up" ? "mam_adapter" : options.adapter_init;
  if (init != "mam_adapter" && init != "bert" && init != "houlsby") {
    Fail(ErrorCode::kUsage, "adapter init is \"", options.adapter_init, "\", expected zero-up, bert or houlsby");
  }
  nlohmann::json scaling = parallel ? 4.0 : 1.0;
  if (scaled) scaling = "learned";
  const std::string known = "relu, swish, gelu, gelu_new, tanh";
  if (!options.activation.empty() && (known + ",").find(options.activation + ",") == std::string::npos) {
    Fail(ErrorCode::kUsage, "activation is \"", options.activation, "\", expected one of ", known);
  }
  const std::string activation = !options.activation.empty() ? options.activation : houlsby ? "swish" : "relu";
  return {{"architecture", nullptr},
          {"mh_adapter", houlsby},
          {"output_adapter", true},
          {"reduction_factor", options.reduction},
          {"non_linearity", activation},
          {"original_ln_before", pfeiffer},
          {"original_ln_after", true},
          {"ln_before", false},
          {"ln_after", false},
          {"init_weights", init},
          {"init_weights_seed", nullptr},
          {"is_parallel", parallel || scaled},
          {"scaling", scaling},
          {"use_gating", false},
          {"residual_before_ln", true},
          {"adapter_residual_before_ln", false},
          {"inv_adapter", nullptr},
          {"inv_adapter_reduction_factor", nullptr},
          {"cross_adapter", false},
          {"leave_out", nlohmann::json::array()},
          {"dropout", 0.0},
          {"phm_layer", false},
          {"phm_dim", 4},
          {"factorized_phm_W", true},
          {"shared_W_phm", false},
          {"shared_phm_rule", true},
          {"factorized_phm_rule", false},
          {"phm_c_init", "normal"},
          {"phm_init_range", 0.0001},
          {"learn_phm", true},
          {"hypercomplex_nonlinearity", "glorot-uniform"},
          {"phm_rank", 1},
          {"phm_bias", true},
          {"stochastic_depth", 0.0}};
}

// Uniform in +-bound, or normal with a spread, cut at two spreads where `cut`.
void Fill(const Philox& noise, uint64_t stream, const std::string& init, int64_t in, Tensor weight) {
  const double bound = 1 / std::sqrt(static_cast<double>(in));
  for (int64_t i = 0; i < weight.size(); ++i) {
    const uint64_t at = static_cast<uint64_t>(i);
    double value;
    if (init == "mam_adapter") {
      value = bound * (2 * noise.Uniform(at, stream) - 1);
    } else if (init == "bert") {
      value = 0.02 * noise.Normal(at, stream);
    } else {
      value = noise.Normal(at, stream);
      for (uint64_t again = 1; std::fabs(value) > 2; ++again) value = noise.Normal(at, stream + (again << 32));
      value *= 0.01;
    }
    weight.f32()[i] = static_cast<float>(value);
  }
}

}  // namespace

AdapterGraft::AdapterGraft(const BaseModel& model, nlohmann::json config, std::string name, std::string layers,
                           float effect)
    : model_(model),
      config_(std::move(config)),
      name_(std::move(name)),
      layers_(std::move(layers)),
      effect_(effect),
      shape_(ShapeOf(config_, "the adapter")) {
  modules_.resize(static_cast<size_t>(2 * model.config().layers));
}

std::string AdapterGraft::KeyOf(int layer, Branch branch) const {
  return layers_ + std::to_string(layer) + (branch == Branch::kAttention ? ".attention" : ".output") +
         "_adapters.adapters." + name_ + ".";
}

AdapterGraft::Module& AdapterGraft::AddModule(int layer, Branch branch, int64_t size) {
  const int64_t hidden = model_.config().hidden;
  std::unique_ptr<Module>& slot = modules_[static_cast<size_t>(2 * layer) + static_cast<size_t>(branch)];
  slot = std::make_unique<Module>();
  Module& m = *slot;
  m.down = OwnedTensor({size, hidden});
  m.down_bias = OwnedTensor({size});
  m.up = OwnedTensor({hidden, size});
  m.up_bias = OwnedTensor({hidden});
  m.scaling = OwnedTensor({1});
  m.scaling.view.f32()[0] = 1;
  OwnedTensor* const tensors[] = {&m.down, &m.down_bias, &m.up, &m.up_bias, &m.scaling};
  const char* const names[] = {"adapter_down.0.weight", "adapter_down.0.bias", "adapter_up.weight", "adapter_up.bias",
                               "scaling"};
  for (int i = 0; i < 5; ++i) {
    m.params[i].name = KeyOf(layer, branch) + names[i];
    m.params[i].value = tensors[i]->view;
    m.params[i].decay = i == 0 || i == 2;
  }
  return m;
}

std::unique_ptr<Graft> AdapterGraft::Make(const GraftOptions& options, BaseModel& model) {
  std::unique_ptr<AdapterGraft> graft(
      new AdapterGraft(model, BnConfig(options), "cambium", HfLayers(model.config()), 1));
  graft->base_ = options.base;
  const std::string init = graft->config_["init_weights"];
  const Philox noise(options.seed);
  for (int layer = 0; layer < static_cast<int>(model.config().layers); ++layer) {
    const int64_t size = SizeOf(graft->config_, model.config().hidden, layer, "the adapter");
    for (const Branch branch : {Branch::kAttention, Branch::kFfn}) {
      if (!(branch == Branch::kAttention ? graft->shape_.attention : graft->shape_.ffn)) continue;
      Module& m = graft->AddModule(layer, branch, size);
      const uint64_t stream = 0x61647000 + static_cast<uint64_t>(4 * layer) + 2 * static_cast<uint64_t>(branch);
      Fill(noise, stream, init, model.config().hidden, m.down.view);
      if (init != "mam_adapter") Fill(noise, stream + 1, init, size, m.up.view);
    }
  }
  return graft;
}

void AdapterGraft::Run(const GraftContext& c, const Module& m, Tensor z, Tensor before, Tensor after, Tensor up) const {
  const Compute compute = c.compute == Compute::kInt8 ? Compute::kF32 : c.compute;
  Gemm(c.pool, c.workspace, compute, false, true, 1, z, m.down.view, 0, before);
  AddBias(c.pool, m.down_bias.view, before);
  Activate(c.pool, shape_.activation, before, after);
  Gemm(c.pool, c.workspace, compute, false, true, 1, after, m.up.view, 0, up);
  AddBias(c.pool, m.up_bias.view, up);
}

void AdapterGraft::Refresh(Module& m) const {
  if (!m.stale) return;
  m.stale = false;
  const Tensor up = m.up.view;
  m.up_rows = OwnedTensor({up.columns(), up.rows()});
  m.scaled_bias = OwnedTensor({up.rows()});
  for (int64_t i = 0; i < up.rows(); ++i) {
    for (int64_t k = 0; k < up.columns(); ++k) m.up_rows.view.row(k)[i] = up.row(i)[k];
    m.scaled_bias.view.f32()[i] = ScaleOf(m) * m.up_bias.view.f32()[i];
  }
}

void AdapterGraft::AfterUpdate() {
  for (const auto& module : modules_) {
    if (module != nullptr) module->stale = true;
  }
}

void AdapterGraft::AtBranch(const GraftContext& c, int layer, Branch branch, Tensor x, Tensor h) {
  Module& m = *Find(layer, branch);
  const Workspace::Mark mark = c.workspace.GetMark();
  Tensor z = shape_.input == Input::kResidual ? x : h;
  if (shape_.input == Input::kSum) {
    z = c.workspace.New({h.rows(), h.columns()});
    Convert(c.pool, h, z);
    Add(c.pool, x, z);
  }
  if (c.tape != nullptr) c.tape->Push(c.pool, z);
  // By the adapter's size and not by the rows, so that a row has the same bits alone and in a batch.
  constexpr int64_t kSmall = 128;
  const int64_t size = m.down_bias.view.size();
  Tensor low = c.workspace.New({h.rows(), size});
  if (c.compute == Compute::kBF16 || size > kSmall) {
    Tensor up = c.workspace.New({h.rows(), h.columns()});
    Run(c, m, z, low, low, up);
    AddScaled(c.pool, ScaleOf(m), up, h);
  } else {
    Refresh(m);
    LowRankDown(c.pool, z, m.down.view, 1, low);
    AddBias(c.pool, m.down_bias.view, low);
    Activate(c.pool, shape_.activation, low, low);
    Scale(c.pool, ScaleOf(m), low);
    LowRankUp(c.pool, low, m.up_rows.view, h);
    AddBias(c.pool, m.scaled_bias.view, h);
  }
  c.workspace.Release(mark);
}

void AdapterGraft::AtBranchBackward(const GraftContext& c, int layer, Branch branch, Tensor dh, Tensor dx) {
  Module& m = *Find(layer, branch);
  const Workspace::Mark mark = c.workspace.GetMark();
  const int64_t rows = dh.rows(), hidden = dh.columns(), size = m.down_bias.view.size();
  const Tensor z = c.tape->PopF32(c.pool, c.workspace);
  Tensor before = c.workspace.New({rows, size}), after = c.workspace.New({rows, size});
  Tensor up = c.workspace.New({rows, hidden}), dlow = c.workspace.New({rows, size});
  Run(c, m, z, before, after, up);
  const float scale = ScaleOf(m);
  const bool train = static_cast<bool>(m.params[0].grad);
  if (train && shape_.learned_scale) {
    double sum = 0;
    for (int64_t i = 0; i < dh.size(); ++i) sum += static_cast<double>(dh.f32()[i]) * static_cast<double>(up.f32()[i]);
    m.params[4].grad.f32()[0] += static_cast<float>(sum) * effect_;
  }
  Convert(c.pool, dh, up);  // becomes the gradient of the adapter's output
  Scale(c.pool, scale, up);
  const auto product = [&](bool ta, Tensor a, Tensor b, float beta, Tensor to) {
    Gemm(c.pool, c.workspace, c.compute, ta, false, 1, a, b, beta, to);
  };
  product(false, up, m.up.view, 0, dlow);
  if (train) {
    product(true, up, after, 1, m.params[2].grad);
    BiasBackward(c.pool, up, m.params[3].grad);
  }
  ActivateBackward(c.pool, shape_.activation, dlow, before, dlow);
  if (train) {
    product(true, dlow, z, 1, m.params[0].grad);
    BiasBackward(c.pool, dlow, m.params[1].grad);
  }
  if (shape_.input != Input::kResidual) product(false, dlow, m.down.view, 1, dh);
  if (shape_.input != Input::kOutput) product(false, dlow, m.down.view, 1, dx);
  c.workspace.Release(mark);
}

void AdapterGraft::VisitParams(const std::function<void(Parameter&)>& visit) {
  for (const auto& module : modules_) {
    if (module == nullptr) continue;
    for (int i = 0; i < (shape_.learned_scale ? 5 : 4); ++i) visit(module->params[i]);
  }
}

int64_t AdapterGraft::LowestLayer() const {
  const auto first = std::find_if(modules_.begin(), modules_.end(), [](const auto& module) { return module != nullptr; });
  return (first - modules_.begin()) / 2;
}

}  // namespace cambium
