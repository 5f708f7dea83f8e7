#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cambium::jinja {

enum class TokenKind {
  kData,
  kPrintBegin,
  kPrintEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind;
  std::string text;  // data and strings already decoded
  int line;
};

// Cuts a template into tokens under trim_blocks and lstrip_blocks, as transformers configures jinja2. kData with the
// line for text that jinja2 would refuse.
std::vector<Token> Lex(std::string_view source);

}  // namespace cambium::jinja
