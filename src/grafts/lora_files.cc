// PEFT's adapter_config.json and adapter_model.safetensors (github.com/huggingface/peft, docs/source/developer_guides/
// checkpoint.md).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "cambium/error.h"
#include "grafts/adapter_config.h"
#include "grafts/lora.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace cambium {
namespace {

// The module of a linear in Hugging Face's tree of the family.
std::string ModuleName(const ModelConfig& config, Site site) { return "base_model.model." + HfModule(config, site); }

// Keys of adapter_config.json that we read, and those that say nothing about a finished adapter: where it came from,
// how it was begun or trained, and which modules were chosen (the tensors say that). Any other key that is set means
// something that we do not compute.
constexpr std::string_view kKnownKeys[] = {"peft_type",
                                           "r",
                                           "lora_alpha",
                                           "use_rslora",
                                           "rank_pattern",
                                           "alpha_pattern",
                                           "use_dora",
                                           "init_lora_weights",
                                           "lora_dropout",
                                           "base_model_name_or_path",
                                           "auto_mapping",
                                           "corda_config",
                                           "ensure_weight_tying",
                                           "eva_config",
                                           "exclude_modules",
                                           "inference_mode",
                                           "layers_pattern",
                                           "layers_to_transform",
                                           "loftq_config",
                                           "lora_ga_config",
                                           "megatron_config",
                                           "megatron_core",
                                           "peft_version",
                                           "qalora_group_size",
                                           "revision",
                                           "runtime_config",
                                           "target_modules",
                                           "task_type"};

// Beginnings that changed the base too, unless the adapter was converted to one of the base as it is.
constexpr std::string_view kBaseChanging[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};

bool IsUnset(const nlohmann::json& value) {
  return value.is_null() || value == false || value == "none" ||
         ((value.is_array() || value.is_object()) && value.empty());
}

}  // namespace

void LoraGraft::SavePeft(const std::string& path) const {
  MakeDirectories(path);
  std::vector<TensorToWrite> tensors;
  std::vector<Factors> factors;
  std::vector<Site> sites;
  nlohmann::json ranks = nlohmann::json::object(), alphas = nlohmann::json::object();
  const double more = options_.pissa ? 2 : 1;
  const double rank = more * static_cast<double>(options_.rank);
  const double alpha = options_.alpha * (options_.rslora ? std::sqrt(more) : more);
  for (const auto& term : terms_) {
    const std::string module = ModuleName(model_.config(), term->site);
    sites.push_back(term->site);
    factors.push_back(FactorsOf(*term));
    const Tensor a = factors.back().a, b = factors.back().b;
    tensors.push_back({.name = module + ".lora_A.weight", .view = a});
    tensors.push_back({.name = module + ".lora_B.weight", .view = b});
    if (term->magnitude.value) {
      tensors.push_back({.name = module + ".lora_magnitude_vector", .view = term->magnitude.value});
    }
    const std::string key = module.substr(std::strlen("base_model.model."));
    const double r = static_cast<double>(a.rows());
    const double own_alpha = static_cast<double>(term->scale) * (options_.rslora ? std::sqrt(r) : r);
    if (r != rank) ranks[key] = a.rows();
    if (std::fabs(own_alpha - alpha) > 1e-5 * std::fabs(alpha)) alphas[key] = own_alpha;
  }
  nlohmann::json config = {{"peft_type", "LORA"},
                           {"rank_pattern", ranks},
                           {"alpha_pattern", alphas},
                           {"task_type", options_.task_type},
                           {"base_model_name_or_path", options_.base},
                           {"r", static_cast<int64_t>(rank)},
                           {"lora_alpha", alpha},
                           {"use_rslora", options_.rslora},
                           {"lora_dropout", options_.dropout},
                           {"bias", "none"},
                           {"fan_in_fan_out", false},
                           {"init_lora_weights", true},
                           {"inference_mode", true},
                           {"use_dora", options_.dora}};
  config.update(PeftTargets(model_.config(), sites));
  if (!options_.revision.empty()) config["revision"] = options_.revision;
  WriteSafetensors(path + "/adapter_model.safetensors", std::move(tensors), {{"format", "pt"}});
  WriteAdapterConfig(path, config);
}

std::unique_ptr<Graft> LoraGraft::LoadPeft(const std::string& directory, const BaseModel& model, float effect) {
  const std::string config_path = directory + "/adapter_config.json";
  const nlohmann::json config = ParseJson(ReadTextFile(config_path), config_path);
  const auto refuse = [&](const std::string& field, const std::string& value, const std::string& why) {
    Fail(ErrorCode::kData, config_path, ": field \"", field, "\" is ", value, ", ", why);
  };
  for (const auto& [key, value] : config.items()) {
    const bool known = std::find(std::begin(kKnownKeys), std::end(kKnownKeys), key) != std::end(kKnownKeys);
    if (!known && !IsUnset(value)) refuse(key, value.dump(), "which is not supported");
  }
  if (const auto init = config.find("init_lora_weights"); init != config.end() && init->is_string()) {
    const std::string name = init->get<std::string>();
    for (const std::string_view changing : kBaseChanging) {
      if (!name.starts_with(changing)) continue;
      refuse("init_lora_weights", init->dump(),
             "which changed the base too; save it with path_initial_model_for_weight_conversion");
    }
  }
  GraftOptions options;
  std::vector<std::pair<std::string, double>> ranks, alphas;
  try {
    options.rank = WholeNumber(config.value("r", nlohmann::json(8)), config_path + ": field \"r\"", 1, INT32_MAX);
    options.alpha = config.value("lora_alpha", 8.0);
    options.rslora = config.value("use_rslora", false);
    options.dora = config.value("use_dora", false);
    options.dropout = config.value("lora_dropout", 0.0);
    if (config.contains("base_model_name_or_path") && config["base_model_name_or_path"].is_string()) {
      options.base = config["base_model_name_or_path"].get<std::string>();
    }
    if (config.contains("task_type") && !config["task_type"].is_null()) options.task_type = config["task_type"];
    if (config.contains("revision") && config["revision"].is_string()) options.revision = config["revision"];
    for (const auto& [name, into] : {std::pair{"rank_pattern", &ranks}, std::pair{"alpha_pattern", &alphas}}) {
      const auto found = config.find(name);
      if (found == config.end() || found->is_null()) continue;
      for (const auto& [key, value] : found->items()) into->emplace_back(key, value.get<double>());
    }
  } catch (const nlohmann::json::exception& error) {
    Fail(ErrorCode::kData, config_path, ": ", error.what());
  }
  for (const auto* patterns : {&ranks, &alphas}) {
    for (const auto& [key, value] : *patterns) {
      if (key.find_first_of("\\()[]{}|*+?^$") == std::string::npos) continue;
      refuse(patterns == &ranks ? "rank_pattern" : "alpha_pattern", "\"" + key + "\"",
             "a regular expression, which is not supported");
    }
  }

  const SafetensorsFile file(AdapterConfig::Read(directory)->WeightsPath());
  std::vector<std::unique_ptr<Term>> terms;
  size_t used = 0;
  for (const Site site : model.weights().sites()) {
    const Linear& linear = Base(model, site);
    const std::string module = ModuleName(model.config(), site);
    const Tensor* const a = file.FindTensor(module + ".lora_A.weight");
    const Tensor* const b = file.FindTensor(module + ".lora_B.weight");
    if (a == nullptr && b == nullptr) continue;
    if (a == nullptr || b == nullptr)
      Fail(ErrorCode::kData, file.path(), ": ", module, " has only one of lora_A, lora_B");
    // Keys are literal names or their ends; PEFT reads them as regular expressions, of which this is what it writes.
    const auto pattern = [&](const std::vector<std::pair<std::string, double>>& patterns, double otherwise) {
      for (const auto& [key, value] : patterns) {
        if (module == "base_model.model." + key || module.ends_with("." + key)) return value;
      }
      return otherwise;
    };
    const int64_t rank = static_cast<int64_t>(pattern(ranks, static_cast<double>(options.rank)));
    const double alpha = pattern(alphas, options.alpha), r = static_cast<double>(rank);
    const auto check = [&](const Tensor& t, const char* name, int64_t rows, int64_t columns) {
      if (t.rank == 2 && t.shape[0] == rows && t.shape[1] == columns) return;
      Fail(ErrorCode::kData, file.path(), ": ", module, ".", name, " is [", t.rows(), ", ", t.columns(),
           "], this base and rank want [", rows, ", ", columns, "]; is the adapter for another base?");
    };
    check(*a, "lora_A", rank, linear.in());
    check(*b, "lora_B", linear.out(), rank);
    const double scale = effect * alpha / (options.rslora ? std::sqrt(r) : r);
    auto term = MakeTerm(model, site, rank, static_cast<float>(scale));
    Convert(model.pool(), *a, term->a.value);
    Convert(model.pool(), *b, term->b.value);
    if (options.dora) {
      const Tensor* const magnitude = file.FindTensor(module + ".lora_magnitude_vector");
      if (magnitude == nullptr) Fail(ErrorCode::kData, file.path(), ": ", module, " has no lora_magnitude_vector");
      if (magnitude->size() != linear.out()) {
        Fail(ErrorCode::kData, file.path(), ": ", module, ".lora_magnitude_vector has ", magnitude->size(),
             " values, this base wants ", linear.out(), "; is the adapter for another base?");
      }
      AddMagnitude(model, *term);
      Convert(model.pool(), Tensor(magnitude->data, magnitude->dtype, {linear.out()}), term->magnitude.value);
      ++used;
    }
    terms.push_back(std::move(term));
    used += 2;
  }
  file.CheckIntact();
  if (used != file.tensors().size() || terms.empty()) {
    for (const NamedTensor& tensor : file.tensors()) {
      const bool known = std::any_of(terms.begin(), terms.end(), [&](const std::unique_ptr<Term>& term) {
        return tensor.name.starts_with(ModuleName(model.config(), term->site) + ".lora_");
      });
      if (!known) Fail(ErrorCode::kData, file.path(), ": tensor ", tensor.name, " belongs to no linear of this base");
    }
    Fail(ErrorCode::kData, file.path(), ": no LoRA tensors");
  }
  return std::unique_ptr<LoraGraft>(new LoraGraft(model, options, std::move(terms)));
}

}  // namespace cambium
