// Training through the public library: options out of JSON and TOML, steps, adapters that serve at once.
#include <gtest/gtest.h>

#include <fstream>

#include "cambium/cambium.h"
#include "engine/train_defaults.h"
#include "temp_folder.h"
#include "tiny_llama.h"

namespace cambium {
namespace {

template <class F>
void ExpectUsage(const F& f, const std::string& part) {
  try {
    f();
    ADD_FAILURE() << "nothing was thrown, expected " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << ", expected " << part;
  }
}

TEST(TrainConfig, JsonGoesAroundWhole) {
  TrainConfig config;
  config.data = "a b.jsonl";
  config.lr = 3e-4f;
  config.rank_pattern = {"q_proj=16", "v_proj=2"};
  config.feature_weight = 2.5f;
  config.dora = true;
  config.seed = 18446744073709551615u;
  config.dropout = 0.1;
  const TrainConfig back = TrainConfig::FromJson(config.ToJson());
  EXPECT_EQ(back.ToJson(), config.ToJson());
  EXPECT_EQ(back.lr, config.lr);
  EXPECT_EQ(back.seed, config.seed);
  EXPECT_EQ(back.rank_pattern, config.rank_pattern);
  EXPECT_EQ(TrainConfig::FromJson("{}").ToJson(), TrainConfig().ToJson());
  EXPECT_EQ(TrainConfig::FromJson(R"({"rank-pattern": {"q_proj": 16}, "batch-size": 2})").rank_pattern,
            std::vector<std::string>{"q_proj=16"});
}

TEST(TrainConfig, TomlIsWhatTheProgramLeaves) {
  const TempFolder folder;
  const std::string path = folder / "train.toml";
  std::ofstream(path) << "MODEL=\"smollm2\"\nlr=0.001\ntargets=[\"q_proj\", \"v_proj\"]\nrank-pattern=\"[]\"\n"
                      << "feature-weight=\"\"\ndora=true\nheads-lr=1e-4\nthreads=2\njson=false\n";
  const TrainConfig config = TrainConfig::FromToml(path);
  EXPECT_EQ(config.lr, 0.001f);
  EXPECT_EQ(config.targets, (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_TRUE(config.rank_pattern.empty());
  EXPECT_FALSE(config.feature_weight);
  EXPECT_TRUE(config.dora);
  std::ofstream(path) << "learning-rate=1\n";
  ExpectUsage([&] { TrainConfig::FromToml(path); }, "unknown key \"learning-rate\"");
  std::ofstream(path) << "rank=\"many\"\n";
  ExpectUsage([&] { TrainConfig::FromToml(path); }, "rank is \"many\", expected a whole number");
  ExpectUsage([&] { TrainConfig::FromToml(folder / "none"); }, "none");
}

TEST(TrainConfig, BadOptionsAreNamed) {
  for (const auto& [json, part] : std::vector<std::pair<std::string, std::string>>{
           {"[]", "is no JSON object"},
           {"{", "training options"},
           {R"({"rnk": 1})", "unknown option \"rnk\""},
           {R"({"rank": "8"})", "rank is \"8\", expected a whole number"},
           {R"({"rank": 8.5})", "rank is 8.5"},
           {R"({"lr": true})", "lr is true, expected a number"},
           {R"({"dora": 1})", "dora is 1, expected true or false"},
           {R"({"targets": "q_proj"})", "targets is \"q_proj\", expected a list of texts"},
           {R"({"targets": [1]})", "targets is [1]"},
           {R"({"targets": {"q": 1}})", "targets is {"},
           {R"({"graft": null})", "graft is null, expected a text"},
           {R"({"seed": -1})", "seed is -1"},
           {R"({"keep": 3000000000})", "keep is 3000000000"}}) {
    ExpectUsage([&] { TrainConfig::FromJson(json); }, part);
  }
  for (const auto& [json, part] : std::vector<std::pair<std::string, std::string>>{
           {R"({"lr": 200})", "--lr: 200"},
           {R"({"precision": "int4"})", "int4"},
           {R"({"schedule": "sawtooth"})", "sawtooth"},
           {R"({"labels": "none"})", "--labels: \"none\""},
           {R"({"rank_pattern": ["q_proj"]})", "\"q_proj\" is not NAME=NUMBER"},
           {R"({"with_heads": "lora"})", "--with-heads \"lora\""},
           {R"({"joint": true})", "--joint: --with-heads is \"\""},
           {R"({"distill": "x"})", "--distill is for draft heads"}}) {
    ExpectUsage([&, text = json] { TrainConfig::FromJson(text).Check(); }, part);
  }
}

TEST(TrainConfig, StagesStandForTheRuns) {
  TrainConfig config;
  config.output = "out";
  EXPECT_EQ(config.Stages().size(), 1u);
  config.with_heads = "medusa";
  config.distill = "prompts";
  const std::vector<TrainConfig> after = config.Stages();
  ASSERT_EQ(after.size(), 2u);
  EXPECT_EQ(after[0].graft, "lora");
  EXPECT_TRUE(after[0].distill.empty());
  EXPECT_EQ(after[1].graft, "medusa");
  EXPECT_EQ(after[1].output, "out/medusa");
  EXPECT_EQ(after[1].bundle, "out");
  EXPECT_EQ(after[1].with_graft, "out");
  EXPECT_EQ(after[1].distill, "prompts");
  config.joint = true;
  const std::vector<TrainConfig> joint = config.Stages();
  ASSERT_EQ(joint.size(), 2u);
  EXPECT_EQ(joint[0].graft, "medusa");
  EXPECT_TRUE(joint[0].with_graft.empty());
  EXPECT_TRUE(joint[1].joint);
  config.output.clear();
  ExpectUsage([&] { config.Stages(); }, "--output is required");
}

class TrainingLibrary : public testing::Test {
 protected:
  TrainingLibrary() {
    std::ofstream data(folder_ / "data.jsonl");
    for (int i = 0; i < 8; ++i) {
      data << R"({"prompt":"What is )" << i << R"(?","completion":")" << i << R"( it is."})" << '\n';
    }
    config_.data = folder_ / "data.jsonl";
    config_.seq_len = 40;
    config_.rank = 2;
    config_.lr = 1e-2f;
    config_.epochs = 2;
  }
  double Loss(const std::vector<AdapterUse>& adapters = {}) {
    return engine_.ScoreIds(model_.Tokenize("What is 3? 3 it is."), adapters).loss;
  }

  const TempFolder folder_;
  const TinyLlama files_;
  Model model_ = Model::Load(files_.path(), 2);
  Engine engine_{model_, {.context = 64}};
  TrainConfig config_;
};

TEST_F(TrainingLibrary, StepsEvaluatesServesAndSaves) {
  config_.valid_split = 0.25;
  config_.output = folder_ / "out";
  Training training(model_, config_);
  EXPECT_EQ(training.kind(), "lora");
  EXPECT_EQ(training.data().examples, 6);  // of 8, two validate
  EXPECT_EQ(training.valid_examples(), 2);
  const double before = Loss();
  EXPECT_GT(training.Plan().parameters, 0);
  const double first = training.Evaluate();
  const Adapter early = training.adapter();
  std::vector<double> losses;
  while (const std::optional<StepReport> report = training.Step()) losses.push_back(report->loss);
  EXPECT_EQ(std::ssize(losses), training.total_steps());
  EXPECT_EQ(training.result().end, TrainResult::End::kDone);
  EXPECT_LT(training.Evaluate(), first);
  training.Save();
  const double after = Loss({{training.adapter()}});
  EXPECT_LT(after, before);
  EXPECT_EQ(after, Loss({{Adapter::Load(model_, config_.output)}}));
  EXPECT_EQ(Loss({{early}}), before);  // a new LoRA does nothing, whatever the steps behind it
  EXPECT_EQ(Loss(), before);
}

TEST_F(TrainingLibrary, WhatIsNotGivenIsChosenByKindAndData) {
  EXPECT_EQ(DefaultLearningRate("lora", 576), 2e-3f);
  EXPECT_EQ(DefaultLearningRate("lora", 64), 2e-3f);  // never above what was tried
  EXPECT_EQ(DefaultLearningRate("lora", 4 * 576), 1e-3f);
  EXPECT_LT(DefaultLearningRate("full", 576), DefaultLearningRate("lora", 576));
  EXPECT_GT(DefaultLearningRate("prefix", 576), DefaultLearningRate("lora", 576));
  EXPECT_EQ(DefaultEpochs(13), 8);
  EXPECT_EQ(DefaultEpochs(1), 20);
  EXPECT_EQ(DefaultEpochs(1000), 3);
  config_.lr.reset();
  config_.epochs.reset();
  const Training training(model_, config_);
  EXPECT_EQ(training.config().lr, 2e-3f);
  EXPECT_EQ(training.config().epochs, 20);
  EXPECT_EQ(training.total_steps(), 40);
  config_.steps = 7;
  EXPECT_EQ(Training(Model::Load(files_.path(), 1), config_).total_steps(), 7);
}

TEST_F(TrainingLibrary, ACheckpointIsAGraft) {
  config_.output = folder_ / "out";
  config_.save_every = 1;
  config_.valid_split = 0.25;
  Training training(model_, config_);
  training.Step();
  training.Step();
  const double now = Loss({{training.adapter()}});
  EXPECT_EQ(Loss({{Adapter::Load(model_, config_.output + "/checkpoints/step-2")}}), now);
  try {
    Adapter::Load(model_, config_.output);
    ADD_FAILURE() << "there is no adapter yet";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kData);
    EXPECT_NE(
        std::string(error.what())
            .find("a training that has not ended; its weights so far are " + config_.output + "/checkpoints/step-2"),
        std::string::npos)
        << error.what();
  }
  while (training.Step()) {
  }
  const std::string best = config_.output + "/best/step-" + std::to_string(training.result().best_step);
  EXPECT_EQ(Loss({{Adapter::Load(model_, best)}}), Loss({{training.adapter()}}));
}

TEST_F(TrainingLibrary, AFinishedRunCanBeLengthened) {
  config_.output = folder_ / "out";
  {
    Training training(model_, config_);
    while (training.Step()) {
    }
  }
  config_.resume = "auto";
  config_.epochs = 1;  // shorter is refused
  ExpectUsage([&] { Training(model_, config_); }, "steps was 4, now it is 2");
  config_.epochs = 5;
  std::vector<std::string> lines;
  Training training(model_, config_, [&](const std::string& line) { lines.push_back(line); });
  EXPECT_EQ(training.step(), 4);
  EXPECT_EQ(training.total_steps(), 10);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_NE(lines[1].find("lengthened from 4 to 10 steps"), std::string::npos) << lines[1];
  const std::optional<StepReport> next = training.Step();
  ASSERT_TRUE(next);
  EXPECT_GT(next->lr, 0.4 * *config_.lr);  // in the middle of the longer schedule
}

TEST_F(TrainingLibrary, AnswersBetweenStepsAreTheModelsOwn) {
  const double before = Loss();
  Training training(model_, config_);
  while (training.Step()) EXPECT_EQ(Loss(), before);
}

TEST_F(TrainingLibrary, StoppedItGoesOnWithTheSameBits) {
  const auto run = [&](const std::string& name, bool stop) {
    config_.output = folder_ / name;
    Training training(model_, config_);
    training.Step();
    if (stop) {
      training.Stop();
      EXPECT_FALSE(training.Step());
      EXPECT_EQ(training.result().end, TrainResult::End::kInterrupted);
    }
    while (training.Step()) {
    }
    return training.result().loss;
  };
  EXPECT_EQ(run("whole", false), run("stopped", true));
}

TEST_F(TrainingLibrary, WhatCannotBeIsRefused) {
  {
    const Training training(model_, config_);
    ExpectUsage([&] { Training(model_, config_); }, "a training is under way on this model");
  }
  const auto with = [&](const std::string& json) {
    TrainConfig config = TrainConfig::FromJson(json);
    config.data = config_.data;
    config.seq_len = 40;
    return config;
  };
  ExpectUsage([&] { Training(model_, with(R"({"graft": "full"})")); }, "1 engines serve");
  ExpectUsage([&] { Training(model_, with(R"({"with_heads": "medusa"})")); }, "each of TrainConfig::Stages()");
  ExpectUsage([&] { Training(model_, with("{}")).Evaluate(); }, "no validation data");
  ExpectUsage([&] { Training(model_, with("{}")).Save(); }, "no directory");
  const Model alone = Model::Load(files_.path(), 2);
  {
    Training whole(alone, with(R"({"graft": "full"})"));
    whole.Step();
    ExpectUsage([&] { Engine(alone, {.context = 64}); }, "is being trained whole");
    ExpectUsage([&] { whole.adapter(); }, "the model itself");
  }
  Engine served(alone, {.context = 64});
  EXPECT_NE(served.ScoreIds(alone.Tokenize("What is 3?")).loss, engine_.ScoreIds(alone.Tokenize("What is 3?")).loss);
}

}  // namespace
}  // namespace cambium
