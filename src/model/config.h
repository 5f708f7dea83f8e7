#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "families/family.h"
#include "ops/ops.h"

namespace cambium {

// Everything that tells one family from another; the one transformer reads only this.
struct ModelConfig : BlockTraits {
  std::string family;  // as GGUF calls it: "llama", "qwen2", "gemma3", ...
  std::string name;
  int64_t vocab = 0, hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0;
  int64_t context = 0;  // positions the model was trained for

  float norm_eps = 1e-5f;
  Activation activation = Activation::kSilu;
  bool tied_head = false;                                // output head = token embedding
  float embedding_scale = 1.0f;                          // sqrt(hidden) for Gemma
  float attention_scale = 0.0f;                          // usually 1 / sqrt(head_dim)
  float residual_scale = 1.0f;                           // of each branch, as it is added (Granite)
  float logit_scale = 1.0f;                              // of the head's input, and so of the logits (Granite)
  float attention_softcap = 0.0f, logit_softcap = 0.0f;  // s becomes cap * tanh(s / cap); 0: none (Gemma 2)
  bool parallel_residual = false;                        // both branches of a block read its input (GPT-NeoX)

  // A mixture of experts in the place of a block's feed-forward layer, where a block has one.
  int64_t experts = 0, expert_ffn = 0;
  int64_t shared_ffn = 0;             // of the expert that every row goes through; 0 = none
  RouteRule route;
  std::vector<uint8_t> layer_routes;  // per layer; empty = all have experts, if there are any

  // RoPE: inv_freq per pair, already scaled (linear, llama3, YaRN); layers that slide may have their own table.
  std::vector<float> inv_freq, inv_freq_sliding;       // [rotated values of a head / 2]
  float rope_scale = 1.0f, rope_scale_sliding = 1.0f;  // multiply cos and sin

  int sliding_window = 0;             // positions a sliding layer sees; 0 = none slides
  std::vector<uint8_t> layer_slides;  // per layer; empty = all slide if sliding_window > 0

  // An encoder and a decoder: the first `encoder_layers` of `layers` are the encoder's. 0: a decoder alone.
  int64_t encoder_layers = 0;
  int32_t decoder_start = -1;  // the token before every answer
  // The token that an answer must begin with, and the one that it must end with where it is as long as it may be.
  int32_t forced_first = -1, forced_last = -1;

  bool has_encoder() const { return encoder_layers > 0; }
  int64_t decoder_layers() const { return layers - encoder_layers; }
  // Whether the layer attends to the encoder's result too.
  bool cross(int64_t layer) const { return has_encoder() && layer >= encoder_layers; }
  bool Slides(int64_t layer) const {
    return sliding_window > 0 && (layer_slides.empty() || layer_slides[static_cast<size_t>(layer)] != 0);
  }
  bool Routes(int64_t layer) const {
    return experts > 0 && (layer_routes.empty() || layer_routes[static_cast<size_t>(layer)] != 0);
  }
  AttentionShape Shape(int64_t layer) const {
    return {static_cast<int>(heads), static_cast<int>(kv_heads),         static_cast<int>(head_dim),
            attention_scale,         Slides(layer) ? sliding_window : 0, attention_softcap};
  }
};

}  // namespace cambium
