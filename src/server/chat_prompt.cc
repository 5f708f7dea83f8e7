#include "server/chat_prompt.h"

#include <fmt/format.h>

#include <algorithm>

#include "io/json.h"
#include "server/tool_calls.h"

namespace cambium::server {
namespace {

constexpr std::string_view kRoles[] = {"system", "developer", "user", "assistant", "tool", "function"};

std::string PartsText(const Json& parts, const std::string& where) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Fields part(parts[i], fmt::format("{}[{}].", where, i));
    const auto type = part.Text("type").value_or("");
    if (type != "text" && type != "input_text" && type != "output_text" && type != "refusal") {
      Refuse(part.Name("type"), part.Has("type") ? *part.Find("type") : Json(), "\"text\"");
    }
    const auto words = part.Text(type == "refusal" ? "refusal" : "text");
    if (!words) Refuse(part.Name("text"), "a part of type text has no text");
    text += *words;
  }
  return text;
}

void CheckCalls(const Json& calls, const std::string& where) {
  for (size_t i = 0; i < calls.size(); ++i) {
    const Fields call(calls[i], fmt::format("{}[{}].", where, i));
    const Json* const function = call.Object("function");
    if (function == nullptr) Refuse(call.Name("function"), "a tool call needs a function");
    const Fields inner(*function, call.Name("function") + ".");
    if (!inner.Text("name")) Refuse(inner.Name("name"), "a tool call needs a function's name");
    const Json* const arguments = inner.Find("arguments");
    if (arguments != nullptr && !arguments->is_string() && !arguments->is_object()) {
      Refuse(inner.Name("arguments"), *arguments, "a string of JSON");
    }
  }
}

// An OpenAI message as templates take it.
Json ReadMessage(const Json& given, size_t index) {
  const std::string where = fmt::format("messages[{}]", index);
  const Fields fields(given, where + ".");
  const auto role = fields.Text("role");
  if (!role) Refuse(where + ".role", where + " has no role");
  if (std::ranges::find(kRoles, *role) == std::end(kRoles)) {
    Refuse(where + ".role", *fields.Find("role"), "system, developer, user, assistant or tool");
  }
  Json message = given;
  if (*role == "developer") message["role"] = "system";
  const Json* const content = fields.Find("content");
  const Json* const calls = fields.List("tool_calls");
  if (content == nullptr) {
    const bool calling = *role == "assistant" && (given.contains("content") || calls != nullptr);
    if (!calling) Refuse(where + ".content", where + " has no content");
    message["content"] = "";
  } else if (content->is_array()) {
    message["content"] = PartsText(*content, where + ".content");
  } else if (!content->is_string()) {
    Refuse(where + ".content", *content, "a string or a list of parts");
  }
  if (calls != nullptr) CheckCalls(*calls, where + ".tool_calls");
  // OpenAI writes arguments as JSON in a string, also where there are none.
  if (calls != nullptr) {
    for (Json& call : message["tool_calls"]) {
      Json& arguments = call["function"]["arguments"];
      if (arguments.is_null() || (arguments.is_string() && arguments.get_ref<const std::string&>().empty())) {
        arguments = "{}";
      }
    }
  }
  return message;
}

// For a template that does not read them: calls as text, and tools in the system's message. Whether the template is to
// get the tools.
bool WriteToolsOut(Json& messages, const Json& tools, const Model& model) {
  const bool given = !tools.is_null() && !tools.empty();
  const bool reads_calls = model.TemplateReads("tool_calls", given);
  for (Json& message : messages) {
    if (reads_calls || !message.contains("tool_calls")) continue;
    std::string text = message["content"].get<std::string>();
    for (const Json& call : message["tool_calls"]) text += (text.empty() ? "" : "\n") + CallText(call);
    message["content"] = text;
    message.erase("tool_calls");
  }
  if (!given || model.TemplateReads("tools", given)) return given;
  const bool has_system = messages[0]["role"] == "system";
  if (!has_system) messages.insert(messages.begin(), Json{{"role", "system"}, {"content", ""}});
  std::string text = messages[0]["content"].get<std::string>();
  messages[0]["content"] = text + (text.empty() ? "" : "\n\n") + ToolsText(tools);
  return false;
}

}  // namespace

ChatPrompt ReadChat(const Fields& fields, const Json& tools, const Model& model) {
  ChatPrompt chat;
  const Json& messages = fields.Messages();
  chat.messages = Json::array();
  for (size_t i = 0; i < messages.size(); ++i) chat.messages.push_back(ReadMessage(messages[i], i));

  const auto generation = fields.Bool("add_generation_prompt");
  const bool proceed = fields.Bool("continue_final_message").value_or(false);
  if (proceed && generation.value_or(false)) {
    Refuse("continue_final_message", "continue_final_message and add_generation_prompt are both true");
  }
  const Json& last = chat.messages.back();
  const bool answers_last = last["role"] == "assistant" && !last.contains("tool_calls");
  if (proceed && !answers_last) Refuse("continue_final_message", "the last message is no assistant's to continue");
  const bool prefilled = answers_last && (proceed || !generation.has_value());
  if (prefilled) {
    if (chat.messages.size() > 1 && chat.messages[chat.messages.size() - 2]["role"] == "assistant") {
      Refuse("messages", "the last two messages are both the assistant's");
    }
    chat.prefill = last["content"].get<std::string>();
    chat.messages.erase(chat.messages.size() - 1);
    if (chat.messages.empty()) Refuse("messages", "there is no message before the assistant's");
  }
  if (WriteToolsOut(chat.messages, tools, model)) chat.options.tools = Dump(tools);
  chat.options.add_generation_prompt = prefilled || generation.value_or(true);
  Json variables = Json::object();
  if (const Json* const given = fields.Object("chat_template_kwargs")) variables = *given;
  if (const auto effort = fields.Text("reasoning_effort")) variables["reasoning_effort"] = *effort;
  if (!variables.empty()) chat.options.variables = Dump(variables);
  return chat;
}

std::string TextOf(const ChatPrompt& chat, const Model& model) {
  try {
    return model.ApplyTemplate(Dump(chat.messages), chat.options) + chat.prefill;
  } catch (const Error& error) {
    Refuse("messages", error.what());
  }
}

std::vector<int32_t> IdsOf(const ChatPrompt& chat, const Model& model) {
  std::vector<int32_t> ids;
  try {
    ids = model.TokenizeChat(Dump(chat.messages), chat.options);
  } catch (const Error& error) {
    Refuse("messages", error.what());
  }
  if (!chat.prefill.empty()) {
    const std::vector<int32_t> more = model.Tokenize(chat.prefill, false, false);
    ids.insert(ids.end(), more.begin(), more.end());
  }
  return ids;
}

}  // namespace cambium::server
