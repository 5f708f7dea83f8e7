#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

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

// The numbers that each "{}" of the pattern stands for in `stem`, if the pattern fits it.
std::optional<std::vector<std::string>> Match(std::string_view pattern, std::string_view stem) {
  std::vector<std::string> numbers;
  for (;;) {
    const size_t at = pattern.find("{}");
    const std::string_view before = pattern.substr(0, at);
    if (!stem.starts_with(before)) return {};
    stem.remove_prefix(before.size());
    if (at == std::string_view::npos) return stem.empty() ? std::optional(numbers) : std::nullopt;
    const size_t digits = std::min(stem.find_first_not_of("0123456789"), stem.size());
    if (digits == 0 || digits > 9) return {};
    numbers.emplace_back(stem.substr(0, digits));
    stem.remove_prefix(digits);
    pattern.remove_prefix(at + 2);
  }
}

// The pattern with the numbers in the places of "{}", as many as there are.
std::string Filled(std::string_view pattern, const std::vector<std::string>& numbers) {
  std::string name(pattern);
  for (const std::string& number : numbers) {
    if (const size_t at = name.find("{}"); at != std::string::npos) name.replace(at, 2, number);
  }
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
      const auto numbers = from.empty() || to.empty() ? std::nullopt : Match(from, stem);
      if (!numbers) continue;
      TensorRename rename;
      rename.name = Filled(to, *numbers) + suffix;
      rename.role = row.role;
      if (numbers->size() > 1) rename.expert = std::stoll(numbers->back());
      rename.transposed = row.layout == Layout::kTransposed && suffix == ".weight";
      rename.gain_offset = family.gain_offset != 0 && row.gguf.ends_with("norm");
      rename.layout = row.layout;
      return rename;
    }
  }
  Fail(ErrorCode::kData, "tensor ", original, " is not known in the family ", family.hf_type);
}

}  // namespace cambium
