#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/fields.h"

namespace cambium::server {

struct ToolCall {
  std::string id, name;
  std::string arguments;  // JSON
};

struct ToolRule {
  enum Mode {
    kNone,    // an answer is text
    kAuto,    // calls may stand in it as <tool_call>{"name", "arguments"}</tool_call>
    kForced,  // it is one such object and nothing else
  };
  Mode mode = kNone;
  bool one = false;  // further calls are left out
};

// Takes the calls out of an answer, whole or as it comes. What does not turn out to be a call stays text.
class ToolSplitter {
 public:
  explicit ToolSplitter(ToolRule rule) : rule_(rule) {}
  struct Piece {
    std::string text;
    std::vector<ToolCall> calls;
  };
  Piece Push(std::string_view text);
  Piece Finish();                          // what was held back
  size_t calls() const { return calls_; }  // so far

 private:
  bool Call(std::string_view text, Piece& piece);
  ToolRule rule_;
  std::string held_;
  bool inside_ = false;
  size_t calls_ = 0;
};

// What a system message says to a model whose template does not know tools, and how calls stand in its answers.
std::string ToolsText(const Json& tools);
std::string CallText(const Json& call);

// The JSON schema of a call of one of the tools.
Json CallSchema(const Json& tools);

}  // namespace cambium::server
