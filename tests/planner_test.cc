// The planner's choice of drafters, with times and texts that the test makes up.
#include "decode/planner.h"

#include <gtest/gtest.h>

namespace cambium {
namespace {

// A neural drafter that proposes a chain of four tokens: the right ones, or wrong ones that it believes in as much.
class Chain : public Drafter {
 public:
  std::string name() const override { return "chain"; }
  bool cheap() const override { return false; }
  void Begin(std::span<const int32_t>) override {}
  void Observe(const Observation&) override {}
  void Propose(int64_t, int64_t, Draft& draft) override {
    ++asked;
    int32_t parent = -1;
    for (int32_t i = 0; i < 4; ++i) parent = draft.Add(parent, next + 1 + i + (right ? 0 : 1000), 0.8f);
  }
  bool Pays(const Draft& draft) const { return pays_(draft); }
  int32_t next = 0;  // the text counts upwards; the root is this token
  bool right = true;
  int asked = 0;
};

struct Request {
  Request() {
    auto made = std::make_unique<Chain>();
    chain = made.get();
    std::vector<std::unique_ptr<Drafter>> members;
    members.push_back(std::move(made));
    planner = std::make_unique<Planner>(std::move(members));
    planner->Begin({});
  }
  // One step; a pass takes 2 ms and 0.1 more for every further row. Returns the tokens it brought.
  int64_t Step() {
    chain->next = next;
    Draft draft;
    planner->Propose(64, 64, draft);
    std::vector<int32_t> tokens = {next};
    for (int32_t node = -1; (node = draft.Child(node, tokens.back() + 1)) >= 0;) tokens.push_back(draft.nodes[static_cast<size_t>(node)].token);
    next = tokens.back() + 1;
    planner->Observe({.position = 0, .tokens = tokens, .hidden = {}, .after_layer = {}, .next = next, .draft = &draft, .logits = {}});
    const double rows = 1 + static_cast<double>(draft.nodes.size());
    planner->Measure(static_cast<int64_t>(rows), 2 + 0.1 * (rows - 1));
    milliseconds += 2 + 0.1 * (rows - 1);
    return static_cast<int64_t>(tokens.size());
  }
  std::unique_ptr<Planner> planner;
  Chain* chain;
  int32_t next = 0;
  double milliseconds = 0;
};

// A drafter keeps what it was given: it may be asked at any time while the planner lives.
TEST(Planner, WhatPaysMayBeAskedBetweenSteps) {
  Request run;
  run.Step();
  EXPECT_TRUE(run.chain->Pays({}));
}

TEST(Planner, OneGoodTryBringsADrafterBack) {
  Request run;
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
  Request run;
  run.chain->right = false;
  constexpr int kSteps = 1000;
  for (int i = 0; i < kSteps; ++i) EXPECT_EQ(run.Step(), 1);
  EXPECT_LT(run.milliseconds, 1.02 * 2 * kSteps);
  EXPECT_LT(run.chain->asked, kSteps / 4);
}

TEST(Planner, AnotherRequestIsAnotherTry) {
  Request run;
  run.chain->right = false;
  for (int i = 0; i < 100; ++i) run.Step();
  run.planner->Begin({});
  run.chain->right = true;
  int64_t tokens = 0;
  for (int i = 0; i < 20; ++i) tokens += run.Step();
  EXPECT_GT(tokens, 40);
}

}  // namespace
}  // namespace cambium
