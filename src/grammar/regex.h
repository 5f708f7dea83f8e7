#pragma once

#include <string_view>

#include "grammar/char_dfa.h"

namespace cambium {

enum class RegexMatch {
  kWhole,   // the text is a match
  kSearch,  // the text holds a match, as JSON Schema's `pattern` means it
};

// ECMA 262's regular expressions as far as they are regular: no references back, no looking around, no \b. `what` names
// the field in errors. kUsage for what is malformed or not supported, naming it, and where it grows too large.
CharDfa CompileRegex(std::string_view pattern, RegexMatch match, std::string_view what, CompileBudget& budget);

}  // namespace cambium
