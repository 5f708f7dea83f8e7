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
#include "model/load.h"

namespace cambium {
namespace {

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

// PEFT's fan_in_fan_out: whether the family's linears are stored [in, out].
bool StoresTransposed(const ModelConfig& config) {
  return NamesOf(config, Dialect::kHuggingFace).LayoutOf(Role::kO) == Layout::kTransposed;
}

}  // namespace

void LoraGraft::SavePeft(const std::string& path) const {
  MakeDirectories(path);
  std::vector<TensorToWrite> tensors;
  std::vector<Site> sites;
  nlohmann::json ranks = nlohmann::json::object(), alphas = nlohmann::json::object();
  const double more = options_.pissa ? 2 : 1;
  const double rank = more * static_cast<double>(options_.rank);
  const double alpha = options_.alpha * (options_.rslora ? std::sqrt(more) : more);
  const std::vector<FileTerm> terms = FileTerms(Dialect::kHuggingFace);
  for (const FileTerm& term : terms) {
    const std::string module = "base_model.model." + term.stem;
    sites.push_back(term.site);
    tensors.push_back({.name = module + ".lora_A.weight", .view = term.a.view});
    tensors.push_back({.name = module + ".lora_B.weight", .view = term.b.view});
    if (term.magnitude.view) {
      tensors.push_back({.name = module + ".lora_magnitude_vector", .view = term.magnitude.view});
    }
    const double r = static_cast<double>(term.a.view.rows());
    const double own_alpha = static_cast<double>(term.scale) * (options_.rslora ? std::sqrt(r) : r);
    if (r != rank) ranks[term.stem] = term.a.view.rows();
    if (std::fabs(own_alpha - alpha) > 1e-5 * std::fabs(alpha)) alphas[term.stem] = own_alpha;
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
                           {"fan_in_fan_out", StoresTransposed(model_.config())},
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
    if (key == "fan_in_fan_out" && value == StoresTransposed(model.config())) continue;
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
  const TensorNames names = NamesOf(model.config(), Dialect::kHuggingFace);
  std::vector<std::unique_ptr<Term>> terms;
  std::set<std::string> used;
  for (const Site site : model.weights().sites()) {
    const Linear& linear = Base(model, site);
    const LinearPlace place = PlaceOf(model.config(), names, site);
    const std::string module = "base_model.model." + LinearStem(model.config(), Dialect::kHuggingFace, site);
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
    check(*b, "lora_B", place.all, rank);
    const double scale = effect * alpha / (options.rslora ? std::sqrt(r) : r);
    auto term = MakeTerm(model, site, rank, static_cast<float>(scale));
    Convert(model.pool(), *a, term->a.value);
    OwnedTensor rows({place.all, rank});
    Convert(model.pool(), *b, rows.view);
    for (int64_t o = 0; o < linear.out(); ++o) {
      std::copy_n(rows.view.row(place.rows[static_cast<size_t>(o)]), rank, term->b.value.row(o));
    }
    if (options.dora) {
      const Tensor* const magnitude = file.FindTensor(module + ".lora_magnitude_vector");
      if (magnitude == nullptr) Fail(ErrorCode::kData, file.path(), ": ", module, " has no lora_magnitude_vector");
      if (magnitude->size() != place.all) {
        Fail(ErrorCode::kData, file.path(), ": ", module, ".lora_magnitude_vector has ", magnitude->size(),
             " values, this base wants ", place.all, "; is the adapter for another base?");
      }
      AddMagnitude(model, *term);
      OwnedTensor lengths({place.all});
      Convert(model.pool(), Tensor(magnitude->data, magnitude->dtype, {place.all}), lengths.view);
      for (int64_t o = 0; o < linear.out(); ++o) {
        term->magnitude.value.f32()[o] = lengths.view.f32()[place.rows[static_cast<size_t>(o)]];
      }
      used.insert(module + ".lora_magnitude_vector");
    }
    terms.push_back(std::move(term));
    used.insert({module + ".lora_A.weight", module + ".lora_B.weight"});
  }
  file.CheckIntact();
  for (const NamedTensor& tensor : file.tensors()) {
    if (used.contains(tensor.name)) continue;
    Fail(ErrorCode::kData, file.path(), ": tensor ", tensor.name, " belongs to no linear of this base");
  }
  if (terms.empty()) Fail(ErrorCode::kData, file.path(), ": no LoRA tensors");
  return std::unique_ptr<LoraGraft>(new LoraGraft(model, options, std::move(terms)));
}

}  // namespace cambium
