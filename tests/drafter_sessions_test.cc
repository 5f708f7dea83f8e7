// Drafters serve many texts: what a session proposes does not depend on the others, and nothing of it stays behind.
#include "drafter_sessions.h"

namespace cambium {
namespace {

TEST_P(Sessions, ATextIsDraftedForAsIfItWereAlone) {
  const Drafter::Pays ways[] = {{}, [](const DraftTask& task) { return task.draft.size() < task.budget / 2; }};
  for (const std::string& spec : Specs()) {
    for (const Drafter::Pays& pays : ways) {
      const auto want = Alone(spec, 8, pays);
      int64_t nodes = 0;
      for (const auto& text : want) {
        for (const Draft& draft : text) nodes += draft.size();
      }
      EXPECT_GT(nodes, 4) << spec << " drafts nothing: the comparison would see nothing";
      for (uint64_t seed = 0; seed < 3; ++seed) Together(spec, 8, pays, seed, want);
    }
  }
}

// Rows of guesses, accepted or not, leave nothing behind: a network proposes what it would if the text were all prompt.
TEST_P(Sessions, ADraftDependsOnTheTextAlone) {
  for (const std::string& spec : Specs()) {
    KvCache kv(model_.config(), DType::kF16, 1024);
    const auto drafter = Make(spec, kv);
    if (drafter->cheap()) continue;
    for (const TextPlan& plan : plans_) {
      Text text(model_, kv, *drafter, plan);
      text.Read(7);
      for (int step = 0; step < 8; ++step) {
        DraftTask task = text.Task();
        if (step % 3 != 1) drafter->Propose({&task, 1}, {});  // not asked in every step
        text.Verify(task);
      }
      TextPlan whole = plan;
      whole.prompt.assign(text.tokens().begin(), text.tokens().end() - 1);
      Text fresh(model_, kv, *drafter, whole);
      fresh.Read(512);
      ASSERT_EQ(fresh.tokens(), text.tokens());
      DraftTask tasks[] = {text.Task(), fresh.Task()};
      drafter->Propose(tasks, {});
      EXPECT_FALSE(tasks[0].draft.empty()) << spec;
      EXPECT_TRUE(Same(tasks[0].draft, tasks[1].draft)) << spec;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Sessions, testing::ValuesIn(kTinyFamilies));

class LlamaSessions : public Sessions {};
INSTANTIATE_TEST_SUITE_P(Families, LlamaSessions, testing::Values(TinyFamily::kLlama));

TEST_P(LlamaSessions, ADraftModelRunsOnePassForAll) {
  const std::string path = SaveModel(0);
  tokenizer_ = LoadTokenizer(path);
  for (const bool stops : {false, true}) {
    Drafter::Pays pays;
    if (stops) pays = [](const DraftTask& task) { return task.draft.size() < 3; };
    const auto want = Alone("model:width=3,path=" + path, 6, pays);
    for (uint64_t seed = 0; seed < 2; ++seed) Together("model:width=3,path=" + path, 6, pays, seed, want);
  }
}

TEST_P(LlamaSessions, ADraftModelGivesItsPagesBackAndKnowsTheTargetsTokens) {
  const std::string path = SaveModel(512);  // most of its logits belong to no token
  tokenizer_ = LoadTokenizer(path);
  KvCache kv(model_.config(), DType::kF16, 1024);
  const auto drafter = Make("model:max=3,path=" + path, kv);
  for (int i = 0; i < 60; ++i) {  // of 150 tokens each, far more than the cache holds
    plans_[1].sampling.temperature = i % 2 == 0 ? 0.0f : 1.0f;
    Text text(model_, kv, *drafter, plans_[1]);
    text.Read(64);
    DraftTask task = text.Task();
    drafter->Propose({&task, 1}, {});
    ASSERT_FALSE(task.draft.empty()) << i;
    for (const Draft::Node& node : task.draft.nodes) EXPECT_LT(node.token, kTokens);
  }
}

// A prompt that another text began with: the module's keys and values come out of the prefix index, too.
TEST_P(LlamaSessions, HeadsGoOnFromAKnownPrompt) {
  for (const bool parallel : {false, true}) {
    const std::string spec = "mtp:path=" + SaveHeads("mtp", parallel ? "p" : "c", parallel);
    const std::vector<std::vector<Draft>> want = Alone(spec, 6, {});
    KvCache kv(model_.config(), DType::kF16, 1024);
    const auto drafter = Make(spec, kv);
    ASSERT_TRUE(drafter->keeps_kv());
    {
      TextPlan other = plans_[1];
      for (size_t i = 101; i < other.prompt.size(); ++i) other.prompt[i] = 5;
      Text text(model_, kv, *drafter, other);
      text.Read(30);
      const int64_t kept = text.session().kept();
      EXPECT_GE(kept, 120);
      kv.Publish(text.sequence(), 7, std::span(other.prompt).first(static_cast<size_t>(std::min<int64_t>(kept, 150))),
                 true);
    }
    const KvCache::Id attached = kv.Open();
    const int64_t known = kv.Attach(attached, 7, plans_[1].prompt);
    ASSERT_EQ(known, 101);
    // A chained module's row also saw the token behind it, which is another one here.
    kv.Truncate(attached, known - 1);
    Text text(model_, kv, *drafter, plans_[1]);
    text.Read(512, known - 1, attached);
    for (int step = 0; step < 6; ++step) {
      DraftTask task = text.Task();
      drafter->Propose({&task, 1}, {});
      text.Verify(task);
      EXPECT_TRUE(Same(task.draft, want[1][static_cast<size_t>(step)])) << step;
    }
  }
}

// What a chained module is, written out: rows of the whole text, then its own state and guess again and again.
TEST_P(LlamaSessions, AChainGoesOnBehindTheText) {
  const std::string path = SaveHeads("mtp", "chain");
  KvCache kv(model_.config(), DType::kF16, 1024), plain(model_.config(), DType::kF16, 1024);
  const auto drafter = Make("mtp:width=1,path=" + path, kv);
  Text text(model_, kv, *drafter, plans_[2]);
  text.Read(7);
  for (int step = 0; step < 5; ++step) {
    DraftTask task = text.Task();
    drafter->Propose({&task, 1}, {});
    text.Verify(task);
  }
  DraftTask task = {&text.session(), 8, 4, {}};
  drafter->Propose({&task, 1}, [](const DraftTask&) { return true; });
  ASSERT_EQ(task.draft.size(), 4);

  const std::unique_ptr<Graft> graft = LoadGraft(path, model_.base());
  Heads& heads = *graft->heads();
  heads.Freeze();
  const int64_t layer = heads.AddLayers(plain), rows = std::ssize(text.tokens()) - 1;
  const KvCache::Id sequence = plain.Open();
  Pass pass;
  pass.kv = &plain;
  pass.Append(sequence, 0, std::span(text.tokens()).first(static_cast<size_t>(rows)));
  model_.Forward(pass);
  Tensor input = pass.result.hidden;
  std::vector<int32_t> behind(text.tokens().begin() + 1, text.tokens().end());
  int64_t past = 0;
  Workspace workspace;
  for (const Draft::Node& node : task.draft.nodes) {
    const int64_t lengths[] = {input.rows()}, pasts[] = {past};
    const HeadStep step{input, behind, lengths, &plain, layer, {&sequence, 1}, pasts};
    Tensor features = workspace.New({input.rows(), input.columns()}),
           state = workspace.New({input.rows(), input.columns()});
    Tensor logits = workspace.New({1, kTokens});
    heads.Forward({pool_, workspace, Compute::kInt8, nullptr}, 0, step, features, state);
    const Product product[] = {{&heads.readout(0), logits}};
    MatMul(pool_, workspace, Compute::kInt8, features.Rows(input.rows() - 1, 1), product);
    const std::vector<TopToken> top = TopTokens({logits.f32(), static_cast<size_t>(kTokens)}, 1);
    EXPECT_EQ(node.token, top[0].token);
    EXPECT_EQ(node.probability, top[0].probability);
    past += input.rows();
    input = state.Rows(input.rows() - 1, 1);
    behind = {node.token};
  }
}

// Slots that a prefix fills are no tokens of the text: heads count from the text's beginning.
TEST_P(LlamaSessions, HeadsBehindAPrefixKeepTheirRowsToThemselves) {
  GraftOptions options;
  options.length = 21;
  options.prefix_init = "random";
  const std::unique_ptr<Graft> prefix = MakeGraft("prefix", options, model_.base());
  for (TextPlan& plan : plans_) plan.grafts = {prefix.get()};
  Plain();
  for (const bool parallel : {false, true}) {
    const std::string spec = "mtp:path=" + SaveHeads("mtp", parallel ? "p" : "c", parallel);
    const auto want = Alone(spec, 6, {});
    Together(spec, 6, {}, 3, want);
    KvCache kv(model_.config(), DType::kF16, 1024);
    const auto drafter = Make(spec, kv);
    Text text(model_, kv, *drafter, plans_[1]);
    text.Read(30);
    EXPECT_EQ(text.session().kept(), 0) << "nothing of it may be published";
  }
}

TEST_P(LlamaSessions, ASpentCacheMeansNoDraft) {
  plans_[0].plain.clear();
  plans_[0].prompt.resize(32, 70);  // whole pages: the next slot needs another one
  const std::pair<std::string, int64_t> cases[] = {{"exit:layer=2", 0},
                                                   {"exit:path=" + SaveHeads("exit", "exit"), 0},
                                                   {"mtp:width=2,path=" + SaveHeads("mtp", "chained"), 2}};
  for (const auto& [spec, most] : cases) {
    KvCache kv(model_.config(), DType::kF16, 64);
    const auto drafter = Make(spec, kv);
    Text text(model_, kv, *drafter, plans_[0]);
    text.Read(512);
    const KvCache::Id other = kv.Open();
    ASSERT_TRUE(kv.TryGrow(other, 32));
    DraftTask task = text.Task();
    drafter->Propose({&task, 1}, [](const DraftTask&) { return true; });
    EXPECT_EQ(task.draft.size(), most) << spec;
    kv.Close(other);
    DraftTask again = text.Task();
    drafter->Propose({&again, 1}, [](const DraftTask&) { return true; });
    EXPECT_TRUE(most > 0 || again.draft.size() > 2) << spec;
    EXPECT_EQ(kv.length(text.sequence()), 32);
  }
}

TEST_P(LlamaSessions, EndedTextsServeOnlyWhereAllowed) {
  for (const bool shared : {false, true}) {
    for (const std::string name : {"ngram", "recycle"}) {
      KvCache kv(model_.config(), DType::kF16, 256);
      const auto drafter = Make(shared ? name + ":shared=1" : name, kv);
      const auto first_draft = [&](std::vector<int32_t> tokens, int32_t next) {
        const SamplingOptions sampling;
        const std::vector<int32_t> last = {tokens.back()};
        tokens.push_back(next);
        const auto session = drafter->Open({tokens, 0, 0, 0, {}, sampling, false});
        std::vector<float> logits(kTokens);
        logits[40] = 30;
        session->Observe({std::ssize(tokens) - 2, last, {}, {}, next, nullptr, Tensor(logits.data(), {1, kTokens})});
        DraftTask task = {session.get(), 8, 4, {}};
        drafter->Propose({&task, 1}, {});
        return task.draft;
      };
      first_draft({1, 2, 3, 50, 60}, 40);
      const Draft draft = first_draft({7, 8, 9, 50}, 60);
      EXPECT_EQ(draft.Child(-1, 40) == 0, shared) << name << ": 40 followed in the other text";
      EXPECT_EQ(draft.empty(), !shared) << name;
    }
  }
}

TEST_P(LlamaSessions, ALongerMatchOfTheTwoIsUsed) {
  KvCache kv(model_.config(), DType::kF16, 256);
  const auto drafter = Make("ngram:shared=1", kv);
  const SamplingOptions sampling;
  const auto first_token = [&](const std::vector<int32_t>& tokens) {
    const auto session = drafter->Open({tokens, 0, 0, 0, {}, sampling, false});
    DraftTask task = {session.get(), 1, 1, {}};
    drafter->Propose({&task, 1}, {});
    return task.draft.empty() ? -1 : task.draft.nodes[0].token;
  };
  EXPECT_EQ(first_token({1, 2, 3, 4, 90}), -1);
  EXPECT_EQ(first_token({4, 80, 1, 2, 3, 4}), 90) << "four tokens of the ended text, one of its own";
  EXPECT_EQ(first_token({7, 3, 4, 81, 7, 3, 4}), 81) << "three tokens of its own, two of the ended texts";
  EXPECT_EQ(first_token({3, 90}), -1) << "no match goes across the end of a text";
}

TEST_P(LlamaSessions, WhatIsRecycledIsBounded) {
  KvCache kv(model_.config(), DType::kF16, 256);
  for (const char* spec : {"recycle", "recycle:shared=1"}) {
    const auto drafter = Make(spec, kv);
    const SamplingOptions sampling;
    std::vector<int32_t> tokens = {1, 2};
    const auto session = drafter->Open({tokens, 0, 0, 0, {}, sampling, false});
    std::vector<float> logits(8 * 1001);
    for (size_t row = 0; row < 1001; ++row) logits[8 * row + 3] = 30;
    Draft draft;
    const std::vector<int32_t> committed = {2};
    const auto proposes = [&] {
      DraftTask task = {session.get(), 8, 1, {}};
      drafter->Propose({&task, 1}, {});
      return !task.draft.empty();
    };
    const auto observe = [&](int64_t rows) {
      session->Observe({1, committed, {}, {}, 2, &draft, Tensor(logits.data(), {rows, 8})});
    };
    observe(1);
    EXPECT_TRUE(proposes());
    const std::vector<int32_t> other = {9};
    tokens = {1, 9};
    for (int32_t round = 0; round < 140; ++round) {  // two entries a row
      draft.nodes.clear();
      for (int32_t i = 0; i < 1000; ++i) draft.nodes.push_back({1000 + round * 1000 + i, i - 1, 0.5f});
      session->Observe({1, other, {}, {}, 9, &draft, Tensor(logits.data(), {1001, 8})});
    }
    EXPECT_TRUE(proposes()) << "what is used stays";
    tokens = {1, 2};
    EXPECT_FALSE(proposes()) << "what was learned long ago is forgotten";
  }
}

TEST_P(LlamaSessions, AnIndexsTokensOutsideTheVocabularyAreRefused) {
  KvCache kv(model_.config(), DType::kF16, 256);
  for (const int32_t foreign : {5000, 1 << 30, 259}) {
    WriteTokenIndex(folder_ / "foreign", tokenizer_, {{1, 2, 3, foreign}, {1, 2, 3, 4}});
    EXPECT_THROW(Make("corpus:index=" + (folder_ / "foreign"), kv), Error) << foreign;
  }
}

TEST_P(LlamaSessions, ADrafterLeavesARequestsHeadsAsTheyAre) {
  const std::string path = SaveHeads("medusa", "carried");
  KvCache kv(model_.config(), DType::kF16, 256);
  OwnedTensor input({2, model_.config().hidden});
  for (int64_t i = 0; i < input.view.size(); ++i) input.view.f32()[i] = std::sin(0.3f * static_cast<float>(i));
  const auto logits = [&](Graft& graft) {
    const Guess guess = RunHeads(*graft.heads(), pool_, 0, input.view, {});
    return std::vector<float>(guess.logits.view.f32(), guess.logits.view.f32() + guess.logits.view.size());
  };
  const auto trained = LoadGraft(path, model_.base());
  const std::vector<float> before = logits(*trained);
  Graft* const grafts[] = {trained.get()};
  const auto drafter = Make("medusa", kv, grafts);
  EXPECT_EQ(logits(*trained), before);
  const auto exact = LoadGrafts(path, model_.base()), served = LoadGrafts(path, model_.base());
  served.front()->heads()->Freeze();
  EXPECT_EQ(logits(*exact.front()), before);
  EXPECT_NE(logits(*served.front()), before) << "8 bits";
  trained->heads()->Freeze();
  EXPECT_EQ(logits(*served.front()), logits(*trained));
}

}  // namespace
}  // namespace cambium
