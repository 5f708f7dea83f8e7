// Many requests side by side against one at a time.
#include <gtest/gtest.h>

#include "decode/batch.h"
#include "decode/generate.h"
#include "file_testing.h"
#include "grafts/grafts.h"
#include "tiny_model.h"

namespace cambium {
namespace {

TEST(GenerateBatch, AnswersAreThoseOfOneAtATime) {
  ThreadPool pool(2);
  Transformer model(TinyModel(pool, 5), pool);
  GraftOptions options;
  options.length = 3;
  options.init_ids = {4, 5, 6};
  const auto prefix = MakeGraft("prefix", options, model);
  BatchRequest request;
  request.grafts = {prefix.get()};
  request.max_tokens = 30;
  request.context = 48;
  request.width = 3;
  request.prefill_rows = 20;
  request.is_end = [](int32_t token) { return token % 16 == 7; };
  for (int32_t i = 0; i < 8; ++i) {
    std::vector<int32_t>& prompt = request.prompts.emplace_back();
    for (int32_t j = 0; j < 2 + i * 5; ++j) prompt.push_back((i * 11 + j * 7) % 61);
  }
  for (const float temperature : {0.0f, 1.0f}) {
    request.sampling.temperature = temperature;
    request.sampling.seed = 3;
    std::vector<std::vector<int32_t>> answers(request.prompts.size());
    request.on_answer = [&](size_t prompt, const std::vector<int32_t>& tokens) { answers[prompt] = tokens; };
    GenerateBatch(model, request);
    size_t ended = 0;
    for (size_t i = 0; i < answers.size(); ++i) {
      KvCache kv(model.config(), DType::kF16, 256);
      DecodeState state{kv.NewSequence(), {}, {}};
      state.Restart(model, kv, request.grafts);
      Sampler sampler(request.sampling);
      DecodeRequest one;
      one.prompt = request.prompts[i];
      one.max_tokens = request.max_tokens;
      one.context = request.context + state.prefix;
      one.is_end = request.is_end;
      const DecodeResult result = Generate(model, kv, state, sampler, nullptr, one);
      if (result.reason == StopReason::kEnd) {
        ASSERT_FALSE(answers[i].empty());
        EXPECT_TRUE(request.is_end(answers[i].back()));
        answers[i].pop_back();
        ++ended;
      }
      EXPECT_EQ(answers[i], result.tokens) << "prompt " << i << ", temperature " << temperature;
    }
    if (temperature > 0) EXPECT_GT(ended, 0u) << "no answer ends";
  }
}

TEST(GenerateBatch, RefusesAContextBeyondTheModels) {
  ThreadPool pool(1);
  Transformer model(TinyModel(pool, 5, {.family = TinyFamily::kGpt2, .context = 32}), pool);
  BatchRequest request;
  request.max_tokens = 30;
  request.context = 33;
  request.prompts = {{1, 2}};
  request.on_answer = [](size_t, const std::vector<int32_t>&) {};
  testing::ExpectError(ErrorCode::kUsage, {"33", "32 positions"}, [&] { GenerateBatch(model, request); });
  request.context = 32;
  EXPECT_NO_THROW(GenerateBatch(model, request));
}

// What on_answer throws comes out, and another batch goes on.
TEST(GenerateBatch, ACallbackMayThrow) {
  ThreadPool pool(2);
  Transformer model(TinyModel(pool, 5), pool);
  BatchRequest request;
  request.max_tokens = 3;
  request.context = 20;
  request.width = 4;
  request.prompts = {{1, 2}, {3}, {4, 5, 6}, {7}};
  request.on_answer = [](size_t prompt, const std::vector<int32_t>&) {
    if (prompt == 1) Fail(ErrorCode::kResource, "no room for it");
  };
  testing::ExpectError(ErrorCode::kResource, {"no room"}, [&] { GenerateBatch(model, request); });
  size_t answers = 0;
  request.on_answer = [&](size_t, const std::vector<int32_t>& tokens) { answers += tokens.size() == 3; };
  GenerateBatch(model, request);
  EXPECT_EQ(answers, 4u);
}

}  // namespace
}  // namespace cambium
