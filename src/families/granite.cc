// Granite 3 (Granite Team 2024): Llama with four constants, which multiply embeddings, scores, branches and logits.
#include <nlohmann/json.hpp>

#include "cambium/error.h"
#include "families/gguf_config.h"
#include "families/hf_config.h"
#include "families/hf_fields.h"
#include "families/tensors.h"
#include "io/gguf.h"

namespace cambium {
namespace {

constexpr auto kRows = Rows(kModelRows, kPreNormRows, kPairedAttentionRows, kGatedRows);
constexpr std::string_view kHfKeys[] = {"embedding_multiplier", "attention_multiplier", "residual_multiplier",
                                        "logits_scaling"};
constexpr std::string_view kGgufKeys[] = {"embedding_scale", "residual_scale", "logit_scale"};

void ReadHf(const HfFields& fields, HfConfig& c) {
  c.embedding_scale = fields.Positive("embedding_multiplier", 1);
  c.attention_scale = fields.Positive("attention_multiplier", 1);
  c.residual_scale = fields.Positive("residual_multiplier", 1);
  c.logit_scale = 1 / fields.Positive("logits_scaling", 1);
}

void WriteHf(const HfConfig& c, nlohmann::ordered_json& json) {
  json["embedding_multiplier"] = Decimal(c.embedding_scale);
  json["attention_multiplier"] = Decimal(c.attention_scale);
  json["residual_multiplier"] = Decimal(c.residual_scale);
  json["logits_scaling"] = Decimal(1 / c.logit_scale);
}

// llama.cpp takes 0 for "not given", and divides by logit_scale.
void ReadGguf(const GgufFile& file, HfConfig& c) {
  const auto read = [&](const char* key) {
    const double value = file.F64(std::string("granite.") + key, 0.0);
    if (value < 0) Fail(ErrorCode::kData, file.path(), ": granite.", key, " is ", value);
    return value > 0 ? value : 1;
  };
  c.embedding_scale = read("embedding_scale");
  c.residual_scale = read("residual_scale");
  c.logit_scale = 1 / read("logit_scale");
}

void WriteGguf(const HfConfig& c, GgufKeys& keys) {
  keys.SetFloat("attention.scale", c.attention_scale);
  keys.SetFloat("embedding_scale", c.embedding_scale);
  keys.SetFloat("residual_scale", c.residual_scale);
  keys.SetFloat("logit_scale", 1 / c.logit_scale);
}

}  // namespace

extern const Family kGranite = {.hf_type = "granite",
                                .hf_class = "GraniteForCausalLM",
                                .gguf = "granite",
                                .tensors = kRows,
                                .states_attention_scale = true,
                                .hf_keys = kHfKeys,
                                .gguf_keys = kGgufKeys,
                                .read_hf = ReadHf,
                                .write_hf = WriteHf,
                                .read_gguf = ReadGguf,
                                .write_gguf = WriteGguf};

}  // namespace cambium
