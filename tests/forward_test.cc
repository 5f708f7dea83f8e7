// Passes at their edges: rows that no model has, grafts that only some segments carry, failures half way.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "file_testing.h"
#include "serving.h"
#include "test_graft.h"

namespace cambium {
namespace {

constexpr int32_t kVocab = 61, kContext = 16;

struct Lab {
  explicit Lab(TinyFamily family = TinyFamily::kLlama)
      : model(TinyModel(pool, 3, {.family = family, .context = kContext}), pool),
        kv(model.config(), DType::kF32, 256) {}
  ThreadPool pool{2};
  Transformer model;
  KvCache kv;
};

// Files reach this: a corpus index, a draft model with more rows, records of ids.
TEST(Forward, TokensWithoutARowAreAnErrorAndThePassCanBeMended) {
  Lab lab;
  const KvCache::Id sequence = lab.kv.Open();
  for (const int32_t token : {kVocab, kVocab + 1, std::numeric_limits<int32_t>::max()}) {
    Pass pass;
    pass.kv = &lab.kv;
    pass.Append(sequence, 0, std::vector<int32_t>{1, token, 2});
    testing::ExpectError(ErrorCode::kData, {"token id " + std::to_string(token), "61"},
                         [&] { lab.model.Forward(pass); });
    pass.tokens[1] = kVocab - 1;
    EXPECT_NO_THROW(lab.model.Forward(pass));
  }
}

TEST(Forward, PositionsBeyondTheLearnedOnesAreAnError) {
  Lab lab(TinyFamily::kGpt2);
  std::vector<int32_t> text(kContext + 1, 5);
  Pass pass;
  pass.kv = &lab.kv;
  pass.Append(lab.kv.Open(), 0, text);
  testing::ExpectError(ErrorCode::kUsage, {"position 16", "16 positions"}, [&] { lab.model.Forward(pass); });
  text.pop_back();
  Pass fits;
  fits.kv = &lab.kv;
  fits.Append(lab.kv.Open(), 0, text);
  EXPECT_NO_THROW(lab.model.Forward(fits));
}

TEST(ForwardDeathTest, ASequenceHasOneSegmentInAPass) {
  Lab lab;
  const KvCache::Id sequence = lab.kv.Open();
  Pass pass;
  pass.kv = &lab.kv;
  for (int i = 0; i < 2; ++i) pass.Append(sequence, 0, std::vector<int32_t>{1, 2});
  EXPECT_DEATH(lab.model.Forward(pass), "one segment of each sequence");
}

// Rows beside a prefix know nothing of it, in the forward pass and in the gradients.
TEST(Forward, APrefixBelongsToTheSegmentsThatCarryIt) {
  Lab lab;
  TestGraft graft(lab.model, 7, {.linears = false, .prefix = 3});
  std::vector<std::unique_ptr<OwnedTensor>> gradients;
  graft.VisitParams([&](Parameter& param) {
    gradients.push_back(std::make_unique<OwnedTensor>(std::initializer_list<int64_t>{param.value.size()}));
    param.grad = param.value;
    param.grad.data = gradients.back()->view.data;
  });
  Graft* const grafts[] = {&graft};
  const std::vector<int32_t> with = {4, 8, 15}, without = {16, 23, 42, 7};
  struct Result {
    std::vector<float> hidden, gradients;
  };
  // The rows of the segments asked for, in this order, and what they add to the graft's gradients.
  const auto run = [&](std::vector<bool> carried) {
    for (const auto& gradient : gradients) std::memset(gradient->view.data, 0, gradient->buffer.bytes());
    Pass pass;
    Tape tape;
    pass.compute = Compute::kF32;
    pass.training.tape = &tape;
    for (size_t i = 0; i < carried.size(); ++i) {
      Pass::Segment& segment = pass.Append(static_cast<int>(i), carried[i] ? 3 : 0, carried[i] ? with : without);
      if (carried[i]) segment.grafts = grafts;
    }
    lab.model.Forward(pass);
    Result result;
    result.hidden.assign(pass.result.hidden.f32(), pass.result.hidden.f32() + pass.result.hidden.size());
    OwnedTensor dhidden({pass.rows(), lab.model.config().hidden});
    std::fill_n(dhidden.view.f32(), dhidden.view.size(), 0.01f);
    lab.model.Backward(pass, dhidden.view);
    for (const auto& g : gradients)
      result.gradients.insert(result.gradients.end(), g->view.f32(), g->view.f32() + g->view.size());
    return result;
  };
  const Result a = run({true}), b = run({false}), both = run({true, false}), turned = run({false, true});
  std::vector<float> expected = a.hidden;
  expected.insert(expected.end(), b.hidden.begin(), b.hidden.end());
  EXPECT_EQ(both.hidden, expected);
  expected = b.hidden;
  expected.insert(expected.end(), a.hidden.begin(), a.hidden.end());
  EXPECT_EQ(turned.hidden, expected);
  EXPECT_NE(std::ranges::count(a.gradients, 0.0f), std::ssize(a.gradients)) << "the prefix has a gradient";
  EXPECT_EQ(both.gradients, a.gradients);
  EXPECT_EQ(turned.gradients, a.gradients);
}

// A graft whose prefix cannot be read.
class Broken : public TestGraft {
 public:
  explicit Broken(const Transformer& model) : TestGraft(model, 7, {.linears = false, .prefix = 3}) {}
  Kv PrefixKv(int layer) override {
    if (broken && layer == 1) Fail(ErrorCode::kResource, "the prefix is out of reach");
    return TestGraft::PrefixKv(layer);
  }
  bool broken = true;
};

// A prefix that cannot be computed fails its request, and the next one begins anew.
TEST(Scheduler, AFailedPrefixClaimsNothing) {
  Lab lab;
  Broken graft(lab.model);
  SchedulerOptions options;
  options.compute = Compute::kF32;
  Scheduler scheduler(lab.model, lab.kv, options);
  const auto answer = [&](std::vector<Graft*> grafts) {
    DecodeRequest request;
    request.prompt = {1, 2, 3};
    request.sampling.temperature = 0;
    request.max_tokens = 6;
    request.context = kContext - 3;
    request.grafts = GraftsOf(std::move(grafts));
    return RunToEnd(scheduler, std::move(request)).tokens;
  };
  const std::vector<int32_t> plain = answer({});
  testing::ExpectError(ErrorCode::kResource, {"out of reach"}, [&] { answer({&graft}); });
  EXPECT_EQ(answer({}), plain);
  graft.broken = false;
  const std::vector<int32_t> with = answer({&graft});
  EXPECT_NE(with, plain);
  EXPECT_EQ(answer({&graft}), with);
  EXPECT_EQ(lab.kv.stats().used, 0);
}

}  // namespace
}  // namespace cambium
