#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string_view>

#include "cambium/constraint.h"
#include "grammar/tool_calls.h"

namespace cambium {

// What the fields of a request ask for, by the names of OpenAI's API, vLLM and llama.cpp: response_format,
// structured_outputs {json, json_object, regex, choice, grammar}, json_schema, regex, choice, grammar. None where none
// of them binds. kUsage naming the field where it is not as it should be, or where two of them bind.
std::optional<Constraint> ConstraintOf(const Model& model, const nlohmann::ordered_json& fields);

// Whether a text keeps to what the same fields ask for; none where none of them binds. A JSON text may be written in
// any way that is valid for the schema, not only as answers are.
std::optional<bool> Keeps(const Model& model, const nlohmann::ordered_json& fields, std::string_view text);

// Answers that are calls of these tools (a list as in the OpenAI API), in the way of the model's family.
Constraint ToolConstraint(const Model& model, const nlohmann::ordered_json& tools, bool parallel,
                          Thought thought = Thought::kNone);
ToolFamily ToolFamilyOf(const Model& model);
// Whether the model may think aloud behind this prompt.
Thought ThoughtOf(const Model& model, std::span<const int32_t> prompt);

}  // namespace cambium
