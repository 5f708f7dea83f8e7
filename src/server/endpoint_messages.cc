#include <fmt/format.h>

#include "server/chat_start.h"
#include "server/endpoints.h"
#include "server/formats.h"
#include "server/ids.h"

// Anthropic's API, brought into the form of OpenAI's.
namespace cambium::server {
namespace {

// A text, or the texts of a list of blocks.
std::string BlocksText(const Json& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) Refuse(where, content, "a string or a list of blocks");
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const Fields block(content[i], fmt::format("{}[{}].", where, i));
    if (block.Text("type").value_or("") != "text")
      Refuse(block.Name("type"), "a block that is no text is not supported here");
    text += block.Text("text").value_or("");
  }
  return text;
}

// One message may become several: results of tools are messages of their own there.
void AddMessage(const Json& given, size_t index, Json& messages) {
  const std::string where = fmt::format("messages[{}]", index);
  const Fields fields(given, where + ".");
  const auto role = fields.Text("role");
  if (!role || (*role != "user" && *role != "assistant")) {
    Refuse(where + ".role", fields.Has("role") ? *fields.Find("role") : Json(), "user or assistant");
  }
  const Json* const content = fields.Find("content");
  if (content == nullptr) Refuse(where + ".content", where + " has no content");
  if (!content->is_array()) {
    messages.push_back({{"role", *role}, {"content", BlocksText(*content, where + ".content")}});
    return;
  }
  std::string text;
  Json calls = Json::array();
  for (size_t i = 0; i < content->size(); ++i) {
    const Fields block((*content)[i], fmt::format("{}.content[{}].", where, i));
    const std::string type = block.Text("type").value_or("");
    if (type == "text") {
      text += block.Text("text").value_or("");
    } else if (type == "tool_use" && *role == "assistant") {
      const auto name = block.Text("name");
      if (!name) Refuse(block.Name("name"), "a tool_use needs a name");
      const Json* const input = block.Object("input");
      calls.push_back({{"id", block.Text("id").value_or("")},
                       {"type", "function"},
                       {"function", {{"name", *name}, {"arguments", input == nullptr ? "{}" : Dump(*input)}}}});
    } else if (type == "tool_result" && *role == "user") {
      const Json* const result = block.Find("content");
      messages.push_back({{"role", "tool"},
                          {"tool_call_id", block.Text("tool_use_id").value_or("")},
                          {"content", result == nullptr ? "" : BlocksText(*result, block.Name("content"))}});
      if (block.Bool("is_error").value_or(false)) {
        messages.back()["content"] = "Error: " + messages.back()["content"].get<std::string>();
      }
    } else if (type != "thinking" && type != "redacted_thinking") {  // thoughts of earlier turns are not shown again
      Refuse(block.Name("type"), block.Has("type") ? *block.Find("type") : Json(), "text, tool_use or tool_result");
    }
  }
  if (text.empty() && calls.empty() && *role == "user") return;  // results alone
  messages.push_back({{"role", *role}, {"content", text}});
  if (!calls.empty()) messages.back()["tool_calls"] = std::move(calls);
}

Json MessagesOf(const Fields& fields) {
  const Json& given = fields.Messages();
  Json messages = Json::array();
  if (const Json* const system = fields.Find("system")) {
    messages.push_back({{"role", "system"}, {"content", BlocksText(*system, "system")}});
  }
  for (size_t i = 0; i < given.size(); ++i) AddMessage(given[i], i, messages);
  return messages;
}

void AddTools(const Fields& fields, Json& chat) {
  if (const Json* const tools = fields.List("tools")) {
    Json list = Json::array();
    for (size_t i = 0; i < tools->size(); ++i) {
      const Fields tool((*tools)[i], fmt::format("tools[{}].", i));
      const auto name = tool.Text("name");
      const Json* const schema = tool.Object("input_schema");
      if (!name || schema == nullptr)
        Refuse(tool.Name(name ? "input_schema" : "name"), "a tool needs a name and an input_schema");
      list.push_back(
          {{"type", "function"},
           {"function",
            {{"name", *name}, {"description", tool.Text("description").value_or("")}, {"parameters", *schema}}}});
    }
    chat["tools"] = std::move(list);
  }
  const Json* const choice = fields.Object("tool_choice");
  if (choice == nullptr) return;
  const Fields inner(*choice, "tool_choice.");
  const std::string type = inner.Text("type").value_or("");
  if (type == "auto" || type == "none") {
    chat["tool_choice"] = type;
  } else if (type == "any") {
    chat["tool_choice"] = "required";
  } else if (type == "tool" && inner.Text("name")) {
    chat["tool_choice"] = {{"type", "function"}, {"function", {{"name", *inner.Text("name")}}}};
  } else {
    Refuse("tool_choice", *choice, "a type of auto, any, none, or tool with a name");
  }
  if (inner.Bool("disable_parallel_tool_use").value_or(false)) chat["parallel_tool_calls"] = false;
}

// The body as /v1/chat/completions takes it. What is ours, such as "grafts" and "draft", goes along as it is.
Json ChatBody(const Json& body) {
  const Fields fields(body);
  Json chat = body;
  for (const char* own : {"system", "stop_sequences", "tools", "tool_choice", "thinking"}) chat.erase(own);
  chat["messages"] = MessagesOf(fields);
  if (const auto stop = fields.Texts("stop_sequences")) chat["stop"] = *stop;
  AddTools(fields, chat);
  fields.Object("chat_template_kwargs");
  if (const Json* const thinking = fields.Object("thinking")) {
    chat["chat_template_kwargs"]["enable_thinking"] = Fields(*thinking, "thinking.").Text("type") != "disabled";
  }
  return chat;
}

// Anthropic's errors lie one level deeper.
template <class Work>
void Answering(Call& call, const Work& work) {
  try {
    work();
  } catch (...) {
    call.reply->Send(AnthropicError(ToApiError(std::current_exception())));
  }
}

}  // namespace

void Messages(Call& call) {
  Answering(call, [&] {
    const Json body = ParseBody(call.request.body);
    if (!Fields(body).Whole("max_tokens", 1, kMostTokens)) {
      Refuse("max_tokens", "max_tokens is missing");
    }
    StartChat(call, ChatBody(body), {"msg_" + RandomHex(24), "messages", false, MakeMessagesFormat});
  });
}

void CountTokens(Call& call) {
  Answering(call, [&] {
    const Json chat = ChatBody(ParseBody(call.request.body));
    std::string name;
    ReadModel(Fields(chat), call.service, name);
    call.reply->Send({200, Dump({{"input_tokens", ChatIds(chat, call.service).size()}})});
  });
}

}  // namespace cambium::server
