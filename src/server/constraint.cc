#include "server/constraint.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/constraint_fields.h"
#include "server/ids.h"

namespace cambium::server {
namespace {

void CheckTools(const Json& tools) {
  for (size_t i = 0; i < tools.size(); ++i) {
    const Fields tool(tools[i], fmt::format("tools[{}].", i));
    if (tool.Text("type").value_or("function") != "function")
      Refuse(tool.Name("type"), *tool.Find("type"), "\"function\"");
    const Json* const function = tool.Object("function");
    if (function == nullptr) Refuse(tool.Name("function"), "a tool needs a function");
    const Fields inner(*function, tool.Name("function") + ".");
    const auto name = inner.Text("name");
    if (!name || name->empty()) Refuse(inner.Name("name"), "a function needs a name");
    inner.Text("description");
    inner.Object("parameters");
  }
}

// The tools that must be called one of; null: none must. Leaves no tools where none may be called.
Json ReadChoice(const Fields& fields, Json& tools) {
  static constexpr const char* kExpected = "\"none\", \"auto\", \"required\", or a named function";
  const Json* const choice = fields.Find("tool_choice");
  if (choice == nullptr) return nullptr;
  if (choice->is_string()) {
    const std::string word = choice->get<std::string>();
    if (word == "none") tools = nullptr;
    if (word == "none" || word == "auto") return nullptr;
    if (word != "required") Refuse("tool_choice", *choice, kExpected);
    if (tools.is_null()) Refuse("tool_choice", "tool_choice is \"required\", but there are no tools");
    return tools;
  }
  const Fields named(*choice, "tool_choice.");
  const Json* const function = named.Object("function");
  const auto name = function == nullptr ? std::nullopt : Fields(*function, "tool_choice.function.").Text("name");
  if (!name) Refuse("tool_choice", *choice, kExpected);
  for (const Json& tool : tools) {
    if (tool["function"]["name"] == *name) return Json::array({tool});
  }
  Refuse("tool_choice",
         fmt::format("tool_choice names the function \"{}\", which is not among the tools", name->substr(0, 64)));
}

// What `compile` gives; what it refuses is the field's fault.
template <class Compile>
auto Bound(const char* field, const Compile& compile) {
  try {
    return compile();
  } catch (const Error& error) {
    const std::string why = error.what(), named = std::string(field) + ": ";
    Refuse(field, why.starts_with(named) ? why : named + why);
  }
}

}  // namespace

Json ReadTools(const Fields& fields) {
  const Json* const tools = fields.List("tools");
  if (tools == nullptr || tools->empty()) return nullptr;
  CheckTools(*tools);
  return *tools;
}

Json OfferedTools(const Fields& fields) {
  Json tools = ReadTools(fields);
  ReadChoice(fields, tools);
  return tools;
}

std::optional<Constraint> ReadConstraint(const Fields& fields, const Model& model) {
  static constexpr const char* kBinding[] = {"response_format", "structured_outputs", "json_schema", "regex", "choice",
                                             "grammar"};
  const auto given = std::ranges::find_if(kBinding, [&](const char* name) { return fields.Has(name); });
  if (given == std::end(kBinding)) return std::nullopt;
  return Bound(*given, [&] { return ConstraintOf(model, fields.object()); });
}

AnswerForm ReadForm(const Fields& fields, const Model& model, Request& pattern) {
  AnswerForm form;
  form.tools = ReadTools(fields);
  const Json forced = ReadChoice(fields, form.tools);
  const bool parallel = fields.Bool("parallel_tool_calls").value_or(true);
  form.parser.family = ToolFamilyOf(model);
  form.parser.calls = !form.tools.is_null();
  form.parser.one = !parallel;
  const Thought thought = ThoughtOf(model, pattern.prompt);
  form.parser.inside_think = thought == Thought::kOpen;
  form.parser.new_id = [] { return "call_" + RandomHex(24); };
  pattern.constraint = ReadConstraint(fields, model);
  if (forced.is_null()) return form;
  if (pattern.constraint) Refuse("tool_choice", "tool_choice and another field both bind the answer; give one of them");
  pattern.constraint =
      Bound("tool_choice", [&] { return ToolConstraint(model, forced, parallel && forced.size() > 1, thought); });
  return form;
}

}  // namespace cambium::server
