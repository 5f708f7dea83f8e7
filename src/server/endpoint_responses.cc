#include <fmt/format.h>

#include "server/chat_start.h"
#include "server/endpoints.h"
#include "server/formats.h"
#include "server/ids.h"

// OpenAI's /v1/responses, brought into the form of /v1/chat/completions.
namespace cambium::server {
namespace {

// An item of `input` as a message; what was thought in earlier turns is left out.
void AddItem(const Json& item, size_t index, Json& messages) {
  const std::string where = fmt::format("input[{}]", index);
  const Fields fields(item, where + ".");
  const std::string type = fields.Text("type").value_or("message");
  if (type == "message") {
    const Json* const content = fields.Find("content");
    const auto role = fields.Text("role");
    if (!role) Refuse(where + ".role", where + " has no role");
    if (content == nullptr) Refuse(where + ".content", where + " has no content");
    messages.push_back({{"role", *role}, {"content", *content}});
  } else if (type == "function_call") {
    const auto name = fields.Text("name");
    if (!name) Refuse(where + ".name", "a function_call needs a name");
    const Json call = {{"id", fields.Text("call_id").value_or("")},
                       {"type", "function"},
                       {"function", {{"name", *name}, {"arguments", fields.Text("arguments").value_or("{}")}}}};
    const bool again = !messages.empty() && messages.back().contains("tool_calls");
    if (!again) messages.push_back({{"role", "assistant"}, {"content", ""}, {"tool_calls", Json::array()}});
    messages.back()["tool_calls"].push_back(call);
  } else if (type == "function_call_output") {
    const Json* const output = fields.Find("output");
    if (output == nullptr) Refuse(where + ".output", "a function_call_output needs an output");
    messages.push_back({{"role", "tool"}, {"tool_call_id", fields.Text("call_id").value_or("")}, {"content", *output}});
  } else if (type != "reasoning") {
    Refuse(where + ".type", *fields.Find("type"), "message, function_call, function_call_output or reasoning");
  }
}

Json MessagesOf(const Fields& fields) {
  Json messages = Json::array();
  if (const auto instructions = fields.Text("instructions")) {
    messages.push_back({{"role", "system"}, {"content", *instructions}});
  }
  const Json* const input = fields.Find("input");
  if (input == nullptr || !(input->is_string() || (input->is_array() && !input->empty()))) {
    if (input == nullptr) Refuse("input", "input is missing");
    Refuse("input", *input, "a string or a list of items, not empty");
  }
  if (input->is_string()) {
    messages.push_back({{"role", "user"}, {"content", *input}});
  } else {
    for (size_t i = 0; i < input->size(); ++i) AddItem((*input)[i], i, messages);
  }
  return messages;
}

// Tools lie flat here.
void AddTools(const Fields& fields, Json& chat) {
  if (const Json* const tools = fields.List("tools")) {
    Json list = Json::array();
    for (size_t i = 0; i < tools->size(); ++i) {
      const Fields tool((*tools)[i], fmt::format("tools[{}].", i));
      if (tool.Text("type").value_or("") != "function")
        Refuse(tool.Name("type"), "a tool that is no function is not supported");
      Json function = (*tools)[i];
      function.erase("type");
      list.push_back({{"type", "function"}, {"function", std::move(function)}});
    }
    chat["tools"] = std::move(list);
  }
  const Json* const choice = fields.Find("tool_choice");
  if (choice == nullptr) return;
  chat["tool_choice"] = *choice;
  if (!choice->is_object()) return;
  const auto name = Fields(*choice, "tool_choice.").Text("name");
  if (!name) Refuse("tool_choice.name", "tool_choice names no function");
  chat["tool_choice"] = {{"type", "function"}, {"function", {{"name", *name}}}};
}

void AddFormat(const Fields& fields, Json& chat) {
  const Json* const text = fields.Object("text");
  const Json* const format = text == nullptr ? nullptr : Fields(*text, "text.").Object("format");
  if (format == nullptr) return;
  Json inner = *format;
  const auto type = Fields(*format, "text.format.").Text("type");
  if (type == "text" || type == "json_object") {
    chat["response_format"] = std::move(inner);
    return;
  }
  if (type != "json_schema") {
    Refuse("text.format.type", type ? Json(*type) : Json(), "\"text\", \"json_object\" or \"json_schema\"");
  }
  if (!format->contains("schema")) Refuse("text.format.schema", "text.format of type json_schema needs a schema");
  inner.erase("type");
  chat["response_format"] = {{"type", "json_schema"}, {"json_schema", std::move(inner)}};
}

Json ChatBody(const Json& body) {
  const Fields fields(body);
  for (const char* name : {"previous_response_id", "conversation", "prompt"}) {
    if (fields.Has(name)) Refuse(name, std::string(name) + " is not supported: nothing is stored here");
  }
  if (fields.Bool("background").value_or(false)) Refuse("background", "background is not supported");
  if (fields.Text("truncation").value_or("disabled") != "disabled")
    Refuse("truncation", *fields.Find("truncation"), "disabled");
  if (fields.Whole("top_logprobs", 0, 20).value_or(0) > 0) Refuse("top_logprobs", "top_logprobs is not supported here");
  for (const std::string& more : fields.Texts("include").value_or(std::vector<std::string>())) {
    if (more != "reasoning.encrypted_content") Refuse("include", "include is not supported");
  }
  Json chat = body;
  for (const char* own : {"input", "instructions", "max_output_tokens", "text", "tools", "tool_choice", "reasoning",
                          "top_logprobs", "max_tokens", "stream_options"}) {
    chat.erase(own);
  }
  chat["messages"] = MessagesOf(fields);
  if (const auto most = fields.Whole("max_output_tokens", 1, kMostTokens)) {
    chat["max_tokens"] = *most;
  }
  if (const Json* const reasoning = fields.Object("reasoning")) {
    if (const auto effort = Fields(*reasoning, "reasoning.").Text("effort")) chat["reasoning_effort"] = *effort;
  }
  AddTools(fields, chat);
  AddFormat(fields, chat);
  return chat;
}

}  // namespace

void Responses(Call& call) {
  const Json body = ParseBody(call.request.body);
  const Json chat = ChatBody(body);
  const auto make = [&](std::shared_ptr<const Ask> ask, const Model&) {
    return MakeResponsesFormat(std::move(ask), body);
  };
  StartChat(call, chat, {"resp_" + RandomHex(24), "input", false, make});
}

}  // namespace cambium::server
