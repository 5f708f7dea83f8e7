#include "io/rope_scaling.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "cambium/error.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"

namespace cambium {
namespace {

// A float's shortest decimal form, so that 0.1f is 0.1.
double Decimal(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.7g", value);
  return std::strtod(text, nullptr);
}

bool Near(double a, double b) { return std::fabs(a - b) <= 1e-6 * std::fabs(b); }

}  // namespace

double YarnAttention(double factor, double mscale) { return factor > 1 ? 0.1 * mscale * std::log(factor) + 1 : 1; }

RopeScaling ReadGgufRopeScaling(const GgufFile& file, const std::string& arch, int64_t context) {
  const std::string dot = arch + ".rope.scaling.";
  const auto number = [&](const std::string& key, double fallback) {
    const double value = Decimal(file.F64(key, fallback));
    if (!std::isfinite(value) || value < 0) Fail(ErrorCode::kData, file.path(), ": ", key, " is ", value);
    return value;
  };
  RopeScaling scaling;
  scaling.type = file.Str(dot + "type", "linear");
  if (scaling.type != "none" && scaling.type != "linear" && scaling.type != "yarn") {
    Fail(ErrorCode::kData, file.path(), ": ", dot, "type is \"", scaling.type,
         "\"; none, linear and yarn are supported");
  }
  scaling.attention = number(dot + "attn_factor", 1);
  if (scaling.attention == 0) Fail(ErrorCode::kData, file.path(), ": ", dot, "attn_factor is 0");
  const double factor = number(dot + "factor", number(arch + ".rope.scale_linear", 0));
  scaling.factor = factor == 0 || scaling.type == "none" ? 1 : factor;
  if (scaling.type == "none" || (scaling.type == "linear" && scaling.factor == 1)) scaling.type = "default";
  if (scaling.type != "yarn") return scaling;
  if (const double extrapolation = number(dot + "yarn_ext_factor", 1); extrapolation != 1) {
    Fail(ErrorCode::kData, file.path(), ": ", dot, "yarn_ext_factor is ", extrapolation, "; only 1 is supported");
  }
  const auto original = file.U64(dot + "original_context_length", static_cast<uint64_t>(context));
  if (original < 1 || original > uint64_t{1} << 32) {
    Fail(ErrorCode::kData, file.path(), ": ", dot, "original_context_length is ", original);
  }
  scaling.original_context = static_cast<int64_t>(original);
  const double fast = number(dot + "yarn_beta_fast", 0), slow = number(dot + "yarn_beta_slow", 0);
  if (fast > 0) scaling.beta_fast = fast;
  if (slow > 0) scaling.beta_slow = slow;
  // yarn_attn_factor is what the converter writes for config.json's attention_factor: all of it.
  const double all = number(dot + "yarn_log_multiplier", 0), given = number(dot + "yarn_attn_factor", 0);
  scaling.attention *= given > 0 ? given : YarnAttention(scaling.factor) / YarnAttention(scaling.factor, all);
  return scaling;
}

void SetGgufRopeScaling(GgufWriter& writer, const std::string& arch, const RopeScaling& scaling,
                        const std::string& path) {
  if (scaling.type != "linear" && scaling.type != "yarn") return;
  const std::string dot = arch + ".rope.scaling.";
  writer.Set(dot + "type", scaling.type);
  writer.Set(dot + "factor", static_cast<float>(scaling.factor));
  if (scaling.type == "linear") return;
  writer.Set(dot + "original_context_length", static_cast<uint32_t>(scaling.original_context));
  if (!scaling.truncate) Fail(ErrorCode::kData, path, ": truncate false of YaRN has no key in GGUF");
  if (scaling.beta_fast != 32) writer.Set(dot + "yarn_beta_fast", static_cast<float>(scaling.beta_fast));
  if (scaling.beta_slow != 1) writer.Set(dot + "yarn_beta_slow", static_cast<float>(scaling.beta_slow));
  const double usual = YarnAttention(scaling.factor);
  if (!Near(scaling.attention, usual)) writer.Set(dot + "attn_factor", static_cast<float>(scaling.attention / usual));
}

nlohmann::ordered_json RopeScalingJson(const RopeScaling& scaling, const std::string& path) {
  const double usual = scaling.type == "yarn" ? YarnAttention(scaling.factor) : 1;
  if (scaling.type != "yarn" && !Near(scaling.attention, usual)) {
    Fail(ErrorCode::kData, path, ": rope.scaling.attn_factor ", scaling.attention, " has no field in config.json");
  }
  if (scaling.type == "default") return nullptr;
  nlohmann::ordered_json json = {{"rope_type", scaling.type}, {"factor", scaling.factor}};
  if (scaling.type == "linear") return json;
  json["original_max_position_embeddings"] = scaling.original_context;
  if (scaling.type == "llama3") {
    json["low_freq_factor"] = scaling.low_freq_factor;
    json["high_freq_factor"] = scaling.high_freq_factor;
    return json;
  }
  if (scaling.beta_fast != 32) json["beta_fast"] = scaling.beta_fast;
  if (scaling.beta_slow != 1) json["beta_slow"] = scaling.beta_slow;
  if (!scaling.truncate) json["truncate"] = false;
  if (!Near(scaling.attention, usual)) json["attention_factor"] = Decimal(scaling.attention);
  return json;
}

}  // namespace cambium
