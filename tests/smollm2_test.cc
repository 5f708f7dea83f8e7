// The default model against PyTorch's fp32 numbers (tests/golden/smollm2/*.json: the input ids, the argmax and the
// log-probabilities of every position, and greedy continuations). Skipped where the model is not in the cache.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cambium/cambium.h"
#include "test_model.h"

namespace cambium {
namespace {

nlohmann::json Golden(const std::string& name) {
  std::ifstream file(std::string(CAMBIUM_TEST_DIR) + "/golden/smollm2/" + name);
  EXPECT_TRUE(file) << name;
  return nlohmann::json::parse(file);
}

class SmolLM2 : public testing::Test {
 protected:
  void SetUp() override {
    if (DefaultTestModel().empty()) GTEST_SKIP() << "the default model is not in the cache; ./try fetches it";
  }
  static Engine Load(bool exact, int threads = 2) {
    EngineOptions options;
    options.exact = exact;
    options.threads = threads;
    options.context = 1024;
    return Engine::Load(DefaultTestModel(), options);
  }
};

TEST_F(SmolLM2, ExactLogitsMatchPyTorch) {
  Engine engine = Load(true);
  for (const auto& prompt : Golden("base_logits.json")) {
    const auto ids = prompt["input_ids"].get<std::vector<int32_t>>();
    const auto want = prompt["token_logprobs"].get<std::vector<double>>();
    const auto argmax = prompt["argmax"].get<std::vector<int32_t>>();
    std::vector<double> last;
    engine.ForEachLogits(ids, [&](int64_t row, std::span<const float> logits) {
      EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(), argmax[static_cast<size_t>(row)])
          << prompt["name"] << " row " << row;
      if (row + 1 == static_cast<int64_t>(ids.size())) {
        for (const auto& top : prompt["last_top10"]) {
          EXPECT_NEAR(logits[top[0].get<size_t>()], top[1].get<double>(), 2e-3) << prompt["name"];
        }
      }
    });
    if (ids.size() < 2) continue;
    const Score score = engine.ScoreIds(ids);
    ASSERT_EQ(score.logprobs.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(score.logprobs[i], want[i], 2e-3) << prompt["name"];
  }
}

TEST_F(SmolLM2, ExactGreedyMatchesPyTorch) {
  Engine engine = Load(true);
  for (const auto& prompt : Golden("greedy48.json")) {
    Request request;
    request.prompt = prompt["input_ids"].get<std::vector<int32_t>>();
    request.sampling.temperature = 0;
    request.max_tokens = 48;
    request.ignore_end = true;
    const Generation got = engine.Generate(request);
    EXPECT_EQ(got.ids, prompt["ids"].get<std::vector<int32_t>>()) << prompt["name"];
  }
}

TEST_F(SmolLM2, SampledTextDoesNotDependOnThreadsOrWarmCache) {
  Engine two = Load(false, 2), one = Load(false, 1);
  Request request;
  request.prompt = two.model().Tokenize("The old lighthouse keeper opened the door and");
  request.sampling.seed = 42;
  request.sampling.temperature = 1;
  request.max_tokens = 40;
  const Generation first = two.Generate(request);
  EXPECT_EQ(one.Generate(request).ids, first.ids);
  const Generation again = two.Generate(request);
  EXPECT_EQ(again.ids, first.ids);
  EXPECT_GT(again.timings.cached_tokens, 0) << "the prompt's keys and values are still cached";
}

// The first 2,048 tokens of the CMake manual (BSD-3-Clause): enough that 0.5 % is not noise.
TEST_F(SmolLM2, Int8PerplexityIsWithinHalfAPercentOfExact) {
  Engine exact = Load(true), fast = Load(false);
  const auto ids = Golden("cmake_text_ids.json")["ids"].get<std::vector<int32_t>>();
  double exact_loss = 0, fast_loss = 0;
  for (size_t begin = 0; begin < ids.size(); begin += 512) {
    exact_loss += exact.ScoreIds(std::span(ids).subspan(begin, 512)).loss;
    fast_loss += fast.ScoreIds(std::span(ids).subspan(begin, 512)).loss;
  }
  EXPECT_NEAR(std::exp((fast_loss - exact_loss) / 4), 1.0, 0.005);
}

}  // namespace
}  // namespace cambium
