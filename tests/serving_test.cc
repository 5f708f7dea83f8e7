// Many requests in one scheduler against each in one of its own.
#include "serving.h"

#include <gtest/gtest.h>

#include "grafts/grafts.h"
#include "tiny_model.h"

namespace cambium {
namespace {

// Eight prompts of 2 to 37 tokens behind one prefix.
class Prompts : public testing::Test {
 protected:
  Prompts() : pool_(2), model_(TinyModel(pool_, 5), pool_) {
    GraftOptions options;
    options.length = 3;
    options.init_ids = {4, 5, 6};
    prefix_ = MakeGraft("prefix", options, model_.base());
    for (int32_t i = 0; i < 8; ++i) {
      DecodeRequest& request = requests_.emplace_back();
      for (int32_t j = 0; j < 2 + i * 5; ++j) request.prompt.push_back((i * 11 + j * 7) % 61);
      request.grafts = GraftsOf({prefix_.get()});
      request.max_tokens = 30;
      request.context = 48;
      request.end_tokens = EndTokens();
    }
  }

  std::vector<DecodeResult> Together(const SchedulerOptions& options, KvCache& kv) {
    Scheduler scheduler(model_, kv, options);
    std::vector<DecodeResult> results(requests_.size());
    for (size_t i = 0; i < requests_.size(); ++i) {
      DecodeRequest request = requests_[i];
      request.on_end = [&results, i](const DecodeResult& result) { results[i] = result; };
      scheduler.Add(std::move(request));
    }
    while (scheduler.Step()) {
    }
    return results;
  }

  ThreadPool pool_;
  Transformer model_;
  std::unique_ptr<Graft> prefix_;
  std::vector<DecodeRequest> requests_;
};

TEST_F(Prompts, AreAnsweredTogetherAsEachAlone) {
  for (const float temperature : {0.0f, 1.0f}) {
    for (DecodeRequest& request : requests_) {
      request.sampling.temperature = temperature;
      request.sampling.seed = 3;
    }
    KvCache shared(model_.config(), DType::kF16, 256);
    const std::vector<DecodeResult> together = Together({.parallel = 3, .prefill_rows = 20}, shared);
    EXPECT_EQ(shared.stats().used, 0) << "every page was given back";
    size_t ended = 0;
    for (size_t i = 0; i < requests_.size(); ++i) {
      KvCache kv(model_.config(), DType::kF16, 256);
      const DecodeResult alone = Answer(model_, kv, requests_[i]);
      EXPECT_EQ(together[i].tokens, alone.tokens) << "prompt " << i << ", temperature " << temperature;
      EXPECT_EQ(together[i].reason, alone.reason);
      EXPECT_EQ(together[i].end_token, alone.end_token);
      if (alone.reason != StopReason::kEnd) continue;
      EXPECT_TRUE(requests_[i].ends(alone.end_token));
      ++ended;
    }
    if (temperature > 0) EXPECT_GT(ended, 0u) << "no answer ends";
  }
}

}  // namespace
}  // namespace cambium
