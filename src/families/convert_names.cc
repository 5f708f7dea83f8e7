#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "cambium/error.h"
#include "families/convert.h"

namespace cambium {
namespace {

// What a checkpoint may hold besides the weights we name.
bool IsIgnored(std::string_view name) {
  if (name.ends_with("rotary_emb.inv_freq") || name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") ||
      name.ends_with(".attention.bias") || name.ends_with(".attention.masked_bias")) {
    return true;
  }
  if (name.starts_with("model.")) name.remove_prefix(6);
  for (std::string_view part :
       {"vision_tower.", "vision_model.", "visual.", "multi_modal_projector.", "audio_tower."}) {
    if (name.starts_with(part)) return true;
  }
  return false;
}

// The name as the table has it: without what wraps the model, with the base model's place in the tree.
std::string Unwrapped(const Family& family, std::string name) {
  const std::string_view base = family.hf_base;
  if (name.starts_with("language_model.")) name.erase(0, 15);
  if (name.starts_with("model.language_model.")) name.replace(0, 21, base);
  if (name.starts_with(base)) return name;
  const bool top = std::ranges::any_of(family.tensors, [&](const TensorRow& row) {
    return !row.hf.empty() && !row.hf.starts_with(base) && name.starts_with(row.hf);
  });
  return top ? name : std::string(base) + name;
}

// What "{}" stands for in `stem`, if the pattern fits it; empty where the pattern has none.
std::optional<std::string> Match(std::string_view pattern, std::string_view stem) {
  const size_t at = pattern.find("{}");
  if (at == std::string_view::npos) return pattern == stem ? std::optional(std::string()) : std::nullopt;
  const std::string_view before = pattern.substr(0, at), behind = pattern.substr(at + 2);
  if (stem.size() <= before.size() + behind.size() || !stem.starts_with(before) || !stem.ends_with(behind)) return {};
  const std::string_view layer = stem.substr(before.size(), stem.size() - before.size() - behind.size());
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  return std::ranges::all_of(layer, digit) ? std::optional(std::string(layer)) : std::nullopt;
}

std::string Filled(std::string_view pattern, const std::string& layer) {
  std::string name(pattern);
  if (const size_t at = name.find("{}"); at != std::string::npos) name.replace(at, 2, layer);
  return name;
}

}  // namespace

std::string MtpTensorName(const std::string& name, int64_t layers) {
  if (!name.starts_with("mtp.")) return name;
  const std::string block = "model.layers." + std::to_string(layers) + ".";
  constexpr std::string_view kLayer = "mtp.layers.0.";
  if (name.starts_with(kLayer)) return block + name.substr(kLayer.size());
  for (const auto& [qwen, deepseek] : {std::pair{"mtp.fc.weight", "eh_proj.weight"},
                                       {"mtp.pre_fc_norm_embedding.weight", "enorm.weight"},
                                       {"mtp.pre_fc_norm_hidden.weight", "hnorm.weight"},
                                       {"mtp.norm.weight", "shared_head.norm.weight"}}) {
    if (name == qwen) return block + deepseek;
  }
  return name;
}

TensorRename RenameTensor(const Family& family, ConvertDirection direction, const std::string& original) {
  const bool to_gguf = direction == ConvertDirection::kToGguf;
  if (to_gguf ? IsIgnored(original) : original == "rope_freqs.weight") return {};
  const std::string name = to_gguf ? Unwrapped(family, original) : original;
  const size_t dot = name.rfind('.');
  const std::string suffix = dot == std::string::npos ? "" : name.substr(dot), stem = name.substr(0, dot);
  if (suffix == ".weight" || suffix == ".bias") {
    for (const TensorRow& row : family.tensors) {
      const std::string_view from = to_gguf ? row.hf : row.gguf, to = to_gguf ? row.gguf : row.hf;
      const std::optional<std::string> layer = from.empty() || to.empty() ? std::nullopt : Match(from, stem);
      if (!layer) continue;
      TensorRename rename;
      rename.name = Filled(to, *layer) + suffix;
      rename.transposed = row.layout == Layout::kTransposed && suffix == ".weight";
      rename.gain_offset = family.gain_offset != 0 && row.gguf.ends_with("norm");
      rename.role = row.role;
      rename.layout = row.layout;
      return rename;
    }
  }
  Fail(ErrorCode::kData, "tensor ", original, " is not known in the family ", family.hf_type);
}

}  // namespace cambium
