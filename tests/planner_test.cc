// The planner's choice of drafters, with times and texts that the test makes up.
#include "decode/planner.h"

#include <gtest/gtest.h>

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
  void Begin() { drafting = set->Open({tokens, 0, 0, 0, {}, sampling, false}); }
  // One step; a pass takes 2 ms and 0.1 more for every further row. Returns the tokens it brought.
  int64_t Step() {
    Planner::Task task = {set.get(), &drafting, 64, 64, {}};
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
  EXPECT_LT(run.chain->asked, kSteps / 4);
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

}  // namespace
}  // namespace cambium
