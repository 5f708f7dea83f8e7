#include "grafts/describe.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "grafts/adapter_config.h"
#include "io/gguf.h"
#include "io/safetensors.h"

namespace cambium {
namespace {

using nlohmann::ordered_json;

// The number behind "layers." or "blk." in a tensor's name; -1 where there is none.
int64_t LayerOf(const std::string& name) {
  for (const char* const marker : {"layers.", "blk.", "transformer.h."}) {
    const size_t at = name.find(marker);
    if (at == std::string::npos) continue;
    const size_t begin = at + std::string_view(marker).size(), end = name.find('.', begin);
    const std::string digits = name.substr(begin, end - begin);
    const bool number = !digits.empty() && digits.size() < 9 && digits.find_first_not_of("0123456789") == std::string::npos;
    return number ? std::stoll(digits) : -1;
  }
  return -1;
}

// The module before `suffix`: "q_proj" of "...self_attn.q_proj.lora_A.weight" before ".lora_A".
std::string ModuleBefore(const std::string& name, const std::string& suffix) {
  const size_t end = name.rfind(suffix), begin = end == std::string::npos ? end : name.rfind('.', end - 1);
  return end == std::string::npos ? "" : name.substr(begin + 1, end - begin - 1);
}

// Of the pairs of tensors named by `a` and `b`; MLX's are transposed.
void DescribeLowRank(const std::vector<NamedTensor>& tensors, const std::string& a, const std::string& b, bool transposed,
                     ordered_json& out) {
  std::set<int64_t> ranks;
  std::map<std::string, std::pair<int64_t, int64_t>> linears;
  for (const NamedTensor& tensor : tensors) {
    if (tensor.shape.size() != 2) continue;
    if (const std::string module = ModuleBefore(tensor.name, a); !module.empty()) {
      ranks.insert(tensor.shape[transposed ? 1 : 0]);
      linears[module].first = tensor.shape[transposed ? 0 : 1];
    }
    if (const std::string module = ModuleBefore(tensor.name, b); !module.empty()) {
      linears[module].second = tensor.shape[transposed ? 1 : 0];
    }
  }
  if (ranks.size() == 1) {
    out["rank"] = *ranks.begin();
  } else {
    out["rank"] = ranks;
  }
  for (const auto& [name, sizes] : linears) out["linears"][name] = {sizes.first, sizes.second};
}

const char* VariantOf(const nlohmann::json& config) {
  const auto flag = [&](const char* field) { return config.value(field, nlohmann::json()) == true; };
  if (flag("is_parallel")) return config.value("scaling", nlohmann::json()) == "learned" ? "scaled-parallel" : "parallel";
  return flag("mh_adapter") ? "houlsby" : "pfeiffer";
}

void DescribePeft(const AdapterConfig& config, const std::vector<NamedTensor>& tensors, ordered_json& out) {
  const nlohmann::json& fields = config.fields();
  const auto copy = [&](const char* to, const char* field) {
    if (fields.contains(field) && !fields[field].is_null()) out[to] = fields[field];
  };
  if (config.kind() == "LORA") {
    out["kind"] = fields.value("use_dora", nlohmann::json()) == true ? "lora (DoRA)" : "lora";
    DescribeLowRank(tensors, ".lora_A", ".lora_B", false, out);
    copy("alpha", "lora_alpha");
  } else if (config.kind() == "PREFIX_TUNING" || config.kind() == "PROMPT_TUNING") {
    const bool prefix = config.kind() == "PREFIX_TUNING";
    out["kind"] = prefix ? "prefix" : "prompt";
    copy("length", "num_virtual_tokens");
    copy("layers", "num_layers");
    if (!prefix) {
      copy("hidden", "token_dim");
      return;
    }
    copy("kv_heads", "num_attention_heads");
    const int64_t heads = config.Int("num_attention_heads", 0), columns = config.Int("token_dim", 0);
    if (heads > 0 && columns > 0) out["head_dim"] = columns / heads;
  } else if (config.kind() == "IA3") {
    out["kind"] = "ia3";
    for (const NamedTensor& tensor : tensors) {
      if (const std::string module = ModuleBefore(tensor.name, ".ia3_l"); !module.empty()) out["linears"][module] = tensor.shape;
    }
  } else if (config.kind() == "VERA") {
    out["kind"] = "vera";
    copy("rank", "r");
    for (const NamedTensor& tensor : tensors) {
      const std::string module = ModuleBefore(tensor.name, ".vera_lambda_b");
      if (!module.empty()) out["linears"][module] = tensor.shape;
    }
  } else {
    out["kind"] = config.kind() + ", not supported";
  }
}

void DescribeDirectory(const AdapterConfig& config, const std::vector<NamedTensor>& tensors, ordered_json& out) {
  using Dialect = AdapterConfig::Dialect;
  const nlohmann::json& file = config.file();
  switch (config.dialect()) {
    case Dialect::kPeft:
      out["dialect"] = "PEFT";
      DescribePeft(config, tensors, out);
      break;
    case Dialect::kMlx:
      out["dialect"] = "MLX";
      out["kind"] = config.kind() == "dora" ? "lora (DoRA)" : config.kind() == "lora" ? "lora" : config.kind() + ", not supported";
      DescribeLowRank(tensors, ".lora_a", ".lora_b", true, out);
      if (file.contains("lora_parameters") && file["lora_parameters"].is_object()) {
        out["scale"] = file["lora_parameters"].value("scale", nlohmann::json());
      }
      break;
    case Dialect::kAdapterHub:
      out["dialect"] = "AdapterHub";
      if (config.kind() == "bottleneck") {
        out["kind"] = "adapter";
        out["variant"] = VariantOf(config.fields());
        out["reduction"] = config.fields().value("reduction_factor", nlohmann::json());
      } else {
        out["kind"] = config.kind() + ", not supported";
      }
      for (const char* const field : {"hidden_size", "model_type"}) {
        if (file.contains(field)) out[field == std::string_view("hidden_size") ? "hidden" : "family"] = file[field];
      }
      break;
    case Dialect::kUnknown:
      out["dialect"] = "unknown";
      out["kind"] = "unknown: neither \"peft_type\" nor \"fine_tune_type\" nor \"config\" is a field";
  }
  for (const char* const field : {"base_model_name_or_path", "model_name", "model"}) {
    if (file.contains(field) && file[field].is_string()) out["base"] = file[field];
  }
}

bool IsGgufAdapter(const std::string& path) {
  char magic[4] = {};
  std::ifstream file(path, std::ios::binary);
  if (!std::filesystem::is_regular_file(path) || !file.read(magic, 4) || std::string_view(magic, 4) != "GGUF") return false;
  return GgufFile(path).Str("general.type", "") == "adapter";
}

}  // namespace

ordered_json DescribeAdapter(const std::string& path) {
  ordered_json out;
  const auto count = [&](const std::vector<NamedTensor>& tensors) {
    std::set<int64_t> layers;
    int64_t values = 0;
    for (const NamedTensor& tensor : tensors) {
      int64_t size = 1;
      for (const int64_t extent : tensor.shape) size *= extent;
      values += size;
      if (const int64_t layer = LayerOf(tensor.name); layer >= 0) layers.insert(layer);
    }
    if (!layers.empty()) {
      out["layers"] = layers.size();
      if (*layers.rbegin() + 1 != static_cast<int64_t>(layers.size())) out["highest layer"] = *layers.rbegin();
    }
    out["parameters"] = values;
  };
  if (IsGgufAdapter(path)) {
    const GgufFile file(path);
    out["dialect"] = "GGUF";
    out["kind"] = file.Str("adapter.type", "unknown");
    out["family"] = file.Str("general.architecture", "unknown");
    DescribeLowRank(file.tensors(), ".weight.lora_a", ".weight.lora_b", false, out);
    out["alpha"] = file.F64("adapter.lora.alpha", 0.0);
    count(file.tensors());
    if (const std::string name = file.Str("general.name", ""); !name.empty()) out["base"] = name;
    return out;
  }
  const std::optional<AdapterConfig> config = AdapterConfig::Read(path);
  if (!config) return out;
  const SafetensorsFile file(config->WeightsPath());
  DescribeDirectory(*config, file.tensors(), out);
  count(file.tensors());
  return out;
}

}  // namespace cambium
