// The planner's choice of drafters, with times and texts that the test makes up.
#include "decode/planner.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "serving.h"

namespace cambium {
namespace {

// A neural drafter that proposes a chain of four tokens: the right ones, or wrong ones that it believes in as much.
class Chain : public Drafter {
 public:
  std::string name() const override { return "chain"; }
  bool cheap() const override { return false; }
  std::unique_ptr<DraftSession> Open(const DraftText& text) override { return std::make_unique<Session>(text); }
  void Propose(std::span<DraftTask> tasks, const Pays&) override {
    for (DraftTask& task : tasks) {
      ++asked;
      const int32_t root = static_cast<Session&>(*task.session).text.tokens.back();
      int32_t parent = -1;
      for (int32_t i = 0; i < 4; ++i) parent = task.draft.Add(parent, root + 1 + i + (right ? 0 : 1000), 0.8f);
    }
  }
  bool right = true;
  int asked = 0;

 private:
  struct Session : DraftSession {
    explicit Session(const DraftText& of) : text(of) {}
    DraftText text;
  };
};

// A text that counts upwards.
struct Counting {
  Counting() {
    auto made = std::make_unique<Chain>();
    chain = made.get();
    set = DraftersOf(std::move(made));
    Begin();
  }
  void Begin() { drafting = set->Open(text); }
  // One step; a pass takes 2 ms and 0.1 more for every further row. Returns the tokens it brought.
  int64_t Step() {
    Planner::Task task = {set, &drafting, 64, 64, {}};
    planner.Propose({&task, 1}, 64);
    const int64_t root = std::ssize(tokens) - 1;
    for (int32_t node = -1; (node = task.draft.Child(node, tokens.back() + 1)) >= 0;) {
      tokens.push_back(tokens.back() + 1);
    }
    const std::vector<int32_t> committed(tokens.begin() + root, tokens.end());
    tokens.push_back(tokens.back() + 1);
    set->Observe(drafting, {root, committed, {}, {}, tokens.back(), &task.draft, {}});
    const double ms = 2 + 0.1 * static_cast<double>(task.draft.size());
    planner.Measure(1 + task.draft.size(), ms, std::ssize(committed), true);
    milliseconds += ms;
    return std::ssize(committed);
  }
  Planner planner;
  std::shared_ptr<DrafterSet> set;
  Chain* chain;
  std::vector<int32_t> tokens = {0};
  SamplingOptions sampling;
  DraftText text = {tokens, 0, 0, 0, {}, sampling, false};
  DrafterSet::Drafting drafting;
  double milliseconds = 0;
};

TEST(Planner, OneGoodTryBringsADrafterBack) {
  Counting run;
  for (int i = 0; i < 20; ++i) run.Step();
  run.chain->right = false;
  for (int i = 0; i < 400; ++i) run.Step();
  run.chain->right = true;
  int64_t until = 0;
  while (until < 200 && run.Step() == 1) ++until;
  EXPECT_LT(until, 200) << "steps until it was tried again";
  int64_t tokens = 0;
  for (int i = 0; i < 40; ++i) tokens += run.Step();
  EXPECT_GT(tokens, 120) << "in 40 steps, of 200 at best";
}

TEST(Planner, ADrafterThatIsAlwaysWrongCostsTwoPercent) {
  Counting run;
  run.chain->right = false;
  constexpr int kSteps = 1000;
  for (int i = 0; i < kSteps; ++i) EXPECT_EQ(run.Step(), 1);
  EXPECT_LT(run.milliseconds, 1.02 * 2 * kSteps);
  EXPECT_LT(run.chain->asked, kSteps / 3);  // asking alone takes no time here
}

TEST(Planner, AnotherRequestIsAnotherTry) {
  Counting run;
  run.chain->right = false;
  for (int i = 0; i < 100; ++i) run.Step();
  run.Begin();
  run.chain->right = true;
  int64_t tokens = 0;
  for (int i = 0; i < 20; ++i) tokens += run.Step();
  EXPECT_GT(tokens, 40);
}

// T(n) in milliseconds as `cambium bench` measured it on two cores: SmolLM2 Q4_1 and Qwen2.5-Coder-0.5B Q4_K_M, with
// AVX-512 and with AVX2 forced.
struct MeasuredCurve {
  const char* name;
  std::map<int64_t, double> ms;
};
const MeasuredCurve kCurves[] = {
    {"SmolLM2, AVX-512",
     {{1, 2.58},
      {2, 2.97},
      {3, 3.33},
      {4, 3.68},
      {6, 4.93},
      {8, 5.84},
      {12, 8.99},
      {16, 10.1},
      {32, 20.5},
      {64, 36.9}}},
    {"SmolLM2, AVX2",
     {{1, 3.23}, {2, 4.09}, {3, 5.8}, {4, 7.47}, {6, 10.4}, {8, 13.6}, {12, 19.6}, {16, 25.2}, {32, 52.2}, {64, 98.2}}},
    {"Qwen 0.5B, AVX-512",
     {{1, 17.4}, {2, 17.8}, {3, 19.3}, {4, 19.8}, {6, 22.1}, {8, 23.8}, {12, 31.6}, {16, 35.6}, {32, 62.8}, {64, 128}}},
    {"Qwen 0.5B, AVX2",
     {{1, 20}, {2, 22.2}, {3, 29.3}, {4, 31.4}, {6, 43.7}, {8, 51.3}, {12, 68.2}, {16, 85.6}, {32, 168}, {64, 348}}}};

TEST(VerifyCurve, KnowsEverySizeFromAPromptAndOnePass) {
  for (const MeasuredCurve& machine : kCurves) {
    VerifyCurve curve;
    curve.MeasureRow(machine.ms.at(64) / 64);
    curve.Measure(1, machine.ms.at(1));
    for (const auto& [rows, ms] : machine.ms) {
      EXPECT_GT(curve.Ms(rows) / ms, 0.8) << machine.name << ", " << rows << " rows are thought cheap";
      EXPECT_LT(curve.Ms(rows) / ms, 1.3) << machine.name << ", " << rows << " rows are thought dear";
    }
  }
}

// Before it has seen more, it thinks no size much cheaper than it is anywhere.
TEST(VerifyCurve, ThinksWhatItHasNotSeenDear) {
  for (const MeasuredCurve& machine : kCurves) {
    VerifyCurve curve;
    curve.Measure(1, machine.ms.at(1));
    for (const auto& [rows, ms] : machine.ms) EXPECT_GT(curve.Ms(rows) / ms, 0.75) << machine.name << ", " << rows;
  }
}

TEST(VerifyCurve, FindsTheRestFromTwoSizes) {
  for (const MeasuredCurve& machine : kCurves) {
    VerifyCurve curve;
    for (int i = 0; i < 4; ++i) {
      curve.Measure(1, machine.ms.at(1));
      curve.Measure(8, machine.ms.at(8));
    }
    for (const auto& [rows, ms] : machine.ms) {
      EXPECT_GT(curve.Ms(rows) / ms, 0.8) << machine.name << ", " << rows;
      EXPECT_LT(curve.Ms(rows) / ms, 1.3) << machine.name << ", " << rows;  // unseen sizes are doubted
    }
  }
}

// A mixture of experts: each row wakes more of them, which no prompt tells.
TEST(VerifyCurve, KnowsThatMoreRowsWakeMoreExperts) {
  const auto reads = [](int64_t rows) {  // 8 of 128 experts a row, two thirds of what a row reads
    return (8 + 2 * 128 * (1 - std::pow(1 - 8.0 / 128, static_cast<double>(rows)))) / 24;
  };
  const auto ms = [&](int64_t rows) { return std::hypot(20 * reads(rows), 0.9 * static_cast<double>(rows)); };
  VerifyCurve told, untold;
  told.SetReads(reads);
  for (VerifyCurve* curve : {&told, &untold}) {
    curve->MeasureRow(1.2);
    curve->Measure(1, ms(1));
  }
  for (const int64_t rows : {2, 3, 4, 6, 8, 12, 16, 32}) {
    EXPECT_GT(told.Ms(rows) / ms(rows), 0.8) << rows << " rows are thought cheap";
    EXPECT_LT(told.Ms(rows) / ms(rows), 1.3) << rows << " rows are thought dear";
  }
  EXPECT_LT(untold.Ms(4) / ms(4), 0.6);
}

TEST(VerifyCurve, WhatWasSeenOftenSpeaksForItself) {
  VerifyCurve curve;
  for (int i = 0; i < 64; ++i) {
    curve.Measure(1, 10);
    curve.Measure(4, 11);
    curve.Measure(8, 30);  // a step that no curve of two numbers has
  }
  EXPECT_NEAR(curve.Ms(1), 10, 0.3);
  EXPECT_NEAR(curve.Ms(4), 11, 0.5);
  EXPECT_NEAR(curve.Ms(8), 30, 1);
  for (int64_t rows = 2; rows < 64; ++rows) EXPECT_GE(curve.Ms(rows), curve.Ms(rows - 1));
}

}  // namespace
}  // namespace cambium
