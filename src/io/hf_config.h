#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "io/rope_scaling.h"

namespace cambium {

// config.json of a Hugging Face model directory, with each family's defaults filled in.
struct HfConfig {
  std::string path;
  std::string family;  // llama, mistral, qwen2, qwen3, gemma3_text, gpt2
  int64_t vocab = 0, hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, context = 0;
  double norm_eps = 0;
  std::string activation;  // HF's name: silu, gelu_pytorch_tanh, gelu_new, gelu
  bool tied_head = false;
  bool attention_bias = false;  // on q, k and v (and o: see output_bias)
  bool output_bias = false;     // on o
  bool mlp_bias = false;
  double rope_theta = 10000, rope_local_theta = 10000;  // local: layers that slide (Gemma 3)
  RopeScaling rope_scaling;                             // of layers that do not slide
  bool local_rope = false;                              // layers that slide have RoPE of their own
  RopeScaling rope_local_scaling;
  int64_t sliding_window = 0;                           // positions; 0: no layer slides
  std::vector<uint8_t> layer_slides;                    // [layers]
  double query_scale = 0;                               // Gemma's query_pre_attn_scalar; attention uses its -1/2 power
  std::vector<int64_t> eos_ids;
  std::optional<int64_t> bos_id, pad_id;
};

// Reads `directory`/config.json. Throws kData naming file, field and value.
HfConfig ReadHfConfig(const std::string& directory);
// The text model's own config where `root`, a config.json, is that of a multimodal wrapper; else `root` itself.
nlohmann::json HfTextConfig(const nlohmann::json& root, const std::string& path);
// The same from text; `path` names it in errors.
HfConfig ParseHfConfig(const std::string& text, const std::string& path);

}  // namespace cambium
