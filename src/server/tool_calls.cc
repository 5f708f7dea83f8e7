#include "server/tool_calls.h"

#include <algorithm>

#include "cambium/error.h"
#include "io/json.h"
#include "server/ids.h"

namespace cambium::server {
namespace {

constexpr std::string_view kOpen = "<tool_call>", kClose = "</tool_call>";

}  // namespace

// Whether the text is a call; adds it then.
bool ToolSplitter::Call(std::string_view text, Piece& piece) {
  Json call;
  try {
    call = ParseOrderedJson(text, "a tool call");
  } catch (const Error&) {
    return false;
  }
  if (!call.is_object() || !call.contains("name") || !call["name"].is_string()) return false;
  const auto arguments = call.find("arguments");
  if (arguments != call.end() && !arguments->is_object()) return false;
  if (rule_.one && calls_ > 0) return true;
  piece.calls.push_back(
      {"call_" + RandomHex(24), call["name"].get<std::string>(), arguments == call.end() ? "{}" : Dump(*arguments)});
  ++calls_;
  return true;
}

ToolSplitter::Piece ToolSplitter::Push(std::string_view text) {
  Piece piece;
  if (rule_.mode == ToolRule::kNone) {
    piece.text = text;
    return piece;
  }
  held_ += text;
  while (rule_.mode == ToolRule::kAuto) {
    if (!inside_) {
      const size_t open = held_.find(kOpen);
      inside_ = open != held_.npos;
      size_t shown = inside_ ? open : held_.size();
      if (!inside_) {  // the end may be the beginning of a mark
        size_t tail = std::min(kOpen.size() - 1, held_.size());
        while (tail > 0 && !std::string_view(held_).ends_with(kOpen.substr(0, tail))) --tail;
        shown -= tail;
      }
      piece.text += held_.substr(0, shown);
      held_.erase(0, shown);
      if (!inside_) return piece;
    }
    const size_t close = held_.find(kClose);
    if (close == held_.npos) return piece;
    const size_t end = close + kClose.size();
    if (!Call(std::string_view(held_).substr(kOpen.size(), close - kOpen.size()), piece))
      piece.text += held_.substr(0, end);
    held_.erase(0, end);
    inside_ = false;
  }
  return piece;
}

ToolSplitter::Piece ToolSplitter::Finish() {
  Piece piece;
  const std::string_view call = std::string_view(held_).substr(inside_ ? kOpen.size() : 0);
  const bool expected = inside_ || rule_.mode == ToolRule::kForced;
  if (!expected || !Call(call, piece)) piece.text = held_;
  held_.clear();
  return piece;
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

Json CallSchema(const Json& tools) {
  Json calls = Json::array();
  for (const Json& tool : tools) {
    const Json& function = tool["function"];
    const auto given = function.find("parameters");
    const Json parameters = given == function.end() || given->is_null() ? Json{{"type", "object"}} : *given;
    calls.push_back({{"type", "object"},
                     {"properties", {{"name", {{"const", function["name"]}}}, {"arguments", parameters}}},
                     {"required", {"name", "arguments"}},
                     {"additionalProperties", false}});
  }
  return calls.size() == 1 ? calls[0] : Json{{"anyOf", std::move(calls)}};
}

}  // namespace cambium::server
