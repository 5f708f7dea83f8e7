#include <algorithm>
#include <cmath>
#include <limits>

#include "io/hf_config.h"
#include "io/safetensors.h"
#include "model/load.h"

namespace cambium {
namespace {

constexpr TensorNames kLlamaNames = {
    .embedding = "model.embed_tokens", .positions = nullptr, .final_norm = "model.norm", .head = "lm_head",
    .attention_norm = "model.layers.{}.input_layernorm", .attention_post_norm = "model.layers.{}.post_attention_layernorm",
    .ffn_norm = "model.layers.{}.post_attention_layernorm",
    .ffn_post_norm = "model.layers.{}.post_feedforward_layernorm",
    .q_norm = "model.layers.{}.self_attn.q_norm", .k_norm = "model.layers.{}.self_attn.k_norm",
    .linears = {"model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.k_proj",
                "model.layers.{}.self_attn.v_proj", "model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.gate_proj",
                "model.layers.{}.mlp.up_proj", "model.layers.{}.mlp.down_proj"},
    .fused_qkv = nullptr, .weight = ".weight", .bias = ".bias"};

constexpr TensorNames kGpt2Names = {
    .embedding = "wte", .positions = "wpe", .final_norm = "ln_f", .head = "lm_head",
    .attention_norm = "h.{}.ln_1", .attention_post_norm = nullptr, .ffn_norm = "h.{}.ln_2", .ffn_post_norm = nullptr,
    .q_norm = nullptr, .k_norm = nullptr,
    .linears = {nullptr, nullptr, nullptr, "h.{}.attn.c_proj", nullptr, "h.{}.mlp.c_fc", "h.{}.mlp.c_proj"},
    .fused_qkv = "h.{}.attn.c_attn", .weight = ".weight", .bias = ".bias", .transposed = true};

// Tensors by name, also where the checkpoint wraps the model: "transformer." (GPT-2), "language_model." and
// "model.language_model." (multimodal ones), or a bare model without "model.".
class SafetensorsSource : public WeightSource {
 public:
  SafetensorsSource(const std::string& path, const ShardedSafetensors& file) : path_(path), file_(file) {}
  std::string path() const override { return path_; }
  const Tensor* Find(const std::string& name) const override {
    for (const char* prefix : {"", "transformer.", "language_model."}) {
      if (const Tensor* found = file_.FindTensor(prefix + name); found != nullptr) return found;
    }
    if (!name.starts_with("model.")) return nullptr;
    for (const char* prefix : {"model.language_model.", "language_model.", ""}) {
      if (const Tensor* found = file_.FindTensor(prefix + name.substr(6)); found != nullptr) return found;
    }
    return nullptr;
  }
  void Evict(const Tensor& tensor, int64_t row, int64_t rows) const noexcept override { file_.Evict(tensor, row, rows); }
  void CheckIntact() const override { file_.CheckIntact(); }

 private:
  std::string path_;
  const ShardedSafetensors& file_;
};

ModelConfig FromHf(const HfConfig& hf, TensorNames& names) {
  names = HfNames(hf.family);
  ModelConfig c;
  c.family = hf.family == "gemma3_text" ? "gemma3" : hf.family == "mistral" ? "llama" : hf.family;
  c.layers = hf.layers;
  c.hidden = hf.hidden;
  c.heads = hf.heads;
  c.kv_heads = hf.kv_heads;
  c.head_dim = hf.head_dim;
  c.ffn = hf.ffn;
  c.context = hf.context;
  c.norm_eps = static_cast<float>(hf.norm_eps);
  c.tied_head = hf.tied_head;
  if (hf.activation == "silu") {
    c.activation = Activation::kSilu;
  } else if (hf.activation == "gelu") {
    c.activation = Activation::kGelu;
  } else if (hf.activation == "gelu_pytorch_tanh" || hf.activation == "gelu_new") {
    c.activation = Activation::kGeluTanh;
  } else {
    Fail(ErrorCode::kData, hf.path, ": activation \"", hf.activation, "\" is not supported");
  }
  ValidateConfig(c, hf.path);
  c.attention_scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  c.sliding_window = static_cast<int>(std::min<int64_t>(hf.sliding_window, std::numeric_limits<int32_t>::max()));
  c.layer_slides = hf.layer_slides;
  c.qk_norm = c.family == "qwen3" || c.family == "gemma3";
  if (c.family == "gpt2") {
    c.norm = ModelConfig::Norm::kLayer;
    c.gated = c.rope = false;
    c.learned_positions = true;
    return c;
  }
  const RopeTable rope = MakeRopeTable(hf.rope_theta, c.head_dim, hf.rope_scaling);
  c.inv_freq = rope.inv_freq;
  c.rope_scale = rope.scale;
  if (hf.local_rope) {
    const RopeTable local = MakeRopeTable(hf.rope_local_theta, c.head_dim, hf.rope_local_scaling);
    c.inv_freq_sliding = local.inv_freq;
    c.rope_scale_sliding = local.scale;
  }
  if (c.family == "gemma3") {
    c.post_norms = true;
    c.embedding_scale = std::sqrt(static_cast<float>(c.hidden));
    c.attention_scale = static_cast<float>(1.0 / std::sqrt(hf.query_scale));
  }
  return c;
}

}  // namespace

TensorNames HfNames(const std::string& family) {
  if (family == "gpt2") return kGpt2Names;
  TensorNames names = kLlamaNames;
  if (family == "gemma3_text") {
    names.ffn_norm = "model.layers.{}.pre_feedforward_layernorm";
    names.norm_offset = 1.0f;
  }
  return names;
}

std::unique_ptr<ModelWeights> LoadHuggingFace(ThreadPool& pool, const std::string& directory) {
  TensorNames names;
  ModelConfig config = FromHf(ReadHfConfig(directory), names);
  const ShardedSafetensors file(directory);
  int64_t bytes = 0;
  for (const NamedTensor& tensor : file.tensors()) bytes += static_cast<int64_t>(tensor.bytes);
  CheckMemory(directory, bytes);
  const bool tied = config.tied_head;
  auto weights = PackWeights(pool, std::move(config), names, SafetensorsSource(directory, file));
  if (!tied && !weights->separate_head) {
    Fail(ErrorCode::kData, directory, ": tensor ", names.head, names.weight,
         " is missing, and tie_word_embeddings is false");
  }
  const std::string block = "model.layers." + std::to_string(weights->config.layers) + ".";
  const auto holds = [&](const std::string& name) { return file.FindTensor(name) != nullptr; };
  const bool deepseek = holds(block + "eh_proj.weight") && !holds(block + "self_attn.q_proj.bias");
  const bool qwen = holds("mtp.fc.weight") && !holds("mtp.layers.0.self_attn.q_proj.bias");
  if (deepseek || qwen) weights->mtp_source = directory;
  return weights;
}

}  // namespace cambium
