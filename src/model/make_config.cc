#include <algorithm>
#include <cmath>
#include <limits>

#include "families/hf_config.h"
#include "model/load.h"

namespace cambium {
namespace {

Activation ActivationOf(const HfConfig& config) {
  if (config.activation == "silu") return Activation::kSilu;
  if (config.activation == "gelu") return Activation::kGelu;
  if (config.activation == "gelu_pytorch_tanh" || config.activation == "gelu_new") return Activation::kGeluTanh;
  Fail(ErrorCode::kData, config.path, ": activation \"", config.activation, "\" is not supported");
}

}  // namespace

// GGUF calls Mixtral llama: of families under one name, the one that routes as the model does.
TensorNames NamesOf(const ModelConfig& config, Dialect dialect) {
  const Family* family = FindGgufFamily(config.family);
  for (const Family* other : Families()) {
    if (config.experts > 0 && other->gguf == config.family && TensorNames(*other, dialect).Has(Role::kRouter))
      family = other;
  }
  if (family == nullptr) Fail(ErrorCode::kData, "the family ", config.family, " is not supported");
  return TensorNames(*family, dialect, config.encoder_layers);
}

Role RoleOf(const ModelConfig& config, Site site) {
  const auto behind = [](Role first, SiteKind kind, SiteKind base) {
    return static_cast<Role>(static_cast<int>(first) + static_cast<int>(kind) - static_cast<int>(base));
  };
  if (site.expert >= 0) return behind(Role::kExpertGate, site.kind, SiteKind::kGate);
  if (site.kind >= SiteKind::kGate && config.Routes(site.layer)) {
    return behind(Role::kSharedGate, site.kind, SiteKind::kGate);
  }
  return behind(Role::kQ, site.kind, SiteKind::kQ);
}

ModelConfig MakeConfig(const HfConfig& from) {
  ModelConfig c;
  static_cast<BlockTraits&>(c) = from.family->traits;
  c.family = from.family->gguf;
  c.name = from.name;
  c.layers = from.layers;
  c.hidden = from.hidden;
  c.heads = from.heads;
  c.kv_heads = from.kv_heads;
  c.head_dim = from.head_dim;
  c.ffn = from.ffn;
  c.context = from.context;
  c.norm_eps = static_cast<float>(from.norm_eps);
  c.tied_head = from.tied_head;
  c.activation = ActivationOf(from);
  c.experts = from.experts.count;
  c.expert_ffn = from.experts.ffn;
  c.shared_ffn = from.experts.shared_ffn;
  c.route = {.used = from.experts.used, .normalise = from.experts.normalise};
  c.layer_routes = from.experts.layers;
  ValidateConfig(c, from.path);
  c.embedding_scale = static_cast<float>(from.embedding_scale);
  c.attention_scale = from.attention_scale > 0 ? static_cast<float>(from.attention_scale)
                                               : 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  c.residual_scale = static_cast<float>(from.residual_scale);
  c.logit_scale = static_cast<float>(from.logit_scale);
  c.attention_softcap = static_cast<float>(from.attention_softcap);
  c.logit_softcap = static_cast<float>(from.logit_softcap);
  c.parallel_residual = from.parallel_residual;
  c.sliding_window = static_cast<int>(std::min<int64_t>(from.sliding_window, std::numeric_limits<int32_t>::max()));
  c.layer_slides = from.layer_slides;
  c.encoder_layers = from.encoder_layers;
  if (from.decoder_start_id) c.decoder_start = static_cast<int32_t>(*from.decoder_start_id);
  if (from.forced_bos_id) c.forced_first = static_cast<int32_t>(*from.forced_bos_id);
  if (from.forced_eos_id) c.forced_last = static_cast<int32_t>(*from.forced_eos_id);
  if (!c.rope) return c;
  const RopeTable rope = MakeRopeTable(from.rope_theta, from.rotary_dim, from.rope_scaling);
  c.inv_freq = rope.inv_freq;
  c.rope_scale = rope.scale;
  for (size_t i = 0; i < from.rope_divisors.size(); ++i) c.inv_freq[i] /= from.rope_divisors[i];
  if (from.local_rope) {
    const RopeTable local = MakeRopeTable(from.rope_local_theta, from.rotary_dim, from.rope_local_scaling);
    c.inv_freq_sliding = local.inv_freq;
    c.rope_scale_sliding = local.scale;
  }
  return c;
}

RopeTable MakeRopeTable(double theta, int64_t head_dim, const RopeScaling& scaling) {
  constexpr double kTwoPi = 6.283185307179586;
  const double dim = static_cast<double>(head_dim), original = static_cast<double>(scaling.original_context);
  // The pair that turns `rotations` times over the original context.
  const auto pair_of = [&](double rotations) {
    return dim * std::log(original / (rotations * kTwoPi)) / (2 * std::log(theta));
  };
  double low = 0, high = 0;
  RopeTable table;
  table.scale = static_cast<float>(scaling.attention);
  if (scaling.type == "yarn") {
    low = pair_of(scaling.beta_fast);
    high = pair_of(scaling.beta_slow);
    low = std::max(scaling.truncate ? std::floor(low) : low, 0.0);
    high = std::min(scaling.truncate ? std::ceil(high) : high, dim - 1);
    if (low == high) high += 0.001;
  }
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    double inv_freq = std::pow(theta, -2.0 * static_cast<double>(i) / dim);
    double stretched = 0;  // share of inv_freq / factor in the result
    if (scaling.type == "linear") {
      stretched = 1;
    } else if (scaling.type == "llama3") {
      const double turns = original * inv_freq / kTwoPi;
      stretched =
          1 - std::clamp((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0,
                         1.0);
    } else if (scaling.type == "yarn") {
      stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    }
    inv_freq = stretched * inv_freq / scaling.factor + (1 - stretched) * inv_freq;
    table.inv_freq.push_back(static_cast<float>(inv_freq));
  }
  return table;
}

void ValidateConfig(const ModelConfig& c, const std::string& path) {
  const struct {
    const char* name;
    int64_t value, limit;
  } sizes[] = {{"layers", c.layers, 1 << 16},
               {"hidden size", c.hidden, 1 << 24},
               {"feed-forward size", c.ffn, 1 << 24},
               {"heads", c.heads, 1 << 16},
               {"key/value heads", c.kv_heads, 1 << 16},
               {"head dimension", c.head_dim, 1 << 16},
               {"context length", c.context, std::numeric_limits<int32_t>::max()}};
  for (const auto& size : sizes) {
    if (size.value < 1 || size.value > size.limit) {
      Fail(ErrorCode::kData, path, ": ", size.name, " is ", size.value, ", expected 1 to ", size.limit);
    }
  }
  if (c.heads % c.kv_heads != 0) {
    Fail(ErrorCode::kData, path, ": ", c.heads, " heads are not a multiple of ", c.kv_heads, " key/value heads");
  }
  if (c.head_dim % 2 != 0) Fail(ErrorCode::kData, path, ": head dimension ", c.head_dim, " is odd");
  if (!(c.norm_eps > 0)) Fail(ErrorCode::kData, path, ": norm epsilon is ", c.norm_eps);
}

}  // namespace cambium
