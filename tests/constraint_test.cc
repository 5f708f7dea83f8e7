// Constraints on requests: what is drawn keeps them, with and without drafts, alone and in company.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cambium/cambium.h"
#include "engine/constraint_fields.h"
#include "temp_folder.h"
#include "tiny_llama.h"

namespace cambium {
namespace {

using Json = nlohmann::ordered_json;

class Constraints : public ::testing::Test {
 protected:
  Request Ask(const Constraint& constraint, uint64_t seed, std::vector<std::string> drafters = {"none"}) {
    Request request;
    request.prompt = {3, 1, 4, 1, 5};
    request.max_tokens = 100;
    request.sampling.seed = seed;
    request.sampling.temperature = 1;
    request.sampling.top_k = 0;
    request.sampling.top_p = 1;
    request.sampling.min_p = 0;
    request.constraint = constraint;
    request.drafting.drafters = std::move(drafters);
    return request;
  }
  std::vector<Constraint> Some() {
    const Model& m = engine.model();
    const std::vector<std::string> texts = {"red", "green", "greenish"};
    return {Constraint::JsonSchema(
                m, R"({"type":"object","properties":{"kind":{"enum":["alpha","beta"]},"on":{"type":"boolean"},
                "n":{"type":"integer","minimum":10,"maximum":99},"t":{"type":"string","maxLength":4}},
                "required":["kind","on","n","t"]})"),
            Constraint::Regex(m, "(ab|cd){2,5}x?"), Constraint::Choice(m, texts),
            Constraint::Grammar(m, "root ::= \"<\" [a-c]{1,3} \">\" | \"(\" root \")\"")};
  }

  TinyLlama files;
  EngineOptions Options() {
    EngineOptions options;
    options.threads = 1;
    options.context = 128;
    return options;
  }
  Engine engine = Engine::Load(files.path(), Options());
};

TEST_F(Constraints, EveryAnswerKeepsIt) {
  for (const Constraint& constraint : Some()) {
    int ended = 0;
    for (uint64_t seed = 0; seed < 50; ++seed) {
      const Generation answer = engine.Generate(Ask(constraint, seed));
      if (answer.finish_reason == FinishReason::kLength) continue;  // brackets may go on for long
      ++ended;
      EXPECT_EQ(answer.finish_reason, FinishReason::kStop);
      EXPECT_TRUE(constraint.Accepts(answer.text)) << answer.text;
    }
    EXPECT_GT(ended, 25);
  }
}

TEST_F(Constraints, DraftsChangeNoToken) {
  int64_t accepted = 0;
  for (const Constraint& constraint : Some()) {
    for (uint64_t seed = 0; seed < 10; ++seed) {
      const Generation plain = engine.Generate(Ask(constraint, seed));
      for (const std::vector<std::string>& drafters : {std::vector<std::string>{"grammar"}, {"ngram"}, {}, {"auto"}}) {
        const Generation drafted = engine.Generate(Ask(constraint, seed, drafters));
        EXPECT_EQ(drafted.ids, plain.ids) << plain.text;
        EXPECT_EQ(drafted.finish_reason, plain.finish_reason);
        accepted += drafted.draft.num_accepted_tokens;
      }
    }
  }
  EXPECT_GT(accepted, 0);
}

// A text that repeats itself drafts on behind the end of what the constraint allows.
TEST_F(Constraints, DraftsBehindTheEndAreDropped) {
  const std::vector<std::string> texts = {"redred", "blue"};
  const Constraint constraint = Constraint::Choice(engine.model(), texts);
  Request request = Ask(constraint, 1, {"ngram"});
  request.prompt.clear();
  for (int i = 0; i < 6; ++i) {
    for (const char c : std::string_view("redred")) request.prompt.push_back(c - 33);
    request.prompt.push_back(95);  // the end token
  }
  request.sampling.logit_bias = {{'r' - 33, 100.0f}};
  const Generation answer = engine.Generate(request);
  EXPECT_EQ(answer.text, "redred");
  EXPECT_GT(answer.draft.num_draft_tokens, 0);
}

TEST_F(Constraints, CompanyChangesNoToken) {
  std::vector<Generation> alone;
  std::vector<Request> requests;
  for (const Constraint& constraint : Some()) requests.push_back(Ask(constraint, 5, {"auto"}));
  for (const Request& request : requests) alone.push_back(engine.Generate(request));
  std::map<RequestId, size_t> numbers;
  for (size_t i = 0; i < requests.size(); ++i) numbers[engine.Submit(requests[i])] = i;
  while (engine.Step([&](const Event& event) {
    if (event.kind != Event::Kind::kFinished) return;
    EXPECT_EQ(event.generation->ids, alone[numbers[event.request]].ids);
  })) {
  }
}

TEST_F(Constraints, BiasAndLogprobs) {
  const std::vector<std::string> texts = {"red", "blue"};
  const Constraint constraint = Constraint::Choice(engine.model(), texts);
  Request request = Ask(constraint, 1);
  request.top_logprobs = 3;
  request.sampling.logit_bias = {{'b' - 33, 100.0f}, {'z' - 33, 100.0f}};
  const Generation answer = engine.Generate(request);
  EXPECT_EQ(answer.text, "blue");
  for (const TokenLogprob& one : answer.logprobs) {
    EXPECT_TRUE(std::isfinite(one.logprob));
    EXPECT_LE(one.logprob, 0);
  }
}

TEST_F(Constraints, RefusesWhatCannotBe) {
  const Constraint constraint = Constraint::Regex(engine.model(), "a+");
  Request request = Ask(constraint, 1);
  request.ignore_end = true;
  EXPECT_THROW(engine.Submit(request), Error);
  request = Ask(constraint, 1, {"grammar"});
  request.constraint.reset();
  EXPECT_THROW(engine.Submit(request), Error);
  const TinyLlama other;
  request = Ask(Constraint::Regex(Model::Load(other.path(), 1), "a"), 1);
  EXPECT_THROW(engine.Submit(request), Error);
}

TEST_F(Constraints, FieldsOfRequests) {
  const Model& m = engine.model();
  const auto of = [&](const char* fields) { return ConstraintOf(m, Json::parse(fields)); };
  EXPECT_FALSE(of(R"({"response_format":{"type":"text"},"grammar":null})"));
  EXPECT_TRUE(of(R"({"response_format":{"type":"json_object"}})")->Accepts("{}"));
  EXPECT_TRUE(of(R"({"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"const":7}}}})")
                  ->Accepts("7"));
  EXPECT_TRUE(of(R"({"structured_outputs":{"regex":"a+"}})")->Accepts("aa"));
  EXPECT_TRUE(of(R"({"structured_outputs":{"choice":["x","y"]}})")->Accepts("y"));
  EXPECT_TRUE(of(R"({"structured_outputs":{"json":"{\"const\":1}"}})")->Accepts("1"));
  EXPECT_TRUE(of(R"({"grammar":"root ::= \"a\""})")->Accepts("a"));
  for (const char* bad : {R"({"response_format":"json"})", R"({"response_format":{"type":"sound"}})",
                          R"({"response_format":{"type":"json_schema"}})",
                          R"({"response_format":{"type":"json_schema","json_schema":{"schema":3}}})",
                          R"({"structured_outputs":{"structural_tag":1}})", R"({"choice":[]})", R"({"choice":"a"})",
                          R"({"regex":"a","grammar":"root ::= \"a\""})"}) {
    EXPECT_THROW(of(bad), Error) << bad;
  }
  const Json tools =
      Json::parse(R"([{"type":"function","function":{"name":"f","parameters":{"properties":{"a":{"$ref":"#/$defs/x"}},
      "required":["a"],"$defs":{"x":{"const":1}}}}}])");
  EXPECT_TRUE(ToolConstraint(m, tools, false)
                  .Accepts("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>"));
}

}  // namespace
}  // namespace cambium
