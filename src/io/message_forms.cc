#include "io/message_forms.h"

#include "cambium/error.h"
#include "io/json.h"

namespace cambium {
namespace {

using Json = nlohmann::ordered_json;

const Json* Field(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string Where(size_t message) { return "messages[" + std::to_string(message) + "]"; }

// A call may be bare or below "function".
Json* ArgumentsOf(Json& call) {
  if (!call.is_object()) return nullptr;
  Json& function = call.contains("function") ? call["function"] : call;
  return function.is_object() && function.contains("arguments") ? &function["arguments"] : nullptr;
}

}  // namespace

std::string ContentText(const Json& message, const std::string& where) {
  const Json* content = Field(message, "content");
  if (content == nullptr) return "";
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) Fail(ErrorCode::kData, where, ".content is ", content->type_name(), ", expected string");
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    const Json& part = (*content)[i];
    const std::string place = where + ".content[" + std::to_string(i) + "]";
    if (!part.is_object()) Fail(ErrorCode::kData, place, " is ", part.type_name(), ", expected object");
    const Json* type = Field(part, "type");
    if (type != nullptr && *type != "text") {
      Fail(ErrorCode::kData, place, ".type is ", type->dump().substr(0, 60), ", only \"text\" is supported");
    }
    const Json* own = Field(part, "text");
    if (own == nullptr || !own->is_string()) Fail(ErrorCode::kData, place, ".text is missing or no string");
    text += own->get_ref<const std::string&>();
  }
  return text;
}

void CheckMessages(const Json& messages) {
  if (!messages.is_array()) Fail(ErrorCode::kData, "messages is ", messages.type_name(), ", expected array");
  for (size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages[i];
    if (!message.is_object()) Fail(ErrorCode::kData, "a message is ", message.type_name(), ", expected object");
    const Json* role = Field(message, "role");
    if (role == nullptr) Fail(ErrorCode::kData, Where(i), ": field \"role\" is missing");
    if (!role->is_string()) Fail(ErrorCode::kData, Where(i), ".role is ", role->type_name(), ", expected string");
    ContentText(message, Where(i));
  }
}

Json WithTextContents(Json messages) {
  for (size_t i = 0; i < messages.size(); ++i) {
    Json& message = messages[i];
    if (message.contains("content") && message["content"].is_array())
      message["content"] = ContentText(message, Where(i));
  }
  return messages;
}

bool ParseArguments(Json& messages) {
  bool changed = false;
  for (Json& message : messages) {
    if (!message.contains("tool_calls") || !message["tool_calls"].is_array()) continue;
    for (Json& call : message["tool_calls"]) {
      Json* arguments = ArgumentsOf(call);
      if (arguments == nullptr || !arguments->is_string()) continue;
      try {
        Json parsed = ParseOrderedJson(arguments->get_ref<const std::string&>(), "arguments");
        if (!parsed.is_object()) continue;
        *arguments = std::move(parsed);
        changed = true;
      } catch (const Error&) {  // a text that is no JSON stays a text
      }
    }
  }
  return changed;
}

}  // namespace cambium
