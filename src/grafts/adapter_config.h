#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cambium/error.h"
#include "model/config.h"
#include "model/weights.h"

namespace cambium {

// An adapter's adapter_config.json. Three libraries write a file of that name, each in a dialect of its own.
class AdapterConfig {
 public:
  enum class Dialect : uint8_t { kPeft, kAdapterHub, kMlx, kUnknown };

  // Nullopt where the directory has no such file; kData where it is no JSON object.
  static std::optional<AdapterConfig> Read(const std::string& directory);

  Dialect dialect() const { return dialect_; }
  // PEFT's peft_type; AdapterHub's architecture, "bottleneck" where that is null; MLX's fine_tune_type.
  const std::string& kind() const { return kind_; }
  bool Is(Dialect dialect, const std::string& kind) const { return dialect_ == dialect && kind_ == kind; }
  const std::string& path() const { return path_; }
  // PEFT and MLX: the whole file. AdapterHub: its "config" object.
  const nlohmann::json& fields() const { return dialect_ == Dialect::kAdapterHub ? json_.at("config") : json_; }
  const nlohmann::json& file() const { return json_; }

  // The weights beside the config, by the dialect's name for them. kData where they are missing: naming the field and both
  // dialects where another one's are there, the pickle where that is all there is.
  std::string WeightsPath() const;

  // A field, or `otherwise` where it is absent or null; kData naming file, field and value if it has another type.
  int64_t Int(const std::string& field, int64_t otherwise) const;
  bool Bool(const std::string& field, bool otherwise) const;
  std::string Text(const std::string& field, const std::string& otherwise) const;
  // kData unless the field is absent, null, or `wanted`: "field "f" is 9, this base has 3 key-value heads".
  void Expect(const std::string& field, int64_t wanted, const std::string& what) const;
  // kData: "FILE: field "F" is VALUE, WHY".
  [[noreturn]] void Refuse(const std::string& field, const std::string& why) const;

 private:
  AdapterConfig(std::string path, nlohmann::json json);
  std::string path_, kind_;
  nlohmann::json json_;
  Dialect dialect_ = Dialect::kUnknown;
};

// PEFT's fields that say which modules are adapted, for tensors at these sites and no others: target_modules by kind,
// with layers_to_transform where not every layer has them; whole names of modules where layers differ.
nlohmann::json PeftTargets(const ModelConfig& config, const std::vector<Site>& sites);
std::string TargetName(const ModelConfig& config, Site site);
// Writes `directory`/adapter_config.json, making the directory.
void WriteAdapterConfig(const std::string& directory, const nlohmann::json& config);

// What Hugging Face calls the blocks of the family: "model.layers." or, for gpt2, "transformer.h.".
std::string HfLayers(const ModelConfig& config);
// The module of a linear in Hugging Face's tree: "model.layers.3.mlp.up_proj". kUsage where that holds other linears too.
std::string HfModule(const ModelConfig& config, Site site);

}  // namespace cambium
