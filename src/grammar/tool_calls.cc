#include "grammar/tool_calls.h"

#include <algorithm>

#include "cambium/error.h"
#include "grammar/json_schema.h"
#include "io/json.h"

namespace cambium {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kThinkOpen = "<think>", kThinkClose = "</think>";

struct Syntax {
  std::string_view open, close;  // around a group of calls
  std::string_view arguments;    // the key
};

Syntax SyntaxOf(ToolFamily family) {
  switch (family) {
    case ToolFamily::kHermes:
      return {"<tool_call>", "</tool_call>", "arguments"};
    case ToolFamily::kMistral:
      return {"[TOOL_CALLS]", "", "arguments"};
    case ToolFamily::kLlama3:
    case ToolFamily::kGemma:
      return {"", "", "parameters"};
  }
  return {};
}

bool IsSpace(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

// Reads tokens of JSON from the front of a text that may end anywhere.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}
  size_t at() const { return at_; }
  void Space() {
    while (at_ < text_.size() && IsSpace(text_[at_])) ++at_;
  }
  bool Take(char c) {
    Space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  // A string with its quotes; empty where none is there, whole.
  std::string_view String() {
    Space();
    if (at_ >= text_.size() || text_[at_] != '"') return {};
    for (size_t end = at_ + 1; end < text_.size(); ++end) {
      if (text_[end] == '\\') {
        ++end;
      } else if (text_[end] == '"') {
        const std::string_view found = text_.substr(at_, end + 1 - at_);
        at_ = end + 1;
        return found;
      }
    }
    return {};
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

// Whatever does not hold `mark`, which begins with "<" and has no other, then `mark`.
Rules::Expr Until(std::string_view mark, Rules& rules) {
  std::vector<Rules::Edge> edges;
  const auto end = static_cast<int32_t>(mark.size());
  for (int32_t i = 0; i < end; ++i) {  // so much of the mark was read
    const auto next = static_cast<uint32_t>(mark[static_cast<size_t>(i)]);
    CodeSet known = {{next, next}};
    edges.push_back({i, i + 1, rules.CodePoints(known)});
    if (i > 0) {
      edges.push_back({i, 1, rules.CodePoints({{'<', '<'}})});
      known.push_back({'<', '<'});
    }
    edges.push_back({i, 0, rules.CodePoints(Complement(Normalized(known)))});
  }
  return rules.Graph(end + 1, std::move(edges), {end});
}

}  // namespace

Thought ThoughtOf(std::string_view chat_template, std::string_view prompt_end) {
  while (!prompt_end.empty() && IsSpace(prompt_end.back())) prompt_end.remove_suffix(1);
  if (prompt_end.ends_with(kThinkOpen)) return Thought::kOpen;
  const bool knows = chat_template.find(kThinkOpen) != chat_template.npos;
  return knows && !prompt_end.ends_with(kThinkClose) ? Thought::kMay : Thought::kNone;
}

ToolFamily ToolFamilyOf(std::string_view chat_template) {
  const auto mentions = [&](std::string_view text) { return chat_template.find(text) != std::string_view::npos; };
  if (mentions("<tool_call>")) return ToolFamily::kHermes;
  if (mentions("[TOOL_CALLS]")) return ToolFamily::kMistral;
  if (mentions("<|python_tag|>") || mentions("<|start_header_id|>")) return ToolFamily::kLlama3;
  if (mentions("<start_of_turn>")) return ToolFamily::kGemma;
  return ToolFamily::kHermes;
}

Rules::Expr WriteToolCalls(const Json& tools, const ToolGrammar& grammar, Rules& rules) {
  const JsonStyle style{true};
  const Syntax syntax = SyntaxOf(grammar.family);
  if (!tools.is_array() || tools.empty()) Fail(ErrorCode::kUsage, "tools is no list of tools");
  std::vector<Rules::Expr> calls;
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string field = "tools[" + std::to_string(i) + "].function";
    const auto function = tools[i].is_object() ? tools[i].find("function") : tools[i].end();
    if (!tools[i].is_object() || function == tools[i].end() || !function->is_object()) {
      Fail(ErrorCode::kUsage, field, " is missing");
    }
    const auto name = function->find("name");
    if (name == function->end() || !name->is_string()) Fail(ErrorCode::kUsage, field, ".name is missing");
    const auto given = function->find("parameters");
    const bool none = given == function->end() || given->is_null();
    const Json parameters = none ? Json{{"type", "object"}, {"properties", Json::object()}} : *given;
    std::string begin = "{\"name\": " + name->dump();
    begin.append(", \"").append(syntax.arguments).append("\": ");
    calls.push_back(rules.Sequence(
        {rules.Text(begin), CompileJsonSchema(parameters, field + ".parameters", style, rules), rules.Text("}")}));
  }
  const Rules::Rule call = rules.NewRule("call");
  rules.Define(call, rules.Choice(std::move(calls)));
  const auto mark = [&](std::string_view name) {
    return rules.Text(grammar.is_control && grammar.is_control(name) ? ControlText(name) : std::string(name));
  };
  Rules::Expr one = rules.Call(call);
  std::string between = "; ";
  if (grammar.family == ToolFamily::kHermes) {
    one = rules.Sequence({mark(syntax.open), rules.Text("\n"), one, rules.Text("\n"), mark(syntax.close)});
    between = "\n";
  }
  if (grammar.family == ToolFamily::kMistral) between = ", ";
  const Rules::Expr more = rules.Sequence({rules.Text(between), one});
  Rules::Expr all = grammar.parallel ? rules.Sequence({one, rules.Repeat(more, 0, Rules::kNoLimit)}) : one;
  if (grammar.family == ToolFamily::kMistral) {
    all = rules.Sequence({mark(syntax.open), rules.Text("["), all, rules.Text("]")});
  }
  if (grammar.thought == Thought::kNone) return all;
  const bool control = grammar.is_control && grammar.is_control(kThinkClose);
  const Rules::Expr any = rules.Repeat(rules.CodePoints(Complement({})), 0, Rules::kNoLimit);
  const Rules::Expr words = control ? rules.Sequence({any, mark(kThinkClose)}) : Until(kThinkClose, rules);
  const Rules::Expr thought = rules.Sequence({words, rules.Repeat(rules.Bytes({{' ', ' '}, {'\n', '\n'}}), 0, 4)});
  if (grammar.thought == Thought::kOpen) return rules.Sequence({thought, all});
  return rules.Sequence({rules.Optional(rules.Sequence({mark(kThinkOpen), thought})), all});
}

ToolCallParser::ToolCallParser(Options options) : options_(std::move(options)) {
  if (options_.inside_think) place_ = Place::kThink;
}

std::vector<ToolCallParser::Delta> ToolCallParser::Push(std::string_view text) {
  held_ += text;
  while (Advance(false)) {
  }
  return std::exchange(out_, {});
}

std::vector<ToolCallParser::Delta> ToolCallParser::Finish() {
  while (Advance(true)) {
  }
  return std::exchange(out_, {});
}

void ToolCallParser::Show(Delta::Kind kind, std::string_view text) {
  if (text.empty()) return;
  const int32_t index = kind == Delta::kArguments ? calls_ - 1 : -1;
  if (!out_.empty() && out_.back().kind == kind && out_.back().index == index) {
    out_.back().text += text;
    return;
  }
  out_.push_back({kind, std::string(text), index});
}

size_t ToolCallParser::Kept(std::string_view mark) const {
  size_t tail = mark.empty() ? 0 : std::min(mark.size() - 1, held_.size());
  while (tail > 0 && !std::string_view(held_).ends_with(mark.substr(0, tail))) --tail;
  return tail;
}

bool ToolCallParser::Advance(bool last) {
  switch (place_) {
    case Place::kStart:
      return Start(last);
    case Place::kThink:
      return Think(last);
    case Place::kText:
      return Text(last);
    case Place::kCalls:
      return Calls(last);
  }
  return false;
}

// Decides what an answer begins with.
bool ToolCallParser::Start(bool last) {
  size_t blank = static_cast<size_t>(std::ranges::find_if_not(held_, IsSpace) - held_.begin());
  if (thought_) held_.erase(0, std::exchange(blank, 0));  // behind reasoning it is no content
  const std::string_view rest = std::string_view(held_).substr(blank);
  if (rest.empty() && !last) return false;
  const auto could = [&](std::string_view mark) {
    return rest.size() < mark.size() && mark.starts_with(rest) && !last;
  };
  if (options_.think && rest.starts_with(kThinkOpen)) {
    held_.erase(0, blank + kThinkOpen.size());
    place_ = Place::kThink;
    return true;
  }
  if (options_.think && could(kThinkOpen)) return false;
  const bool bare = options_.family == ToolFamily::kLlama3 || options_.family == ToolFamily::kGemma;
  if (options_.calls && bare && !rest.empty()) {
    for (const std::string_view mark : {"<|python_tag|>", "```json", "```tool_call"}) {
      if (could(mark)) return false;
      if (!rest.starts_with(mark)) continue;
      opened_ = held_.substr(0, blank + mark.size());
      held_.erase(0, opened_.size());
      place_ = Place::kCalls;
      return true;
    }
    if (rest[0] == '{') {
      opened_ = held_.substr(0, blank);
      held_.erase(0, blank);
      place_ = Place::kCalls;
      return true;
    }
  }
  place_ = Place::kText;
  return !held_.empty();
}

bool ToolCallParser::Think(bool last) {
  const size_t close = held_.find(kThinkClose);
  if (close == std::string::npos) {
    const size_t shown = held_.size() - (last ? 0 : Kept(kThinkClose));
    Show(Delta::kReasoning, std::string_view(held_).substr(0, shown));
    held_.erase(0, shown);
    return false;
  }
  Show(Delta::kReasoning, std::string_view(held_).substr(0, close));
  held_.erase(0, close + kThinkClose.size());
  options_.think = false;
  thought_ = true;
  place_ = Place::kStart;
  return true;
}

bool ToolCallParser::Text(bool last) {
  const std::string_view open = options_.calls ? SyntaxOf(options_.family).open : std::string_view();
  const size_t found = open.empty() ? std::string::npos : held_.find(open);
  size_t shown = found;
  if (found == std::string::npos) shown = held_.size() - (last ? 0 : Kept(open));
  const std::string_view text = std::string_view(held_).substr(0, shown);
  // Blanks between calls are no content.
  const bool blank = calls_ > 0 && std::ranges::all_of(text, IsSpace);
  if (!blank) Show(Delta::kContent, text);
  held_.erase(0, shown);
  if (found == std::string::npos) return false;
  opened_ = open;
  held_.erase(0, open.size());
  in_group_ = 0;
  place_ = Place::kCalls;
  return true;
}

bool ToolCallParser::Scan::Closes(char c) {
  if (quoted) {
    if (escaped) {
      escaped = false;
    } else if (c == '\\') {
      escaped = true;
    } else if (c == '"') {
      quoted = false;
    }
    return false;
  }
  if (c == '"') quoted = true;
  if (c == '{' || c == '[') ++depth;
  if (c == '}' || c == ']') --depth;
  return depth == 0 && (c == '}' || c == ']');
}

// The rest of the arguments, as far as it came.
bool ToolCallParser::Arguments() {
  size_t end = 0;
  bool closed = false;
  while (end < held_.size() && !closed) closed = scan_.Closes(held_[end++]);
  if (!left_out_) Show(Delta::kArguments, std::string_view(held_).substr(0, end));
  held_.erase(0, end);
  in_arguments_ = !closed;
  return closed;
}

// {"name": "...", "arguments": { : then a call has begun. False where this is not there, or not yet.
bool ToolCallParser::BeginCall() {
  Reader reader(held_);
  if (!reader.Take('{') || reader.String() != "\"name\"" || !reader.Take(':')) return false;
  const std::string_view name = reader.String();
  if (name.empty() || !reader.Take(',')) return false;
  const std::string_view key = reader.String();
  if ((key != "\"arguments\"" && key != "\"parameters\"") || !reader.Take(':')) return false;
  reader.Space();
  if (reader.at() >= held_.size() || held_[reader.at()] != '{') return false;
  const Json parsed = Json::parse(name, nullptr, false);
  if (!parsed.is_string()) return false;
  left_out_ = options_.one && calls_ > 0;
  if (!left_out_) {
    Delta begin{Delta::kCallBegin, {}, calls_++};
    begin.id = options_.new_id ? options_.new_id() : "call_" + std::to_string(calls_);
    begin.name = parsed.get<std::string>();
    out_.push_back(std::move(begin));
  }
  held_.erase(0, reader.at());
  scan_ = {};
  in_arguments_ = true;
  ++in_group_;
  return true;
}

// A whole object that is no call in the usual order: perhaps one in another order.
void ToolCallParser::Whole(std::string_view object) {
  Json call;
  try {
    call = ParseOrderedJson(object, "a tool call");
  } catch (const Error&) {
    call = nullptr;
  }
  Json arguments;
  for (const char* key : {"arguments", "parameters"}) {
    if (call.is_object() && call.contains(key)) arguments = call[key];
  }
  if (!call.is_object() || !call.contains("name") || !call["name"].is_string() ||
      !(arguments.is_object() || arguments.is_null())) {
    Show(Delta::kContent, opened_ + std::string(object));
    return;
  }
  ++in_group_;
  if (options_.one && calls_ > 0) return;
  Delta begin{Delta::kCallBegin, {}, calls_++};
  begin.id = options_.new_id ? options_.new_id() : "call_" + std::to_string(calls_);
  begin.name = call["name"].get<std::string>();
  out_.push_back(std::move(begin));
  Show(Delta::kArguments, arguments.is_null() ? "{}" : arguments.dump());
}

// Inside a group of calls.
bool ToolCallParser::Calls(bool last) {
  if (in_arguments_) return Arguments();
  const Syntax syntax = SyntaxOf(options_.family);
  // What stands between calls.
  const auto is_between = [&](char c) {
    return IsSpace(c) || c == ',' || c == ';' || (options_.family == ToolFamily::kMistral && (c == '[' || c == ']')) ||
           (c == '}' && in_group_ > 0) || c == '`';
  };
  const size_t skipped = static_cast<size_t>(std::ranges::find_if_not(held_, is_between) - held_.begin());
  const std::string_view rest = std::string_view(held_).substr(skipped);
  const auto leave = [&](size_t erased) {
    if (in_group_ == 0) Show(Delta::kContent, opened_ + held_.substr(0, erased));
    held_.erase(0, erased);
    opened_.clear();
    place_ = Place::kText;
    return true;
  };
  if (rest.empty()) return last ? leave(held_.size()) && false : false;
  if (!syntax.close.empty() && rest.starts_with(syntax.close)) return leave(skipped + syntax.close.size());
  if (!syntax.close.empty() && syntax.close.starts_with(rest) && !last) return false;
  if (rest[0] != '{') return leave(in_group_ == 0 ? 0 : skipped);
  if (in_group_ == 0) {
    opened_ += held_.substr(0, skipped);
    held_.erase(0, skipped);
  } else {
    held_.erase(0, skipped);
  }
  if (BeginCall()) return true;
  Scan scan;
  for (size_t i = 0; i < held_.size(); ++i) {
    if (!scan.Closes(held_[i])) continue;
    const std::string object = held_.substr(0, i + 1);
    held_.erase(0, i + 1);
    Whole(object);
    if (in_group_ == 0) {  // it was shown
      opened_.clear();
      place_ = Place::kText;
    }
    return true;
  }
  return last ? leave(held_.size()) && false : false;
}

}  // namespace cambium
