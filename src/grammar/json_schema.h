#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "grammar/rules.h"

namespace cambium {

// How JSON is written between its values.
struct JsonStyle {
  bool spaced = false;  // ", " and ": "
  std::string comma() const { return spaced ? ", " : ","; }
  std::string colon() const { return spaced ? ": " : ":"; }
};

// The texts of JSON values that are valid for a schema (2020-12), or some of them: docs/structured-output.md says what
// is left out. kUsage for what is malformed or not supported, naming the keyword, and for what no value satisfies.
// `what` names the field in errors.
Rules::Expr CompileJsonSchema(const nlohmann::ordered_json& schema, const std::string& what, JsonStyle style,
                              Rules& rules);

// A value as the grammars here write it.
std::string JsonText(const nlohmann::ordered_json& value, JsonStyle style);

}  // namespace cambium
