// The files of AdapterHub's `adapters` (github.com/adapter-hub/adapters, src/adapters/loading.py and methods/modeling.py).
#include <algorithm>
#include <cmath>

#include "cambium/error.h"
#include "grafts/adapter.h"
#include "grafts/adapter_config.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/load.h"

namespace cambium {
namespace {

// Fields that change what an adapter computes, with the value under which they do not.
const std::pair<const char*, nlohmann::json> kNeutral[] = {
    {"ln_before", false}, {"ln_after", false},     {"use_gating", false},
    {"phm_layer", false}, {"inv_adapter", nullptr}, {"cross_adapter", false}};

struct NamedActivation {
  const char* name;  // transformers' (activations.py)
  Activation activation;
};
constexpr NamedActivation kActivations[] = {{"relu", Activation::kRelu},         {"swish", Activation::kSilu},
                                            {"silu", Activation::kSilu},         {"gelu", Activation::kGelu},
                                            {"gelu_new", Activation::kGeluTanh}, {"gelu_pytorch_tanh", Activation::kGeluTanh},
                                            {"tanh", Activation::kTanh}};

[[noreturn]] void Refuse(const nlohmann::json& config, const std::string& path, const char* field, const std::string& why) {
  Fail(ErrorCode::kData, path, ": field \"", field, "\" is ",
       config.contains(field) ? config[field].dump() : "missing", ", ", why);
}

bool Flag(const nlohmann::json& config, const std::string& path, const char* field, bool otherwise) {
  const auto found = config.find(field);
  if (found == config.end() || found->is_null()) return otherwise;
  if (!found->is_boolean()) Refuse(config, path, field, "expected true or false");
  return found->get<bool>();
}

// Families that GGUF calls alike are the same to an adapter.
bool SameFamily(const nlohmann::json& model_type, const ModelConfig& c) {
  const Family* family = model_type.is_string() ? FindFamily(model_type.get<std::string>()) : nullptr;
  return family != nullptr && family->gguf == c.family;
}

}  // namespace

AdapterGraft::Shape AdapterGraft::ShapeOf(const nlohmann::json& config, const std::string& path) {
  for (const auto& [field, neutral] : kNeutral) {
    if (config.contains(field) && config[field] != neutral && !config[field].is_null()) {
      Refuse(config, path, field, "which is not supported");
    }
  }
  Shape shape{};
  shape.attention = Flag(config, path, "mh_adapter", false);
  shape.ffn = Flag(config, path, "output_adapter", false);
  const nlohmann::json name = config.value("non_linearity", nlohmann::json());
  const auto* const found = std::find_if(std::begin(kActivations), std::end(kActivations),
                                         [&](const NamedActivation& entry) { return name == entry.name; });
  if (found == std::end(kActivations)) {
    Refuse(config, path, "non_linearity", "expected relu, swish, silu, gelu, gelu_new, gelu_pytorch_tanh or tanh");
  }
  shape.activation = found->activation;
  const nlohmann::json scaling = config.value("scaling", nlohmann::json(1.0));
  shape.learned_scale = scaling == "learned";
  if (!shape.learned_scale && !scaling.is_number()) Refuse(config, path, "scaling", "expected a number or \"learned\"");
  shape.scale = shape.learned_scale ? 1.0f : scaling.get<float>();

  // On a model whose norms stand before its sub-layers, layer_norm is absent in modeling.py, and of its many residuals
  // x + h must remain.
  const bool after = Flag(config, path, "original_ln_after", true), before = Flag(config, path, "original_ln_before", false);
  if (Flag(config, path, "is_parallel", false)) {
    shape.input = Input::kResidual;
    if (!after) Refuse(config, path, "original_ln_after", "under which the residual stream would be lost");
    return shape;
  }
  shape.input = before ? Input::kSum : Input::kOutput;
  const nlohmann::json residual = config.value("residual_before_ln", nlohmann::json(true));
  if (!residual.is_boolean()) Refuse(config, path, "residual_before_ln", "expected true or false");
  const bool sum_is_residual = before && !residual.get<bool>();
  if (sum_is_residual == after) {
    Refuse(config, path, "original_ln_after", "under which the residual stream would be counted twice or lost");
  }
  return shape;
}

int64_t AdapterGraft::SizeOf(const nlohmann::json& config, int64_t hidden, int layer, const std::string& path) {
  nlohmann::json factor = config.value("reduction_factor", nlohmann::json());
  if (factor.is_object()) {
    const std::string key = std::to_string(layer);
    factor = factor.contains(key) ? factor[key] : factor.value("default", nlohmann::json());
  }
  const double value = factor.is_number() ? factor.get<double>() : 0;
  if (!(value > 0)) Refuse(config, path, "reduction_factor", "expected a number above 0 for layer " + std::to_string(layer));
  const double size = std::floor(static_cast<double>(hidden) / value);
  if (size > 1e6) Refuse(config, path, "reduction_factor", "which makes a bottleneck beyond 1000000");
  return std::max<int64_t>(1, static_cast<int64_t>(size));
}

bool AdapterGraft::Recognises(const std::string& path) {
  const std::optional<AdapterConfig> config = AdapterConfig::Read(path);
  return config && config->Is(AdapterConfig::Dialect::kAdapterHub, "bottleneck");
}

std::unique_ptr<Graft> AdapterGraft::Load(const std::string& path, const BaseModel& model, float scale) {
  const ModelConfig& c = model.config();
  const AdapterConfig config = *AdapterConfig::Read(path);
  const nlohmann::json& whole = config.file();
  const auto refuse = [&](const char* field, const std::string& why) { Refuse(whole, config.path(), field, why); };
  const nlohmann::json hidden = whole.value("hidden_size", nlohmann::json());
  if (hidden != c.hidden) refuse("hidden_size", "this base has " + std::to_string(c.hidden));
  const nlohmann::json type = whole.value("model_type", nlohmann::json());
  if (!SameFamily(type, c)) refuse("model_type", "this base is " + c.family);
  const nlohmann::json name = whole.value("name", nlohmann::json());
  if (!name.is_string()) refuse("name", "expected the adapter's name");
  const Shape shape = ShapeOf(config.fields(), config.path());

  const SafetensorsFile file(config.WeightsPath());
  // A bare LlamaModel has no "model." before its layers.
  std::string layers = HfLayers(c);
  if (!file.tensors().empty() && !file.tensors().front().name.starts_with(layers)) {
    layers.erase(0, layers.find('.') + 1);
  }
  std::unique_ptr<AdapterGraft> graft(
      new AdapterGraft(model, config.fields(), name.get<std::string>(), layers, scale));
  graft->base_ = whole.contains("model_name") && whole["model_name"].is_string() ? whole["model_name"].get<std::string>() : "";
  size_t used = 0;
  std::vector<int64_t> left_out;
  if (const auto list = config.fields().find("leave_out"); list != config.fields().end() && list->is_array()) {
    for (const nlohmann::json& layer : *list) {
      left_out.push_back(WholeNumber(layer, config.path() + ": field \"leave_out\": a layer", INT32_MIN, INT32_MAX));
    }
  }
  for (int layer = 0; layer < static_cast<int>(c.layers); ++layer) {
    if (std::find(left_out.begin(), left_out.end(), layer) != left_out.end()) continue;
    const int64_t size = SizeOf(config.fields(), c.hidden, layer, config.path());
    for (const Branch branch : {Branch::kAttention, Branch::kFfn}) {
      if (!(branch == Branch::kAttention ? shape.attention : shape.ffn)) continue;
      Module& m = graft->AddModule(layer, branch, size);
      for (int i = 0; i < (shape.learned_scale ? 5 : 4); ++i) {
        const Parameter& param = m.params[i];
        const Tensor* const stored = file.FindTensor(param.name);
        if (stored == nullptr) Fail(ErrorCode::kData, file.path(), ": tensor ", param.name, " is missing");
        if (stored->size() != param.value.size() || stored->columns() != param.value.columns()) {
          Fail(ErrorCode::kData, file.path(), ": tensor ", param.name, " is [", stored->rows(), ", ", stored->columns(),
               "], this base and field \"reduction_factor\" want [", param.value.rows(), ", ", param.value.columns(), "]");
        }
        Tensor to = param.value;
        to.rank = stored->rank;
        to.shape = stored->shape;
        Convert(model.pool(), *stored, to);
        ++used;
      }
    }
  }
  file.CheckIntact();
  for (const NamedTensor& tensor : file.tensors()) {
    if (used == file.tensors().size()) break;
    bool known = false;
    graft->VisitParams([&](Parameter& param) { known = known || param.name == tensor.name; });
    if (!known) Fail(ErrorCode::kData, file.path(), ": tensor ", tensor.name, " belongs to no sub-layer of this base");
  }
  return graft;
}

void AdapterGraft::Save(const std::string& path) {
  const ModelConfig& c = model_.config();
  const Family& family = NamesOf(c, Dialect::kHuggingFace).family();
  WriteAdapterConfig(path, {{"config", config_},
                            {"hidden_size", c.hidden},
                            {"model_class", family.hf_class},
                            {"model_name", base_},
                            {"model_type", family.hf_type},
                            {"name", name_},
                            {"version", "adapters.1.3.0"}});
  std::vector<TensorToWrite> tensors;
  VisitParams([&](Parameter& param) { tensors.push_back({.name = param.name, .view = param.value}); });
  WriteSafetensors(path + "/adapter.safetensors", std::move(tensors), {{"format", "pt"}});
}

}  // namespace cambium
