#include "grafts/prompt.h"

#include "base/random.h"
#include "cambium/error.h"
#include "grafts/adapter_config.h"
#include "io/safetensors.h"

namespace cambium {

PromptGraft::PromptGraft(const BaseModel& model, int64_t length) : model_(model) {
  const int64_t most = model.config().context - 1;
  if (length < 1 || length > most) Fail(ErrorCode::kUsage, "prompt length is ", length, ", expected 1 to ", most);
  values_ = OwnedTensor({length, model.config().hidden});
  param_.name = "prompt_embeddings";
  param_.value = values_.view;
}

std::unique_ptr<Graft> PromptGraft::Make(const GraftOptions& options, BaseModel& model) {
  std::unique_ptr<PromptGraft> graft(new PromptGraft(model, options.length));
  graft->base_ = options.base;
  const Tensor values = graft->values_.view;
  if (options.prefix_init == "text") {
    if (options.init_ids.empty()) Fail(ErrorCode::kUsage, "a prompt that begins as a text needs the text's tokens");
    for (int64_t i = 0; i < values.rows(); ++i) {
      model.weights().embedding.UnpackRow(options.init_ids[static_cast<size_t>(i) % options.init_ids.size()], values.row(i));
    }
    Scale(model.pool(), model.config().embedding_scale, values);
  } else if (options.prefix_init == "random") {
    const Philox noise(options.seed);
    for (int64_t i = 0; i < values.size(); ++i) {  // as torch's nn.Embedding
      values.f32()[i] = static_cast<float>(noise.Normal(static_cast<uint64_t>(i), 0x70726f));
    }
  } else if (options.prefix_init != "zero") {
    Fail(ErrorCode::kUsage, "prompt init is \"", options.prefix_init, "\", expected text, random or zero");
  }
  return graft;
}

void PromptGraft::AtEmbedding(const GraftContext& context, std::span<const int32_t> tokens, Tensor x) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0) Add(context.pool, values_.view.Rows(-1 - tokens[i], 1), x.Rows(static_cast<int64_t>(i), 1));
  }
}

void PromptGraft::AtEmbeddingBackward(const GraftContext& context, std::span<const int32_t> tokens, Tensor dx) {
  if (!param_.grad) return;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0) Add(context.pool, dx.Rows(static_cast<int64_t>(i), 1), param_.grad.Rows(-1 - tokens[i], 1));
  }
}

bool PromptGraft::Recognises(const std::string& path) {
  const std::optional<AdapterConfig> config = AdapterConfig::Read(path);
  return config && config->Is(AdapterConfig::Dialect::kPeft, "PROMPT_TUNING");
}

// PEFT's PROMPT_TUNING files (peft/tuners/prompt_tuning): one tensor prompt_embeddings [num_virtual_tokens, token_dim].
void PromptGraft::Save(const std::string& path) {
  const ModelConfig& c = model_.config();
  WriteAdapterConfig(path, {{"peft_type", "PROMPT_TUNING"},
                            {"task_type", task_type_},
                            {"base_model_name_or_path", base_},
                            {"num_virtual_tokens", prompt_length()},
                            {"token_dim", c.hidden},
                            {"num_attention_heads", c.heads},
                            {"num_layers", c.layers},
                            {"num_transformer_submodules", 1},
                            {"prompt_tuning_init", "RANDOM"},
                            {"inference_mode", true}});
  std::vector<TensorToWrite> tensors;
  tensors.push_back({.name = "prompt_embeddings", .view = values_.view});
  WriteSafetensors(path + "/adapter_model.safetensors", std::move(tensors), {{"format", "pt"}});
}

std::unique_ptr<Graft> PromptGraft::Load(const std::string& path, const BaseModel& model, float scale) {
  if (scale != 1) Fail(ErrorCode::kUsage, path, ": a prompt has no scale, asked for ", scale);
  const ModelConfig& c = model.config();
  const AdapterConfig config = *AdapterConfig::Read(path);
  config.Expect("token_dim", c.hidden, "values in a token's embedding");
  if (config.Int("num_transformer_submodules", 1) != 1) {
    config.Refuse("num_transformer_submodules", "a causal model has 1");
  }
  const SafetensorsFile file(config.WeightsPath());
  const Tensor* const stored = file.FindTensor("prompt_embeddings");
  if (stored == nullptr || file.tensors().size() != 1) {
    Fail(ErrorCode::kData, file.path(), ": expected the one tensor prompt_embeddings, found ", file.tensors().size(),
         file.tensors().empty() ? "" : ", the first is " + file.tensors().front().name);
  }
  if (stored->rank != 2 || stored->columns() != c.hidden) {
    Fail(ErrorCode::kData, file.path(), ": prompt_embeddings is [", stored->rows(), ", ", stored->columns(),
         "], this base wants [", stored->rows(), ", ", c.hidden, "]");
  }
  if (config.Int("num_virtual_tokens", stored->rows()) != stored->rows()) {
    config.Refuse("num_virtual_tokens", "prompt_embeddings has " + std::to_string(stored->rows()) + " rows");
  }
  std::unique_ptr<PromptGraft> graft(new PromptGraft(model, stored->rows()));
  graft->base_ = config.Text("base_model_name_or_path", "");
  graft->task_type_ = config.Text("task_type", graft->task_type_);
  Convert(model.pool(), *stored, graft->values_.view);
  file.CheckIntact();
  return graft;
}

}  // namespace cambium
