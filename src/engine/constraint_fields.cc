#include "engine/constraint_fields.h"

#include <algorithm>

#include "engine/constraint_impl.h"
#include "grammar/json_schema_document.h"
#include "io/json.h"

namespace cambium {
namespace {

using Json = nlohmann::ordered_json;

// What binds: a field, one of json_schema, regex, choice and grammar, and what it says.
struct Binding {
  std::string field, kind;
  Json value;
};

// Reads the fields in turn; at most one may bind.
class FieldReader {
 public:
  void All(const Json& fields) {
    for (const auto& [field, value] : fields.items()) {
      if (value.is_null()) continue;
      if (field == "response_format") ResponseFormat(value);
      if (field == "structured_outputs") Structured(value);
      if (field == "json_schema" || field == "regex" || field == "choice" || field == "grammar")
        One(field, field, value);
    }
  }
  const std::optional<Binding>& found() const { return found_; }

 private:
  [[noreturn]] static void Wrong(const std::string& field, const Json& value, const char* expected) {
    Fail(ErrorCode::kUsage, "field \"", field, "\" is ", ShownJson(value), ", expected ", expected);
  }

  void One(const std::string& field, const std::string& kind, const Json& value) {
    if (found_) {
      Fail(ErrorCode::kUsage, "field \"", field, "\" and \"", found_->field,
           "\" both bind the answer; give one of them");
    }
    const auto is_text = [](const Json& text) { return text.is_string(); };
    if (kind == "json_schema") {
      if (!value.is_string() && !value.is_object() && !value.is_boolean()) Wrong(field, value, "a schema");
    } else if (kind == "choice") {
      if (!value.is_array() || !std::ranges::all_of(value, is_text)) Wrong(field, value, "a list of texts");
    } else if (!value.is_string()) {
      Wrong(field, value, "a text");
    }
    found_ = {field, kind, value};
  }

  void ResponseFormat(const Json& value) {
    static constexpr const char* kExpected = "{\"type\": \"text\", \"json_object\" or \"json_schema\"}";
    if (!value.is_object() || !value.contains("type") || !value["type"].is_string())
      Wrong("response_format", value, kExpected);
    const auto& type = value["type"].get_ref<const std::string&>();
    if (type == "text") return;
    const bool object = type == "json_object";
    if (!object && type != "json_schema") Wrong("response_format.type", value["type"], kExpected);
    const Json* schema = nullptr;
    if (const auto named = value.find("json_schema"); named != value.end() && named->is_object()) {
      if (named->contains("schema")) schema = &(*named)["schema"];
    }
    if (schema == nullptr && value.contains("schema")) schema = &value["schema"];  // llama.cpp's
    if (schema == nullptr && !object) {
      Fail(ErrorCode::kUsage, "field \"response_format.json_schema.schema\" is missing");
    }
    One("response_format", "json_schema", schema != nullptr ? *schema : Json{{"type", "object"}});
  }

  void Structured(const Json& value) {
    if (!value.is_object()) Wrong("structured_outputs", value, "an object");
    for (const auto& [key, inner] : value.items()) {
      const std::string field = "structured_outputs." + key;
      if (inner.is_null()) continue;
      if (key == "json_object") {
        if (!inner.is_boolean()) Wrong(field, inner, "true or false");
        if (inner.get<bool>()) One(field, "json_schema", {{"type", "object"}});
      } else if (key == "json" || key == "regex" || key == "choice" || key == "grammar") {
        One(field, key == "json" ? "json_schema" : key, inner);
      } else {
        Fail(ErrorCode::kUsage, "field \"", field.substr(0, 80), "\" is not supported");
      }
    }
  }

  std::optional<Binding> found_;
};

std::optional<Binding> BindingOf(const Json& fields) {
  FieldReader reader;
  reader.All(fields);
  return reader.found();
}

Constraint ConstraintOf(const Model& model, const Binding& binding) {
  const Json& value = binding.value;
  if (binding.kind == "choice") return Constraint::Choice(model, value.get<std::vector<std::string>>());
  if (binding.kind == "regex") return Constraint::Regex(model, value.get_ref<const std::string&>());
  if (binding.kind == "grammar") return Constraint::Grammar(model, value.get_ref<const std::string&>());
  return Constraint::JsonSchema(model, value.is_string() ? value.get<std::string>() : value.dump());
}

}  // namespace

std::optional<Constraint> ConstraintOf(const Model& model, const Json& fields) {
  const std::optional<Binding> binding = BindingOf(fields);
  if (!binding) return std::nullopt;
  return ConstraintOf(model, *binding);
}

std::optional<bool> Keeps(const Model& model, const Json& fields, std::string_view text) {
  const std::optional<Binding> binding = BindingOf(fields);
  if (!binding) return std::nullopt;
  if (binding->kind != "json_schema") return ConstraintOf(model, *binding).Accepts(text);
  Json schema = binding->value;
  if (schema.is_string()) schema = ParseOrderedJson(schema.get<std::string>(), binding->field);
  SchemaDocument document(std::move(schema), binding->field);
  Json value;
  try {
    value = ParseOrderedJson(text, "the text");
  } catch (const Error&) {
    return false;
  }
  CompileBudget budget;
  return IsValid(value, document.root(), document, budget);
}

ToolFamily ToolFamilyOf(const Model& model) { return ToolFamilyOf(model.shared()->tokenizer.chat_template()); }

Thought ThoughtOf(const Model& model, std::span<const int32_t> prompt) {
  constexpr size_t kEnd = 16;  // tokens that hold the mark and blanks
  const std::string end = model.Detokenize(prompt.last(std::min(prompt.size(), kEnd)));
  return ThoughtOf(model.shared()->tokenizer.chat_template(), end);
}

Constraint ToolConstraint(const Model& model, const Json& tools, bool parallel, Thought thought) {
  const Tokenizer& tokenizer = model.shared()->tokenizer;
  ToolGrammar grammar{ToolFamilyOf(model), thought, parallel, [&](std::string_view name) {
                        const int32_t id = tokenizer.Find(name);
                        return id >= 0 && tokenizer.Type(id) == TokenType::kControl;
                      }};
  return CompileConstraint(model, [&](Rules& rules) { return WriteToolCalls(tools, grammar, rules); });
}

}  // namespace cambium
