#include "train/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "cambium/error.h"
#include "temp_folder.h"
#include "tiny_tokenizer.h"
#include "train/batches.h"

namespace cambium {
namespace {

class DatasetTest : public ::testing::Test {
 protected:
  Dataset Load(std::string_view content, DatasetOptions options = {}) {
    std::ofstream(path_, std::ios::binary) << content;
    return LoadDataset(path_, tokenizer_, options);
  }
  std::string Refusal(std::string_view content, DatasetOptions options = {}) {
    try {
      Load(content, options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kData);
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      return error.what();
    }
    return "";
  }
  // The example's text, its trained parts in [].
  std::string Shown(const Example& example) {
    std::string text;
    for (size_t i = 0; i < example.ids.size(); ++i) {
      const bool before = i > 0 && example.trained[i - 1] != 0, now = example.trained[i] != 0;
      if (now && !before) text += '[';
      if (!now && before) text += ']';
      text += tokenizer_.Piece(example.ids[i]);
    }
    return text + (!example.trained.empty() && example.trained.back() ? "]" : "");
  }
  std::string ShowFirst(std::string_view content, DatasetOptions options = {}) {
    return Shown(Load(content, options).examples.at(0));
  }

  Tokenizer tokenizer_ = TinyTokenizer();
  const TempFolder folder_;
  const std::string path_ = folder_ / "data.jsonl";
};

TEST_F(DatasetTest, ChatTrainsEveryAnswerWithItsStopToken) {
  const Dataset data = Load(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},)"
                            R"({"role":"user","content":"c"},{"role":"assistant","content":"d"}]})");
  EXPECT_EQ(Shown(data.examples[0]),
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n"
            "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]\n");
  EXPECT_TRUE(data.report.stop_token_trained());
  EXPECT_EQ(data.report.trained_tokens, 4);
}

TEST_F(DatasetTest, PromptsEndWhereTheAnswerBegins) {
  DatasetOptions options;
  options.prompts = true;
  const std::string asked = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n";
  EXPECT_EQ(ShowFirst(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]})", options), asked);
  EXPECT_EQ(ShowFirst(R"({"conversations":[{"from":"human","value":"a"}]})", options), asked);
  EXPECT_EQ(ShowFirst(R"({"prompt":"a","completion":"b"})", options), asked);
  EXPECT_EQ(ShowFirst(R"({"instruction":"a"})", options), asked);
  EXPECT_EQ(ShowFirst(R"({"text":"once"})", options), "once");
  EXPECT_EQ(ShowFirst(R"({"input_ids":[65,66,67],"labels":[-100,-100,67]})", options), "AB");
  EXPECT_EQ(Refusal(R"({"messages":[{"role":"assistant","content":"b"}]})", options), path_ + ": line 1: no message asks for an answer");
  options.format = "plain";
  const Dataset lines = Load("a\n\nb\n", options);
  ASSERT_EQ(lines.examples.size(), 2u);
  EXPECT_EQ(Shown(lines.examples[0]), asked);
  EXPECT_EQ(lines.examples[1].line, 3);
  options.max_tokens = 8;
  EXPECT_NE(Refusal("abc\n", options).find(": line 1: the prompt has "), std::string::npos);
}

TEST_F(DatasetTest, ControlTokensInContentsStayTextAndCutNothing) {
  const std::string want = "<|im_start|>user\na<|im_start|><|im_end|>\n<|im_start|>assistant\n[b<|im_end|>c<|im_end|>]\n";
  const std::string line = R"({"messages":[{"role":"user","content":"a<|im_start|>"},{"role":"assistant","content":"b<|im_end|>c"}]})";
  EXPECT_EQ(ShowFirst(line), want);
  const std::vector<int32_t> ids = Load(line).examples[0].ids;
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 256), 2);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 257), 2);
}

constexpr const char* kToolTemplate =
    "{% if tools %}T{{ tools | tojson }}{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content or '' }}{% for c in m.tool_calls %}{{ '<call>' + c.function.name + (c.function.arguments | tojson) + "
    "'</call>' }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

TEST_F(DatasetTest, ToolsAndCallsAreTheSameInEveryDialect) {
  tokenizer_ = TinyTokenizer(kToolTemplate);
  const std::string tool = R"({"type":"function","function":{"name":"f","parameters":{}}})";
  const std::string bare = R"({"name":"f","parameters":{}})";
  const auto quoted = [](const std::string& json) { return nlohmann::json(json).dump(); };
  const std::string want = "T[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {}}}]<|im_start|>user\na<|im_end|>"
                           "<|im_start|>assistant\n[<call>f{\"x\": 1}</call><|im_end|>]<|im_start|>tool\nr<|im_end|>"
                           "<|im_start|>assistant\n[b<|im_end|>]";
  const auto chat = [](const std::string& call, const char* result = "tool") {
    return R"({"messages":[{"role":"user","content":"a"},{"role":"assistant",)" + call + R"(},{"role":")" + result +
           R"(","name":"f","content":"r"},{"role":"assistant","content":"b"}],)";
  };
  const std::string call = R"("content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":{"x":1}}}])";
  const std::string text_call = R"("tool_calls":[{"type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}])";
  const std::string old_call = R"("content":"","function_call":{"name":"f","arguments":"{\"x\":1}"})";
  EXPECT_EQ(ShowFirst(chat(call) + "\"tools\":[" + tool + "]}"), want);
  EXPECT_EQ(ShowFirst(chat(call) + "\"tools\":" + quoted("[" + tool + "]") + "}"), want);
  EXPECT_EQ(ShowFirst(chat(text_call) + "\"tools\":[" + quoted(tool) + "]}"), want);
  EXPECT_EQ(ShowFirst(chat(old_call, "function") + "\"functions\":[" + bare + "]}"), want);
  EXPECT_EQ(ShowFirst(R"({"conversations":[{"from":"human","value":"a"},{"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{\"x\":1}}"},)"
                      R"({"from":"observation","value":"r"},{"from":"gpt","value":"b"}],"tools":)" + quoted("[" + bare + "]") + "}"),
            want);
}

TEST_F(DatasetTest, WeightsSayWhichAnswersAreTrained) {
  const std::string want = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
                           "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]\n";
  const auto messages = [](const std::string& first, const std::string& second) {
    return R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b")" + first +
           R"(},{"role":"user","content":"c"},{"role":"assistant","content":"d")" + second + "}]}";
  };
  EXPECT_EQ(ShowFirst(messages(R"(,"weight":0)", R"(,"weight":1)")), want);
  EXPECT_EQ(ShowFirst(messages(R"(,"train":false)", R"(,"train":null)")), want);
  EXPECT_NE(Refusal(messages(R"(,"weight":0.5)", "")).find("messages[1].weight is 0.5"), std::string::npos);
  EXPECT_NE(Refusal(R"({"messages":[{"role":"user","content":"a","train":true},{"role":"assistant","content":"b"}]})").find("messages[0]"),
            std::string::npos);
  const std::string list = R"({"prompt":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}],)"
                           R"("completion":[{"role":"assistant","content":"d"}]})";
  EXPECT_EQ(ShowFirst(list), want);
}

TEST_F(DatasetTest, SystemAndHistoryComeFirst) {
  const std::string want = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n"
                           "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]\n";
  EXPECT_EQ(ShowFirst(R"({"system":"s","history":[["a","b"]],"instruction":"c","input":"","output":"d"})"), want);
  EXPECT_EQ(ShowFirst(R"({"system":"s","conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"},)"
                      R"({"from":"user","value":"c"},{"from":"bard","value":"d"}]})"),
            want);
  EXPECT_EQ(ShowFirst(R"({"system":"s","history":[["a","b"]],"instruction":"c","output":"d"})", {.use_template = false}),
            "s\n\na\n\nb\n\nc\n\n[d<|im_end|>]");
  EXPECT_NE(Refusal(R"({"instruction":"c","output":"d","history":[["a"]]})").find("\"history\""), std::string::npos);
  EXPECT_NE(Refusal(R"({"system":"s","messages":[{"role":"system","content":"t"},{"role":"assistant","content":"b"}]})").find("\"system\""),
            std::string::npos);
}

TEST_F(DatasetTest, NamesWhatWouldChangeTheResultAndIsNotRead) {
  const auto has = [&](const std::string& content, const std::string& want, DatasetOptions options = {}) {
    const std::string why = Refusal(content, options);
    EXPECT_NE(why.find("line 1: "), std::string::npos);
    EXPECT_NE(why.find(want), std::string::npos) << content << " -> " << why;
  };
  const std::string chat = R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}])";
  has(chat + R"(,"tools":[{"type":"function"}]})", "\"tools\": the model's chat template has no place");
  has(chat + R"(,"loss_mask":[0,1]})", "field \"loss_mask\"");
  has(chat + R"(,"weight":2})", "field \"weight\"");
  has(R"({"instruction":"a","context":"x","output":"b"})", "field \"context\"");
  has(R"({"prompt":"a","completion":"b","suffix":"c"})", "field \"suffix\"");
  has(R"({"input_ids":[1,2],"attention_mask":[0,1]})", "field \"attention_mask\"");
  has(R"({"messages":[{"role":"assistant","content":"b","reasoning_content":"hm"}]})", "messages[0]: the model's chat template has no place for \"reasoning_content\"");
  has(R"({"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f"}}]}]})", "no place for \"tool_calls\"");
  has(R"({"messages":[{"role":"assistant","content":3}]})", "messages[0].content is number");
  has(R"({"messages":["a"]})", "a message is string, expected object");
  has(R"({"conversations":[{"from":"function_call","value":"f of x"}]})", "is a text that is no JSON");
  has(chat + R"(,"tools":"no json"})", "field \"tools\" is a text that is no JSON");
  // Harmless ones pass, and so do those that are asked to.
  const std::string harmless = R"(,"id":7,"source":"web","metadata":{"a":1},"__index__":3,"split":"train","weight":null})";
  EXPECT_EQ(Refusal(chat + harmless), "");
  EXPECT_EQ(Refusal(chat + R"(,"reward":2,"tools":[{}]})", {.ignored_fields = {"reward", "tools"}}), "");
}

TEST_F(DatasetTest, ReadsEveryFormat) {
  const std::string pair = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[yo<|im_end|>]\n";
  EXPECT_EQ(ShowFirst(R"({"prompt":"hi","completion":"yo"})"), pair);
  EXPECT_EQ(ShowFirst(R"({"instruction":"hi","output":"yo"})"), pair);
  EXPECT_EQ(ShowFirst(R"([{"instruction":"hi","input":"","output":"yo"}])"), pair);
  EXPECT_EQ(ShowFirst(R"({"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"yo"}]})"), pair);
  EXPECT_EQ(ShowFirst(R"({"instruction":"hi","input":"there","output":"yo"})"),
            "<|im_start|>user\nhi\n\nthere<|im_end|>\n<|im_start|>assistant\n[yo<|im_end|>]\n");
  EXPECT_EQ(ShowFirst(R"({"text":"abc"})"), "a[bc<|im_end|>]");
  EXPECT_EQ(ShowFirst(R"({"prompt":"hi","completion":"yo"})", {.use_template = false}), "hi[yo<|im_end|>]");
  EXPECT_EQ(ShowFirst(R"({"input_ids":[97,98,99],"labels":[-100,-100,99]})"), "ab[c]");
  EXPECT_EQ(ShowFirst(R"({"input_ids":[97,98,99]})"), "a[bc]");
  EXPECT_EQ(ShowFirst(R"({"prompt":"hi","completion":"yo"})", {.train_on_prompt = true}).substr(0, 14),
            "<|im_start|>[u");
}

TEST_F(DatasetTest, PlainTextIsCutIntoPieces) {
  const Dataset data = Load("abcdefg", {.format = "plain", .max_tokens = 3});
  ASSERT_EQ(data.examples.size(), 3u);  // abc, def, g + end token
  EXPECT_EQ(Shown(data.examples[1]), "d[ef]");
  EXPECT_EQ(Shown(data.examples[2]), "g[<|im_end|>]");
  EXPECT_EQ(data.report.truncated_tokens, 0);
}

TEST_F(DatasetTest, ToolsReachTheTemplate) {
  tokenizer_ = TinyTokenizer(std::string("{% if tools %}T{{ tools | length }}{% endif %}") + kChatMl);
  EXPECT_EQ(ShowFirst(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],)"
                      R"("tools":[{"type":"function"}]})")
                .substr(0, 2),
            "T1");
}

TEST_F(DatasetTest, ATemplateThatRewritesHistoryTrainsTheLastAnswer) {
  // Answers before the last one lose their content, as thinking is stripped by some models' templates.
  tokenizer_ = TinyTokenizer(
      "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'user' or loop.last %}"
      "{{ m['content'] }}{% endif %}{{ '<|im_end|>' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
  EXPECT_EQ(ShowFirst(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},)"
                      R"({"role":"user","content":"c"},{"role":"assistant","content":"d"}]})"),
            "<|im_start|>user\na<|im_end|><|im_start|>assistant\n<|im_end|><|im_start|>user\nc<|im_end|>"
            "<|im_start|>assistant\n[d<|im_end|>]");
}

TEST_F(DatasetTest, WarnsWhenTheStopTokenIsNotTrained) {
  tokenizer_ = TinyTokenizer(
      "{% for m in messages %}{{ m['role'] + ':' + m['content'] + ';' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}");
  const Dataset data = Load(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]})");
  EXPECT_FALSE(data.report.stop_token_trained());
  EXPECT_FALSE(Load(R"({"input_ids":[97,98,99]})").report.stop_token_trained());
  EXPECT_TRUE(Load(R"({"input_ids":[97,98,257]})").report.stop_token_trained());
}

TEST_F(DatasetTest, ToleratesBomCrlfBlankLinesAndAMissingLastNewline) {
  const Dataset data = Load("\xEF\xBB\xBF{\"text\":\"ab\"}\r\n\r\n  \n{\"text\":\"cd\"}");
  ASSERT_EQ(data.examples.size(), 2u);
  EXPECT_EQ(data.examples[1].line, 4);
}

TEST_F(DatasetTest, NamesTheLineOfEveryKindOfBadRecord) {
  const auto has = [&](std::string_view content, const std::string& want) {
    const std::string why = Refusal(content);
    EXPECT_NE(why.find(want), std::string::npos) << content << " -> " << why;
  };
  has("", "the file is empty");
  has("\n \r\n", "the file is empty");
  has("{\"text\":\"ab\"}\n{\"text\":\"c", "line 2");   // half written
  has("{\"text\":\"ab\"}\n\x01\x02\xff\n", "line 2");  // binary
  has("{\"text\":1}", "line 1: field \"text\" is number, expected string");
  has("{\"text\":NaN}", "line 1");
  has("{\"txt\":\"a\"}", "found txt");
  has("{\"prompt\":\"a\"}", "field \"completion\" is missing");
  has("{\"prompt\":\"a\",\"completion\":\"\"}", "the answer is empty");
  has("{\"messages\":[]}", "\"messages\" is empty");
  has("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "no message has the role \"assistant\"");
  has("{\"messages\":[{\"role\":\"assistant\"}]}", "field \"content\" is missing");
  has("{\"conversations\":[{\"from\":\"alien\",\"value\":\"x\"}]}", "\"alien\"");
  has("{\"input_ids\":[1,999]}", "input_ids[1] is 999, expected 0 to 258");
  has("{\"input_ids\":[1,-3]}", "input_ids[1] is -3");
  has("{\"input_ids\":[1,2],\"labels\":[1]}", "\"labels\" holds 1 values, \"input_ids\" 2");
  has("{\"input_ids\":[1,2],\"labels\":[1,7]}", "labels[1] is 7");
  has("{\"text\":\"a\",\"text\":\"b\"}", "duplicate key");
  has("3", "line 1");
}

TEST_F(DatasetTest, LimitsTheLengthOfALine) {
  const std::string line = "{\"text\":\"" + std::string(1000, 'x') + "\"}\n";
  EXPECT_NE(Refusal(line, {.max_line_bytes = 100}).find("more than the limit of 100"), std::string::npos);
  EXPECT_EQ(Refusal(line), "");
}

TEST_F(DatasetTest, SkipBadCountsInsteadOfFailing) {
  const Dataset data = Load("{\"text\":\"ab\"}\nnonsense\n{}\n{\"text\":\"cd\"}\n", {.skip_bad = true});
  EXPECT_EQ(data.examples.size(), 2u);
  EXPECT_EQ(data.report.skipped, 2);
  EXPECT_NE(data.report.first_skipped.find("line 2"), std::string::npos);
  EXPECT_NE(Refusal("nonsense\n", {.skip_bad = true}).find("nothing to train on"), std::string::npos);
}

TEST_F(DatasetTest, CountsTruncationsAndAnswersBeyondTheContext) {
  const Dataset data =
      Load("{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"long prompt\",\"completion\":\"c\"}\n",
           {.max_tokens = 6, .use_template = false});
  EXPECT_EQ(data.examples.size(), 1u);
  EXPECT_EQ(data.report.truncated_examples, 1);
  EXPECT_EQ(data.report.without_targets, 1);
  EXPECT_NE(Refusal("{\"prompt\":\"long prompt\",\"completion\":\"c\"}", {.max_tokens = 6, .use_template = false})
                .find("1 examples have no trained token within 6 tokens"),
            std::string::npos);
  // Zero trainable labels.
  EXPECT_NE(Refusal("{\"input_ids\":[1,2],\"labels\":[-100,-100]}").find("nothing to train on"), std::string::npos);
}

TEST_F(DatasetTest, RefusesBinaryPlainText) {
  EXPECT_NE(Refusal(std::string_view("ab\ncd\xff", 6), {.format = "plain"}).find("line 2: not a text"),
            std::string::npos);
  EXPECT_NE(Refusal(std::string_view("ab\0c", 4), {.format = "plain"}).find("not a text"), std::string::npos);
}

TEST_F(DatasetTest, UnknownFormatAndMissingFileAreNamed) {
  EXPECT_THROW(Load("{}", {.format = "xml"}), Error);
  EXPECT_THROW(LoadDataset("/nonexistent/data.jsonl", tokenizer_, {}), Error);
}

TEST_F(DatasetTest, SplitsOffValidationExamples) {
  std::string lines;
  for (int i = 0; i < 20; ++i) lines += "{\"text\":\"ab" + std::to_string(i) + "\"}\n";
  Dataset data = Load(lines), again = Load(lines);
  const Dataset valid = SplitValidation(data, 0.2, 5), same = SplitValidation(again, 0.2, 5);
  EXPECT_EQ(valid.examples.size(), 4u);
  EXPECT_EQ(data.examples.size(), 16u);
  EXPECT_EQ(Fingerprint(valid.examples), Fingerprint(same.examples));
  EXPECT_NE(Fingerprint(valid.examples), Fingerprint(data.examples));
  EXPECT_THROW(SplitValidation(data, 1.5, 5), Error);
}

std::vector<Example> Examples(int64_t count) {
  std::vector<Example> examples;
  for (int64_t i = 0; i < count; ++i) {
    const size_t size = static_cast<size_t>(2 + i % 5);
    examples.push_back({std::vector<int32_t>(size, static_cast<int32_t>(i)), std::vector<uint8_t>(size, 1), i});
    examples.back().trained[0] = 0;
  }
  return examples;
}

TEST(Batches, EveryEpochUsesEveryExampleOnceInItsOwnOrder) {
  const std::vector<Example> examples = Examples(23);
  Batches batches(examples, {.batch_size = 4, .accumulate = 2, .seed = 9});
  EXPECT_EQ(batches.StepsOf(0), 3);
  DataCursor cursor;
  std::vector<std::vector<int64_t>> orders(2);
  while (cursor.epoch < 2) {
    const int64_t epoch = cursor.epoch;
    const Batches::Step step = batches.Next(cursor);
    for (const auto& micro : step.micro) {
      for (const Example* example : micro) orders[static_cast<size_t>(epoch)].push_back(example->line);
    }
  }
  for (const auto& order : orders) EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(), 23u);
  EXPECT_NE(orders[0], orders[1]);
  Batches plain(examples, {.batch_size = 23, .shuffle = false});
  cursor = {};
  EXPECT_EQ(plain.Next(cursor).micro[0][7]->line, 7);
}

TEST(Batches, PacksWithinTheRowBudget) {
  const std::vector<Example> examples = Examples(50);
  Batches batches(examples, {.pack_rows = 11, .seed = 1});
  EXPECT_LE(batches.MaxRows(0), 11);
  Batches small(examples, {.pack_rows = 3, .seed = 1});  // an example larger than the budget goes alone
  EXPECT_EQ(small.MaxRows(0), 6);
}

}  // namespace
}  // namespace cambium
