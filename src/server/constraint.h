#pragma once

#include <optional>

#include "cambium/cambium.h"
#include "server/fields.h"
#include "server/tool_calls.h"

namespace cambium::server {

// What an answer's form is to be.
struct AnswerForm {
  Json tools;  // that it may call; null: none
  ToolCallParser::Options parser;
};

// What response_format, structured_outputs, json_schema, regex, choice or grammar bind an answer to; refuses by name
// what cannot be honoured.
std::optional<Constraint> ReadConstraint(const Fields& fields, const Model& model);

// The tools of a request: all of them, and those that its answer may call. null: none.
Json ReadTools(const Fields& fields);
Json OfferedTools(const Fields& fields);

// Reads tools, tool_choice, parallel_tool_calls, response_format, grammar, json_schema and structured_outputs, and
// binds `pattern`, which has its prompt, to them. Refuses by name what cannot be honoured.
AnswerForm ReadForm(const Fields& fields, const Model& model, Request& pattern);

}  // namespace cambium::server
