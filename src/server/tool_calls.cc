#include "server/tool_calls.h"

namespace cambium::server {
namespace {

constexpr std::string_view kOpen = "<tool_call>", kClose = "</tool_call>";

}  // namespace

void ParsedAnswer::Add(const ToolCallParser::Delta& delta) {
  switch (delta.kind) {
    case ToolCallParser::Delta::kContent:
      content += delta.text;
      break;
    case ToolCallParser::Delta::kReasoning:
      reasoning += delta.text;
      break;
    case ToolCallParser::Delta::kCallBegin:
      calls.push_back({delta.id, delta.name, ""});
      break;
    case ToolCallParser::Delta::kArguments:
      calls.back().arguments += delta.text;
      break;
  }
}

ParsedAnswer ParseAnswer(const ToolCallParser::Options& options, std::string_view text) {
  ToolCallParser parser(options);
  ParsedAnswer answer;
  for (const auto& delta : parser.Push(text)) answer.Add(delta);
  for (const auto& delta : parser.Finish()) answer.Add(delta);
  return answer;
}

std::string ToolsText(const Json& tools) {
  std::string text =
      "You may call one or more functions to assist with the user query.\n\nYou are provided with function signatures "
      "within <tools></tools> XML tags:\n<tools>";
  for (const Json& tool : tools) text += "\n" + Dump(tool);
  return text +
         "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
         "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": "
         "<args-json-object>}\n</tool_call>";
}

std::string CallText(const Json& call) {
  const Json& function = call["function"];
  const Json& arguments = function["arguments"];
  return std::string(kOpen) + "\n{\"name\": " + Dump(function["name"]) +
         ", \"arguments\": " + (arguments.is_string() ? arguments.get<std::string>() : Dump(arguments)) + "}\n" +
         std::string(kClose);
}

}  // namespace cambium::server
