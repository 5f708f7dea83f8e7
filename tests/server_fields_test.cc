// What the fields of a request do to `cambium serve`'s answer, and how those are refused that are wrong.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server_child.h"

namespace cambium {
namespace {

TEST_F(Server, RefusesByName) {
  struct Bad {
    json more;
    const char* named;
  };
  const Bad bads[] = {{{{"temperature", -1}}, "temperature"},
                      {{{"top_p", 1.5}}, "top_p"},
                      {{{"n", 0}}, "n"},
                      {{{"stop", 123}}, "stop"},
                      {{{"stop", ""}}, "stop"},
                      {{{"seed", 1e30}}, "seed"},
                      {{{"prompt", json::array({-1})}}, "vocabulary"},
                      {{{"prompt", json::array()}}, "prompt"},
                      {{{"prompt", nullptr}}, "prompt"},
                      {{{"logprobs", 21}}, "logprobs"},
                      {{{"best_of", 7}}, "best_of"},
                      {{{"suffix", "x"}}, "suffix"},
                      {{{"cache_salt", ""}}, "cache_salt"},
                      {{{"draft", "corpus:index=/etc/passwd"}}, "draft"},
                      {{{"logit_bias", {{"-3", 1}}}}, "-3"},
                      {{{"stream_options", json::object()}}, "stream_options"},
                      {{{"guided_regex", "a"}}, "guided_regex"},
                      {{{"grammar", "root ::= missing"}}, "grammar: line 1"},
                      {{{"structured_outputs", {{"regex", "["}}}}, "structured_outputs"},
                      {{{"draft", "nobody"}}, "nobody"},
                      {{{"min_tokens", 9}}, "min_tokens"},
                      {{{"ignore_eos", true}, {"regex", "a"}}, "ignore_eos"},
                      {{{"loop_guard", 1}}, "loop_guard"},
                      {{{"truncate_prompt_tokens", 0}}, "truncate_prompt_tokens"},
                      {{{"truncation_side", "up"}, {"truncate_prompt_tokens", 1}}, "truncation_side"},
                      {{{"chat_template", "x"}}, "chat_template"},
                      {{{"samplers", json::array({"top_k"})}}, "samplers"},
                      {{{"n_predict", 3}}, "n_predict"},
                      {{{"return_progress", 1}}, "return_progress"},
                      {{{"timings_per_token", true}, {"n", 2}}, "timings_per_token"}};
  for (const Bad& bad : bads) {
    const Child::Answer answer = Shared().Post("/v1/completions", Asked("a", 1, bad.more));
    EXPECT_EQ(answer.status, 400) << bad.more;
    const std::string message = answer.Json()["error"]["message"];
    EXPECT_NE(message.find(bad.named), std::string::npos) << message;
    EXPECT_LT(message.size(), 1100u);
  }
  EXPECT_EQ(Shared().Post("/v1/completions", Asked("a", 1, {{"model", "nobody"}})).status, 404);
  EXPECT_EQ(Shared().Post("/v1/completions", Asked("a", 1, {{"zzz", 1}, {"seed", nullptr}})).status, 200);
}

// Programs read the field from "param".
TEST_F(Server, ErrorsNameTheirField) {
  const json long_text(std::string(4000, '\n'));
  const json message = json::array({{{"role", "user"}, {"content", long_text}}});
  const struct {
    const char *path, *param;
    json body;
  } bads[] = {
      {"/v1/completions", "prompt", Asked(long_text, 1)},
      {"/v1/chat/completions", "messages", {{"messages", message}}},
      {"/v1/chat/completions", "messages", json::object()},
      {"/v1/embeddings", "input", {{"input", long_text}}},
      {"/v1/responses", "input", {{"input", long_text}}},
      {"/v1/responses", "n", {{"input", "a"}, {"n", 2}}},
      {"/v1/responses", "text.format.type", {{"input", "a"}, {"text", {{"format", {{"type", "x"}}}}}}},
      {"/v1/completions", "draft", Asked("a", 1, {{"draft", json::array({"none", "ngram"})}})},
      {"/v1/completions", "draft", Asked("a", 1, {{"draft", "grammar"}})},
      {"/v1/completions", "min_tokens", Asked("a", 1, {{"min_tokens", 2}})},
      {"/v1/completions", "lora", Asked("a", 1, {{"lora", json::array({{{"id", 0}}})}})},
      {"/tokenize", "tools[0]", {{"messages", message}, {"tools", json::array({1})}}},
  };
  for (const auto& bad : bads) {
    const Child::Answer answer = Shared().Post(bad.path, bad.body);
    EXPECT_EQ(answer.status, 400) << bad.param;
    EXPECT_EQ(answer.Json()["error"]["param"], bad.param) << answer.body;
  }
  for (const char* number : {"1e999", "-1e999", "NaN", "nul"}) {
    const std::string body = std::string(R"({"prompt": "a", "x": {"y": [1]}, "top_p": )") + number + "}";
    const Child::Answer answer = Shared().Raw(Child::PostBytes("/v1/completions", body));
    EXPECT_EQ(answer.status, 400) << number;
    EXPECT_EQ(answer.Json()["error"]["param"], "top_p") << answer.body;
  }
}

TEST_F(Server, AnEchoIsStreamedWithItsLogProbabilities) {
  const json body = Asked("The sea is", 6, {{"echo", true}, {"logprobs", 2}});
  json streamed = body;
  streamed["stream"] = true;
  const json whole = Shared().Post("/v1/completions", body).Json()["choices"][0];
  const std::vector<json> events = Events(Shared().Post("/v1/completions", streamed).body);
  EXPECT_EQ(Joined(events), whole["text"]);
  json joined;
  for (const json& event : events) {
    const json& logprobs = event["choices"][0]["logprobs"];
    for (const auto& [name, list] : logprobs.items())
      for (const json& item : list) joined[name].push_back(item);
  }
  EXPECT_EQ(joined, whole["logprobs"]);
}

TEST_F(Server, PromptsAreCutAsAsked) {
  const json ids = Shared().Post("/tokenize", {{"prompt", "One two three four five six"}}).Json()["tokens"];
  ASSERT_GT(ids.size(), 4u);
  const auto text = [&](json more) { return Shared().Post("/v1/completions", more).Json()["choices"][0]["text"]; };
  for (const bool left : {true, false}) {
    json cut = json::array();
    for (size_t i = 0; i < 3; ++i) cut.push_back(ids[left ? ids.size() - 3 + i : i]);
    json body = {{"prompt", ids}, {"max_tokens", 5}, {"temperature", 0}, {"truncate_prompt_tokens", 3}};
    if (!left) body["truncation_side"] = "right";
    json other = {{"prompt", cut}, {"max_tokens", 5}, {"temperature", 0}};
    EXPECT_EQ(text(body), text(other));
  }
  const json long_text = Asked(std::string(4000, '\n'), 8, {{"truncate_prompt_tokens", -1}});
  EXPECT_EQ(Shared().Post("/v1/completions", long_text).Json()["usage"]["prompt_tokens"], 504);
}

TEST_F(Server, ProgressAndTimingsAreToldWhereAskedFor) {
  const json ask = {{"stream", true}, {"return_progress", true}, {"timings_per_token", true}, {"cache_salt", "p"}};
  const json body = Asked(std::string(300, '\n'), 6, ask);
  const std::vector<json> events = Events(Shared().Post("/v1/completions", body).body);
  int64_t told = 0;
  json last;
  for (const json& event : events) {
    if (event.contains("prompt_progress")) {
      ++told;
      last = event["prompt_progress"];
    }
  }
  EXPECT_GT(told, 0);
  EXPECT_EQ(last["total"], last["processed"]);
  const json timings = events.back()["timings"];
  EXPECT_EQ(timings["predicted_n"], 6);
  EXPECT_EQ(timings["prompt_n"].get<int64_t>() + timings["cache_n"].get<int64_t>(), last["total"]);
  const json plain = Shared().Post("/v1/completions", Asked("The sea", 3, {{"timings_per_token", true}})).Json();
  EXPECT_EQ(plain["timings"]["predicted_n"], 3);
  EXPECT_FALSE(Shared().Post("/v1/completions", Asked("The sea", 3)).Json().contains("timings"));
}

TEST_F(Server, UsageIsInEveryChunkOnlyBesideThatOfTheEnd) {
  for (const bool include : {true, false}) {
    const json options = {{"include_usage", include}, {"continuous_usage_stats", true}};
    const json body = Asked("The sea is", 4, {{"stream", true}, {"stream_options", options}});
    const std::vector<json> events = Events(Shared().Post("/v1/completions", body).body);
    ASSERT_FALSE(events.empty());
    for (const json& event : events) EXPECT_EQ(event.contains("usage"), include) << event;
  }
}

TEST_F(Server, ACompletionIsBoundByAGrammar) {
  const json body = Asked("Is it so?", 8, {{"grammar", "root ::= \"yes\" | \"no\""}});
  const json choice = Shared().Post("/v1/completions", body).Json()["choices"][0];
  EXPECT_TRUE(choice["text"] == "yes" || choice["text"] == "no") << choice;
  EXPECT_EQ(choice["finish_reason"], "stop");
  const json number =
      Asked("How many?", 8, {{"response_format", {{"type", "json_schema"}, {"schema", {{"const", 7}}}}}});
  EXPECT_EQ(Shared().Post("/v1/completions", number).Json()["choices"][0]["text"], "7");
}

TEST_F(Server, TheFinalMessageIsContinuedWhicheverWayItIsSaid) {
  json body = {{"max_tokens", 8}, {"temperature", 0}};
  body["messages"] =
      json::array({{{"role", "user"}, {"content", "Count."}}, {{"role", "assistant"}, {"content", "One, two,"}}});
  const json plain = Shared().Post("/v1/chat/completions", body).Json();
  body["continue_final_message"] = true;
  body["add_generation_prompt"] = false;
  const json said = Shared().Post("/v1/chat/completions", body).Json();
  EXPECT_EQ(said["choices"], plain["choices"]);
  EXPECT_EQ(said["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"]);
}

}  // namespace
}  // namespace cambium
