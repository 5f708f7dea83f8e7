#pragma once

#include <string_view>

#include "grammar/rules.h"

namespace cambium {

// What the rule `root` of a grammar in llama.cpp's GBNF derives: rules `name ::= ...`, "literals", [classes], `.`,
// groups,
// `|`, and `* + ? {m} {m,} {m,n}` behind what they repeat; # begins a comment. kUsage naming line and column for what
// is malformed.
Rules::Expr CompileGbnf(std::string_view grammar, Rules& rules);

}  // namespace cambium
