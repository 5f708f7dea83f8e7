#include "io/hf_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "cambium/error.h"
#include "io/json.h"
#include "io/known_keys.h"

namespace cambium {
namespace {

using nlohmann::json;

constexpr int64_t kMostLayers = 10000;
constexpr int64_t kMostWidth = int64_t{1} << 31;  // products of two stay within int64

// One JSON object whose fields are asked for by name and kind; null counts as absent.
class Fields {
 public:
  Fields(const json& object, std::string path) : object_(object), path_(std::move(path)) {
    if (!object_.is_object()) Fail(ErrorCode::kData, path_, ": is not an object");
  }

  const json* Find(std::string_view name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  int64_t Int(std::string_view name, std::optional<int64_t> fallback = {}, int64_t least = 1,
              int64_t most = kMostWidth) const {
    const json* value = Require(name, fallback.has_value());
    if (value == nullptr) return *fallback;
    // A number too large for int64 is a float or unsigned in JSON terms and must not wrap.
    const bool fits = value->is_number_unsigned() ? value->get<uint64_t>() <= INT64_MAX : value->is_number_integer();
    if (!fits || value->get<int64_t>() < least || value->get<int64_t>() > most) {
      Wrong(name, *value, "an integer from " + std::to_string(least) + " to " + std::to_string(most));
    }
    return value->get<int64_t>();
  }

  double Number(std::string_view name, std::optional<double> fallback = {}) const {
    const json* value = Require(name, fallback.has_value());
    if (value == nullptr) return *fallback;
    if (!value->is_number()) Wrong(name, *value, "a number");
    return value->get<double>();
  }

  double Positive(std::string_view name, std::optional<double> fallback = {}) const {
    const double value = Number(name, fallback);
    if (!(value > 0) || !std::isfinite(value))
      Fail(ErrorCode::kData, path_, ": ", name, ": ", value, " is not positive");
    return value;
  }

  bool Bool(std::string_view name, bool fallback) const {
    const json* value = Find(name);
    if (value != nullptr && !value->is_boolean()) Wrong(name, *value, "true or false");
    return value != nullptr ? value->get<bool>() : fallback;
  }

  std::string Str(std::string_view name, std::optional<std::string> fallback = {}) const {
    const json* value = Require(name, fallback.has_value());
    if (value == nullptr) return *std::move(fallback);
    if (!value->is_string()) Wrong(name, *value, "a string");
    return value->get<std::string>();
  }

  Fields Object(std::string_view name) const { return Fields(*Require(name, false), path_ + ": " + std::string(name)); }

  [[noreturn]] void Wrong(std::string_view name, const json& value, std::string_view wanted) const {
    Fail(ErrorCode::kData, path_, ": ", name, ": ", ShownJson(value), " is not ", wanted);
  }
  const std::string& path() const { return path_; }
  const json& object() const { return object_; }

 private:
  const json* Require(std::string_view name, bool has_fallback) const {
    const json* value = Find(name);
    if (value == nullptr && !has_fallback) Fail(ErrorCode::kData, path_, ": ", name, " is missing");
    return value;
  }
  const json& object_;
  std::string path_;
};

// The fields of one rope_scaling, or of an entry of rope_parameters (transformers 5), which also holds the base.
void CheckRopeFields(const Fields& fields) {
  static constexpr std::string_view kKnown[] = {
      "rope_type",        "type",      "factor",           "low_freq_factor",
      "high_freq_factor", "beta_fast", "beta_slow",        "mscale",
      "mscale_all_dim",   "truncate",  "attention_factor", "original_max_position_embeddings",
      "rope_theta",       "finetuned"};
  for (const auto& [name, value] : fields.object().items()) {
    if (value.is_null() || std::ranges::find(kKnown, name) != std::end(kKnown)) continue;
    // Factors that other programs multiply in; partial rotation.
    const bool factor = name == "attn_factor" || name == "extrapolation_factor" || name == "partial_rotary_factor";
    if (factor && value == 1) continue;
    fields.Wrong(name, value, factor ? "1, the only value that is supported" : "a field of RoPE that is supported");
  }
}

// Fields of RoPE scaling as transformers reads them (modeling_rope_utils.py): 0 and null mean "not given".
RopeScaling ReadScaling(const Fields& fields, int64_t context) {
  RopeScaling scaling;
  const bool typed = fields.Find("rope_type") || fields.Find("type");
  scaling.type = fields.Str("rope_type", fields.Str("type", "default"));
  if (scaling.type != "default" && scaling.type != "linear" && scaling.type != "llama3" && scaling.type != "yarn") {
    Fail(ErrorCode::kData, fields.path(), ": rope_type ", scaling.type, " is not default, linear, llama3 or yarn");
  }
  CheckRopeFields(fields);
  if (!typed && fields.Number("factor", 1) != 1) {
    fields.Wrong("factor", *fields.Find("factor"), "1, and rope_type, which says what it stretches, is missing");
  }
  if (scaling.type == "default") return scaling;
  const auto given = [&](const char* name, double otherwise) {
    return fields.Number(name, 0) == 0 ? otherwise : fields.Positive(name);
  };
  scaling.original_context = fields.Int("original_max_position_embeddings", context);
  const double grown = static_cast<double>(context) / static_cast<double>(scaling.original_context);
  scaling.factor = fields.Positive("factor", scaling.type == "yarn" && grown > 1 ? std::optional(grown) : std::nullopt);
  if (scaling.type == "linear") {
    scaling.original_context = 0;
    return scaling;
  }
  if (scaling.type == "llama3") {
    scaling.low_freq_factor = fields.Positive("low_freq_factor", scaling.low_freq_factor);
    scaling.high_freq_factor = fields.Positive("high_freq_factor", scaling.high_freq_factor);
    if (scaling.high_freq_factor > scaling.low_freq_factor) return scaling;
    Fail(ErrorCode::kData, fields.path(), ": high_freq_factor ", scaling.high_freq_factor,
         " is not above low_freq_factor ", scaling.low_freq_factor);
  }
  scaling.beta_fast = given("beta_fast", scaling.beta_fast);
  scaling.beta_slow = given("beta_slow", scaling.beta_slow);
  scaling.truncate = fields.Bool("truncate", true);
  const double mscale = given("mscale", 0), all_dim = given("mscale_all_dim", 0);
  const bool both = mscale > 0 && all_dim > 0;
  const double usual = both ? YarnAttention(scaling.factor, mscale) / YarnAttention(scaling.factor, all_dim)
                            : YarnAttention(scaling.factor);
  scaling.attention = fields.Positive("attention_factor", usual);
  return scaling;
}

// One block of RoPE for all layers, or one for each type of layer.
void ReadRopeBlock(const Fields& block, int64_t context, HfConfig& config) {
  const bool by_type = block.Find("full_attention") || block.Find("sliding_attention");
  if (!by_type) {
    config.rope_theta = block.Positive("rope_theta", config.rope_theta);
    config.rope_scaling = ReadScaling(block, context);
    return;
  }
  for (const auto& [name, value] : block.object().items()) {
    if (name != "full_attention" && name != "sliding_attention") {
      block.Wrong(name, value, "full_attention or sliding_attention");
    }
  }
  if (block.Find("full_attention")) {
    const Fields full = block.Object("full_attention");
    config.rope_theta = full.Positive("rope_theta", config.rope_theta);
    config.rope_scaling = ReadScaling(full, context);
  }
  if (block.Find("sliding_attention")) {
    const Fields sliding = block.Object("sliding_attention");
    config.local_rope = true;
    config.rope_local_theta = sliding.Positive("rope_theta", config.rope_local_theta);
    config.rope_local_scaling = ReadScaling(sliding, context);
  }
}

void ReadRope(const Fields& fields, HfConfig& config) {
  const bool gemma = config.family == "gemma3_text";
  config.local_rope = gemma;
  config.rope_theta = fields.Positive("rope_theta", gemma ? 1e6 : 1e4);
  config.rope_local_theta = fields.Positive("rope_local_base_freq", 1e4);
  const int64_t context = fields.Int("original_max_position_embeddings", config.context);
  const bool old = fields.Find("rope_scaling") != nullptr;
  if (old) ReadRopeBlock(fields.Object("rope_scaling"), context, config);
  const RopeScaling before = config.rope_scaling;
  if (fields.Find("rope_parameters")) ReadRopeBlock(fields.Object("rope_parameters"), context, config);
  if (old && config.rope_scaling != before) {
    Fail(ErrorCode::kData, fields.path(), ": rope_scaling (", before.type, ", factor ", before.factor,
         ") and rope_parameters (", config.rope_scaling.type, ", factor ", config.rope_scaling.factor, ") disagree");
  }
}

void ReadSliding(const Fields& fields, HfConfig& config) {
  const bool gemma = config.family == "gemma3_text", mistral = config.family == "mistral";
  const bool qwen = config.family == "qwen2" || config.family == "qwen3";
  if (!gemma && !mistral && !qwen) return;
  const int64_t window = fields.Find("sliding_window") ? fields.Int("sliding_window", {}, 0) : gemma ? 4096 : 0;
  if (window == 0 || (qwen && !fields.Bool("use_sliding_window", false))) return;
  config.layer_slides.assign(static_cast<size_t>(config.layers), mistral);
  if (const json* types = fields.Find("layer_types")) {
    if (!types->is_array() || static_cast<int64_t>(types->size()) != config.layers) {
      fields.Wrong("layer_types", *types, "a list of " + std::to_string(config.layers));
    }
    for (size_t layer = 0; layer < types->size(); ++layer) {
      const json& type = (*types)[layer];
      if (type != "sliding_attention" && type != "full_attention") {
        fields.Wrong("layer_types", type, "sliding_attention or full_attention");
      }
      config.layer_slides[layer] = type == "sliding_attention";
    }
  } else if (gemma) {
    const int64_t pattern = fields.Int("sliding_window_pattern", fields.Int("_sliding_window_pattern", 6));
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      config.layer_slides[static_cast<size_t>(layer)] = (layer + 1) % pattern != 0;
    }
  } else if (qwen) {
    const int64_t first = fields.Int("max_window_layers", config.layers, 0);
    for (int64_t layer = first; layer < config.layers; ++layer) config.layer_slides[static_cast<size_t>(layer)] = true;
  }
  if (std::count(config.layer_slides.begin(), config.layer_slides.end(), 0) != config.layers) {
    config.sliding_window = window;
  } else {
    config.layer_slides.clear();
  }
}

// Token ids: null and negative ones mean "none".
void ReadIds(const Fields& fields, HfConfig& config) {
  const auto check = [&](const char* name, const json& id) -> std::optional<int64_t> {
    if (id.is_number_integer() && !id.is_number_unsigned()) return {};
    if (id.is_number_unsigned() && id.get<uint64_t>() < static_cast<uint64_t>(config.vocab)) return id.get<int64_t>();
    fields.Wrong(name, id, "a token id below vocab_size " + std::to_string(config.vocab));
  };
  const auto read = [&](const char* name) -> std::optional<int64_t> {
    const json* id = fields.Find(name);
    return id != nullptr ? check(name, id->is_array() && id->size() == 1 ? id->front() : *id) : std::nullopt;
  };
  const json* eos = fields.Find("eos_token_id");
  for (const json& one : eos == nullptr ? json::array() : eos->is_array() ? *eos : json::array({*eos})) {
    if (const auto id = check("eos_token_id", one)) config.eos_ids.push_back(*id);
  }
  config.bos_id = read("bos_token_id");
  config.pad_id = read("pad_token_id");
}

void ReadGpt2(const Fields& fields, HfConfig& config) {
  config.vocab = fields.Int("vocab_size");
  config.hidden = fields.Int("n_embd");
  config.layers = fields.Int("n_layer", {}, 1, kMostLayers);
  config.heads = config.kv_heads = fields.Int("n_head");
  config.context = fields.Int("n_positions", 1024);
  config.ffn = fields.Int("n_inner", 4 * config.hidden);
  config.activation = fields.Str("activation_function", "gelu_new");
  config.norm_eps = fields.Positive("layer_norm_epsilon", 1e-5);
  config.tied_head = fields.Bool("tie_word_embeddings", true);
  config.attention_bias = config.output_bias = config.mlp_bias = true;
  if (config.hidden % config.heads != 0) {
    fields.Wrong("n_head", *fields.Find("n_head"), "a divisor of n_embd " + std::to_string(config.hidden));
  }
  config.head_dim = config.hidden / config.heads;
}

void ReadLlamaLike(const Fields& fields, HfConfig& config) {
  const bool gemma = config.family == "gemma3_text", qwen2 = config.family == "qwen2";
  config.vocab = fields.Int("vocab_size", gemma ? std::optional<int64_t>(262208) : std::nullopt);
  config.hidden = fields.Int("hidden_size");
  config.layers = fields.Int("num_hidden_layers", {}, 1, kMostLayers);
  config.heads = fields.Int("num_attention_heads", gemma ? std::optional<int64_t>(8) : std::nullopt);
  config.kv_heads = fields.Int("num_key_value_heads", gemma ? 4 : config.heads);
  config.ffn = fields.Int("intermediate_size");
  config.context = fields.Int("max_position_embeddings", gemma ? 131072 : 2048);
  if (config.heads % config.kv_heads != 0) {
    fields.Wrong("num_key_value_heads", config.kv_heads,
                 "a divisor of num_attention_heads " + std::to_string(config.heads));
  }
  if (!fields.Find("head_dim") && !gemma && config.hidden % config.heads != 0) {
    fields.Wrong("num_attention_heads", config.heads, "a divisor of hidden_size " + std::to_string(config.hidden));
  }
  config.head_dim = fields.Int("head_dim", gemma ? 256 : config.family == "qwen3" ? 128 : config.hidden / config.heads);
  if (config.head_dim % 2 != 0) fields.Wrong("head_dim", config.head_dim, "even");
  config.norm_eps = fields.Positive("rms_norm_eps", 1e-6);
  config.activation = gemma ? fields.Str("hidden_activation", "gelu_pytorch_tanh") : fields.Str("hidden_act", "silu");
  config.tied_head = fields.Bool("tie_word_embeddings", gemma);
  // Qwen2 always has biases on q, k and v, and its config does not say so.
  config.attention_bias = qwen2 || fields.Bool("attention_bias", false);
  config.output_bias = !qwen2 && config.attention_bias;
  config.mlp_bias = fields.Bool("mlp_bias", false);
  if (gemma) {
    config.query_scale = fields.Positive("query_pre_attn_scalar", 256);
  }
  ReadRope(fields, config);
  ReadSliding(fields, config);
}

}  // namespace

json HfTextConfig(const json& root, const std::string& path) {
  const Fields top(root, path);
  if (!top.Find("text_config")) return root;
  json inner = top.Object("text_config").object();
  for (const char* name :
       {"eos_token_id", "bos_token_id", "pad_token_id", "tie_word_embeddings", "dtype", "torch_dtype"}) {
    if ((!inner.contains(name) || inner[name].is_null()) && root.contains(name)) inner[name] = root[name];
  }
  const std::string family = top.Str("model_type");
  if (!inner.contains("model_type") || inner["model_type"] == family) {
    inner["model_type"] = family == "gemma3" ? "gemma3_text" : family;
  }
  return inner;
}

HfConfig ParseHfConfig(const std::string& text, const std::string& path) {
  json root = ParseJson(text, path);
  const Fields top(root, path);
  std::string family = top.Str("model_type");
  if (family == "gemma3" && !top.Find("text_config")) Fail(ErrorCode::kData, path, ": text_config is missing");
  if (top.Find("text_config")) {
    root = HfTextConfig(root, path);
    family = Fields(root, path).Str("model_type");
  }
  static constexpr std::array kFamilies = {"llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt2"};
  if (std::find(kFamilies.begin(), kFamilies.end(), family) == kFamilies.end()) {
    Fail(ErrorCode::kData, path, ": model_type ", family,
         " is not supported (llama, mistral, qwen2, qwen3, gemma3_text and gpt2 are, also as the text_config of "
         "another)");
  }
  CheckModelKeys(root, path);
  const Fields fields(root, path);
  HfConfig config;
  config.path = path;
  config.family = family;
  family == "gpt2" ? ReadGpt2(fields, config) : ReadLlamaLike(fields, config);
  ReadIds(fields, config);
  return config;
}

HfConfig ReadHfConfig(const std::string& directory) {
  const std::string path = directory + "/config.json";
  return ParseHfConfig(ReadTextFile(path, size_t{16} << 20), path);
}

}  // namespace cambium
