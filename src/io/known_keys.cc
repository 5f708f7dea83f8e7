#include "io/known_keys.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <vector>

#include "cambium/error.h"
#include "cambium/warning.h"
#include "io/gguf.h"

namespace cambium {
namespace {

using nlohmann::json;
using Names = std::span<const std::string_view>;

// A key that changes the result and is not honoured, with the values (a JSON list) under which it does nothing; null
// and empty ones are always so.
struct Refused {
  std::string_view name;
  const char* nothing;
};

// config.json.

constexpr std::string_view kModelHonoured[] = {"model_type",
                                               "vocab_size",
                                               "hidden_size",
                                               "num_hidden_layers",
                                               "num_attention_heads",
                                               "num_key_value_heads",
                                               "head_dim",
                                               "intermediate_size",
                                               "max_position_embeddings",
                                               "rms_norm_eps",
                                               "hidden_act",
                                               "hidden_activation",
                                               "tie_word_embeddings",
                                               "attention_bias",
                                               "mlp_bias",
                                               "rope_theta",
                                               "rope_scaling",
                                               "rope_parameters",
                                               "rope_local_base_freq",
                                               "original_max_position_embeddings",
                                               "sliding_window",
                                               "use_sliding_window",
                                               "max_window_layers",
                                               "sliding_window_pattern",
                                               "_sliding_window_pattern",
                                               "layer_types",
                                               "query_pre_attn_scalar",
                                               "eos_token_id",
                                               "bos_token_id",
                                               "pad_token_id",
                                               "num_nextn_predict_layers",
                                               "n_embd",
                                               "n_layer",
                                               "n_head",
                                               "n_positions",
                                               "n_inner",
                                               "activation_function",
                                               "layer_norm_epsilon",
                                               "text_config"};
// Where the file comes from, how the model was or is to be trained, what other programs do with it, other tasks' heads.
constexpr std::string_view kModelHarmless[] = {
    "architectures", "_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache",
    "n_ctx", "initializer_range", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "dropout", "pretraining_tp", "output_attentions", "output_hidden_states", "return_dict", "return_dict_in_generate",
    "torchscript", "use_bfloat16", "tf_legacy_loss", "is_decoder", "is_encoder_decoder", "cross_attention_hidden_size",
    "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "tokenizer_class",
    "prefix", "sep_token_id", "decoder_start_token_id", "chunk_size_feed_forward", "tie_encoder_decoder",
    "gradient_checkpointing", "summary_type", "summary_use_proj", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "reorder_and_upcast_attn", "is_llama_config", "attn_implementation",
    "_attn_implementation", "_attn_implementation_autoset", "use_flash_attn", "cache_implementation", "embedding_dropout", "residual_dropout", "classifier_dropout", "auto_map", "unsloth_version",
    "unsloth_fixed", "layer_norm_eps", "transformers.js_config", "attention_probs_dropout_prob", "hidden_dropout_prob",
    // Defaults of generate() that old files keep here; cambium's own options decide.
    "temperature", "top_k", "top_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "do_sample", "num_beams",
    "num_beam_groups", "diversity_penalty", "repetition_penalty", "encoder_no_repeat_ngram_size",
    "no_repeat_ngram_size", "length_penalty", "early_stopping", "max_length", "min_length", "max_new_tokens",
    "num_return_sequences", "output_scores", "remove_invalid_values", "exponential_decay_length_penalty",
    // Of multimodal models, whose text alone is run.
    "vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index", "image_token_id",
    "multimodal_projector_bias", "projector_hidden_act", "spatial_merge_size", "vision_feature_layer"};
constexpr Refused kModelRefused[] = {{"partial_rotary_factor", "[1]"},
                                     {"rotary_pct", "[1]"},
                                     {"rope_interleaved", "[false]"},
                                     {"attn_logit_softcapping", "[]"},
                                     {"final_logit_softcapping", "[]"},
                                     {"use_bidirectional_attention", "[false]"},
                                     {"quantization_config", "[]"},
                                     {"scale_attn_weights", "[true]"},
                                     {"scale_attn_by_inverse_layer_idx", "[false]"},
                                     {"add_cross_attention", "[false]"},
                                     {"pruned_heads", "[]"},
                                     {"use_qk_norm", "[false]"},
                                     {"qk_layernorm", "[false]"},
                                     {"clip_qkv", "[]"},
                                     {"norm_type", "[\"layer_norm\"]"},
                                     {"mlp_type", "[\"default\"]"},
                                     {"use_parallel_residual", "[false]"},
                                     {"attention_multiplier", "[]"},
                                     {"embedding_multiplier", "[1]"},
                                     {"residual_multiplier", "[1]"},
                                     {"logits_scaling", "[1]"},
                                     {"num_experts", "[0]"},
                                     {"num_local_experts", "[0]"},
                                     {"no_rope_layers", "[]"},
                                     {"attention_chunk_size", "[]"},
                                     // Settings of generation that old files keep here.
                                     {"suppress_tokens", "[]"},
                                     {"begin_suppress_tokens", "[]"},
                                     {"bad_words_ids", "[]"},
                                     {"forced_bos_token_id", "[]"},
                                     {"forced_eos_token_id", "[]"}};

// generation_config.json.

constexpr std::string_view kGenerationHonoured[] = {"eos_token_id"};
constexpr std::string_view kGenerationHarmless[] = {"bos_token_id",
                                                    "pad_token_id",
                                                    "decoder_start_token_id",
                                                    "transformers_version",
                                                    "_from_model_config",
                                                    "do_sample",
                                                    "temperature",
                                                    "top_k",
                                                    "top_p",
                                                    "min_p",
                                                    "typical_p",
                                                    "epsilon_cutoff",
                                                    "eta_cutoff",
                                                    "top_h",
                                                    "repetition_penalty",
                                                    "penalty_alpha",
                                                    "max_length",
                                                    "max_new_tokens",
                                                    "min_length",
                                                    "min_new_tokens",
                                                    "max_time",
                                                    "stop_strings",
                                                    "num_beams",
                                                    "num_beam_groups",
                                                    "diversity_penalty",
                                                    "length_penalty",
                                                    "early_stopping",
                                                    "num_return_sequences",
                                                    "use_cache",
                                                    "cache_implementation",
                                                    "cache_config",
                                                    "return_legacy_cache",
                                                    "output_attentions",
                                                    "output_hidden_states",
                                                    "output_scores",
                                                    "output_logits",
                                                    "return_dict_in_generate",
                                                    "renormalize_logits",
                                                    "remove_invalid_values",
                                                    "no_repeat_ngram_size",
                                                    "encoder_no_repeat_ngram_size",
                                                    "encoder_repetition_penalty",
                                                    "exponential_decay_length_penalty",
                                                    "guidance_scale",
                                                    "low_memory",
                                                    "watermarking_config",
                                                    "prompt_lookup_num_tokens",
                                                    "assistant_confidence_threshold",
                                                    "num_assistant_tokens",
                                                    "num_assistant_tokens_schedule",
                                                    "disable_compile",
                                                    "is_assistant",
                                                    "max_matching_ngram_size",
                                                    "compile_config",
                                                    "trust_remote_code",
                                                    "chat_format",
                                                    "max_window_size"};
// Which tokens may come, whatever the options are.
constexpr Refused kGenerationRefused[] = {
    {"suppress_tokens", "[]"},     {"begin_suppress_tokens", "[]"}, {"bad_words_ids", "[]"},   {"sequence_bias", "[]"},
    {"forced_bos_token_id", "[]"}, {"forced_eos_token_id", "[]"},   {"force_words_ids", "[]"}, {"constraints", "[]"},
    {"forced_decoder_ids", "[]"},  {"token_healing", "[false]"},    {"dola_layers", "[]"}};

// tokenizer_config.json.

constexpr std::string_view kTokenizerHonoured[] = {"bos_token",     "eos_token",     "unk_token",    "pad_token",
                                                   "add_bos_token", "add_eos_token", "chat_template"};
// What tokenizer.json says itself; names of tokens; lengths and sides of batches; what decoding tidies up.
constexpr std::string_view kTokenizerHarmless[] = {"added_tokens_decoder",
                                                   "additional_special_tokens",
                                                   "extra_special_tokens",
                                                   "sep_token",
                                                   "cls_token",
                                                   "mask_token",
                                                   "image_token",
                                                   "boi_token",
                                                   "eoi_token",
                                                   "model_max_length",
                                                   "max_length",
                                                   "max_len",
                                                   "padding_side",
                                                   "truncation_side",
                                                   "truncation_strategy",
                                                   "truncation",
                                                   "padding",
                                                   "stride",
                                                   "pad_to_multiple_of",
                                                   "pad_token_type_id",
                                                   "model_input_names",
                                                   "tokenizer_class",
                                                   "processor_class",
                                                   "name_or_path",
                                                   "tokenizer_file",
                                                   "vocab_file",
                                                   "merges_file",
                                                   "vocab_size",
                                                   "special_tokens_map_file",
                                                   "use_fast",
                                                   "from_slow",
                                                   "legacy",
                                                   "use_default_system_prompt",
                                                   "spaces_between_special_tokens",
                                                   "sp_model_kwargs",
                                                   "clean_up_tokenization_spaces",
                                                   "add_prefix_space",
                                                   "errors",
                                                   "auto_map",
                                                   "trust_remote_code",
                                                   "is_local",
                                                   "backend",
                                                   "unk_id",
                                                   "response_schema",
                                                   "model_specific_special_tokens",
                                                   "return_token_type_ids",
                                                   "max_pixels",
                                                   "local_files_only"};
constexpr Refused kTokenizerRefused[] = {{"split_special_tokens", "[false]"}, {"do_lower_case", "[false]"}};

// GGUF.

// Behind the architecture and a dot.
constexpr std::string_view kArchHonoured[] = {"context_length",
                                              "embedding_length",
                                              "block_count",
                                              "feed_forward_length",
                                              "attention.head_count",
                                              "attention.head_count_kv",
                                              "attention.key_length",
                                              "attention.layer_norm_epsilon",
                                              "attention.layer_norm_rms_epsilon",
                                              "attention.sliding_window",
                                              "attention.sliding_window_pattern",
                                              "attention.scale",
                                              "nextn_predict_layers",
                                              "rope.dimension_count",
                                              "rope.freq_base",
                                              "rope.freq_base_swa",
                                              "rope.scale_linear",
                                              "rope.scaling.type",
                                              "rope.scaling.factor",
                                              "rope.scaling.attn_factor",
                                              "rope.scaling.original_context_length",
                                              "rope.scaling.yarn_attn_factor",
                                              "rope.scaling.yarn_beta_fast",
                                              "rope.scaling.yarn_beta_slow",
                                              "rope.scaling.yarn_log_multiplier",
                                              "rope.scaling.yarn_ext_factor",
                                              "attention.value_length",
                                              "expert_count"};
constexpr std::string_view kArchHarmless[] = {"vocab_size", "rope.scaling.finetuned", "tensor_data_layout",
                                              "pooling_type", "leading_dense_block_count"};
constexpr Refused kArchRefused[] = {{"attn_logit_softcapping", "[0]"},
                                    {"final_logit_softcapping", "[0]"},
                                    {"logit_scale", "[0, 1]"},
                                    {"residual_scale", "[0, 1]"},
                                    {"embedding_scale", "[0, 1]"},
                                    {"attention.clamp_kqv", "[0]"},
                                    {"attention.max_alibi_bias", "[0]"},
                                    {"attention.causal", "[true]"},
                                    {"attention.output_scale", "[0, 1]"},
                                    {"attention.temperature_scale", "[0]"},
                                    {"attention.temperature_length", "[0]"},
                                    {"attention.shared_kv_layers", "[0]"},
                                    {"rope.scaling.alpha", "[0, 1]"},
                                    {"rope.dimension_sections", "[]"},
                                    {"use_parallel_residual", "[false]"},
                                    {"expert_used_count", "[0]"},
                                    {"swin_norm", "[false]"}};
// Behind "tokenizer.ggml.".
constexpr std::string_view kVocabHonoured[] = {"model",         "pre",           "tokens",           "token_type",
                                               "scores",        "merges",        "bos_token_id",     "eos_token_id",
                                               "eot_token_id",  "eom_token_id",  "unknown_token_id", "padding_token_id",
                                               "add_bos_token", "add_eos_token", "add_space_prefix"};
constexpr std::string_view kVocabHarmless[] = {
    "seperator_token_id",  "separator_token_id", "mask_token_id",    "cls_token_id",
    "token_type_count",    "added_tokens",       "fim_pre_token_id", "fim_suf_token_id",
    "fim_mid_token_id",    "fim_pad_token_id",   "fim_rep_token_id", "fim_sep_token_id",
    "prefix_token_id",     "suffix_token_id",    "middle_token_id",  "remove_extra_whitespaces",
    "precompiled_charsmap"};
constexpr Refused kVocabRefused[] = {{"add_sep_token", "[false]"}};

bool Has(Names names, std::string_view name) { return std::ranges::find(names, name) != names.end(); }

bool SaysNothing(const json& value, const char* nothing) {
  if (value.is_null() || ((value.is_array() || value.is_object() || value.is_string()) && value.empty())) return true;
  const json neutral = json::parse(nothing);
  return std::ranges::find(neutral, value) != neutral.end();
}

std::string Shown(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

// Sorts one key; whether it is in a list.
bool Check(const std::string& path, std::string_view shown, std::string_view name, const json& value, Names honoured,
           Names harmless, std::span<const Refused> refused) {
  if (Has(honoured, name) || Has(harmless, name)) return true;
  const auto found = std::ranges::find(refused, name, &Refused::name);
  if (found == refused.end()) return false;
  if (SaysNothing(value, found->nothing)) return true;
  Fail(ErrorCode::kData, path, ": field \"", shown, "\" is ", Shown(value), ", which is not supported");
}

void WarnOfUnknown(const std::string& path, const std::vector<std::string>& unknown) {
  if (unknown.empty()) return;
  std::string names;
  for (const std::string& name : unknown) names += (names.empty() ? "" : ", ") + name;
  if (names.size() > 300) names = names.substr(0, 297) + "...";
  Warn(path, ": not known, and taken to change nothing: ", names);
}

void CheckKeys(const json& config, const std::string& path, Names honoured, Names harmless,
               std::span<const Refused> refused, Names own = {}) {
  if (!config.is_object()) return;
  std::vector<std::string> unknown;
  for (const auto& [name, value] : config.items()) {
    if (Has(own, name)) continue;
    if (!Check(path, name, name, value, honoured, harmless, refused) && !value.is_null()) unknown.push_back(name);
  }
  WarnOfUnknown(path, unknown);
}

// A scalar as JSON; arrays as the list of their numbers.
json ValueOf(const GgufFile& file, const std::string& key, const GgufValue& value) {
  if (value.element == GgufType::kString)
    return value.type == GgufType::kArray ? json(value.count) : json(file.Str(key));
  if (value.type == GgufType::kArray) return value.count == 0 ? json() : json(file.Floats(key));
  if (value.type == GgufType::kBool) return file.Bool(key);
  return file.F64(key);
}

}  // namespace

void CheckModelKeys(const json& config, const std::string& path, Names own) {
  CheckKeys(config, path, kModelHonoured, kModelHarmless, kModelRefused, own);
}
void CheckGenerationKeys(const json& config, const std::string& path, bool has_encoder) {
  static constexpr std::string_view kForced[] = {"forced_bos_token_id", "forced_eos_token_id"};
  CheckKeys(config, path, kGenerationHonoured, kGenerationHarmless, kGenerationRefused,
            has_encoder ? Names(kForced) : Names());
}
void CheckTokenizerKeys(const json& config, const std::string& path) {
  CheckKeys(config, path, kTokenizerHonoured, kTokenizerHarmless, kTokenizerRefused);
}

void CheckGgufKeys(const GgufFile& file, Names own) {
  const std::string arch = file.Str("general.architecture", "") + ".", vocab = "tokenizer.ggml.";
  std::vector<std::string> unknown;
  for (const auto& entry : file.metadata()) {
    const std::string& key = entry.first;  // clang 14 captures no structured bindings
    const GgufValue& value = entry.second;
    const std::string_view name = key;
    const auto check = [&](const std::string& prefix, Names honoured, Names harmless,
                           std::span<const Refused> refused) {
      if (!name.starts_with(prefix)) return;
      const std::string_view rest = name.substr(prefix.size());
      const bool of_family = prefix == arch && Has(own, rest);
      const bool known = of_family || Has(honoured, rest) || Has(harmless, rest) ||
                         Check(file.path(), key, rest, ValueOf(file, key, value), {}, {}, refused);
      if (!known) unknown.push_back(key);
    };
    check(arch, kArchHonoured, kArchHarmless, kArchRefused);
    check(vocab, kVocabHonoured, kVocabHarmless, kVocabRefused);
  }
  WarnOfUnknown(file.path(), unknown);
}

}  // namespace cambium
