// The test that decides: many requests in one scheduler, in any company, at any time, are answered as each alone.
#include "decode/scheduler.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <stdexcept>

#include "base/random.h"
#include "drafters/drafters.h"
#include "grafts/grafts.h"
#include "isa_testing.h"
#include "model/heads.h"
#include "random_lora.h"
#include "serving.h"
#include "tiny_model.h"
#include "tiny_tokenizer.h"

namespace cambium {
namespace {

constexpr int64_t kContext = 96;

struct Answered {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::vector<int32_t> top;
  std::vector<float> rows;  // of the prompt, as they were shown: a logit and a hidden value of each
  StopReason reason = StopReason::kFailed;
  bool operator==(const Answered&) const = default;
};

// A model with adapters that requests choose from.
class World {
 public:
  World(TinyFamily family, int threads, DType kv_type = DType::kF16)
      : kv_type(kv_type), tokenizer_(TinyTokenizer()), pool_(threads), model_(Weights(family), pool_) {
    grafts_.push_back(nullptr);
    for (uint64_t seed = 1; seed <= 2; ++seed) Add({Lora(seed)});
    GraftOptions prefix;
    prefix.length = 5;
    prefix.init_ids = {4, 5, 6};
    Add({MakeGraft("prefix", prefix, model_.base())});
    GraftOptions prompt = prefix;
    prompt.length = 3;
    Add({Lora(3), MakeGraft("prompt", prompt, model_.base())});
    GraftOptions mtp;
    mtp.heads = 2;
    if (family != TinyFamily::kGpt2) Add({MakeGraft("mtp", mtp, model_.base())});  // which wants rotary positions
    GraftOptions medusa;
    medusa.heads = 3;
    Add({Lora(4), MakeGraft("medusa", medusa, model_.base())});
    for (const auto& part : owned_) {
      if (part->heads() != nullptr) part->heads()->Freeze();
    }
  }

  const DType kv_type;
  Transformer& model() { return model_; }
  size_t grafts() const { return grafts_.size(); }

  // A request, all of it from the seed; drafters are not part of it.
  DecodeRequest Request(uint64_t seed) const {
    const Philox random(seed);
    uint64_t at = 0;
    const auto below = [&](int64_t n) {
      return static_cast<int64_t>(random.Uniform(at++, 1) * static_cast<double>(n));
    };
    DecodeRequest request;
    const int64_t beginning = below(3), shared = 8 + below(30), own = 1 + below(12);  // some begin alike
    for (int64_t i = 0; i < shared; ++i) request.prompt.push_back(static_cast<int32_t>(65 + (i * (beginning + 1)) % 7));
    for (int64_t i = 0; i < own; ++i) request.prompt.push_back(static_cast<int32_t>(60 + below(20)));
    request.grafts = grafts_[static_cast<size_t>(below(std::ssize(grafts_)))];
    request.sampling.temperature = below(3) == 0 ? 0.0f : 1.0f;
    request.sampling.seed = seed;
    request.sampling.repeat_penalty = below(2) == 0 ? 1.0f : 1.2f;
    request.context = kContext - 8;
    request.max_tokens = below(5) == 0 ? -1 : 1 + below(30);
    request.top_logprobs = static_cast<int>(below(4)) - 1;
    if (below(3) == 0) request.end_tokens = EndTokens();
    if (below(3) == 0) request.min_tokens = std::max<int64_t>(0, std::min<int64_t>(request.max_tokens, below(10)));
    if (below(3) == 0) request.sampling.frequency_penalty = 0.4f;
    if (below(3) == 0) request.sampling.presence_penalty = -0.2f;
    stop_after_ = below(4) == 0 ? below(8) : -1;
    shows_rows_ = below(5);
    return request;
  }
  // Lets the request write its answer down; `stop_after` tokens, where it is not negative.
  void Listen(DecodeRequest& request, Answered& answer) const {
    const int64_t stop_after = stop_after_;
    request.on_token = [&answer, stop_after](const Emitted& e) {
      answer.tokens.push_back(e.token);
      if (e.has_logprob) answer.logprobs.push_back(e.logprob);
      for (const TokenLogprob& t : e.top) {
        answer.top.push_back(t.id);
        answer.logprobs.push_back(t.logprob);
      }
      return stop_after < 0 || std::ssize(answer.tokens) <= stop_after;
    };
    const auto show = [&answer](int64_t row, std::span<const float> values) {
      answer.rows.push_back(static_cast<float>(row));
      answer.rows.push_back(values[5]);
    };
    if (shows_rows_ == 0 || shows_rows_ == 1) request.on_logits = show;
    if (shows_rows_ == 1 || shows_rows_ == 2) request.on_hidden = show;
    request.on_end = [&answer](const DecodeResult& result) {
      answer.reason = result.reason;
      if (result.error) std::rethrow_exception(result.error);
    };
  }

  // The request alone, on a cache of its own, without drafts, its prompt in chunks of its own size.
  const Answered& Alone(uint64_t seed) {
    const auto [found, fresh] = alone_.try_emplace(seed);
    if (fresh) {
      KvCache kv(model_.config(), kv_type, 2 * kContext);
      DecodeRequest request = Request(seed);
      Listen(request, found->second);
      SchedulerOptions options;
      options.prefill_rows = 64;
      Answer(model_, kv, std::move(request), options);
    }
    return found->second;
  }

  // Sets of drafters for one cache; the first is none.
  std::vector<std::shared_ptr<DrafterSet>> DrafterSets(KvCache& kv, const DecodeRequest& request) {
    const auto make = [&](std::vector<std::string> specs, bool planned) {
      const std::span<Graft* const> grafts =
          request.grafts != nullptr ? std::span<Graft* const>(request.grafts->grafts) : std::span<Graft* const>();
      return DraftersOf(MakeDrafters(specs, {model_, kv, tokenizer_, Compute::kInt8, kContext, grafts}), planned);
    };
    return {nullptr,
            make({"ngram"}, false),
            make({"recycle:shared=1", "ngram:shared=1"}, true),
            make({"exit:layer=2"}, false),
            make({"auto"}, true),
            make({"auto"}, false)};
  }

 private:
  std::unique_ptr<ModelWeights> Weights(TinyFamily family) {
    TinyOptions options;
    options.family = family;
    options.vocab = tokenizer_.vocab_size();
    options.layers = 3;
    options.scale = 2.0f;
    return TinyModel(pool_, 5, options);
  }
  std::unique_ptr<Graft> Lora(uint64_t seed) { return RandomLora(model_, seed, {.rank = 2}, 0.2f); }
  void Add(std::initializer_list<std::unique_ptr<Graft>> parts) {
    std::vector<Graft*> grafts;
    for (const auto& part : parts) {
      auto& moved = const_cast<std::unique_ptr<Graft>&>(part);
      grafts.push_back(moved.get());
      owned_.push_back(std::move(moved));
    }
    grafts_.push_back(GraftsOf(std::move(grafts), grafts_.size()));
  }

  Tokenizer tokenizer_;
  ThreadPool pool_;
  Transformer model_;
  std::vector<std::unique_ptr<Graft>> owned_;
  std::vector<std::shared_ptr<const GraftSet>> grafts_;
  std::map<uint64_t, Answered> alone_;
  mutable int64_t stop_after_ = -1, shows_rows_ = -1;
};

// Adds and cancels at random steps; `slots` is the pressure on the cache.
void Interleave(World& world, uint64_t seed, int64_t requests, int64_t slots, int64_t parallel) {
  KvCache kv(world.model().config(), world.kv_type, slots);
  SchedulerOptions options;
  options.parallel = parallel;
  options.prefill_rows = 20;
  if (seed % 2 == 1) options.prefill_stretch = std::numeric_limits<double>::infinity();
  std::map<const GraftSet*, std::vector<std::shared_ptr<DrafterSet>>> sets;
  std::vector<Answered> answers(static_cast<size_t>(requests));
  std::vector<Scheduler::Id> ids(answers.size());
  std::vector<bool> cancelled(answers.size());
  {
    Scheduler scheduler(world.model(), kv, options);
    const Philox random(seed);
    uint64_t at = 0;
    const auto below = [&](int64_t n) {
      return static_cast<int64_t>(random.Uniform(at++, 2) * static_cast<double>(n));
    };
    for (size_t next = 0; next < answers.size() || scheduler.Step();) {
      if (next < answers.size() && below(3) == 0) {
        DecodeRequest request = world.Request(next);
        world.Listen(request, answers[next]);
        auto& known = sets[request.grafts.get()];
        if (known.empty()) known = world.DrafterSets(kv, request);
        request.drafters = known[static_cast<size_t>(below(std::ssize(known)))];
        request.max_rows = 1 + below(20);
        ids[next++] = scheduler.Add(std::move(request));
      } else if (next < answers.size()) {
        scheduler.Step();
      }
      if (next > 0 && below(40) == 0) {
        const size_t victim = static_cast<size_t>(below(static_cast<int64_t>(next)));
        if (scheduler.Cancel(ids[victim])) {
          cancelled[victim] = true;
          EXPECT_FALSE(scheduler.Cancel(ids[victim])) << "cancelled twice";
        }
      }
      ASSERT_LE(kv.stats().used, kv.stats().pages);
    }
    EXPECT_GT(scheduler.stats().steps, 0);
    if (slots < 2 * kContext) EXPECT_GT(scheduler.stats().preemptions, 0) << "there was no pressure";
  }
  for (size_t i = 0; i < answers.size(); ++i) {
    const Answered& alone = world.Alone(i);
    if (cancelled[i] && answers[i].reason == StopReason::kCancelled) {
      ASSERT_LE(answers[i].tokens.size(), alone.tokens.size());
      EXPECT_TRUE(std::equal(answers[i].tokens.begin(), answers[i].tokens.end(), alone.tokens.begin()));
      continue;
    }
    EXPECT_EQ(answers[i].tokens, alone.tokens) << "request " << i << ", run " << seed;
    EXPECT_EQ(answers[i].logprobs, alone.logprobs) << "request " << i;
    EXPECT_EQ(answers[i].top, alone.top) << "request " << i;
    EXPECT_EQ(answers[i].rows, alone.rows) << "request " << i;
    EXPECT_EQ(answers[i].reason, alone.reason) << "request " << i;
  }
  EXPECT_EQ(kv.stats().used, 0) << "pages that nobody gave back";
  EXPECT_EQ(kv.stats().sequences, 0);
}

class EveryFamily : public ::testing::TestWithParam<std::tuple<TinyFamily, int>> {};

TEST_P(EveryFamily, AnswersAreThoseOfEachAlone) {
  World world(std::get<0>(GetParam()), std::get<1>(GetParam()));
  for (uint64_t seed = 0; seed < 3; ++seed) {
    Interleave(world, seed, 40, 6 * kContext, 8);
    Interleave(world, seed + 100, 40, kContext + 2 * KvCache::kPageSlots, 6);
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, EveryFamily,
                         ::testing::Combine(::testing::ValuesIn(kTinyFamilies), ::testing::Values(1, 2)));

TEST(Scheduler, AnswersAreThoseOfEachAloneOnEveryIsa) {
  testing::ForEachIsa([] {
    World world(TinyFamily::kLlama, 2);
    Interleave(world, 7, 30, 3 * kContext, 6);
  });
}

TEST(Scheduler, AnswersAreThoseOfEachAloneFromACacheOfBytes) {
  World world(TinyFamily::kLlama, 2, DType::kQ8_0);
  Interleave(world, 11, 40, 3 * kContext, 6);
  World other(TinyFamily::kLlama, 2);
  bool same = true;
  for (uint64_t seed = 0; seed < 40; ++seed) same = same && world.Alone(seed).logprobs == other.Alone(seed).logprobs;
  EXPECT_FALSE(same) << "bytes and f16 hold the same";
}

class Broken : public Drafter {
 public:
  std::string name() const override { return "broken"; }
  std::unique_ptr<DraftSession> Open(const DraftText&) override { return std::make_unique<DraftSession>(); }
  void Propose(std::span<DraftTask>, const Pays&) override { throw std::runtime_error("no idea"); }
};

TEST(Scheduler, ADrafterThatThrowsEndsWhoeverAskedIt) {
  ThreadPool pool(1);
  Transformer model(TinyModel(pool, 5), pool);
  KvCache kv(model.config(), DType::kF16, 512);
  Scheduler scheduler(model, kv, {});
  std::vector<DecodeResult> results(3);
  for (size_t i = 0; i < 3; ++i) {
    DecodeRequest request;
    request.prompt = {1, 2, static_cast<int32_t>(i)};
    request.context = 60;
    request.max_tokens = 8;
    if (i == 1) request.drafters = DraftersOf(std::make_unique<Broken>());
    request.on_end = [&results, i](const DecodeResult& result) { results[i] = result; };
    scheduler.Add(std::move(request));
  }
  while (scheduler.Step()) {
  }
  EXPECT_EQ(results[1].reason, StopReason::kFailed);
  EXPECT_THROW(std::rethrow_exception(results[1].error), std::runtime_error);
  for (const size_t i : {0, 2}) EXPECT_EQ(results[i].tokens.size(), 8u);
  EXPECT_EQ(kv.stats().used, 0);
}

TEST(Scheduler, ASharedBeginningIsComputedAndHeldOnce) {
  ThreadPool pool(2);
  Transformer model(TinyModel(pool, 5), pool);
  KvCache kv(model.config(), DType::kF16, 2048);
  Scheduler scheduler(model, kv, {});
  std::vector<DecodeResult> results(8);
  int64_t most_shared = 0;
  for (int32_t i = 0; i < 8; ++i) {
    DecodeRequest request;
    for (int32_t j = 0; j < 100; ++j) request.prompt.push_back((j * 7) % 61);
    request.prompt.push_back(i);
    request.prompt.push_back(7);
    request.context = 200;
    request.max_tokens = 20;
    request.on_token = [&](const Emitted&) {
      most_shared = std::max(most_shared, kv.stats().shared);
      return true;
    };
    request.on_end = [&results, i](const DecodeResult& result) { results[static_cast<size_t>(i)] = result; };
    scheduler.Add(std::move(request));
  }
  while (scheduler.Step()) {
  }
  int64_t computed = 0;
  for (const DecodeResult& result : results) computed += result.prompt_tokens;
  EXPECT_LE(computed, 102 + 7 * (2 + KvCache::kPageSlots));
  EXPECT_EQ(most_shared, 100 / KvCache::kPageSlots);
}

TEST(Scheduler, ASecondTurnComputesOnlyWhatIsNew) {
  ThreadPool pool(1);
  Transformer model(TinyModel(pool, 5), pool);
  KvCache kv(model.config(), DType::kF16, 512);
  Scheduler scheduler(model, kv, {});
  DecodeRequest request;
  for (int32_t j = 0; j < 70; ++j) request.prompt.push_back((j * 7) % 61);
  request.context = 200;
  request.max_tokens = 9;
  const DecodeResult first = RunToEnd(scheduler, request);
  EXPECT_EQ(first.cached_tokens, 0);
  request.prompt.insert(request.prompt.end(), first.tokens.begin(), first.tokens.end());
  request.prompt.push_back(3);
  const DecodeResult second = RunToEnd(scheduler, request);
  EXPECT_EQ(second.cached_tokens, 78) << "all but the last drawn token, which was not computed, and the new one";
  EXPECT_EQ(second.prompt_tokens, 2);
  request.salt = 1;
  EXPECT_EQ(RunToEnd(scheduler, request).cached_tokens, 0) << "another salt";
}

TEST(Scheduler, BadRequestsAreRefusedWithTheNumbers) {
  ThreadPool pool(1);
  Transformer model(TinyModel(pool, 5), pool);
  KvCache kv(model.config(), DType::kF16, 64);
  Scheduler scheduler(model, kv, {});
  const auto refused = [&](const char* says, const std::function<void(DecodeRequest&)>& change) {
    DecodeRequest request;
    request.prompt = {1, 2, 3};
    request.context = 60;
    change(request);
    try {
      scheduler.Add(std::move(request));
      ADD_FAILURE() << says;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
  };
  refused("the prompt is empty", [](DecodeRequest& r) { r.prompt.clear(); });
  refused("token id 61 is outside", [](DecodeRequest& r) { r.prompt[1] = 61; });
  refused("token id -1 is outside", [](DecodeRequest& r) { r.prompt[0] = -1; });
  refused("the prompt has 60 tokens, the context holds 60", [](DecodeRequest& r) { r.prompt.assign(60, 1); });
  refused("may take 200 slots, the KV cache has 64", [](DecodeRequest& r) { r.context = 200; });
  refused("temperature is -1", [](DecodeRequest& r) { r.sampling.temperature = -1; });
  refused("logit bias for id 99", [](DecodeRequest& r) { r.sampling.logit_bias[99] = 1; });
  EXPECT_FALSE(scheduler.Step());
}

TEST(Scheduler, WhatACallbackThrowsEndsItsRequestAlone) {
  ThreadPool pool(1);
  Transformer model(TinyModel(pool, 5), pool);
  KvCache kv(model.config(), DType::kF16, 512);
  Scheduler scheduler(model, kv, {});
  DecodeRequest good;
  good.prompt = {1, 2, 3};
  good.context = 100;
  good.max_tokens = 30;
  good.sampling.seed = 4;
  const std::vector<int32_t> alone = RunToEnd(scheduler, good).tokens;
  std::vector<int32_t> together;
  good.on_end = [&](const DecodeResult& result) { together = result.tokens; };
  DecodeRequest bad = good;
  bad.prompt = {4, 5};
  bad.on_token = [n = 0](const Emitted&) mutable -> bool {
    if (++n == 3) throw std::runtime_error("the sink is full");
    return true;
  };
  std::string why;
  bad.on_end = [&](const DecodeResult& result) {
    EXPECT_EQ(result.reason, StopReason::kFailed);
    EXPECT_EQ(result.tokens.size(), 3u);
    try {
      std::rethrow_exception(result.error);
    } catch (const std::runtime_error& error) {
      why = error.what();
    }
  };
  scheduler.Add(bad);
  scheduler.Add(good);
  while (scheduler.Step()) {
  }
  EXPECT_EQ(why, "the sink is full");
  EXPECT_EQ(together, alone);
  // One that throws in its end is heard of once the step is over.
  bad.on_end = [](const DecodeResult&) { throw std::runtime_error("nobody listens"); };
  scheduler.Add(bad);
  scheduler.Add(good);
  together.clear();
  EXPECT_THROW(while (scheduler.Step()){}, std::runtime_error);
  while (scheduler.Step()) {
  }
  EXPECT_EQ(together, alone);
  EXPECT_EQ(kv.stats().used, 0);
}

TEST(Scheduler, LogitsOfAPromptAreThoseOfAPassOverIt) {
  ThreadPool pool(2);
  Transformer model(TinyModel(pool, 5), pool);
  KvCache kv(model.config(), DType::kF16, 512);
  std::vector<int32_t> ids;
  for (int32_t j = 0; j < 150; ++j) ids.push_back((j * 11) % 61);
  std::vector<std::vector<float>> want;
  {
    Pass pass;
    pass.kv = &kv;
    const KvCache::Id id = kv.Open();
    pass.Append(id, 0, ids);
    for (int32_t i = 0; i < 150; ++i) pass.logit_rows.push_back(i);
    model.Forward(pass);
    for (int64_t i = 0; i < 150; ++i) want.emplace_back(pass.result.logits.row(i), pass.result.logits.row(i) + 61);
    kv.Close(id);
  }
  DecodeRequest request;
  request.prompt = ids;
  request.context = 200;
  request.max_tokens = 0;
  int64_t next = 0;
  request.on_logits = [&](int64_t row, std::span<const float> logits) {
    EXPECT_EQ(row, next++);
    EXPECT_TRUE(std::ranges::equal(logits, want[static_cast<size_t>(row)])) << row;
  };
  Answer(model, kv, request);
  EXPECT_EQ(next, 150);
}

// After the warm-up nothing grows, whoever comes and goes.
TEST(Scheduler, ManyRequestsLeaveNothingBehind) {
  ThreadPool pool(1);
  Transformer model(TinyModel(pool, 5, {.layers = 1, .hidden = 16, .heads = 2, .kv_heads = 1, .ffn = 16}), pool);
  KvCache kv(model.config(), DType::kF16, 512);
  SchedulerOptions options;
  options.parallel = 8;
  Scheduler scheduler(model, kv, options);
  const Philox random(3);
  int64_t ended = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    DecodeRequest request;
    const auto words = random(i, 0);
    for (uint32_t j = 0; j < 1 + words[0] % 20; ++j)
      request.prompt.push_back(static_cast<int32_t>(random(i, j)[1] % 61));
    request.context = 60;
    request.max_tokens = 1 + words[2] % 12;
    request.on_end = [&](const DecodeResult&) { ++ended; };
    const Scheduler::Id id = scheduler.Add(std::move(request));
    if (i % 3 == 0) scheduler.Step();
    if (words[3] % 3 == 0) scheduler.Cancel(id);
    while (scheduler.stats().waiting + scheduler.stats().running > 30) scheduler.Step();
  }
  while (scheduler.Step()) {
  }
  EXPECT_EQ(ended, 10000);
  EXPECT_EQ(kv.stats().used, 0);
  EXPECT_LE(kv.stats().known, kv.stats().pages);
  EXPECT_GT(kv.stats().evicted, 0);
}

}  // namespace
}  // namespace cambium
