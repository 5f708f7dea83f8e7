#include "engine/loop_guard.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "cambium/cambium.h"
#include "test_model.h"

namespace cambium {
namespace {

// After how many tokens the guard says that they loop; -1: not at all.
int64_t LoopsAt(const std::vector<int32_t>& tokens) {
  LoopGuard guard;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (guard.Push(tokens[i])) return static_cast<int64_t>(i) + 1;
  }
  return -1;
}

std::vector<int32_t> Repeated(int64_t period, int64_t times, int32_t first = 0) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < period * times; ++i) tokens.push_back(first + static_cast<int32_t>(i % period));
  return tokens;
}

TEST(LoopGuard, FindsALoopOfAnyPeriodBehindAnyText) {
  for (const int64_t period : {1, 2, 3, 7, 60, 64, 65, 100, 511, 512}) {
    std::vector<int32_t> tokens(333);
    std::iota(tokens.begin(), tokens.end(), 10000);
    const std::vector<int32_t> loop = Repeated(period, 20 + 2000 / period);
    tokens.insert(tokens.end(), loop.begin(), loop.end());
    const int64_t least = std::max<int64_t>(LoopGuard::kLeastTokens, period * LoopGuard::kLeastTimes);
    EXPECT_EQ(LoopsAt(tokens), 333 + least) << period;
  }
}

TEST(LoopGuard, LetsWhatRepeatsForAReasonPass) {
  EXPECT_EQ(LoopsAt(Repeated(2, 400)), -1);   // [0, 0, 0, ...
  EXPECT_EQ(LoopsAt(Repeated(10, 100)), -1);  // a table of equal rows
  EXPECT_EQ(LoopsAt(Repeated(120, 15)), -1);  // fifteen equal blocks of markup
  EXPECT_EQ(LoopsAt(Repeated(513, 40)), -1);  // a page that comes again
  std::vector<int32_t> counted;               // rows that differ in a number, for ever
  for (int32_t row = 0; row < 1000; ++row) {
    for (int32_t column = 0; column < 9; ++column) counted.push_back(column == 4 ? 1000 + row : column);
  }
  EXPECT_EQ(LoopsAt(counted), -1);
  std::vector<int32_t> broken = Repeated(1, 1023);  // one token other than the loop begins it anew
  broken.push_back(5);
  const std::vector<int32_t> more = Repeated(1, 1022);
  broken.insert(broken.end(), more.begin(), more.end());
  EXPECT_EQ(LoopsAt(broken), -1);
}

Request Capital(const Engine& engine) {
  Request request;
  const Message message{"user", "What is the capital of France?"};
  request.prompt = engine.model().TokenizeChat({&message, 1});
  request.sampling.temperature = 0;
  request.max_tokens = 1500;
  request.loop_guard = true;
  return request;
}

TEST(LoopGuard, EndsAnAnswerAndSaysWhy) {
  if (DefaultTestModel().empty()) GTEST_SKIP() << "no default model";
  Engine engine = Engine::Load(DefaultTestModel());
  const Generation ended = engine.Generate(Capital(engine));
  EXPECT_EQ(ended.finish_reason, FinishReason::kRepetition);
  EXPECT_EQ(Name(ended.finish_reason), "repetition");
  EXPECT_LT(ended.ids.size(), 1200u);
  Request request = Capital(engine);
  request.drafting.drafters = {"none"};
  EXPECT_EQ(engine.Generate(request).ids, ended.ids);  // whoever drafts
  request.max_tokens = 1030;
  request.loop_guard = false;
  const Generation on = engine.Generate(request);
  EXPECT_EQ(on.finish_reason, FinishReason::kLength);
  EXPECT_TRUE(std::equal(on.ids.begin(), on.ids.end(), ended.ids.begin()));
  for (const bool ends : {true, false}) {  // who asks for the length, or for a form, gets it
    request = Capital(engine);
    request.max_tokens = 1100;
    request.ignore_end = ends;
    if (!ends) request.constraint = Constraint::Regex(engine.model(), "(na )*");
    EXPECT_NE(engine.Generate(request).finish_reason, FinishReason::kRepetition);
  }
}

}  // namespace
}  // namespace cambium
