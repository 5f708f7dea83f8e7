// Regular expressions, GBNF, masks over a vocabulary, calls of tools.
#include <random>

#include "grammar/token_matcher.h"
#include "grammar/tool_calls.h"
#include "grammar_testing.h"

namespace cambium::testing {
namespace {

void Check(Texts& texts, const std::string& grammar, const std::vector<std::string>& accepted,
           const std::vector<std::string>& refused) {
  for (const std::string& text : accepted) EXPECT_TRUE(texts.Accept(text)) << grammar << "\n  " << text;
  for (const std::string& text : refused) EXPECT_FALSE(texts.Accept(text)) << grammar << "\n  " << text;
}

TEST(Regex, Accepts) {
  const std::vector<std::tuple<std::string, std::vector<std::string>, std::vector<std::string>>> cases = {
      {"a(b|c)*d?", {"a", "abcbd", "ad"}, {"", "b", "add"}},
      {"^x{2,3}$", {"xx", "xxx"}, {"x", "xxxx"}},
      {"[^a-c\\d]+", {"xyz", "é"}, {"a", "1", ""}},
      {"\\w+@\\w+\\.com", {"ab@c.com"}, {"ab@c,com"}},
      {"\\u00e9|\\u{1F600}|\\x41", {"é", "😀", "A"}, {"e"}},
      {".", {"a", "€", "😀"}, {"", "\n", "ab", "\xff"}},
      {"(?:a|(?<n>b)){2}", {"ab", "bb"}, {"a"}},
      {"((a+)+)+", {"a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}, {"", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"}},
      {"a{1,1000}b", {"ab", std::string(1000, 'a') + "b"}, {"b", std::string(1001, 'a') + "b"}},
      {"\\p{L}+", {"äß", "Ж"}, {"1"}},
      {"a$|^b", {"a", "b"}, {"ab"}},
      {"[\\]\\-x]", {"]", "-", "x"}, {"y"}},
  };
  for (const auto& [pattern, accepted, refused] : cases) Check(*Regex(pattern), pattern, accepted, refused);
}

TEST(Regex, RefusesByName) {
  const auto refusal = [](const std::string& pattern) {
    return Refusal([](const std::string& text) { Regex(text); }, pattern);
  };
  for (const auto& [pattern, named] : std::vector<std::pair<std::string, std::string>>{{"(a", "not closed"},
                                                                                       {"a)", "closes nothing"},
                                                                                       {"[a", "not closed"},
                                                                                       {"*a", "follows nothing"},
                                                                                       {"a**", "follows another"},
                                                                                       {"a{3,2}", "wrong order"},
                                                                                       {"(?<=a)b", "looking behind"},
                                                                                       {"(a)\\1", "references back"},
                                                                                       {"\\bword", "\\b"},
                                                                                       {"\\p{Greek}", "Greek"},
                                                                                       {"[z-a]", "wrong order"},
                                                                                       {"a\\", "ends it"},
                                                                                       {"[]", "no text"}}) {
    EXPECT_NE(refusal(pattern).find(named), std::string::npos) << pattern << "\n  " << refusal(pattern);
  }
  EXPECT_NE(refusal(std::string(1000, '(') + std::string(1000, ')')).find("nested"), std::string::npos);
}

TEST(Gbnf, Accepts) {
  const std::string list = R"(
# a list of words
root  ::= "[" ws (word (", " word)*)? ws "]"
word  ::= [a-z]+ | "\"" [^"\\\x00-\x1f]* "\""
ws    ::= [ \t\n]*
)";
  Check(*Gbnf(list), list, {"[]", "[a]", "[ a, bc ]", "[\"x y\", z]"}, {"[,]", "[a,b]", "a", "[\"]"});
  const std::string nested = "root ::= \"(\" root? \")\" | [^()]{2,3}";
  Check(*Gbnf(nested), nested, {"()", "(())", "((ab))", "xyz"}, {"(", "(a)", "())", "abcd"});
  const std::string lines = "root ::= a |\n  b\na ::= \"x\"+ . \nb ::= \"\\u00e9\"";
  Check(*Gbnf(lines), lines, {"xy", "xxx€", "é"}, {"x", "é "});
}

TEST(Gbnf, RefusesByPlace) {
  for (const auto& [grammar, named] :
       std::vector<std::pair<std::string, std::string>>{{"root ::= \"a", "line 1, column"},
                                                        {"root ::= a", "\"a\" is not defined"},
                                                        {"x ::= \"a\"", "no rule \"root\""},
                                                        {"root = \"a\"", "::="},
                                                        {"root ::= (\"a\"", "expected \")\""},
                                                        {"root ::= root \"a\" | \"b\"", "left recursion"},
                                                        {"root ::= a\na ::= b\nb ::= a? \"x\"", "left recursion"},
                                                        {"root ::= \"a\" root", "no text"},
                                                        {"root ::= \"a\"{3,2}", "wrong order"},
                                                        {"root ::= \"a\"\nroot ::= \"b\"", "twice"},
                                                        {"root ::= [z-a]", "wrong order"}}) {
    const std::string refusal = Refusal([](const std::string& text) { Gbnf(text); }, grammar);
    EXPECT_NE(refusal.find(named), std::string::npos) << grammar << "\n  " << refusal;
  }
}

// Every byte, and pieces as a byte-pair encoder has them; tokens that share bytes; a control token.
std::shared_ptr<const Vocabulary> SomeVocabulary() {
  std::vector<std::string> pieces;
  for (int byte = 0; byte < 256; ++byte) pieces.push_back(std::string(1, static_cast<char>(byte)));
  for (const char* piece :
       {"{\"", "\":", "\",\"", "\"}", "},{", "true", "tr",    "ue", "null", "name", "na", "me\":\"", "12", "345",
        "1.5", "é",   "\xc3",  "a\"", "\"",  "\\\"", "\\u00", "ab", "abc",  "]]",   "[[", " a",      ", "}) {
    pieces.push_back(piece);
  }
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    std::string piece;
    for (size_t length = 2 + random() % 6; piece.size() < length;) piece += "abcn\":,{}[]0123.-e\\u"[random() % 20];
    pieces.push_back(piece);
  }
  pieces.push_back(ControlText("[CALL]"));
  pieces.push_back("");
  const int32_t end = static_cast<int32_t>(pieces.size()) - 1;
  return std::make_shared<const Vocabulary>(pieces, std::vector<int32_t>{end});
}

// Goes along random texts of a grammar, and compares at every place what is kept with the plain walk, and with single
// tokens.
void CheckMasks(Rules& rules, Rules::Expr expr) {
  const Rules::Rule root = rules.NewRule("answer");
  rules.Define(root, expr);
  const auto vocabulary = SomeVocabulary();
  const auto grammar = std::make_shared<const CompiledGrammar>(vocabulary, rules, root);
  std::mt19937 random(3);
  for (int text = 0; text < 8; ++text) {
    TokenMatcher matcher(grammar);
    Acceptor plain(grammar->program);
    Acceptor::Set set = plain.Begin();
    std::vector<int32_t> answer;
    for (int step = 0; step < 40; ++step) {
      ASSERT_TRUE(matcher.Seek(answer));
      TokenSet expected(vocabulary->tokens());
      grammar->masks.CollectPlainly(plain, set, expected);
      if (plain.complete(set)) expected.Add(vocabulary->ends()[0]);
      const TokenSet mask = matcher.Mask();
      ASSERT_EQ(mask.words(), expected.words()) << "step " << step;
      ASSERT_FALSE(mask.First(1).empty());
      for (int32_t id = 0; id < vocabulary->tokens(); ++id) ASSERT_EQ(matcher.Allows(id), mask.has(id)) << id;
      const std::vector<int32_t> forced = matcher.Forced();
      if (!forced.empty()) {
        ASSERT_EQ(forced.size(), mask.First(1000).size());
        for (const int32_t id : mask.First(1000))
          ASSERT_TRUE(vocabulary->piece(forced[0]).starts_with(vocabulary->piece(id)));
      }
      const std::vector<int32_t> ids = mask.First(1000);
      const int32_t next = ids[random() % ids.size()];
      if (next == vocabulary->ends()[0]) break;
      answer.push_back(next);
      set = plain.Run(set, vocabulary->piece(next));
      ASSERT_NE(set, Acceptor::kDead);
    }
  }
}

TEST(Masks, EqualThePlainWalk) {
  for (
      const char* schema :
      {"{}", R"({"type":"string","maxLength":5})", R"({"type":"string","minLength":30,"maxLength":200})",
       R"({"type":"object","properties":{"name":{"type":"string"},"n":{"type":"number"},"b":{"type":"boolean"}}})",
       R"({"type":"array","items":{"type":"array","items":{"type":"integer"},"minItems":1},"minItems":2,"maxItems":400})",
       R"({"type":"object","additionalProperties":{"type":"string","pattern":"^[a-c]+$"},"propertyNames":{"maxLength":4}})",
       R"({"anyOf":[{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]},{"type":"integer","maximum":99}]})"}) {
    SCOPED_TRACE(schema);
    Rules rules;
    CheckMasks(rules, CompileJsonSchema(ParseOrderedJson(schema, "s"), "s", {}, rules));
  }
  for (const char* grammar : {"root ::= (word \" \"?)+\nword ::= [a-c]+ | [0-9]{1,300}",
                              "root ::= \"(\" root? \")\" | \"ab\" root \"a\" | .", "root ::= [^x]*"}) {
    SCOPED_TRACE(grammar);
    Rules rules;
    CheckMasks(rules, CompileGbnf(grammar, rules));
  }
}

using Json = nlohmann::ordered_json;

Json Tools() {
  return Json::parse(R"([{"type":"function","function":{"name":"get_weather","parameters":{"type":"object",
      "properties":{"city":{"enum":["Paris","Oslo"]},"days":{"type":"integer"}},"required":["city","days"]}}},
      {"type":"function","function":{"name":"get_time"}}])");
}

const std::map<ToolFamily, std::string> kCalls = {
    {ToolFamily::kHermes,
     "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": "
     "3}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>"},
    {ToolFamily::kLlama3,
     "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\", \"days\": 3}}; {\"name\": "
     "\"get_time\", \"parameters\": {}}"},
    {ToolFamily::kGemma,
     "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\", \"days\": 3}}; {\"name\": "
     "\"get_time\", \"parameters\": {}}"},
    {ToolFamily::kMistral,
     "[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 3}}, "
     "{\"name\": \"get_time\", \"arguments\": {}}]"},
};

struct Parsed {
  std::string content, reasoning;
  std::vector<std::pair<std::string, std::string>> calls;  // name and arguments
};

// Pushes a text in pieces of a size.
Parsed Parse(ToolCallParser::Options options, const std::string& text, size_t piece) {
  ToolCallParser parser(std::move(options));
  Parsed parsed;
  const auto take = [&](const std::vector<ToolCallParser::Delta>& deltas) {
    for (const auto& delta : deltas) {
      if (delta.kind == ToolCallParser::Delta::kContent) parsed.content += delta.text;
      if (delta.kind == ToolCallParser::Delta::kReasoning) parsed.reasoning += delta.text;
      if (delta.kind == ToolCallParser::Delta::kCallBegin) {
        EXPECT_EQ(delta.index, std::ssize(parsed.calls));
        EXPECT_FALSE(delta.id.empty());
        parsed.calls.push_back({delta.name, ""});
      }
      if (delta.kind == ToolCallParser::Delta::kArguments) {
        EXPECT_EQ(delta.index, std::ssize(parsed.calls) - 1);
        parsed.calls.back().second += delta.text;
      }
    }
  };
  for (size_t at = 0; at < text.size(); at += piece) take(parser.Push(std::string_view(text).substr(at, piece)));
  take(parser.Finish());
  return parsed;
}

TEST(ToolCalls, AreWrittenAndReadByEveryFamily) {
  for (const auto& [family, text] : kCalls) {
    const auto texts = Compile([&, f = family](Rules& rules) {
      return WriteToolCalls(Tools(), {f, Thought::kNone, true, {}}, rules);
    });
    EXPECT_TRUE(texts->Accept(text)) << text;
    const auto one = Compile([&, f = family](Rules& rules) {
      return WriteToolCalls(Tools(), {f, Thought::kNone, false, {}}, rules);
    });
    EXPECT_FALSE(one->Accept(text)) << text;
    for (const size_t piece : {size_t{1}, size_t{3}, size_t{7}, text.size()}) {
      const Parsed parsed = Parse({.family = family}, text, piece);
      EXPECT_EQ(parsed.content, "");
      ASSERT_EQ(parsed.calls.size(), 2u) << text << " by " << piece;
      EXPECT_EQ(parsed.calls[0].first, "get_weather");
      EXPECT_EQ(Json::parse(parsed.calls[0].second), Json::parse(R"({"city":"Oslo","days":3})"));
      EXPECT_EQ(parsed.calls[1], (std::pair<std::string, std::string>("get_time", "{}")));
      EXPECT_EQ(Parse({.family = family, .one = true}, text, piece).calls.size(), 1u);
    }
  }
}

TEST(ToolCalls, MayStandBehindAThought) {
  const std::string call = kCalls.at(ToolFamily::kHermes);
  const auto texts = [](Thought thought, bool control) {
    return Compile([&](Rules& rules) {
      const ToolGrammar grammar{ToolFamily::kHermes, thought, true, [control](std::string_view name) {
                                  return control && (name == "<think>" || name == "</think>");
                                }};
      return WriteToolCalls(Tools(), grammar, rules);
    });
  };
  const auto may = texts(Thought::kMay, false), open = texts(Thought::kOpen, false);
  const auto none = texts(Thought::kNone, false), control = texts(Thought::kMay, true);
  EXPECT_TRUE(may->Accept(call));
  EXPECT_TRUE(none->Accept(call));
  EXPECT_FALSE(open->Accept(call));
  for (const std::string thought : {"\nhm </thin> é <</think>\n\n", "</think>", "a < b </th</think>\n"}) {
    EXPECT_TRUE(may->Accept("<think>" + thought + call)) << thought;
    EXPECT_TRUE(open->Accept(thought + call)) << thought;
    EXPECT_FALSE(none->Accept("<think>" + thought + call)) << thought;
  }
  EXPECT_FALSE(may->Accept("<think>never closed" + call));
  EXPECT_FALSE(may->Accept("<think>a</think>words" + call));
  EXPECT_TRUE(control->Accept(ControlText("<think>") + "</think> as text" + ControlText("</think>") + "\n" + call));
  EXPECT_FALSE(control->Accept("<think></think>" + call));
}

TEST(ToolCalls, ThoughtFollowsFromTemplateAndPrompt) {
  EXPECT_EQ(ThoughtOf("{{ x }}", "assistant\n"), Thought::kNone);
  EXPECT_EQ(ThoughtOf("a <think> b", "assistant\n"), Thought::kMay);
  EXPECT_EQ(ThoughtOf("a <think> b", "assistant\n<think>\n\n</think>\n\n"), Thought::kNone);
  EXPECT_EQ(ThoughtOf("a <think> b", "assistant\n<think>\n"), Thought::kOpen);
}

TEST(ToolCalls, WhatIsNoCallStaysContent) {
  const auto family = ToolFamily::kHermes;
  for (const size_t piece : {size_t{1}, size_t{4}, size_t{100}}) {
    Parsed parsed =
        Parse({.family = family}, "<think>\nhm < 3</think>\n\nHello <tool_x> and <tool_call>no</tool_call>!", piece);
    EXPECT_EQ(parsed.reasoning, "\nhm < 3");
    EXPECT_EQ(parsed.content, "Hello <tool_x> and <tool_call>no</tool_call>!");
    EXPECT_TRUE(parsed.calls.empty());
    parsed =
        Parse({.family = family}, "Look: <tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"f\"}</tool_call>", piece);
    EXPECT_EQ(parsed.content, "Look: ");
    ASSERT_EQ(parsed.calls.size(), 1u);
    EXPECT_EQ(parsed.calls[0], (std::pair<std::string, std::string>("f", "{\"a\":1}")));
    parsed = Parse({.family = family}, "<tool_call>{\"name\": \"f\", \"argum", piece);
    EXPECT_EQ(parsed.content, "<tool_call>{\"name\": \"f\", \"argum");
    parsed = Parse({.family = ToolFamily::kLlama3}, "{\"a\": 1} is JSON", piece);
    EXPECT_EQ(parsed.content, "{\"a\": 1} is JSON");
    parsed = Parse({.family = family, .calls = false}, "<tool_call>x</tool_call>", piece);
    EXPECT_EQ(parsed.content, "<tool_call>x</tool_call>");
    parsed = Parse({.family = family, .inside_think = true}, "so</think>yes", piece);
    EXPECT_EQ(parsed.reasoning + "|" + parsed.content, "so|yes");
  }
}

}  // namespace
}  // namespace cambium::testing
