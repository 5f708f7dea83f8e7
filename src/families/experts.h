#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace cambium {

class GgufFile;
class GgufKeys;
class HfFields;
struct HfConfig;

// kData naming the field unless the sizes of a mixture are consistent.
void CheckExperts(const HfConfig& config, const char* count, const char* used);

// How Qwen's mixtures say which layers route: decoder_sparse_step and mlp_only_layers.
void ReadHfRoutedLayers(const HfFields& fields, HfConfig& config);
void WriteHfRoutedLayers(const HfConfig& config, nlohmann::ordered_json& json);

// Of training alone.
inline constexpr std::string_view kRouterTrainingKeys[] = {"output_router_logits", "router_aux_loss_coef",
                                                           "router_jitter_noise"};

inline constexpr std::string_view kGgufExpertKeys[] = {
    "expert_used_count",   "expert_feed_forward_length", "expert_shared_feed_forward_length",
    "expert_weights_norm", "expert_weights_scale",       "expert_gating_func",
    "expert_group_count",  "expert_group_used_count",    "expert_shared_count"};
// GGUF's keys of experts. It has none for whether weights are normalised: `normalise` is what the architecture means.
void ReadGgufExperts(const GgufFile& file, bool normalise, HfConfig& config);
void WriteGgufExperts(const HfConfig& config, bool normalise, GgufKeys& keys);

}  // namespace cambium
