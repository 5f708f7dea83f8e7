#include "engine/constraint_fields.h"

#include "engine/constraint_impl.h"
#include "io/json.h"

namespace cambium {
namespace {

using Json = nlohmann::ordered_json;

// Reads the fields in turn; at most one may bind.
class FieldReader {
 public:
  explicit FieldReader(const Model& model) : model_(model) {}

  void All(const Json& fields) {
    for (const auto& [field, value] : fields.items()) {
      if (value.is_null()) continue;
      if (field == "response_format") ResponseFormat(value);
      if (field == "structured_outputs") Structured(value);
      if (field == "json_schema" || field == "regex" || field == "choice" || field == "grammar")
        One(field, field, value);
    }
  }
  std::optional<Constraint> found() const { return found_; }

 private:
  [[noreturn]] static void Wrong(const std::string& field, const Json& value, const char* expected) {
    Fail(ErrorCode::kUsage, "field \"", field, "\" is ", ShownJson(value), ", expected ", expected);
  }
  void Set(const std::string& field, Constraint constraint) {
    if (found_)
      Fail(ErrorCode::kUsage, "field \"", field, "\" and \"", by_, "\" both bind the answer; give one of them");
    found_ = std::move(constraint);
    by_ = field;
  }

  // kind: json_schema, regex, choice or grammar.
  void One(const std::string& field, const std::string& kind, const Json& value) {
    if (kind == "json_schema") {
      if (value.is_string()) return Set(field, Constraint::JsonSchema(model_, value.get<std::string>()));
      if (!value.is_object() && !value.is_boolean()) Wrong(field, value, "a schema");
      return Set(field, Constraint::JsonSchema(model_, value.dump()));
    }
    if (kind == "choice") {
      std::vector<std::string> texts;
      if (!value.is_array()) Wrong(field, value, "a list of texts");
      for (const Json& text : value) {
        if (!text.is_string()) Wrong(field, value, "a list of texts");
        texts.push_back(text.get<std::string>());
      }
      return Set(field, Constraint::Choice(model_, texts));
    }
    if (!value.is_string()) Wrong(field, value, "a text");
    const auto& text = value.get_ref<const std::string&>();
    Set(field, kind == "regex" ? Constraint::Regex(model_, text) : Constraint::Grammar(model_, text));
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

  const Model& model_;
  std::optional<Constraint> found_;
  std::string by_;
};

}  // namespace

std::optional<Constraint> ConstraintOf(const Model& model, const Json& fields) {
  FieldReader reader(model);
  reader.All(fields);
  return reader.found();
}

ToolFamily ToolFamilyOf(const Model& model) { return ToolFamilyOf(model.shared()->tokenizer.chat_template()); }

Constraint ToolConstraint(const Model& model, const Json& tools, bool parallel) {
  const Tokenizer& tokenizer = model.shared()->tokenizer;
  ToolGrammar grammar{ToolFamilyOf(model), parallel, [&](std::string_view name) {
                        const int32_t id = tokenizer.Find(name);
                        return id >= 0 && tokenizer.Type(id) == TokenType::kControl;
                      }};
  return CompileConstraint(model, [&](Rules& rules) { return WriteToolCalls(tools, grammar, rules); });
}

}  // namespace cambium
