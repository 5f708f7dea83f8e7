// mlx-lm's LoRA and DoRA adapters (github.com/ml-explore/mlx-lm, mlx_lm/tuner/{lora,dora,utils}.py): adapter_config.json with
// fine_tune_type, num_layers (the last ones) and lora_parameters {rank, scale, dropout, keys}, adapters.safetensors with
// MODULE.lora_a [in, rank], MODULE.lora_b [rank, out] and DoRA's MODULE.m [out]. One rank and one scale for all.
#include <algorithm>
#include <cmath>
#include <set>

#include "cambium/error.h"
#include "cambium/warning.h"
#include "grafts/adapter_config.h"
#include "grafts/lora.h"
#include "io/safetensors.h"

namespace cambium {
namespace {

// to [columns, rows] of which the first from.columns() rows are the transpose of `from`, times `scale`; the rest is zero.
void Transpose(float scale, Tensor from, Tensor to) {
  for (int64_t r = 0; r < from.rows(); ++r) {
    for (int64_t c = 0; c < from.columns(); ++c) to.row(c)[r] = scale * from.row(r)[c];
  }
}

OwnedTensor Decoded(ThreadPool& pool, Tensor stored) {
  OwnedTensor copy({stored.rows(), stored.columns()});
  Convert(pool, stored, copy.view);
  return copy;
}

}  // namespace

std::unique_ptr<Graft> LoraGraft::LoadMlx(const std::string& directory, const BaseModel& model, float effect) {
  const AdapterConfig config = *AdapterConfig::Read(directory);
  const nlohmann::json parameters = config.file().value("lora_parameters", nlohmann::json());
  const auto number = [&](const char* field) {
    const auto found = parameters.is_object() ? parameters.find(field) : parameters.end();
    if (!parameters.is_object() || found == parameters.end() || !found->is_number()) {
      config.Refuse("lora_parameters", std::string("which wants a number \"") + field + "\"");
    }
    return found->get<double>();
  };
  GraftOptions options;
  const double rank = number("rank");
  if (!(rank >= 1 && rank <= 1 << 20) || rank != std::floor(rank)) config.Refuse("lora_parameters", "which wants a rank of 1 or more");
  options.rank = static_cast<int64_t>(rank);
  const double scale = number("scale");
  options.alpha = scale * static_cast<double>(options.rank);
  options.dora = config.kind() == "dora";
  if (parameters.contains("dropout")) options.dropout = number("dropout");
  const SafetensorsFile file(config.WeightsPath());
  std::vector<std::unique_ptr<Term>> terms;
  std::set<std::string> used;
  for (int layer = 0; layer < static_cast<int>(model.config().layers); ++layer) {
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      const Site site{layer, static_cast<SiteKind>(kind)};
      const Linear& linear = Base(model, site);
      if (!linear.w) continue;
      const std::string module = HfModule(model.config(), site);
      const Tensor* const a = file.FindTensor(module + ".lora_a");
      const Tensor* const b = file.FindTensor(module + ".lora_b");
      const Tensor* const m = file.FindTensor(module + ".m");
      if (a == nullptr && b == nullptr && m == nullptr) continue;
      const auto check = [&](const Tensor* t, const char* part, int64_t rows, int64_t columns) {
        if (t == nullptr) Fail(ErrorCode::kData, file.path(), ": tensor ", module, ".", part, " is missing");
        if (t->rows() != rows || t->columns() != columns) {
          Fail(ErrorCode::kData, file.path(), ": ", module, ".", part, " is [", t->rows(), ", ", t->columns(),
               "], this base and field \"rank\" want [", rows, ", ", columns, "]; is the adapter for another base?");
        }
        used.insert(module + "." + part);
      };
      check(a, "lora_a", linear.in(), options.rank);
      check(b, "lora_b", options.rank, linear.out());
      auto term = MakeTerm(model, site, options.rank, static_cast<float>(double{effect} * scale));
      Transpose(1, Decoded(model.pool(), *a).view, term->a.value);
      Transpose(1, Decoded(model.pool(), *b).view, term->b.value);
      if (options.dora) {
        check(m, "m", 1, linear.out());
        AddMagnitude(model, *term);
        Convert(model.pool(), Tensor(m->data, m->dtype, {linear.out()}), term->magnitude.value);
      }
      terms.push_back(std::move(term));
    }
  }
  file.CheckIntact();
  if (terms.empty()) Fail(ErrorCode::kData, file.path(), ": no LoRA tensors");
  for (const NamedTensor& tensor : file.tensors()) {
    if (used.count(tensor.name) == 0) {
      Fail(ErrorCode::kData, file.path(), ": tensor ", tensor.name, " belongs to no linear of this base");
    }
  }
  return std::unique_ptr<LoraGraft>(new LoraGraft(model, options, std::move(terms)));
}

// Lower ranks are filled up with zeros and other scales go into lora_b, so that one rank and one scale hold for all.
void LoraGraft::SaveMlx(const std::string& directory) const {
  int64_t rank = 0;
  std::vector<Factors> factors;
  for (const auto& term : terms_) {
    if (term->site.expert >= 0) Fail(ErrorCode::kUsage, directory, ": MLX stacks the experts of a layer; save PEFT's files");
    factors.push_back(FactorsOf(*term));
    rank = std::max(rank, factors.back().a.rows());
  }
  const float scale = terms_.front()->scale != 0 ? terms_.front()->scale : 1;
  std::vector<OwnedTensor> memory;
  std::vector<TensorToWrite> tensors;
  std::set<std::string> keys;
  const size_t layers_length = HfLayers(model_.config()).size();
  for (size_t i = 0; i < terms_.size(); ++i) {
    const Term& term = *terms_[i];
    const std::string module = HfModule(model_.config(), term.site);
    keys.insert(module.substr(module.find('.', layers_length) + 1));
    memory.emplace_back(std::initializer_list<int64_t>{term.in, rank});
    Tensor a = memory.back().view;
    memory.emplace_back(std::initializer_list<int64_t>{rank, term.out});
    Tensor b = memory.back().view;
    Transpose(1, factors[i].a, a);
    Transpose(term.scale / scale, factors[i].b, b);
    tensors.push_back({.name = module + ".lora_a", .view = a});
    tensors.push_back({.name = module + ".lora_b", .view = b});
    if (term.magnitude.value) tensors.push_back({.name = module + ".m", .view = term.magnitude.value});
  }
  std::set<int64_t> layers;
  for (const auto& term : terms_) layers.insert(term->site.layer);
  const int64_t last = model_.config().layers - LowestLayer();
  const bool alike = terms_.size() == keys.size() * layers.size();
  if (!alike || static_cast<int64_t>(layers.size()) != last) {
    Warn(directory, ": mlx-lm adapts the same modules in each of the last ", last,
         " layers; those that the adapter leaves "
         "as they are get terms of zero there");
  }
  WriteAdapterConfig(directory, {{"fine_tune_type", options_.dora ? "dora" : "lora"},
                                 {"model", options_.base},
                                 {"num_layers", last},
                                 {"lora_parameters",
                                  {{"rank", rank}, {"scale", scale}, {"dropout", options_.dropout}, {"keys", keys}}}});
  WriteSafetensors(directory + "/adapters.safetensors", std::move(tensors), {{"format", "mlx"}});
}

}  // namespace cambium
