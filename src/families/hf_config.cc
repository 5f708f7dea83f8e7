#include "families/hf_config.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "cambium/error.h"
#include "families/hf_fields.h"
#include "families/hf_rope.h"
#include "io/json.h"
#include "io/known_keys.h"

namespace cambium {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int64_t kMostLayers = 10000;

std::optional<int64_t> Given(int64_t value) { return value > 0 ? std::optional(value) : std::nullopt; }

void ReadLayerTypes(const HfFields& fields, const json& types, HfConfig& config) {
  if (!types.is_array() || static_cast<int64_t>(types.size()) != config.layers) {
    fields.Wrong("layer_types", types, "a list of " + std::to_string(config.layers));
  }
  for (size_t layer = 0; layer < types.size(); ++layer) {
    const json& type = types[layer];
    if (type != "sliding_attention" && type != "full_attention") {
      fields.Wrong("layer_types", type, "sliding_attention or full_attention");
    }
    config.layer_slides[layer] = type == "sliding_attention";
  }
}

void ReadSliding(const HfFields& fields, HfConfig& config) {
  const Family& family = *config.family;
  const Sliding sliding = family.sliding;
  if (sliding == Sliding::kNone) return;
  const int64_t window = fields.Find("sliding_window") ? fields.Int("sliding_window", {}, 0) : family.sliding_window;
  if (window == 0 || (sliding == Sliding::kLast && !fields.Bool("use_sliding_window", false))) return;
  config.layer_slides.assign(static_cast<size_t>(config.layers), sliding == Sliding::kAll);
  if (const json* types = fields.Find("layer_types")) {
    ReadLayerTypes(fields, *types, config);
  } else if (sliding == Sliding::kEvery) {
    const int64_t every =
        fields.Int("sliding_window_pattern", fields.Int("_sliding_window_pattern", family.sliding_every));
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      config.layer_slides[static_cast<size_t>(layer)] = (layer + 1) % every != 0;
    }
  } else if (sliding == Sliding::kLast) {
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
void ReadIds(const HfFields& fields, HfConfig& config) {
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

// What generation_config.json says of an encoder's family goes before what config.json says.
void ReadAnswerIds(const std::string& directory, HfConfig& config) {
  const std::string path = directory + "/generation_config.json";
  if (!config.family->traits.encoder || !std::filesystem::exists(path)) return;
  const json root = ParseJson(ReadTextFile(path, size_t{16} << 20), path);
  const HfFields fields(root, path);
  for (const auto& [name, id] : {std::pair("decoder_start_token_id", &config.decoder_start_id),
                                 std::pair("forced_bos_token_id", &config.forced_bos_id),
                                 std::pair("forced_eos_token_id", &config.forced_eos_id)}) {
    if (fields.Find(name)) *id = fields.Int(name, {}, 0, config.vocab - 1);
  }
}

// What every family has, under its keys for it.
void ReadSizes(const HfFields& fields, HfConfig& config) {
  const ConfigKeys& keys = config.family->keys;
  const ConfigDefaults& usual = config.family->defaults;
  config.vocab = fields.Int(keys.vocab, Given(usual.vocab));
  config.hidden = fields.Int(keys.hidden);
  config.layers = fields.Int(keys.layers, {}, 1, kMostLayers);  // of a decoder: read_hf adds an encoder's
  config.heads = fields.Int(keys.heads, Given(usual.heads));
  const int64_t kv_heads = usual.kv_heads > 0 ? usual.kv_heads : config.heads;
  config.kv_heads = keys.kv_heads != nullptr ? fields.Int(keys.kv_heads, kv_heads) : kv_heads;
  config.ffn = fields.Int(keys.ffn, Given(usual.ffn_times * config.hidden));
  config.context = fields.Int(keys.context, usual.context);
  if (config.heads % config.kv_heads != 0) {
    fields.Wrong(keys.kv_heads, config.kv_heads,
                 std::string("a divisor of ") + keys.heads + " " + std::to_string(config.heads));
  }
  const bool own = keys.head_dim != nullptr && fields.Find(keys.head_dim) != nullptr;
  if (!own && usual.head_dim == 0 && config.hidden % config.heads != 0) {
    fields.Wrong(keys.heads, config.heads,
                 std::string("a divisor of ") + keys.hidden + " " + std::to_string(config.hidden));
  }
  config.head_dim = usual.head_dim > 0 ? usual.head_dim : config.hidden / config.heads;
  if (own) config.head_dim = fields.Int(keys.head_dim);
  if (config.head_dim % 2 != 0) {
    fields.Wrong(own ? keys.head_dim : keys.heads, config.head_dim, "even, as the head dimension must be");
  }
  const double rotary = keys.rotary != nullptr ? fields.Positive(keys.rotary, usual.rotary) : 1;
  SetRotary(fields, keys.rotary, rotary, config);
  config.norm_eps = keys.norm_eps != nullptr ? fields.Positive(keys.norm_eps, usual.norm_eps) : usual.norm_eps;
  config.activation = fields.Str(keys.activation, usual.activation);
  config.tied_head = fields.Bool("tie_word_embeddings", usual.tied_head);
  config.attention_bias =
      keys.attention_bias != nullptr ? fields.Bool(keys.attention_bias, usual.attention_bias) : usual.attention_bias;
}

void WriteRope(const HfConfig& c, ordered_json& json) {
  json["rope_theta"] = Decimal(c.rope_theta);
  if (const char* key = c.family->keys.rotary; key != nullptr) {
    json[key] = static_cast<double>(c.rotary_dim) / static_cast<double>(c.head_dim);
  }
  if (!c.rope_divisors.empty() && c.rope_scaling.type != "default") {
    Fail(ErrorCode::kData, c.path, ": ", c.family->gguf,
         ".rope.scaling and the tensor rope_freqs.weight have no field together");
  }
  const RopeScaling scaling = c.rope_divisors.empty() ? c.rope_scaling : Llama3Scaling(c);
  const ordered_json written = RopeScalingJson(scaling, c.path);
  if (!written.is_null()) json["rope_scaling"] = written;
}

void CheckAttentionScale(const HfConfig& c) {
  const double usual = 1 / std::sqrt(static_cast<double>(c.head_dim));
  if (c.family->states_attention_scale || c.attention_scale == 0) return;
  if (std::fabs(c.attention_scale - usual) <= 1e-6 * usual) return;
  Fail(ErrorCode::kData, c.path, ": ", c.family->gguf, ".attention.scale ", c.attention_scale,
       " has no field in config.json");
}

void WriteSliding(const HfConfig& c, ordered_json& json) {
  if (c.sliding_window == 0) return;
  json["sliding_window"] = c.sliding_window;
  if (c.family->sliding == Sliding::kEvery) {
    ordered_json types = ordered_json::array();
    for (const uint8_t slides : c.layer_slides) types.push_back(slides ? "sliding_attention" : "full_attention");
    json["layer_types"] = types;
  } else if (c.family->sliding == Sliding::kLast) {
    json["use_sliding_window"] = true;
    json["max_window_layers"] = 0;
  }
}

}  // namespace

double Decimal(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.7g", value);
  return std::strtod(text, nullptr);
}

json HfTextConfig(const json& root, const std::string& path) {
  const HfFields top(root, path);
  if (!top.Find("text_config")) return root;
  json inner = top.Object("text_config").object();
  for (const char* name :
       {"eos_token_id", "bos_token_id", "pad_token_id", "tie_word_embeddings", "dtype", "torch_dtype"}) {
    if ((!inner.contains(name) || inner[name].is_null()) && root.contains(name)) inner[name] = root[name];
  }
  const std::string type = top.Str("model_type");
  if (!inner.contains("model_type") || inner["model_type"] == type) {
    inner["model_type"] = type;
    for (const Family* family : Families()) {
      if (family->hf_wrapper != nullptr && family->hf_wrapper == type) inner["model_type"] = family->hf_type;
    }
  }
  return inner;
}

HfConfig ParseHfConfig(const std::string& text, const std::string& path) {
  json root = ParseJson(text, path);
  const HfFields top(root, path);
  std::string type = top.Str("model_type");
  const bool wrapper = std::ranges::any_of(
      Families(), [&](const Family* family) { return family->hf_wrapper != nullptr && family->hf_wrapper == type; });
  if (wrapper && !top.Find("text_config")) Fail(ErrorCode::kData, path, ": text_config is missing");
  if (top.Find("text_config")) {
    root = HfTextConfig(root, path);
    type = HfFields(root, path).Str("model_type");
  }
  HfConfig config;
  config.path = path;
  config.family = FindFamily(type);
  if (config.family == nullptr) {
    Fail(ErrorCode::kData, path, ": model_type ", type, " is not supported (", FamilyNames(Dialect::kHuggingFace),
         " are, also as the text_config of another)");
  }
  CheckModelKeys(root, path, config.family->hf_keys);
  const HfFields fields(root, path);
  ReadSizes(fields, config);
  if (config.family->traits.rope) ReadHfRope(fields, config);
  ReadSliding(fields, config);
  if (config.family->read_hf != nullptr) config.family->read_hf(fields, config);
  ReadIds(fields, config);
  return config;
}

HfConfig ReadHfConfig(const std::string& directory) {
  const std::string path = directory + "/config.json";
  HfConfig config = ParseHfConfig(ReadTextFile(path, size_t{16} << 20), path);
  ReadAnswerIds(directory, config);
  return config;
}

void WriteTokenIds(const HfConfig& c, ordered_json& json) {
  if (c.bos_id) json["bos_token_id"] = *c.bos_id;
  if (c.eos_ids.size() == 1) json["eos_token_id"] = c.eos_ids[0];
  if (c.eos_ids.size() > 1) json["eos_token_id"] = c.eos_ids;
  if (c.pad_id) json["pad_token_id"] = *c.pad_id;
}

ordered_json HfConfigJson(const HfConfig& c, const std::string& dtype) {
  const Family& family = *c.family;
  const ConfigKeys& keys = family.keys;
  ordered_json json = {{"model_type", family.hf_type},
                       {"architectures", {family.hf_class}},
                       {"torch_dtype", dtype},
                       {"tie_word_embeddings", c.tied_head},
                       {keys.vocab, c.vocab},
                       {keys.hidden, c.hidden},
                       {keys.layers, c.layers},
                       {keys.heads, c.heads},
                       {keys.ffn, c.ffn},
                       {keys.context, c.context},
                       {keys.activation, c.activation}};
  if (keys.norm_eps != nullptr) json[keys.norm_eps] = Decimal(c.norm_eps);
  WriteTokenIds(c, json);
  if (keys.kv_heads != nullptr) json[keys.kv_heads] = c.kv_heads;
  if (keys.head_dim != nullptr) json[keys.head_dim] = c.head_dim;
  if (keys.attention_bias != nullptr) json[keys.attention_bias] = c.attention_bias;
  if (c.next_token_modules > 0) json["num_nextn_predict_layers"] = c.next_token_modules;
  if (family.traits.rope) WriteRope(c, json);
  CheckAttentionScale(c);
  WriteSliding(c, json);
  if (family.write_hf != nullptr) family.write_hf(c, json);
  return json;
}

}  // namespace cambium
