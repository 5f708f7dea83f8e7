// The public library: requests side by side, adapters, cancelling, sinks that throw, log-probabilities, filters.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>

#include "cambium/cambium.h"
#include "engine/curve_file.h"
#include "temp_folder.h"
#include "tiny_llama.h"

namespace cambium {
namespace {

const std::string kLora = std::string(CAMBIUM_TEST_DIR) + "/golden/peft/lora";

Request Prompt(std::vector<int32_t> ids, uint64_t seed, int64_t tokens = 12) {
  Request request;
  request.prompt = std::move(ids);
  request.max_tokens = tokens;
  request.ignore_end = true;
  request.sampling.seed = seed;
  request.sampling.temperature = 1;
  return request;
}

class Library : public testing::Test {
 protected:
  const TinyLlama files_;
  const std::string kTiny = files_.path();
  Model model_ = Model::Load(kTiny, 2);
  Engine engine_{model_, {.context = 128}};
};

TEST_F(Library, RequestsSideBySideWithAdaptersOfTheirOwn) {
  const Adapter lora = Adapter::Load(model_, kLora);
  EXPECT_EQ(lora.kinds(), std::vector<std::string>{"lora"});
  std::map<RequestId, Request> requests;
  std::map<RequestId, std::vector<int32_t>> got;
  for (uint64_t i = 0; i < 6; ++i) {
    Request request = Prompt({5, 6, static_cast<int32_t>(7 + i)}, i);
    if (i % 3 > 0) request.adapters = {{lora, i % 3 == 1 ? 1.0f : 0.5f}};
    request.top_logprobs = 2;
    requests[engine_.Submit(request)] = request;
  }
  while (engine_.Step([&](const Event& event) {
    if (event.kind == Event::Kind::kFinished) {
      ASSERT_FALSE(event.error);
      EXPECT_EQ(event.generation->ids, got[event.request]);
      EXPECT_EQ(event.generation->finish_reason, FinishReason::kLength);
      EXPECT_EQ(event.generation->logprobs.size(), 12u);
      return;
    }
    got[event.request].push_back(event.id);
    ASSERT_NE(event.logprob, nullptr);
    ASSERT_EQ(event.top.size(), 2u);
    EXPECT_GE(event.top[0].logprob, event.top[1].logprob);
    EXPECT_LE(event.logprob->logprob, event.top[0].logprob);
  })) {
  }
  ASSERT_EQ(got.size(), 6u);
  for (const auto& [id, request] : requests) {
    Engine alone(model_, {.context = 128, .parallel = 1});
    EXPECT_EQ(alone.Generate(request).ids, got[id]) << id;
  }
}

TEST_F(Library, LogprobsAreTheScoresOfTheText) {
  Request request = Prompt({5, 6, 7}, 3, 8);
  request.top_logprobs = 0;
  const Generation generation = engine_.Generate(request);
  std::vector<int32_t> ids = request.prompt;
  ids.insert(ids.end(), generation.ids.begin(), generation.ids.end());
  const Score score = engine_.ScoreIds(ids);
  for (size_t i = 0; i < generation.ids.size(); ++i) {
    EXPECT_EQ(generation.logprobs[i].logprob, static_cast<float>(score.logprobs[i + 2])) << i;
  }
}

TEST_F(Library, APromptsLogprobsAreTheScoresOfTheText) {
  Request request = Prompt({5, 9, 13, 20}, 7, 3);
  request.prompt_logprobs = 2;
  const Generation answer = engine_.Generate(request);
  EXPECT_EQ(answer.ids.size(), 3u);
  const Score score = engine_.ScoreIds(request.prompt);
  ASSERT_EQ(answer.prompt_logprobs.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(answer.prompt_logprobs[i].id, request.prompt[i + 1]);
    EXPECT_NEAR(answer.prompt_logprobs[i].logprob, score.logprobs[i], 1e-5);
    ASSERT_EQ(answer.prompt_top[i].size(), 2u);
    EXPECT_GE(answer.prompt_top[i][0].logprob, answer.prompt_top[i][1].logprob);
  }
  request.max_tokens = 0;
  EXPECT_EQ(engine_.Generate(request).prompt_logprobs.size(), 3u);
}

TEST_F(Library, AnEmbeddingHasLengthOneAndIsTheSameInCompany) {
  Request request = Prompt({5, 9, 13, 20, 6}, 0);
  request.embed = true;
  const std::vector<float> alone = engine_.Generate(request).embedding;
  ASSERT_EQ(std::ssize(alone), engine_.model().info().hidden);
  double squares = 0;
  for (const float value : alone) squares += static_cast<double>(value) * static_cast<double>(value);
  EXPECT_NEAR(squares, 1, 1e-6);
  for (int32_t i = 1; i < 6; ++i) engine_.Submit(Prompt({5, 9, i}, 3));
  EXPECT_EQ(engine_.Generate(request).embedding, alone);
  Request other = request;
  other.prompt.back() = 7;
  EXPECT_NE(engine_.Generate(other).embedding, alone);
}

TEST_F(Library, NoEndBeforeTheLeastTokens) {
  Request request = Prompt({5, 9, 13}, 0, 12);
  request.ignore_end = false;
  request.sampling.logit_bias = {{95, 1000.0f}};  // the end token
  EXPECT_EQ(engine_.Generate(request).ids.size(), 0u);
  request.min_tokens = 4;
  const Generation answer = engine_.Generate(request);
  EXPECT_EQ(answer.ids.size(), 4u);
  EXPECT_EQ(answer.finish_reason, FinishReason::kStop);
  request.min_tokens = 0;
  request.ignore_end = true;
  request.sampling.logit_bias = {{3, 1000.0f}};  // "$"
  request.stop = {"$"};
  EXPECT_EQ(engine_.Generate(request).ids.size(), 1u);
  request.min_tokens = 4;
  EXPECT_EQ(engine_.Generate(request).text, "$$$$");
}

TEST_F(Library, PenaltiesCountTheAnswerAlone) {
  Request request = Prompt({3, 3, 3, 3}, 0, 2);
  request.sampling.temperature = 0;
  request.sampling.logit_bias = {{3, 1000.0f}};
  request.top_logprobs = 96;
  const Generation plain = engine_.Generate(request);
  ASSERT_EQ(plain.ids, (std::vector<int32_t>{3, 3}));
  const auto logit = [&](int32_t id) { return std::ranges::find(plain.top[1], id, &TokenLogprob::id)->logprob; };
  // Behind the first 3 of the answer another 3 is ahead of 4 by one.
  request.sampling.logit_bias[4] = 1000.0f + logit(3) - logit(4) - 1;
  const auto second = [&](float presence, float frequency) {
    request.sampling.presence_penalty = presence;
    request.sampling.frequency_penalty = frequency;
    const Generation answer = engine_.Generate(request);
    EXPECT_EQ(answer.ids.front(), 3);
    return answer.ids.back();
  };
  EXPECT_EQ(second(0, 0), 3);
  EXPECT_EQ(second(0.9f, 0), 3);
  EXPECT_EQ(second(1.1f, 0), 4);
  EXPECT_EQ(second(0, 0.9f), 3);
  EXPECT_EQ(second(0, 1.1f), 4);
  EXPECT_EQ(second(0.6f, 0.6f), 4);
  EXPECT_EQ(second(-2, 0), 3);
  EXPECT_THROW(second(2.5f, 0), Error);
  EXPECT_THROW(second(0, -3), Error);
}

TEST_F(Library, CancelsFromASinkAndFromAnotherThread) {
  int tokens = 0;
  const Generation stopped = engine_.Generate(Prompt({5, 6}, 1, 100), [&](const Event& event) {
    if (event.kind == Event::Kind::kToken && ++tokens == 3) engine_.Cancel(event.request);
  });
  EXPECT_EQ(stopped.finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(stopped.ids.size(), 3u);
  for (int round = 0; round < 20; ++round) {
    const RequestId id = engine_.Submit(Prompt({5, 6, 7}, 2, 120));
    std::thread other([&] {
      engine_.Cancel(id);
      engine_.Cancel(id);
      engine_.Submit(Prompt({8, 9}, 3, 4));
    });
    int ended = 0;
    const auto count = [&](const Event& event) { ended += event.kind == Event::Kind::kFinished; };
    while (engine_.Step(count)) {
    }
    other.join();
    while (engine_.Step(count)) {
    }
    EXPECT_EQ(ended, 2);
  }
  EXPECT_EQ(engine_.stats().cache_used, 0);
}

TEST_F(Library, ASinkThatThrowsEndsItsRequestAlone) {
  const std::vector<int32_t> want = engine_.Generate(Prompt({9, 8, 7}, 5)).ids;
  const RequestId bad = engine_.Submit(Prompt({5, 6}, 4)), good = engine_.Submit(Prompt({9, 8, 7}, 5));
  std::vector<int32_t> got;
  bool failed = false;
  while (engine_.Step([&](const Event& event) {
    if (event.kind == Event::Kind::kFinished) {
      if (event.request == bad) failed = static_cast<bool>(event.error);
      return;
    }
    if (event.request == bad) throw std::runtime_error("full");
    if (event.request == good) got.push_back(event.id);
  })) {
  }
  EXPECT_TRUE(failed);
  EXPECT_EQ(got, want);
  EXPECT_THROW(engine_.Generate(Prompt({5, 6}, 4), [](const Event&) { throw std::runtime_error("full"); }),
               std::runtime_error);
  EXPECT_EQ(engine_.Generate(Prompt({9, 8, 7}, 5)).ids, want);
}

TEST_F(Library, OtherRequestsEventsWaitForTheNextStep) {
  const RequestId waiting = engine_.Submit(Prompt({5, 6}, 1, 3));
  EXPECT_EQ(engine_.Generate(Prompt({7, 8}, 2, 6)).ids.size(), 6u);
  int tokens = 0, ends = 0;
  while (engine_.Step([&](const Event& event) {
    EXPECT_EQ(event.request, waiting);
    tokens += event.kind == Event::Kind::kToken;
    ends += event.kind == Event::Kind::kFinished && event.generation->ids.size() == 3;
  })) {
  }
  EXPECT_EQ(tokens, 3);
  EXPECT_EQ(ends, 1);
}

// Allows even tokens alone.
struct Even : LogitsFilter {
  void Apply(std::span<const int32_t>, std::span<float> logits) override {
    for (size_t i = 1; i < logits.size(); i += 2) logits[i] = -std::numeric_limits<float>::infinity();
  }
};

TEST_F(Library, AFilterIsPartOfTheTarget) {
  for (const std::vector<std::string>& drafters : {std::vector<std::string>{"none"}, {"auto"}, {"exit:layer=1"}}) {
    Request request = Prompt({4, 6, 8, 4, 6, 8, 4, 6}, 11, 40);
    request.filter = std::make_shared<Even>();
    request.drafting.drafters = drafters;
    const Generation got = engine_.Generate(request);
    for (const int32_t id : got.ids) EXPECT_EQ(id % 2, 0);
    request.drafting.drafters = {"none"};
    EXPECT_EQ(engine_.Generate(request).ids, got.ids);
  }
}

TEST_F(Library, StopStringsEndTheTextAndAreNamed) {
  const Generation whole = engine_.Generate(Prompt({5, 6, 7}, 21, 30));
  ASSERT_GT(whole.text.size(), 8u);
  Request request = Prompt({5, 6, 7}, 21, 30);
  request.stop = {"no such text", whole.text.substr(4, 3)};
  const Generation cut = engine_.Generate(request);
  EXPECT_EQ(cut.finish_reason, FinishReason::kStop);
  EXPECT_EQ(cut.stopped_by, whole.text.substr(4, 3));
  EXPECT_TRUE(whole.text.starts_with(cut.text));
  EXPECT_EQ(cut.text.find(request.stop[1]), std::string::npos);
}

TEST_F(Library, WhatCannotBeServedIsRefused) {
  const auto refused = [&](const char* says, const std::function<void(Request&)>& change) {
    Request request = Prompt({5, 6}, 1);
    change(request);
    try {
      engine_.Submit(request);
      ADD_FAILURE() << says;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
  };
  refused("the prompt is empty", [](Request& r) { r.prompt.clear(); });
  refused("outside the vocabulary", [](Request& r) { r.prompt = {1 << 20}; });
  refused("the context holds 128", [](Request& r) { r.prompt.assign(128, 5); });
  refused("a stop string is empty", [](Request& r) { r.stop = {""}; });
  refused("top_logprobs is 5000", [](Request& r) { r.top_logprobs = 5000; });
  refused("no such drafter", [](Request& r) { r.drafting.drafters = {"oracle"}; });
  const Model other = Model::Load(kTiny, 1);
  refused("onto another model", [&](Request& r) { r.adapters = {{Adapter::Load(other, kLora), 1}}; });
  EXPECT_THROW(Engine(model_, {.context = 1 << 30}), Error);
  EXPECT_FALSE(engine_.Step({}));
}

// An adapter whose handle has gone lives until its requests have ended.
TEST_F(Library, AnAdapterOutlivesItsHandle) {
  std::vector<int32_t> want, got;
  {
    const Adapter lora = Adapter::Load(model_, kLora);
    Request request = Prompt({5, 6, 7}, 2);
    request.adapters = {{lora, 1}};
    want = engine_.Generate(request).ids;
    engine_.Submit(request);
  }
  while (engine_.Step([&](const Event& event) {
    if (event.kind == Event::Kind::kToken) got.push_back(event.id);
  })) {
  }
  EXPECT_EQ(got, want);
}

// Sets a variable of the environment for a while; null: it is not set.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    const char* const was = getenv(name);
    had_ = was != nullptr;
    if (had_) was_ = was;
    value != nullptr ? setenv(name, value, 1) : unsetenv(name);
  }
  ~Variable() { had_ ? setenv(name_, was_.c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  bool had_;
  std::string was_;
};

TEST(CurveFile, KeepsWhatPassesCost) {
  const TempFolder home;
  const Variable set("CAMBIUM_HOME", home.path().c_str());
  const CurveFile file({.family = "llama", .layers = 3, .hidden = 64, .threads = 2}, Compute::kInt8, DType::kF16);
  EXPECT_FALSE(file.Read().measured());
  VerifyCurve curve;
  for (int i = 0; i < 8; ++i) {
    curve.Measure(1, 2);
    curve.Measure(4, 3);
  }
  curve.Measure(16, 100);  // seen once
  file.Write(curve);
  const VerifyCurve read = file.Read();
  ASSERT_TRUE(read.measured());
  EXPECT_NEAR(read.Ms(1), 2, 0.2);
  EXPECT_NEAR(read.Ms(4), 3, 0.3);
  EXPECT_LT(read.Ms(16), 20);
  VerifyCurve later = read;  // what is measured now soon counts more
  for (int i = 0; i < 32; ++i) later.Measure(4, 6);
  EXPECT_NEAR(later.Ms(4), 6, 0.3);
  // Another instruction set, number of threads or model is another file.
  const CurveFile other({.family = "llama", .layers = 3, .hidden = 64, .threads = 1}, Compute::kInt8, DType::kF16);
  EXPECT_FALSE(other.Read().measured());
}

TEST(CurveFile, IsDoneWithoutWhereItCannotBe) {
  const TempFolder home;
  const ModelInfo info{.family = "gpt2", .layers = 1, .hidden = 8, .threads = 1};
  VerifyCurve quick;
  for (int i = 0; i < 8; ++i) quick.Measure(1, 0.1);
  {
    const Variable set("CAMBIUM_HOME", home.path().c_str());
    const CurveFile file(info, Compute::kF32, DType::kF32);
    file.Write(quick);  // passes so short tell nothing
    EXPECT_FALSE(file.Read().measured());
    VerifyCurve curve;
    for (int i = 0; i < 8; ++i) curve.Measure(1, 2);
    file.Write(curve);
    ASSERT_TRUE(file.Read().measured());
    for (const auto& entry : std::filesystem::recursive_directory_iterator(home.path())) {
      if (entry.is_regular_file()) std::ofstream(entry.path()) << R"({"passes_ms": {"1": "x", "-3": 1e999}})";
    }
    EXPECT_FALSE(file.Read().measured());
  }
  const Variable home_set("CAMBIUM_HOME", nullptr), xdg("XDG_CACHE_HOME", nullptr), user("HOME", nullptr);
  const CurveFile nowhere(info, Compute::kF32, DType::kF32);
  nowhere.Write(quick);
  EXPECT_FALSE(nowhere.Read().measured());
}

}  // namespace
}  // namespace cambium
