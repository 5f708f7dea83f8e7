#include "server/constraint.h"

#include <fmt/format.h>

#include <algorithm>

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

// The tools that must be called one of; null: none must. Leaves `form` without tools where none may.
Json ReadChoice(const Fields& fields, AnswerForm& form) {
  static constexpr const char* kExpected = "\"none\", \"auto\", \"required\", or a named function";
  const Json* const choice = fields.Find("tool_choice");
  if (choice == nullptr) return nullptr;
  if (choice->is_string()) {
    const std::string word = choice->get<std::string>();
    if (word == "none") form.tools = nullptr;
    if (word == "none" || word == "auto") return nullptr;
    if (word != "required") Refuse("tool_choice", *choice, kExpected);
    if (form.tools.is_null()) Refuse("tool_choice", "tool_choice is \"required\", but there are no tools");
    return form.tools;
  }
  const Fields named(*choice, "tool_choice.");
  const Json* const function = named.Object("function");
  const auto name = function == nullptr ? std::nullopt : Fields(*function, "tool_choice.function.").Text("name");
  if (!name) Refuse("tool_choice", *choice, kExpected);
  for (const Json& tool : form.tools) {
    if (tool["function"]["name"] == *name) return Json::array({tool});
  }
  Refuse("tool_choice",
         fmt::format("tool_choice names the function \"{}\", which is not among the tools", name->substr(0, 64)));
}

enum class Kind { kSchema, kRegex, kChoice, kGrammar };

void Bind(Request&, const Model&, const char* field, Kind, const Json&) {
  Refuse(field, std::string(field) + " is not supported");
}

void ReadResponseFormat(const Fields& fields, const Model& model, Request& pattern) {
  const Json* const format = fields.Object("response_format");
  if (format == nullptr) return;
  const Fields inner(*format, "response_format.");
  const auto type = inner.Text("type");
  if (type == "text") return;
  if (type == "json_object") {
    const Json* const schema = inner.Object("schema");  // llama.cpp's
    Bind(pattern, model, "response_format", Kind::kSchema, schema == nullptr ? Json{{"type", "object"}} : *schema);
    return;
  }
  if (type != "json_schema") {
    Refuse("response_format.type", inner.Has("type") ? *inner.Find("type") : Json(),
           "\"text\", \"json_object\" or \"json_schema\"");
  }
  const Json* const named = inner.Object("json_schema");
  const Json* const schema = named == nullptr ? inner.Find("schema") : Fields(*named).Find("schema");
  if (schema == nullptr)
    Refuse("response_format.json_schema.schema", "response_format of type json_schema needs a schema");
  if (!schema->is_object() && !schema->is_boolean()) Refuse("response_format.json_schema.schema", *schema, "a schema");
  Bind(pattern, model, "response_format", Kind::kSchema, *schema);
}

// vLLM's structured_outputs, and its older guided_... of the same.
void ReadStructured(const Fields& fields, const Model& model, Request& pattern) {
  static constexpr std::pair<const char*, Kind> kKinds[] = {
      {"json", Kind::kSchema}, {"regex", Kind::kRegex}, {"choice", Kind::kChoice}, {"grammar", Kind::kGrammar}};
  const Json* const structured = fields.Object("structured_outputs");
  for (const auto& [name, kind] : kKinds) {
    const std::string older = std::string("guided_") + name;
    if (structured != nullptr) {
      const Fields inner(*structured, "structured_outputs.");
      if (const Json* const value = inner.Find(name)) Bind(pattern, model, "structured_outputs", kind, *value);
    }
    if (const Json* const value = fields.Find(older.c_str())) Bind(pattern, model, older.c_str(), kind, *value);
  }
  if (structured == nullptr) return;
  for (const char* other : {"json_object", "structural_tag"}) {
    const Json* const value = Fields(*structured).Find(other);
    if (value != nullptr && *value != false)
      Refuse("structured_outputs", std::string("structured_outputs.") + other + " is not supported");
  }
}

}  // namespace

AnswerForm ReadForm(const Fields& fields, const Model& model, Request& pattern) {
  AnswerForm form;
  if (const Json* const tools = fields.List("tools"); tools != nullptr && !tools->empty()) {
    CheckTools(*tools);
    form.tools = *tools;
  }
  const Json forced = ReadChoice(fields, form);
  if (!form.tools.is_null()) form.rule.mode = forced.is_null() ? ToolRule::kAuto : ToolRule::kForced;
  form.rule.one = !fields.Bool("parallel_tool_calls").value_or(true);
  if (form.rule.mode == ToolRule::kForced) Bind(pattern, model, "tool_choice", Kind::kSchema, CallSchema(forced));
  ReadResponseFormat(fields, model, pattern);
  if (const Json* const schema = fields.Find("json_schema"))
    Bind(pattern, model, "json_schema", Kind::kSchema, *schema);
  if (const Json* const grammar = fields.Find("grammar")) Bind(pattern, model, "grammar", Kind::kGrammar, *grammar);
  ReadStructured(fields, model, pattern);
  return form;
}

}  // namespace cambium::server
