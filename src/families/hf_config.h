#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "families/family.h"
#include "io/rope_scaling.h"

namespace cambium {

// What a model's files say of it, whichever dialect they are in, with the family's defaults filled in. Beside what is
// read here (hf_config.cc, gguf_config.cc) stands what is written; ModelConfig is what the transformer makes of it.
struct HfConfig {
  // A mixture of experts; count 0: none.
  struct Experts {
    int64_t count = 0, used = 0, ffn = 0;
    int64_t shared_ffn = 0;       // of the expert that all rows share
    bool normalise = false;       // the weights of a row's experts sum to 1
    std::vector<uint8_t> layers;  // [layers]: which route; empty: all
  };

  std::string path;  // config.json, or the GGUF file
  const Family* family = nullptr;
  std::string name;
  int64_t vocab = 0, hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, context = 0;
  double norm_eps = 0;
  std::string activation;  // HF's name: silu, gelu_pytorch_tanh, gelu_new, gelu
  bool tied_head = false;
  bool attention_bias = false;
  double embedding_scale = 1;
  double attention_scale = 0;  // 0: 1 / sqrt(head_dim)
  double residual_scale = 1;   // of each branch, as it is added
  double logit_scale = 1;
  double attention_softcap = 0, logit_softcap = 0;      // 0: none
  bool parallel_residual = false;                       // both branches read the block's input
  int64_t rotary_dim = 0;                               // of a head's values, those that RoPE turns
  double rope_theta = 10000, rope_local_theta = 10000;  // local: layers that slide (Gemma 3)
  RopeScaling rope_scaling;                             // of layers that do not slide
  bool local_rope = false;                              // layers that slide have RoPE of their own
  RopeScaling rope_local_scaling;
  std::vector<float> rope_divisors;   // GGUF's rope_freqs.weight: llama3's scaling, [rotary_dim / 2]
  int64_t sliding_window = 0;         // positions; 0: no layer slides
  std::vector<uint8_t> layer_slides;  // [layers]; empty: all slide, if there is a window
  Experts experts;
  int64_t encoder_layers = 0;         // the first of `layers`
  // In front of every answer; and what it must begin with, and end with where it is as long as it may be.
  std::optional<int64_t> decoder_start_id, forced_bos_id, forced_eos_id;
  int64_t next_token_modules = 0;     // behind the layers
  std::vector<int64_t> eos_ids;
  std::optional<int64_t> bos_id, pad_id;
};

// A float's shortest decimal form, so that 1e-5f is written as 1e-05.
double Decimal(double value);

// Reads `directory`/config.json. Throws kData naming file, field and value.
HfConfig ReadHfConfig(const std::string& directory);
// The text model's own config where `root`, a config.json, is that of a multimodal wrapper; else `root` itself.
nlohmann::json HfTextConfig(const nlohmann::json& root, const std::string& path);
// The same from text; `path` names it in errors.
HfConfig ParseHfConfig(const std::string& text, const std::string& path);
// The way back: config.json, for a model that is stored in `dtype`. kData for what it cannot express.
nlohmann::ordered_json HfConfigJson(const HfConfig& config, const std::string& dtype);
// bos, eos and pad as config.json and generation_config.json state them.
void WriteTokenIds(const HfConfig& config, nlohmann::ordered_json& json);

}  // namespace cambium
