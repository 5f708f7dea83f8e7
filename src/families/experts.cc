#include "families/experts.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cambium/error.h"
#include "families/gguf_config.h"
#include "families/hf_config.h"
#include "families/hf_fields.h"
#include "io/gguf.h"

namespace cambium {

namespace {

// More than a file of ours could hold.
constexpr int64_t kMostExperts = 65536;

}  // namespace

void CheckExperts(const HfConfig& c, const char* count, const char* used) {
  const HfConfig::Experts& e = c.experts;
  if (e.count < 1 || e.count > kMostExperts) {
    Fail(ErrorCode::kData, c.path, ": ", count, " is ", e.count, ", expected 1 to ", kMostExperts);
  }
  if (e.used < 1 || e.used > e.count) {
    Fail(ErrorCode::kData, c.path, ": ", used, " is ", e.used, ", of ", e.count, " experts");
  }
  if (e.ffn < 1) Fail(ErrorCode::kData, c.path, ": the experts' feed-forward size is ", e.ffn);
}

void ReadHfRoutedLayers(const HfFields& fields, HfConfig& c) {
  const int64_t step = fields.Int("decoder_sparse_step", 1);
  for (int64_t layer = 0; layer < c.layers; ++layer) c.experts.layers.push_back((layer + 1) % step == 0);
  if (const nlohmann::json* dense = fields.Find("mlp_only_layers")) {
    if (!dense->is_array()) fields.Wrong("mlp_only_layers", *dense, "a list of layers");
    for (const nlohmann::json& layer : *dense) {
      if (!layer.is_number_integer()) fields.Wrong("mlp_only_layers", layer, "a layer");
      const auto index = layer.get<int64_t>();
      if (index >= 0 && index < c.layers) c.experts.layers[static_cast<size_t>(index)] = 0;
    }
  }
  if (std::ranges::count(c.experts.layers, 0) == 0) c.experts.layers.clear();
}

void WriteHfRoutedLayers(const HfConfig& c, nlohmann::ordered_json& json) {
  nlohmann::ordered_json dense = nlohmann::ordered_json::array();
  for (size_t layer = 0; layer < c.experts.layers.size(); ++layer) {
    if (c.experts.layers[layer] == 0) dense.push_back(layer);
  }
  json["decoder_sparse_step"] = 1;
  json["mlp_only_layers"] = dense;
}

void ReadGgufExperts(const GgufFile& file, bool normalise, HfConfig& c) {
  const std::string dot = std::string(c.family->gguf) + ".";
  const auto count = [&](const char* key, std::optional<uint64_t> fallback = {}) {
    const uint64_t value = file.U64(dot + key, fallback);
    if (value > uint64_t{1} << 31) Fail(ErrorCode::kData, file.path(), ": ", dot, key, " is ", value);
    return static_cast<int64_t>(value);
  };
  c.experts.count = count("expert_count");
  c.experts.used = count("expert_used_count");
  c.experts.ffn = count("expert_feed_forward_length", static_cast<uint64_t>(c.ffn));
  c.experts.normalise = normalise;
  CheckExperts(c, "expert_count", "expert_used_count");
  if (TensorNames(*c.family, Dialect::kGguf).Has(Role::kSharedUp)) {
    const Tensor* up = file.FindTensor("blk.0.ffn_up_shexp.weight");  // older files have no key for it
    c.experts.shared_ffn =
        count("expert_shared_feed_forward_length", up != nullptr ? static_cast<uint64_t>(up->rows()) : 0);
  }
  for (const char* key :
       {"expert_weights_scale", "expert_gating_func", "expert_group_count", "expert_group_used_count"}) {
    const double value = file.F64(dot + key, 0.0);  // the function 1 is the softmax
    if (value != 0 && value != 1) {
      Fail(ErrorCode::kData, file.path(), ": ", dot, key, " is ", value, ", which is not supported in ",
           c.family->gguf);
    }
  }
  if (file.Bool(dot + "expert_weights_norm", normalise) != normalise) {
    Fail(ErrorCode::kData, file.path(), ": ", dot, "expert_weights_norm is ", normalise ? "false" : "true",
         ", which is not supported in ", c.family->gguf);
  }
}

void WriteGgufExperts(const HfConfig& c, bool normalise, GgufKeys& keys) {
  keys.SetInt("expert_count", c.experts.count);
  keys.SetInt("expert_used_count", c.experts.used);
  keys.SetInt("expert_feed_forward_length", c.experts.ffn);
  if (c.experts.shared_ffn > 0) keys.SetInt("expert_shared_feed_forward_length", c.experts.shared_ffn);
  if (c.experts.normalise != normalise) keys.Inexpressible("norm_topk_prob");
  if (!c.experts.layers.empty()) keys.Inexpressible("mlp_only_layers and decoder_sparse_step");
}

}  // namespace cambium
