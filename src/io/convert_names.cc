#include <array>
#include <cmath>
#include <numbers>
#include <span>
#include <utility>

#include "cambium/error.h"
#include "io/convert.h"

namespace cambium {
namespace {

struct Pair {
  std::string_view hf, gguf;  // between the layer's prefix and ".weight" or ".bias"
};
constexpr Pair kLlamaTop[] = {
    {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};
constexpr Pair kLlamaLayer[] = {{"input_layernorm", "attn_norm"},    {"post_attention_layernorm", "ffn_norm"},
                                {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
                                {"self_attn.v_proj", "attn_v"},      {"self_attn.o_proj", "attn_output"},
                                {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
                                {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
                                {"mlp.down_proj", "ffn_down"},
                                // A module that predicts further tokens (DeepSeek-V3), a block behind the last.
                                {"eh_proj", "nextn.eh_proj"},        {"enorm", "nextn.enorm"},
                                {"hnorm", "nextn.hnorm"},            {"embed_tokens", "nextn.embed_tokens"},
                                {"shared_head.norm", "nextn.shared_head_norm"},
                                {"shared_head.head", "nextn.shared_head_head"}};
// Gemma's own come first, so that they hide Llama's.
constexpr Pair kGemmaLayer[] = {{"post_attention_layernorm", "post_attention_norm"},
                                {"pre_feedforward_layernorm", "ffn_norm"},
                                {"post_feedforward_layernorm", "post_ffw_norm"}};
constexpr Pair kGpt2Top[] = {
    {"wte", "token_embd"}, {"wpe", "position_embd"}, {"ln_f", "output_norm"}, {"lm_head", "output"}};
constexpr Pair kGpt2Layer[] = {{"ln_1", "attn_norm"}, {"attn.c_attn", "attn_qkv"}, {"attn.c_proj", "attn_output"},
                               {"ln_2", "ffn_norm"},  {"mlp.c_fc", "ffn_up"},      {"mlp.c_proj", "ffn_down"}};

// What a checkpoint may hold besides the weights we name.
bool IsIgnored(std::string_view name) {
  if (name.ends_with("rotary_emb.inv_freq") || name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")) {
    return true;
  }
  if (name.starts_with("model.")) name.remove_prefix(6);
  for (std::string_view part :
       {"vision_tower.", "vision_model.", "visual.", "multi_modal_projector.", "audio_tower."}) {
    if (name.starts_with(part)) return true;
  }
  return false;
}

// The name without what wraps the model, as SafetensorsSource (model/load_hf.cc) looks for it.
std::string Unwrapped(std::string name) {
  for (std::string_view prefix : {"transformer.", "language_model."}) {
    if (name.starts_with(prefix)) name.erase(0, prefix.size());
  }
  if (name.starts_with("model.language_model.")) name.erase(6, 15);
  const bool bare = name.starts_with("layers.") || name.starts_with("embed_tokens.") || name.starts_with("norm.");
  return bare ? "model." + name : name;
}

}  // namespace

std::string MtpTensorName(const std::string& name, int64_t layers) {
  if (!name.starts_with("mtp.")) return name;
  const std::string block = "model.layers." + std::to_string(layers) + ".";
  constexpr std::string_view kLayer = "mtp.layers.0.";
  if (name.starts_with(kLayer)) return block + name.substr(kLayer.size());
  for (const auto& [qwen, deepseek] : {std::pair{"mtp.fc.weight", "eh_proj.weight"},
                                       {"mtp.pre_fc_norm_embedding.weight", "enorm.weight"},
                                       {"mtp.pre_fc_norm_hidden.weight", "hnorm.weight"},
                                       {"mtp.norm.weight", "shared_head.norm.weight"}}) {
    if (name == qwen) return block + deepseek;
  }
  return name;
}

TensorRename RenameTensor(const std::string& family, ConvertDirection direction, const std::string& original) {
  const bool to_gguf = direction == ConvertDirection::kToGguf;
  if (to_gguf ? IsIgnored(original) : original == "rope_freqs.weight") return {};
  const std::string name = to_gguf ? Unwrapped(original) : original;
  const bool gpt2 = family == "gpt2", gemma = family == "gemma3_text", llama = family == "llama" || family == "mistral";
  const std::string_view hf_layer = gpt2 ? "h." : "model.layers.", gguf_layer = "blk.";
  const std::string_view from = to_gguf ? hf_layer : gguf_layer, to = to_gguf ? gguf_layer : hf_layer;

  const size_t dot = name.rfind('.');
  const std::string suffix = dot == std::string::npos ? "" : name.substr(dot);
  std::string stem = name.substr(0, dot), prefix;
  const bool in_layer = stem.starts_with(from);
  if (in_layer) {
    const size_t end = stem.find('.', from.size());
    if (end == std::string::npos) Fail(ErrorCode::kData, "tensor ", original, " is not known in the family ", family);
    prefix = std::string(to) + stem.substr(from.size(), end + 1 - from.size());
    stem.erase(0, end + 1);
  }
  std::vector<std::span<const Pair>> tables;
  if (gemma && in_layer) tables.emplace_back(kGemmaLayer);
  tables.push_back(in_layer ? (gpt2 ? std::span<const Pair>(kGpt2Layer) : kLlamaLayer)
                            : (gpt2 ? std::span<const Pair>(kGpt2Top) : kLlamaTop));
  for (const std::span<const Pair> table : tables) {
    for (const Pair& pair : table) {
      if ((to_gguf ? pair.hf : pair.gguf) != stem || (suffix != ".weight" && suffix != ".bias")) continue;
      TensorRename rename;
      rename.name = prefix + std::string(to_gguf ? pair.gguf : pair.hf) + suffix;
      if (gpt2 && !to_gguf && pair.hf != "lm_head") rename.name = "transformer." + rename.name;
      rename.transposed = gpt2 && in_layer && suffix == ".weight" && pair.hf.find("c_") != std::string_view::npos;
      rename.gain_offset = gemma && pair.gguf.ends_with("norm");
      if (llama && (pair.gguf == "attn_q" || pair.gguf == "attn_k")) rename.permuted = pair.gguf.back();
      return rename;
    }
  }
  Fail(ErrorCode::kData, "tensor ", original, " is not known in the family ", family);
}

std::vector<float> Llama3RopeDivisors(double theta, int64_t head_dim, double factor, double low, double high,
                                      int64_t original_context) {
  std::vector<float> divisors;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    const double turns = static_cast<double>(original_context) * frequency / (2 * std::numbers::pi);
    const double smooth = (turns - low) / (high - low);
    const double divisor = turns > high ? 1 : turns < low ? factor : 1 / ((1 - smooth) / factor + smooth);
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

}  // namespace cambium
