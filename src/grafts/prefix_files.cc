// PEFT's PREFIX_TUNING files (peft/tuners/prefix_tuning/model.py, peft_model.py get_prompt): one tensor
// prompt_embeddings [num_virtual_tokens, num_layers * 2 * token_dim] whose row is K of layer 0, V of layer 0, K of
// layer 1, ..., each [kv_heads, head_dim] with RoPE's halves apart.
#include <algorithm>

#include "cambium/error.h"
#include "grafts/adapter_config.h"
#include "grafts/prefix.h"
#include "io/safetensors.h"

namespace cambium {

bool PrefixGraft::Recognises(const std::string& path) {
  const std::optional<AdapterConfig> config = AdapterConfig::Read(path);
  return config && config->Is(AdapterConfig::Dialect::kPeft, "PREFIX_TUNING");
}

void PrefixGraft::Save(const std::string& path) {
  AfterUpdate();  // the parameters may be the unrounded ones now
  const ModelConfig& c = model_.config();
  const int64_t parts = 2 * c.layers;
  OwnedTensor rows({length_, parts * columns()});
  for (int64_t row = 0; row < length_; ++row) {
    for (int64_t part = 0; part < parts; ++part) {
      std::copy_n(values_.view.f32() + (part * length_ + row) * columns(), columns(),
                  rows.view.row(row) + part * columns());
    }
  }
  WriteAdapterConfig(path, {{"peft_type", "PREFIX_TUNING"},
                            {"task_type", task_type_},
                            {"base_model_name_or_path", base_},
                            {"num_virtual_tokens", length_},
                            {"token_dim", columns()},
                            {"num_attention_heads", c.kv_heads},
                            {"num_layers", c.layers},
                            {"num_transformer_submodules", 1},
                            {"encoder_hidden_size", columns()},
                            {"prefix_projection", false},
                            {"init_weights", nullptr},
                            {"inference_mode", true}});
  std::vector<TensorToWrite> tensors;
  tensors.push_back({.name = "prompt_embeddings", .view = rows.view});
  WriteSafetensors(path + "/adapter_model.safetensors", std::move(tensors), {{"format", "pt"}});
}

std::unique_ptr<Graft> PrefixGraft::Load(const std::string& path, const BaseModel& model, float scale) {
  if (scale != 1) Fail(ErrorCode::kUsage, path, ": a prefix has no scale, asked for ", scale);
  const ModelConfig& c = model.config();
  const AdapterConfig config = *AdapterConfig::Read(path);
  const int64_t columns = c.kv_heads * c.head_dim;
  config.Expect("num_layers", c.layers, "layers");
  config.Expect("num_attention_heads", c.kv_heads, "key-value heads");
  config.Expect("token_dim", columns, "values in a token's keys");
  if (config.Int("num_transformer_submodules", 1) != 1) {
    config.Refuse("num_transformer_submodules", "a causal model has 1");
  }
  const SafetensorsFile file(config.WeightsPath());
  const Tensor* const stored = file.FindTensor("prompt_embeddings");
  if (stored == nullptr || file.tensors().size() != 1) {
    const std::string found = file.tensors().empty() ? "none" : file.tensors().front().name;
    Fail(ErrorCode::kData, file.path(), ": expected the one tensor prompt_embeddings, found ", file.tensors().size(),
         ", the first is ", found);
  }
  const int64_t wanted = 2 * c.layers * columns;
  if (stored->rank != 2 || stored->columns() != wanted) {
    const bool projected = config.Bool("prefix_projection", false);
    Fail(ErrorCode::kData, file.path(), ": prompt_embeddings is [", stored->rows(), ", ", stored->columns(),
         "], this base wants [", stored->rows(), ", ", wanted, "]",
         projected ? "; field \"prefix_projection\" is true, and the MLP that would make it is not in the file" : "");
  }
  if (config.Int("num_virtual_tokens", stored->rows()) != stored->rows()) {
    config.Refuse("num_virtual_tokens", "prompt_embeddings has " + std::to_string(stored->rows()) + " rows");
  }
  std::unique_ptr<PrefixGraft> graft(new PrefixGraft(model, stored->rows()));
  graft->base_ = config.Text("base_model_name_or_path", "");
  graft->task_type_ = config.Text("task_type", graft->task_type_);
  OwnedTensor rows({stored->rows(), wanted});
  Convert(model.pool(), *stored, rows.view);
  for (int64_t row = 0; row < stored->rows(); ++row) {
    for (int64_t part = 0; part < 2 * c.layers; ++part) {
      std::copy_n(rows.view.row(row) + part * columns, columns,
                  graft->values_.view.f32() + (part * stored->rows() + row) * columns);
    }
  }
  file.CheckIntact();
  return graft;
}

}  // namespace cambium
