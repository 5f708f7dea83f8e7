#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/rules.h"

namespace cambium {

// How a family of models writes calls of tools. JSON is written with one space, as their templates do.
enum class ToolFamily {
  kHermes,   // <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>, one behind the other: Qwen, Hermes, SmolLM
  kLlama3,   // {"name": ..., "parameters": ...} as the whole answer, more behind "; "
  kMistral,  // [TOOL_CALLS][{"name": ..., "arguments": ...}, ...]
  kGemma,    // as kLlama3, perhaps inside a fence ```json
};
// By what the chat template's text mentions; kHermes where it mentions nothing known.
ToolFamily ToolFamilyOf(std::string_view chat_template);

// Whether a model may think aloud, in <think>...</think>, before it answers; kOpen: the prompt ends inside of it.
enum class Thought { kNone, kMay, kOpen };
// By the chat template's text and the end of a prompt that it made.
Thought ThoughtOf(std::string_view chat_template, std::string_view prompt_end);

struct ToolGrammar {
  ToolFamily family = ToolFamily::kHermes;
  Thought thought = Thought::kNone;                       // before the calls
  bool parallel = true;                                   // more than one call
  std::function<bool(std::string_view name)> is_control;  // whether the vocabulary has a control token of this name
};
// Answers that are calls of `tools`, a list as in the OpenAI API, each with arguments that are valid for the tool's
// parameters. kUsage naming the tool and what is wrong.
Rules::Expr WriteToolCalls(const nlohmann::ordered_json& tools, const ToolGrammar& grammar, Rules& rules);

// Takes calls and reasoning out of an answer as it comes. What does not turn out to be a call stays content.
class ToolCallParser {
 public:
  struct Options {
    ToolFamily family = ToolFamily::kHermes;
    bool calls = true;                    // false: calls stay content
    bool think = true;                    // <think>...</think> in front is reasoning
    bool inside_think = false;            // the prompt ends inside of it
    bool one = false;                     // calls behind the first are left out
    std::function<std::string()> new_id;  // an id for each call
  };
  // A part of the answer: text, or of a call its beginning (id and name) or a fragment of its arguments.
  struct Delta {
    enum Kind { kContent, kReasoning, kCallBegin, kArguments };
    Kind kind;
    std::string text = {};  // kArguments: JSON, which the fragments of one call join to
    int32_t index = -1;     // of the call, from 0
    std::string id = {}, name = {};
  };

  explicit ToolCallParser(Options options);
  std::vector<Delta> Push(std::string_view text);
  std::vector<Delta> Finish();
  int32_t calls() const { return calls_; }

 private:
  enum class Place { kStart, kThink, kText, kCalls };
  // A JSON value that is being read: how deep, and whether in a string.
  struct Scan {
    int depth = 0;
    bool quoted = false, escaped = false;
    bool Closes(char c);  // whether the value that began with an object or list ends with c
  };

  bool Advance(bool last);  // takes something from held_; false when more must come
  bool Start(bool last);
  bool Think(bool last);
  bool Text(bool last);
  bool Calls(bool last);
  bool Arguments();
  bool BeginCall();
  void Whole(std::string_view object);
  void Show(Delta::Kind kind, std::string_view text);
  size_t Kept(std::string_view mark) const;  // of the end of held_, that may be the beginning of the mark

  Options options_;
  Place place_ = Place::kStart;
  std::string held_;
  std::string opened_;  // of calls: what led in, to be given back where none comes
  std::vector<Delta> out_;
  int32_t calls_ = 0, in_group_ = 0;
  bool in_arguments_ = false, left_out_ = false, thought_ = false;
  Scan scan_;
};

}  // namespace cambium
