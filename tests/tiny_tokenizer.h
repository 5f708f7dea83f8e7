#pragma once

#include <string>
#include <vector>

#include "io/tokenizer.h"

namespace cambium {

inline constexpr const char* kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

// One token a byte (the id is the byte), then <|im_start|> 256, <|im_end|> 257 (the end of generation), <|bos|> 258.
inline Tokenizer TinyTokenizer(const std::string& chat_template = kChatMl) {
  std::vector<std::string> pieces;
  int extra = 0;
  for (int byte = 0; byte < 256; ++byte) {
    // GPT-2's alphabet: printable Latin-1 stands for itself, the others follow from U+0100.
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int point = printable ? byte : 256 + extra++;
    pieces.push_back(point < 128
                         ? std::string(1, static_cast<char>(point))
                         : std::string{static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 63))});
  }
  for (const char* special : {"<|im_start|>", "<|im_end|>", "<|bos|>"}) pieces.push_back(special);
  TokenizerSpec spec;
  spec.source = "tiny tokenizer";
  spec.pieces.assign(pieces.begin(), pieces.end());
  spec.types.assign(256, TokenType::kNormal);
  spec.types.insert(spec.types.end(), 3, TokenType::kControl);
  spec.eos = 257;
  spec.bos = 258;
  spec.chat_template = chat_template;
  return Tokenizer::FromSpec(spec);
}

}  // namespace cambium
