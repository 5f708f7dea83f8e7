#pragma once

#include <string_view>

namespace cambium {

// Rules of a tokenizer that GGUF has no key for. Other readers pass over them and come as near as GGUF can say it.
inline constexpr const char* kSpacePrefixKey = "cambium.tokenizer.space_prefix";   // "each", "first": SpacePrefix
inline constexpr const char* kSpaceStripKey = "cambium.tokenizer.space_strip";     // "none", "one", "piece": SpaceStrip
inline constexpr const char* kLateSpacesKey = "cambium.tokenizer.late_spaces";     // bool, TextRules::late_spaces
inline constexpr const char* kCutAtSpacesKey = "cambium.tokenizer.cut_at_spaces";  // bool, PreTokenizer::AtSpaces
inline constexpr const char* kNfcKey = "cambium.tokenizer.nfc";                    // bool, where the name of the
inline constexpr const char* kIgnoreMergesKey = "cambium.tokenizer.ignore_merges";  // pre-tokeniser means otherwise
inline constexpr const char* kByMergesKey = "cambium.tokenizer.by_merges";          // bool: merges decide, not scores
inline constexpr const char* kAddedFlagsKey = "cambium.tokenizer.added_flags";  // i32 pairs: id, sum of the bits below
enum AddedBit { kStripLeft = 1, kStripRight = 2, kSingleWord = 4, kNormalized = 8 };

// What tokenizer.ggml.pre says beyond how words are cut, as llama.cpp has it, and NFC, which llama.cpp skips.
inline bool ImpliesNfc(std::string_view pre) { return pre == "qwen2" || pre == "deepseek-r1-qwen"; }
inline bool ImpliesIgnoreMerges(std::string_view pre) {
  for (std::string_view name : {"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken"}) {
    if (pre == name) return true;
  }
  return false;
}

}  // namespace cambium
