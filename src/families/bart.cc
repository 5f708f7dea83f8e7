// BART (Lewis et al., "BART: Denoising Sequence-to-Sequence Pre-training", 2020). Of an encoder's family the layers are
// counted through both stacks, the encoder's first. No GGUF: llama.cpp has no such architecture.
#include <cmath>
#include <nlohmann/json.hpp>

#include "cambium/error.h"
#include "families/family.h"
#include "families/hf_config.h"
#include "families/hf_fields.h"

namespace cambium {
namespace {

constexpr TensorRow kRows[] = {{Role::kEmbedding, "model.shared", ""},
                               {Role::kPositions, "model.{stack}.embed_positions", ""},
                               {Role::kEmbeddingNorm, "model.{stack}.layernorm_embedding", ""},
                               {Role::kHead, "lm_head", ""},
                               {Role::kLogitBias, "final_logits_bias", ""},
                               {Role::kAttentionNorm, "model.{stack}.layers.{}.self_attn_layer_norm", ""},
                               {Role::kQ, "model.{stack}.layers.{}.self_attn.q_proj", ""},
                               {Role::kK, "model.{stack}.layers.{}.self_attn.k_proj", ""},
                               {Role::kV, "model.{stack}.layers.{}.self_attn.v_proj", ""},
                               {Role::kO, "model.{stack}.layers.{}.self_attn.out_proj", ""},
                               {Role::kCrossNorm, "model.{stack}.layers.{}.encoder_attn_layer_norm", ""},
                               {Role::kCrossQ, "model.{stack}.layers.{}.encoder_attn.q_proj", ""},
                               {Role::kCrossK, "model.{stack}.layers.{}.encoder_attn.k_proj", ""},
                               {Role::kCrossV, "model.{stack}.layers.{}.encoder_attn.v_proj", ""},
                               {Role::kCrossO, "model.{stack}.layers.{}.encoder_attn.out_proj", ""},
                               {Role::kFfnNorm, "model.{stack}.layers.{}.final_layer_norm", ""},
                               {Role::kUp, "model.{stack}.layers.{}.fc1", ""},
                               {Role::kDown, "model.{stack}.layers.{}.fc2", ""}};

constexpr std::string_view kKeys[] = {
    "d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads",
    "encoder_ffn_dim", "decoder_ffn_dim", "scale_embedding", "normalize_before", "normalize_embedding",
    "add_final_layer_norm", "add_bias_logits", "static_position_embeddings", "extra_pos_embeddings",
    "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id",
    // Of training, and of a head that is not loaded.
    "encoder_layerdrop", "decoder_layerdrop", "activation_dropout", "classif_dropout", "classifier_dropout", "init_std",
    "force_bos_token_to_be_generated", "gradient_checkpointing", "save_step"};

void ReadBart(const HfFields& fields, HfConfig& c) {
  for (const auto& [encoder, decoder] :
       {std::pair("encoder_attention_heads", c.heads), std::pair("encoder_ffn_dim", c.ffn)}) {
    if (fields.Int(encoder, decoder) != decoder) {
      fields.Wrong(encoder, *fields.Find(encoder), "the decoder's " + std::to_string(decoder));
    }
  }
  // The code behind these is not in transformers any more: files with other values are other models.
  for (const auto& [name, usual] :
       {std::pair("normalize_before", false), std::pair("normalize_embedding", true),
        std::pair("add_final_layer_norm", false), std::pair("static_position_embeddings", false)}) {
    if (fields.Bool(name, usual) != usual) fields.Wrong(name, *fields.Find(name), usual ? "true" : "false");
  }
  c.encoder_layers = fields.Int("encoder_layers", 12, 1, 10000);
  c.layers += c.encoder_layers;
  if (fields.Bool("scale_embedding", false)) c.embedding_scale = std::sqrt(static_cast<double>(c.hidden));
  c.decoder_start_id = fields.Int("decoder_start_token_id", 2, 0, c.vocab - 1);
  if (fields.Find("forced_bos_token_id")) c.forced_bos_id = fields.Int("forced_bos_token_id", {}, 0, c.vocab - 1);
  if (fields.Find("forced_eos_token_id")) c.forced_eos_id = fields.Int("forced_eos_token_id", {}, 0, c.vocab - 1);
}

void WriteBart(const HfConfig& c, nlohmann::ordered_json& json) {
  json["is_encoder_decoder"] = true;
  json["decoder_layers"] = c.layers - c.encoder_layers;
  json["encoder_layers"] = json["num_hidden_layers"] = c.encoder_layers;
  json["encoder_attention_heads"] = c.heads;
  json["encoder_ffn_dim"] = c.ffn;
  json["scale_embedding"] = c.embedding_scale != 1;
  json["decoder_start_token_id"] = *c.decoder_start_id;
  json["forced_bos_token_id"] = c.forced_bos_id ? nlohmann::ordered_json(*c.forced_bos_id) : nullptr;
  json["forced_eos_token_id"] = c.forced_eos_id ? nlohmann::ordered_json(*c.forced_eos_id) : nullptr;
}

}  // namespace

extern const Family kBart = {.hf_type = "bart",
                             .hf_class = "BartForConditionalGeneration",
                             .gguf = "bart",
                             .tensors = kRows,
                             .traits = {.norm = BlockTraits::Norm::kLayer,
                                        .gated = false,
                                        .residual_norm = true,
                                        .embedding_norm = true,
                                        .final_norm = false,
                                        .encoder = true,
                                        .position_offset = 2,
                                        .learned_positions = true,
                                        .rope = false},
                             .keys = {.hidden = "d_model",
                                      .layers = "decoder_layers",
                                      .heads = "decoder_attention_heads",
                                      .kv_heads = nullptr,
                                      .head_dim = nullptr,
                                      .ffn = "decoder_ffn_dim",
                                      .norm_eps = nullptr,
                                      .activation = "activation_function",
                                      .attention_bias = nullptr},
                             .defaults = {.vocab = 50265,
                                          .context = 1024,
                                          .norm_eps = 1e-5,
                                          .activation = "gelu",
                                          .tied_head = true,
                                          .attention_bias = true},
                             .hf_keys = kKeys,
                             .read_hf = ReadBart,
                             .write_hf = WriteBart};

}  // namespace cambium
