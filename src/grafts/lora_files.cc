// PEFT's adapter_config.json and adapter_model.safetensors (github.com/huggingface/peft, docs/source/developer_guides/
// checkpoint.md).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "cambium/error.h"
#include "grafts/lora.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace cambium {
namespace {

// The module of a linear in Hugging Face's tree of the family.
std::string ModuleName(const ModelConfig& config, Site site) {
  if (config.family == "gpt2") Fail(ErrorCode::kUsage, "PEFT fuses q, k and v of gpt2: its adapters are not supported");
  const bool attention = static_cast<int>(site.kind) <= static_cast<int>(SiteKind::kO);
  return fmt::format("base_model.model.model.layers.{}.{}.{}", site.layer, attention ? "self_attn" : "mlp",
                     SiteName(site.kind));
}

// Keys that change what an adapter means at load time, with the value under which they do not.
const std::pair<const char*, nlohmann::json> kNeutral[] = {{"bias", "none"},
                                                           {"use_dora", false},
                                                           {"lora_bias", false},
                                                           {"layer_replication", nullptr},
                                                           {"modules_to_save", nullptr},
                                                           {"fan_in_fan_out", false},
                                                           {"trainable_token_indices", nullptr},
                                                           {"target_parameters", nullptr},
                                                           {"alora_invocation_tokens", nullptr},
                                                           {"use_qalora", false},
                                                           {"use_bdlora", nullptr},
                                                           {"arrow_config", nullptr},
                                                           {"kasa_config", nullptr},
                                                           {"velora_config", nullptr},
                                                           {"monteclora_config", nullptr}};

}  // namespace

void LoraGraft::Save(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) Fail(ErrorCode::kResource, path, ": cannot make the directory: ", error.message());
  std::vector<TensorToWrite> tensors;
  std::set<std::string> names;
  std::set<int> layers;
  for (const auto& term : terms_) {
    const std::string module = ModuleName(model_.config(), term->site);
    tensors.push_back({.name = module + ".lora_A.weight", .view = term->a.value});
    tensors.push_back({.name = module + ".lora_B.weight", .view = term->b.value});
    names.insert(SiteName(term->site.kind));
    layers.insert(term->site.layer);
  }
  nlohmann::json ranks = nlohmann::json::object(), alphas = nlohmann::json::object();
  for (const auto& term : terms_) {
    const std::string key = ModuleName(model_.config(), term->site).substr(std::strlen("base_model.model."));
    const double r = static_cast<double>(term->rank),
                 alpha = static_cast<double>(term->scale) * (options_.rslora ? std::sqrt(r) : r);
    if (term->rank != options_.rank) ranks[key] = term->rank;
    if (std::fabs(alpha - options_.alpha) > 1e-5 * std::fabs(options_.alpha)) alphas[key] = alpha;
  }
  const nlohmann::json config = {{"peft_type", "LORA"},
                                 {"rank_pattern", ranks},
                                 {"alpha_pattern", alphas},
                                 {"task_type", "CAUSAL_LM"},
                                 {"base_model_name_or_path", options_.base},
                                 {"r", options_.rank},
                                 {"lora_alpha", options_.alpha},
                                 {"use_rslora", options_.rslora},
                                 {"lora_dropout", options_.dropout},
                                 {"target_modules", names},
                                 {"bias", "none"},
                                 {"fan_in_fan_out", false},
                                 {"init_lora_weights", true},
                                 {"inference_mode", true},
                                 {"use_dora", false}};
  WriteSafetensors(path + "/adapter_model.safetensors", std::move(tensors), {{"format", "pt"}});
  AtomicFile file(path + "/adapter_config.json");
  file.Write(config.dump(2) + "\n");
  file.Commit();
}

bool LoraGraft::Recognises(const std::string& path) {
  const std::string config_path = path + "/adapter_config.json";
  if (!std::filesystem::exists(config_path)) return false;
  const nlohmann::json config = ParseJson(ReadTextFile(config_path), config_path);
  return config.is_object() && config.value("peft_type", nlohmann::json()) == "LORA";
}

std::unique_ptr<Graft> LoraGraft::Load(const std::string& directory, Transformer& model, float effect) {
  const std::string config_path = directory + "/adapter_config.json";
  const nlohmann::json config = ParseJson(ReadTextFile(config_path), config_path);
  const auto refuse = [&](const std::string& field, const std::string& value, const std::string& why) {
    Fail(ErrorCode::kData, config_path, ": field \"", field, "\" is ", value, ", ", why);
  };
  for (const auto& [key, neutral] : kNeutral) {
    const auto found = config.find(key);
    const bool empty =
        found != config.end() && (found->is_null() || *found == false || (found->is_array() && found->empty()));
    if (found != config.end() && !empty && *found != neutral) refuse(key, found->dump(), "which is not supported");
  }
  GraftOptions options;
  std::vector<std::pair<std::string, double>> ranks, alphas;
  try {
    options.rank = config.value("r", int64_t{8});
    options.alpha = config.value("lora_alpha", 8.0);
    options.rslora = config.value("use_rslora", false);
    options.dropout = config.value("lora_dropout", 0.0);
    if (config.contains("base_model_name_or_path") && config["base_model_name_or_path"].is_string()) {
      options.base = config["base_model_name_or_path"].get<std::string>();
    }
    for (const auto& [name, into] : {std::pair{"rank_pattern", &ranks}, std::pair{"alpha_pattern", &alphas}}) {
      const auto found = config.find(name);
      if (found == config.end() || found->is_null()) continue;
      for (const auto& [key, value] : found->items()) into->emplace_back(key, value.get<double>());
    }
  } catch (const nlohmann::json::exception& error) {
    Fail(ErrorCode::kData, config_path, ": ", error.what());
  }
  if (options.rank < 1) refuse("r", std::to_string(options.rank), "expected at least 1");

  const SafetensorsFile file(directory + "/adapter_model.safetensors");
  std::vector<std::unique_ptr<Term>> terms;
  size_t used = 0;
  for (int layer = 0; layer < static_cast<int>(model.config().layers); ++layer) {
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      const Site site{layer, static_cast<SiteKind>(kind)};
      const Linear& linear = model.weights().blocks[static_cast<size_t>(layer)].linears[kind];
      if (!linear.w) continue;
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
      terms.push_back(std::move(term));
      used += 2;
    }
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
