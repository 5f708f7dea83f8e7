#include "server/tool_calls.h"

#include <gtest/gtest.h>

namespace cambium::server {
namespace {

struct Whole {
  std::string text;
  std::vector<ToolCall> calls;
};

Whole Split(ToolRule rule, std::string_view text, size_t step) {
  ToolSplitter splitter(rule);
  Whole whole;
  const auto add = [&](const ToolSplitter::Piece& piece) {
    whole.text += piece.text;
    whole.calls.insert(whole.calls.end(), piece.calls.begin(), piece.calls.end());
  };
  for (size_t at = 0; at < text.size(); at += step) add(splitter.Push(text.substr(at, step)));
  add(splitter.Finish());
  EXPECT_EQ(splitter.calls(), whole.calls.size());
  return whole;
}

TEST(ToolSplitter, TakesCallsOutHoweverTheTextIsCut) {
  const std::string text =
      "Well.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": "
      "\"</tool\"}}\n</tool_call><tool_call>{\"name\":\"b\"}</tool_call> So";
  for (const size_t step : {1, 2, 3, 7, 1000}) {
    const Whole whole = Split({ToolRule::kAuto}, text, step);
    EXPECT_EQ(whole.text, "Well.\n So");
    ASSERT_EQ(whole.calls.size(), 2u);
    EXPECT_EQ(whole.calls[0].name, "a");
    EXPECT_EQ(whole.calls[0].arguments, R"({"x":"</tool"})");
    EXPECT_EQ(whole.calls[1].arguments, "{}");
    EXPECT_NE(whole.calls[0].id, whole.calls[1].id);
    EXPECT_EQ(Split({ToolRule::kAuto, true}, text, step).calls.size(), 1u);
    EXPECT_EQ(Split({ToolRule::kNone}, text, step).text, text);
  }
}

TEST(ToolSplitter, LosesNoTextThatIsNoCall) {
  for (const char* text : {"<tool_call", "a < b", "<tool_call>{\"name\":", "<tool_call>nonsense</tool_call>.",
                           "<tool_call>{\"name\": 3}</tool_call>", "<tool_call>[1]</tool_call>", "<<tool_call>"}) {
    for (const size_t step : {1, 2, 1000}) {
      EXPECT_EQ(Split({ToolRule::kAuto}, text, step).text, text);
      EXPECT_TRUE(Split({ToolRule::kAuto}, text, step).calls.empty());
    }
  }
}

TEST(ToolSplitter, ReadsAnAnswerThatIsACall) {
  for (const size_t step : {1, 5, 1000}) {
    const Whole whole = Split({ToolRule::kForced}, R"({"name":"a","arguments":{"x":1}})", step);
    EXPECT_EQ(whole.text, "");
    ASSERT_EQ(whole.calls.size(), 1u);
    EXPECT_EQ(whole.calls[0].arguments, R"({"x":1})");
    EXPECT_TRUE(Split({ToolRule::kForced}, R"({"name":"a","argu)", step).calls.empty());
  }
}

TEST(ToolCalls, TheirSchemaIsOneOfTheTools) {
  const Json one = Json::parse(R"([{"function": {"name": "a", "parameters": {"type": "object"}}}])");
  EXPECT_EQ(CallSchema(one)["properties"]["name"]["const"], "a");
  Json two = one;
  two.push_back({{"function", {{"name", "b"}}}});
  EXPECT_EQ(CallSchema(two)["anyOf"].size(), 2u);
}

}  // namespace
}  // namespace cambium::server
