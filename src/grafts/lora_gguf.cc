// llama.cpp's LoRA adapters (github.com/ggml-org/llama.cpp, convert_lora_to_gguf.py and llama-adapter.cpp): F32 tensors
// NAME.lora_a [rank, in] and NAME.lora_b [out, rank] for the base's tensors NAME, whose row order lora_b shares, and
// one alpha: the product's scale is alpha / rank, so what else scales it is folded into lora_b.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>

#include "grafts/adapter_config.h"
#include "grafts/lora.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/json.h"
#include "model/load.h"

namespace cambium {
namespace {

bool IsGguf(const std::string& path) {
  char magic[4] = {};
  std::ifstream file(path, std::ios::binary);
  return std::filesystem::is_regular_file(path) && file.read(magic, 4) && std::string_view(magic, 4) == "GGUF";
}

}  // namespace

bool LoraGraft::Recognises(const std::string& path) {
  if (IsGguf(path)) {
    const GgufFile file(path);
    return file.Str("general.type", "") == "adapter" && file.Str("adapter.type", "") == "lora";
  }
  using Dialect = AdapterConfig::Dialect;
  const std::optional<AdapterConfig> config = AdapterConfig::Read(path);
  return config &&
         (config->Is(Dialect::kPeft, "LORA") || config->Is(Dialect::kMlx, "lora") || config->Is(Dialect::kMlx, "dora"));
}

std::unique_ptr<Graft> LoraGraft::Load(const std::string& path, const BaseModel& model, float scale) {
  if (IsGguf(path)) return LoadGguf(path, model, scale);
  const bool mlx = AdapterConfig::Read(path)->dialect() == AdapterConfig::Dialect::kMlx;
  return mlx ? LoadMlx(path, model, scale) : LoadPeft(path, model, scale);
}

void LoraGraft::Save(const std::string& path) { path.ends_with(".gguf") ? SaveGguf(path) : SavePeft(path); }

void LoraGraft::SaveGguf(const std::string& path) const {
  const ModelConfig& config = model_.config();
  if (options_.dora) Fail(ErrorCode::kUsage, path, ": GGUF adapters cannot express DoRA; merge it instead");
  GgufWriter writer;
  writer.Set("general.architecture", config.family);
  writer.Set("general.type", "adapter");
  writer.Set("general.name", options_.base);
  writer.Set("general.file_type", uint32_t{0});
  writer.Set("adapter.type", "lora");
  const double alpha =
      options_.alpha != 0 ? options_.alpha : static_cast<double>(options_.rank);  // 0 means no scale there
  writer.Set("adapter.lora.alpha", static_cast<float>(alpha));
  for (const auto& term : terms_) {
    if (term->site.expert >= 0) {
      Fail(ErrorCode::kUsage, path, ": adapters of experts are written as PEFT's directory, not as GGUF; or merge it");
    }
  }
  std::vector<FileTerm> terms = FileTerms(Dialect::kGguf);
  for (FileTerm& term : terms) {
    const double fold = double{term.scale} * static_cast<double>(term.a.view.rows()) / alpha;
    float* const b = term.b.view.f32();
    for (int64_t i = 0; i < term.b.view.size(); ++i) b[i] = static_cast<float>(fold * double{b[i]});
    writer.AddTensor(term.stem + ".weight.lora_a", term.a.view);
    writer.AddTensor(term.stem + ".weight.lora_b", term.b.view);
  }
  writer.Write(path);
}

std::unique_ptr<Graft> LoraGraft::LoadGguf(const std::string& path, const BaseModel& model, float effect) {
  const GgufFile file(path);
  const ModelConfig& config = model.config();
  if (const std::string arch = file.Str("general.architecture", ""); arch != config.family) {
    Fail(ErrorCode::kData, path, ": general.architecture is \"", arch, "\", this base is ", config.family,
         "; is the adapter for another base?");
  }
  if (file.Find("adapter.alora.invocation_tokens") != nullptr) {
    Fail(ErrorCode::kData, path,
         ": adapter.alora.invocation_tokens is set: an adapter that begins to act at those tokens "
         "(aLoRA) is not supported");
  }
  GraftOptions options;
  options.alpha = file.F64("adapter.lora.alpha", 0.0);
  options.rank = 0;
  const TensorNames names = NamesOf(config, Dialect::kGguf);
  std::vector<std::unique_ptr<Term>> terms;
  std::set<std::string> used;
  for (int layer = 0; layer < static_cast<int>(config.layers); ++layer) {
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      const Site site{layer, static_cast<SiteKind>(kind)};
      const Linear& linear = Base(model, site);
      if (!linear.w) continue;
      const LinearPlace place = PlaceOf(config, names, site);
      const std::string name = names.Weight(place.role, layer);
      const Tensor* const a = file.FindTensor(name + ".lora_a");
      const Tensor* const b = file.FindTensor(name + ".lora_b");
      if (a == nullptr && b == nullptr) continue;
      if (a == nullptr || b == nullptr) Fail(ErrorCode::kData, path, ": ", name, " has only one of lora_a, lora_b");
      const auto check = [&](const Tensor& t, const char* part, int64_t rows, int64_t columns) {
        if (t.rank == 2 && t.shape[0] == rows && t.shape[1] == columns && !IsQuantized(t.dtype)) return;
        Fail(ErrorCode::kData, path, ": ", name, ".", part, " is [", t.rows(), ", ", t.columns(), "] ",
             Info(t.dtype).name, ", this base and rank want [", rows, ", ", columns,
             "] of F32, F16 or BF16; is the adapter for another base?");
      };
      const int64_t rank = a->rows();
      check(*a, "lora_a", rank, linear.in());
      check(*b, "lora_b", place.all, rank);
      const double scale = options.alpha == 0 ? 1 : options.alpha / static_cast<double>(rank);
      auto term = MakeTerm(model, site, rank, static_cast<float>(double{effect} * scale));
      Convert(model.pool(), *a, term->a.value);
      OwnedTensor rows({place.all, rank});
      Convert(model.pool(), *b, rows.view);
      for (int64_t o = 0; o < linear.out(); ++o) {
        std::copy_n(rows.view.row(place.rows[static_cast<size_t>(o)]), rank, term->b.value.row(o));
      }
      options.rank = std::max(options.rank, rank);
      terms.push_back(std::move(term));
      used.insert({name + ".lora_a", name + ".lora_b"});
    }
  }
  file.CheckIntact();
  if (terms.empty()) Fail(ErrorCode::kData, path, ": no LoRA tensors");
  for (const NamedTensor& tensor : file.tensors()) {
    if (used.contains(tensor.name)) continue;
    Fail(ErrorCode::kData, path, ": tensor ", tensor.name, " belongs to no linear of this base");
  }
  if (options.alpha == 0) options.alpha = static_cast<double>(options.rank);
  return std::unique_ptr<LoraGraft>(new LoraGraft(model, options, std::move(terms)));
}

}  // namespace cambium
