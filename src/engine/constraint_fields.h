#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "cambium/constraint.h"
#include "grammar/tool_calls.h"

namespace cambium {

// What the fields of a request ask for, by the names of OpenAI's API, vLLM and llama.cpp: response_format,
// structured_outputs {json, json_object, regex, choice, grammar}, json_schema, regex, choice, grammar. None where none
// of them binds. kUsage naming the field where it is not as it should be, or where two of them bind.
std::optional<Constraint> ConstraintOf(const Model& model, const nlohmann::ordered_json& fields);

// Answers that are calls of these tools (a list as in the OpenAI API), in the way of the model's family.
Constraint ToolConstraint(const Model& model, const nlohmann::ordered_json& tools, bool parallel);
ToolFamily ToolFamilyOf(const Model& model);

}  // namespace cambium
