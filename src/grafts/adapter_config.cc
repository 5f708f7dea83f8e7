#include "grafts/adapter_config.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "io/atomic_file.h"
#include "io/json.h"
#include "model/load.h"

namespace cambium {

AdapterConfig::AdapterConfig(std::string path, nlohmann::json json) : path_(std::move(path)), json_(std::move(json)) {
  const auto text = [](const nlohmann::json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  if (json_.contains("peft_type")) {
    dialect_ = Dialect::kPeft;
    kind_ = text(json_, "peft_type");
  } else if (json_.contains("fine_tune_type") || json_.contains("lora_parameters")) {
    dialect_ = Dialect::kMlx;
    kind_ = text(json_, "fine_tune_type");
    if (kind_.empty()) kind_ = "lora";
  } else if (json_.contains("config") && json_["config"].is_object()) {
    dialect_ = Dialect::kAdapterHub;
    kind_ = text(json_["config"], "architecture");
    if (kind_.empty()) kind_ = "bottleneck";
  }
}

std::optional<AdapterConfig> AdapterConfig::Read(const std::string& directory) {
  const std::string path = directory + "/adapter_config.json";
  if (!std::filesystem::exists(path)) return std::nullopt;
  nlohmann::json json = ParseJson(ReadTextFile(path), path);
  if (!json.is_object()) Fail(ErrorCode::kData, path, ": not a JSON object");
  return AdapterConfig(path, std::move(json));
}

std::string AdapterConfig::WeightsPath() const {
  struct Weights {
    Dialect dialect;
    const char *library, *field, *file, *pickle;
  };
  constexpr Weights kWeights[] = {
      {Dialect::kPeft, "PEFT", "peft_type", "adapter_model.safetensors", "adapter_model.bin"},
      {Dialect::kAdapterHub, "AdapterHub", "config", "adapter.safetensors", "pytorch_adapter.bin"},
      {Dialect::kMlx, "MLX", "fine_tune_type", "adapters.safetensors", nullptr}};
  const std::string directory = path_.substr(0, path_.rfind('/') + 1);
  const auto there = [&](const char* name) { return std::filesystem::exists(directory + name); };
  const Weights* own = nullptr;
  for (const Weights& weights : kWeights) {
    if (weights.dialect == dialect_) own = &weights;
  }
  if (own == nullptr)
    Fail(ErrorCode::kData, path_, ": in no known dialect (no field peft_type, config or fine_tune_type)");
  if (there(own->file)) return directory + own->file;
  for (const Weights& weights : kWeights) {
    if (&weights == own || !there(weights.file)) continue;
    Fail(ErrorCode::kData, path_, ": field \"", own->field, "\" makes it ", own->library, "'s, which has ", own->file,
         ", but the weights are ", weights.library, "'s ", weights.file);
  }
  if (own->pickle != nullptr && there(own->pickle)) {
    Fail(ErrorCode::kData, directory, own->pickle, ": a pickle, which is a program and is never run; save ", own->file,
         " from ", own->library, " instead");
  }
  return directory + own->file;
}

int64_t AdapterConfig::Int(const std::string& field, int64_t otherwise) const {
  const auto found = fields().find(field);
  if (found == fields().end() || found->is_null()) return otherwise;
  return WholeNumber(*found, path_ + ": field \"" + field + "\"", INT64_MIN, INT64_MAX);
}

bool AdapterConfig::Bool(const std::string& field, bool otherwise) const {
  const auto found = fields().find(field);
  if (found == fields().end() || found->is_null()) return otherwise;
  if (!found->is_boolean()) Refuse(field, "expected true or false");
  return found->get<bool>();
}

std::string AdapterConfig::Text(const std::string& field, const std::string& otherwise) const {
  const auto found = fields().find(field);
  if (found == fields().end() || found->is_null()) return otherwise;
  if (!found->is_string()) Refuse(field, "expected a string");
  return found->get<std::string>();
}

void AdapterConfig::Expect(const std::string& field, int64_t wanted, const std::string& what) const {
  if (Int(field, wanted) != wanted) Refuse(field, "this base has " + std::to_string(wanted) + " " + what);
}

void AdapterConfig::Refuse(const std::string& field, const std::string& why) const {
  const auto found = fields().find(field);
  Fail(ErrorCode::kData, path_, ": field \"", field, "\" is ", found == fields().end() ? "missing" : found->dump(),
       ", ", why);
}

// What PEFT's target_modules call the module: its last name, with those before it where the family has two of that
// name.
std::string TargetName(const ModelConfig& config, Site site) {
  const TensorNames names = NamesOf(config, Dialect::kHuggingFace);
  const std::string module = LinearStem(config, Dialect::kHuggingFace, site);
  if (module.empty()) return SiteName(site.kind);
  const std::string last = module.substr(module.rfind('.'));
  const auto alike = std::ranges::count_if(names.family().tensors, [&](const TensorRow& row) {
    return row.hf.ends_with(last) && row.hf.find("{}") != std::string_view::npos;
  });
  if (alike <= 1) return last.substr(1);
  return module.substr(module.find('.', names.Layers().size()) + 1);
}

nlohmann::json PeftTargets(const ModelConfig& config, const std::vector<Site>& sites) {
  std::map<int64_t, std::set<std::string>> by_layer;
  std::set<std::string> whole;
  bool mixed = false;
  for (const Site site : sites) {
    by_layer[site.layer].insert(TargetName(config, site));
    whole.insert(LinearStem(config, Dialect::kHuggingFace, site));
    // Of a mixture, an end of a name could mean experts, the shared one and dense layers alike.
    mixed = mixed || (site.kind >= SiteKind::kGate && config.experts > 0);
  }
  std::vector<int64_t> layers;
  bool alike = true;
  for (const auto& [layer, kinds] : by_layer) {
    layers.push_back(layer);
    alike = alike && kinds == by_layer.begin()->second;
  }
  if (!alike || mixed)
    return {{"target_modules", whole}, {"layers_to_transform", nullptr}, {"layers_pattern", nullptr}};
  const bool all = static_cast<int64_t>(layers.size()) == config.layers;
  return {{"target_modules", by_layer.empty() ? whole : by_layer.begin()->second},
          {"layers_to_transform", all ? nlohmann::json() : nlohmann::json(layers)},
          {"layers_pattern", all ? nlohmann::json() : nlohmann::json("layers")}};
}

void WriteAdapterConfig(const std::string& directory, const nlohmann::json& config) {
  MakeDirectories(directory);
  AtomicFile file(directory + "/adapter_config.json");
  file.Write(config.dump(2) + "\n");
  file.Commit();
}

std::string HfLayers(const ModelConfig& config) { return NamesOf(config, Dialect::kHuggingFace).Layers(); }

std::string HfModule(const ModelConfig& config, Site site) {
  const TensorNames names = NamesOf(config, Dialect::kHuggingFace);
  if (!names.Has(RoleOf(config, site))) {
    Fail(ErrorCode::kUsage, "Hugging Face's ", config.family, " has ", SiteName(site.kind), " in ",
         LinearStem(config, Dialect::kHuggingFace, site), ": only LoRA can adapt a part of a module");
  }
  return names.Stem(RoleOf(config, site), site.layer, site.expert);
}

}  // namespace cambium
