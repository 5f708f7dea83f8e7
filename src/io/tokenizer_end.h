#pragma once

#include "io/tokenizer.h"

namespace cambium {

// Files name one eos, chat models end a turn with another token: adds those known by their text.
inline void AddEndsByName(TokenizerSpec& spec) {
  for (size_t i = 0; i < spec.pieces.size(); ++i) {
    if (spec.types.empty() || spec.types[i] == TokenType::kNormal || spec.types[i] == TokenType::kByte) continue;
    for (std::string_view name : {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>",
                                  "<|end|>", "<end_of_turn>", "<EOT>", "<|eot|>", "<|eom|>"}) {
      if (spec.pieces[i] == name) spec.end_of_generation.push_back(static_cast<int32_t>(i));
    }
  }
}

}  // namespace cambium
