#include "grafts/grafts.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>

#include "cambium/error.h"
#include "grafts/adapter.h"
#include "grafts/adapter_config.h"
#include "grafts/delta.h"
#include "grafts/exit.h"
#include "grafts/full.h"
#include "grafts/ia3.h"
#include "grafts/lora.h"
#include "grafts/medusa.h"
#include "grafts/mtp.h"
#include "grafts/prefix.h"
#include "grafts/prompt.h"
#include "grafts/vera.h"
#include "io/json.h"

namespace cambium {

const std::vector<GraftEntry>& GraftList() {
  static const std::vector<GraftEntry> kList = {
      {"delta", "what fine-tuning changed", nullptr, DeltaGraft::Recognises, DeltaGraft::Load},  // before lora: it has more
      {"lora", "low-rank terms at linears", LoraGraft::Make, LoraGraft::Recognises, LoraGraft::Load},
      {"prefix", "keys and values before every text", PrefixGraft::Make, PrefixGraft::Recognises, PrefixGraft::Load},
      {"prompt", "embeddings before every text", PromptGraft::Make, PromptGraft::Recognises, PromptGraft::Load},
      {"vera", "vectors between shared random matrices at linears", VeraGraft::Make, VeraGraft::Recognises, VeraGraft::Load},
      {"ia3", "factors on linears' results", Ia3Graft::Make, Ia3Graft::Recognises, Ia3Graft::Load},
      {"adapter", "bottleneck adapters at sub-layers", AdapterGraft::Make, AdapterGraft::Recognises, AdapterGraft::Load},
      {"full", "every weight of the model", FullGraft::Make, nullptr, nullptr},
      {"medusa", "heads that guess further tokens (draft)", MedusaHeads::Make, MedusaHeads::Recognises, MedusaHeads::Load,
       true},
      {"mtp", "multi-token prediction (draft)", MtpHeads::Make, MtpHeads::Recognises, MtpHeads::Load, true},
      {"exit", "a read-out of an early layer (draft)", ExitHead::Make, ExitHead::Recognises, ExitHead::Load, true},
  };
  return kList;
}

std::string GraftKinds() {
  std::string kinds;
  for (const GraftEntry& entry : GraftList()) {
    if (entry.make != nullptr) kinds += (kinds.empty() ? "" : ", ") + std::string(entry.kind);
  }
  return kinds;
}

namespace {

void CheckEncoder(const std::string& what, const ModelConfig& config) {
  if (config.has_encoder()) Fail(ErrorCode::kUsage, what, ": grafts on a model with an encoder (", config.family, ") are not supported");
}

// Of what acts at linears, LoRA alone knows experts.
void CheckExperts(const std::string& kind, const GraftOptions& options, const ModelConfig& config) {
  if (config.experts == 0) return;
  if (kind == "full") Fail(ErrorCode::kUsage, "graft full: a mixture of experts is not trained whole; train a lora");
  if (kind != "ia3" && kind != "vera") return;
  const auto feed_forward = [](const std::string& name) {
    return name == SiteName(SiteKind::kGate) || name == SiteName(SiteKind::kUp) || name == SiteName(SiteKind::kDown);
  };
  const auto found = std::find_if(options.targets.begin(), options.targets.end(), feed_forward);
  if (!options.targets.empty() && found == options.targets.end()) return;
  Fail(ErrorCode::kUsage, "graft ", kind, ", target \"", options.targets.empty() ? "down_proj" : *found,
       "\": only a lora acts at experts; name linears of attention as targets");
}

}  // namespace

std::unique_ptr<Graft> MakeGraft(const std::string& kind, const GraftOptions& options, BaseModel& model) {
  CheckEncoder("graft " + kind, model.config());
  CheckExperts(kind, options, model.config());
  for (const GraftEntry& entry : GraftList()) {
    if (kind == entry.kind && entry.make != nullptr) return entry.make(options, model);
  }
  Fail(ErrorCode::kUsage, "graft is \"", kind, "\", expected one of ", GraftKinds());
}

namespace {

// Of a training that was interrupted before it left an adapter; empty where there is none.
std::string NewestCheckpoint(const std::string& run) {
  const std::string latest = run + "/checkpoints/latest";
  if (!std::filesystem::exists(latest)) return "";
  std::string name = ReadTextFile(latest);
  while (!name.empty() && name.back() == '\n') name.pop_back();
  return run + "/checkpoints/" + name;
}

}  // namespace

std::unique_ptr<Graft> LoadGraft(const std::string& path, const BaseModel& model, float scale) {
  if (!std::filesystem::exists(path)) Fail(ErrorCode::kData, path, ": no such file or directory");
  CheckEncoder(path, model.config());
  for (const GraftEntry& entry : GraftList()) {
    if (entry.load != nullptr && entry.recognises(path)) return entry.load(path, model, scale);
  }
  if (const std::string newest = NewestCheckpoint(path); !newest.empty()) {
    Fail(ErrorCode::kData, path, ": a training that has not ended; its weights so far are ", newest);
  }
  if (const std::optional<AdapterConfig> config = AdapterConfig::Read(path)) {
    using Dialect = AdapterConfig::Dialect;
    if (config->dialect() == Dialect::kMlx) config->Refuse("fine_tune_type", "of which lora and dora are adapters");
    if (config->dialect() == Dialect::kAdapterHub && config->kind() == "prefix_tuning") {
      config->Refuse("architecture", "AdapterHub's prefixes, before which the text keeps its positions: with RoPE they are no PEFT prefixes");
    }
    if (config->dialect() == Dialect::kAdapterHub) config->Refuse("architecture", "of AdapterHub's only bottleneck adapters (null) are read");
    if (config->dialect() == Dialect::kPeft) config->Refuse("peft_type", "which is no graft of a known kind");
  }
  std::string kinds;
  for (const GraftEntry& entry : GraftList()) {
    if (entry.load != nullptr) kinds += (kinds.empty() ? "" : ", ") + std::string(entry.kind);
  }
  Fail(ErrorCode::kData, path, ": holds no graft of a known kind (", kinds, ")");
}

void CheckStack(const std::vector<std::string>& names, const std::vector<Graft*>& grafts, const ModelConfig& config) {
  for (size_t i = 0; i < grafts.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (grafts[i] == grafts[j]) Fail(ErrorCode::kUsage, "--graft ", names[i], ": given twice, as ", names[j], " too");
      if (grafts[i]->prefix_length() > 0 && grafts[j]->prefix_length() > 0) {
        Fail(ErrorCode::kUsage, "--graft ", names[i], ": a prefix of ", grafts[i]->prefix_length(),
             " tokens where ", names[j], " puts one of ", grafts[j]->prefix_length());
      }
      if (grafts[i]->prompt_length() > 0 && grafts[j]->prompt_length() > 0) {
        Fail(ErrorCode::kUsage, "--graft ", names[i], ": a prompt of ", grafts[i]->prompt_length(), " tokens where ",
             names[j], " puts one of ", grafts[j]->prompt_length());
      }
      for (int layer = 0; layer < static_cast<int>(config.layers); ++layer) {
        for (const Graft::Branch branch : {Graft::Branch::kAttention, Graft::Branch::kFfn}) {
          if (!grafts[i]->ActsAtBranch(layer, branch) || !grafts[j]->ActsAtBranch(layer, branch)) continue;
          Fail(ErrorCode::kUsage, "--graft ", names[i], ": an adapter on the ",
               branch == Graft::Branch::kAttention ? "attention" : "feed-forward", " of layer ", layer, ", where ",
               names[j], " has one");
        }
      }
    }
  }
}

bool IsHeads(const std::string& kind) {
  return std::any_of(GraftList().begin(), GraftList().end(),
                     [&](const GraftEntry& entry) { return entry.heads && kind == entry.kind; });
}

std::unique_ptr<Graft> LoadPart(const std::string& path, const BaseModel& model, bool heads) {
  CheckEncoder(path, model.config());
  for (const GraftEntry& entry : GraftList()) {
    if (entry.heads == heads && entry.load != nullptr && entry.recognises(path)) return entry.load(path, model, 1);
  }
  return nullptr;
}

std::vector<std::unique_ptr<Graft>> LoadGrafts(const std::string& path, const BaseModel& model, float scale) {
  std::vector<std::unique_ptr<Graft>> grafts;
  grafts.push_back(LoadGraft(path, model, scale));
  if (grafts.front()->heads() != nullptr || !std::filesystem::is_directory(path)) return grafts;
  if (auto heads = LoadPart(path, model, true); heads != nullptr) {
    const auto base = [&](const char* file) {
      const std::string name = path + file;
      const nlohmann::json json = std::filesystem::exists(name) ? ParseJson(ReadTextFile(name), name) : nlohmann::json();
      const nlohmann::json value = json.is_object() ? json.value("base_model_name_or_path", nlohmann::json()) : json;
      return value.is_string() ? value.get<std::string>() : std::string();
    };
    const std::string own = base("/adapter_config.json"), other = base("/heads.json");
    if (!own.empty() && !other.empty() && own != other) {
      Fail(ErrorCode::kData, path, ": the adapter is for the base ", own, ", the heads beside it for ", other);
    }
    grafts.push_back(std::move(heads));
  }
  return grafts;
}

GraftSpec ParseGraftSpec(const std::string& text) {
  const size_t equals = text.rfind('=');
  if (text.empty() || equals == 0) Fail(ErrorCode::kUsage, "--graft \"", text, "\": a path is missing");
  if (equals == std::string::npos || std::filesystem::exists(text)) return {text};
  GraftSpec spec{text.substr(0, equals)};
  const char *const begin = text.data() + equals + 1, *const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, spec.scale);
  if (error != std::errc() || stop != end || !std::isfinite(spec.scale)) {
    Fail(ErrorCode::kUsage, "--graft \"", text, "\": the scale \"", begin, "\" is not a number");
  }
  return spec;
}

}  // namespace cambium
