// What config.json says of RoPE.
#include "families/hf_rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string_view>

#include "cambium/error.h"
#include "families/hf_config.h"
#include "families/hf_fields.h"
#include "io/json.h"

namespace cambium {
namespace {

using nlohmann::json;

constexpr std::string_view kPartial = "partial_rotary_factor";

// The fields of one rope_scaling, or of an entry of rope_parameters (transformers 5), which also holds the base.
void CheckRopeFields(const HfFields& fields, const HfConfig& config) {
  static constexpr std::string_view kKnown[] = {
      "rope_type",        "type",      "factor",           "low_freq_factor",
      "high_freq_factor", "beta_fast", "beta_slow",        "mscale",
      "mscale_all_dim",   "truncate",  "attention_factor", "original_max_position_embeddings",
      "rope_theta",       "finetuned"};
  for (const auto& [name, value] : fields.object().items()) {
    if (value.is_null() || std::ranges::find(kKnown, name) != std::end(kKnown)) continue;
    if (name == kPartial && config.family->keys.rotary != nullptr) continue;
    // Factors that other programs multiply in; partial rotation.
    const bool factor = name == "attn_factor" || name == "extrapolation_factor" || name == kPartial;
    if (factor && value == 1) continue;
    fields.Wrong(name, value, factor ? "1, the only value that is supported" : "a field of RoPE that is supported");
  }
}

// Fields of RoPE scaling as transformers reads them (modeling_rope_utils.py): 0 and null mean "not given".
RopeScaling ReadScaling(const HfFields& fields, int64_t context, HfConfig& config) {
  RopeScaling scaling;
  const bool typed = fields.Find("rope_type") || fields.Find("type");
  scaling.type = fields.Str("rope_type", fields.Str("type", "default"));
  if (scaling.type != "default" && scaling.type != "linear" && scaling.type != "llama3" && scaling.type != "yarn") {
    Fail(ErrorCode::kData, fields.path(), ": rope_type ", scaling.type, " is not default, linear, llama3 or yarn");
  }
  CheckRopeFields(fields, config);
  if (config.family->keys.rotary != nullptr && fields.Find(kPartial)) {
    SetRotary(fields, kPartial.data(), fields.Positive(kPartial), config);
  }
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
void ReadRopeBlock(const HfFields& block, int64_t context, HfConfig& config) {
  const bool by_type = block.Find("full_attention") || block.Find("sliding_attention");
  if (!by_type) {
    config.rope_theta = block.Positive("rope_theta", config.rope_theta);
    config.rope_scaling = ReadScaling(block, context, config);
    return;
  }
  for (const auto& [name, value] : block.object().items()) {
    if (name != "full_attention" && name != "sliding_attention") {
      block.Wrong(name, value, "full_attention or sliding_attention");
    }
  }
  if (block.Find("full_attention")) {
    const HfFields full = block.Object("full_attention");
    config.rope_theta = full.Positive("rope_theta", config.rope_theta);
    config.rope_scaling = ReadScaling(full, context, config);
  }
  if (block.Find("sliding_attention")) {
    const HfFields sliding = block.Object("sliding_attention");
    config.local_rope = true;
    config.rope_local_theta = sliding.Positive("rope_theta", config.rope_local_theta);
    config.rope_local_scaling = ReadScaling(sliding, context, config);
  }
}

}  // namespace

void SetRotary(const HfFields& fields, const char* name, double share, HfConfig& config) {
  config.rotary_dim = static_cast<int64_t>(static_cast<double>(config.head_dim) * share);
  if (config.rotary_dim >= 2 && config.rotary_dim <= config.head_dim && config.rotary_dim % 2 == 0) return;
  Fail(ErrorCode::kData, fields.path(), ": ", name, ": ", share, " of a head of ", config.head_dim,
       " is no even number of values");
}

void ReadHfRope(const HfFields& fields, HfConfig& config) {
  config.rope_theta = fields.Positive("rope_theta", config.family->defaults.rope_theta);
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

std::vector<float> Llama3RopeDivisors(double theta, int64_t head_dim, const RopeScaling& scaling) {
  const double low = scaling.low_freq_factor, high = scaling.high_freq_factor;
  std::vector<float> divisors;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    const double turns = static_cast<double>(scaling.original_context) * frequency / (2 * std::numbers::pi);
    const double smooth = (turns - low) / (high - low);
    const double divisor = turns > high  ? 1
                           : turns < low ? scaling.factor
                                         : 1 / ((1 - smooth) / scaling.factor + smooth);
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

// Llama's factors are 1 and 4; the original context is found by trial.
RopeScaling Llama3Scaling(const HfConfig& config) {
  const std::vector<float>& stored = config.rope_divisors;
  RopeScaling scaling;
  scaling.type = "llama3";
  scaling.factor = *std::max_element(stored.begin(), stored.end());
  for (int64_t original = 32; original <= int64_t{1} << 24; original *= 2) {
    scaling.original_context = original;
    const std::vector<float> tried = Llama3RopeDivisors(config.rope_theta, config.rotary_dim, scaling);
    const auto near = [](float a, float b) { return std::fabs(a - b) <= 1e-4f * std::fabs(b); };
    if (std::equal(tried.begin(), tried.end(), stored.begin(), stored.end(), near)) return scaling;
  }
  Fail(ErrorCode::kData, config.path, ": tensor rope_freqs.weight holds no llama3 scaling that config.json can state");
}

}  // namespace cambium
