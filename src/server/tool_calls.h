#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "grammar/tool_calls.h"
#include "server/fields.h"

namespace cambium::server {

struct ToolCall {
  std::string id, name;
  std::string arguments;  // JSON
};

// An answer that was taken apart: what it says, what it thought, and whom it calls.
struct ParsedAnswer {
  std::string content, reasoning;
  std::vector<ToolCall> calls;
  void Add(const ToolCallParser::Delta& delta);
};
ParsedAnswer ParseAnswer(const ToolCallParser::Options& options, std::string_view text);

// What a system message says to a model whose template does not know tools, and how calls stand in its answers.
std::string ToolsText(const Json& tools);
std::string CallText(const Json& call);

}  // namespace cambium::server
