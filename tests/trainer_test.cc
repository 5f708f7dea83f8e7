// The trainer on tiny models: equal results whatever the accumulation, the thread count, and the interruptions.
#include "train/trainer.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "cambium/error.h"
#include "file_testing.h"
#include "temp_folder.h"
#include "test_graft.h"

namespace cambium {
namespace {

namespace fs = std::filesystem;

std::vector<Example> Examples(int64_t count, uint64_t seed) {
  std::vector<Example> examples;
  const Philox noise(seed);
  for (int64_t i = 0; i < count; ++i) {
    Example example;
    const size_t size = 4 + noise(static_cast<uint64_t>(i))[0] % 12;
    for (size_t j = 0; j < size; ++j) {
      example.ids.push_back(static_cast<int32_t>(noise(j, static_cast<uint64_t>(i) + 1)[0] % 7));  // learnable
      example.trained.push_back(j > 2 || j == 1);
    }
    examples.push_back(example);
  }
  return examples;
}

struct Lab {
  explicit Lab(const TrainOptions& options, const std::string& directory = "", int threads = 2,
               TinyFamily family = TinyFamily::kLlama, std::vector<Example> data = Examples(13, 5))
      : pool(threads),
        model(TinyModel(pool, 7, {.family = family}), pool),
        graft(model, 11),
        train(std::move(data)),
        valid(Examples(3, 99)),
        trainer(model, graft, train, valid, options, directory) {}

  std::vector<float> Values() {
    std::vector<float> values;
    graft.VisitParams(
        [&](Parameter& p) { values.insert(values.end(), p.value.f32(), p.value.f32() + p.value.size()); });
    return values;
  }

  ThreadPool pool;
  Transformer model;
  TestGraft graft;
  std::vector<Example> train, valid;
  Trainer trainer;
};

TrainOptions Options() {
  TrainOptions options;
  options.precision = Precision::kFp32;
  options.batch = {.batch_size = 4, .accumulate = 2, .seed = 3};
  options.optimizer.lr = 5e-3f;
  options.optimizer.weight_decay = 0.01f;
  options.steps = 12;
  options.save_every = 3;
  options.eval_every = 4;
  options.seed = 3;
  return options;
}

class TrainerTest : public ::testing::Test {
 protected:
  const TempFolder folder_;
  const std::string directory_ = folder_.path();
};

TEST_F(TrainerTest, LearnsAndWritesWhatItSays) {
  TrainOptions options = Options();
  options.steps = 40;
  Lab run(options, directory_);
  std::vector<double> losses;
  Trainer::Callbacks callbacks;
  callbacks.on_step = [&](const StepReport& m) { losses.push_back(m.loss); };
  const TrainResult result = run.trainer.Run(callbacks);
  EXPECT_EQ(result.steps, 40);
  EXPECT_LT(losses.back(), 0.8 * losses.front());
  ASSERT_TRUE(result.best_loss.has_value());
  EXPECT_NEAR(run.trainer.ValidationLoss(), *result.best_loss, 1e-12);  // the best weights are back
  std::ifstream lines(directory_ + "/metrics.jsonl");
  std::string line;
  std::getline(lines, line);
  const nlohmann::json first = nlohmann::json::parse(line);
  for (const char* key : {"step", "loss", "grad_norm", "lr", "tokens", "tokens_per_s", "loss_scale"}) {
    EXPECT_TRUE(first.contains(key)) << key;
  }
  EXPECT_TRUE(fs::exists(directory_ + "/loss.svg"));
}

// k micro-batches, the last one partial, are one big batch: equal up to the rounding of the sums.
TEST_F(TrainerTest, AccumulationIsTheBigBatch) {
  TrainOptions small = Options(), big = Options();
  small.batch = {.batch_size = 2, .accumulate = 7, .seed = 3};  // 13 examples: 6 x 2 + 1
  big.batch = {.batch_size = 13, .accumulate = 1, .seed = 3};
  small.steps = big.steps = 3;
  Lab a(small), b(big);
  std::vector<StepReport> steps_a, steps_b;
  Trainer::Callbacks callbacks;
  callbacks.on_step = [&](const StepReport& m) { steps_a.push_back(m); };
  a.trainer.Run(callbacks);
  callbacks.on_step = [&](const StepReport& m) { steps_b.push_back(m); };
  b.trainer.Run(callbacks);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(steps_a[i].loss, steps_b[i].loss, 1e-5 * steps_b[i].loss);
    EXPECT_NEAR(steps_a[i].grad_norm, steps_b[i].grad_norm, 1e-4 * steps_b[i].grad_norm);
    EXPECT_EQ(steps_a[i].tokens, steps_b[i].tokens);
  }
  // The test can fail: a mean of the micro-batches' means, as others compute it, is far off.
  Lab c(small);
  double mean_of_means = 0;
  Batches batches(c.train, small.batch);
  DataCursor cursor;
  const Batches::Step step = batches.Next(cursor);
  for (const auto& micro : step.micro) {
    int64_t targets = 0;
    for (const Example* example : micro) targets += example->targets();
    mean_of_means += c.trainer.ForwardBackward(micro, 1, 0) / static_cast<double>(targets);
  }
  EXPECT_GT(std::fabs(mean_of_means / static_cast<double>(step.micro.size()) - steps_b[0].loss),
            1e-5 * steps_b[0].loss);
}

TEST_F(TrainerTest, PackingGivesEachExampleItsOwnContext) {
  TrainOptions apart = Options(), packed = Options();
  apart.batch = {.batch_size = 1, .accumulate = 13, .shuffle = false};
  packed.batch = {.pack_rows = 64, .accumulate = 13, .shuffle = false};
  apart.steps = packed.steps = 1;
  Lab a(apart), b(packed);
  const TrainResult one = a.trainer.Run({}), other = b.trainer.Run({});
  EXPECT_NEAR(one.loss, other.loss, 1e-6 * one.loss);
}

TEST_F(TrainerTest, ThreadsDoNotChangeABit) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kFp16}) {
    TrainOptions options = Options();
    options.precision = precision;
    options.steps = 4;
    Lab a(options, "", 1), b(options, "", 2), c(options, "", 5);
    a.trainer.Run({});
    b.trainer.Run({});
    c.trainer.Run({});
    EXPECT_EQ(a.Values(), b.Values());
    EXPECT_EQ(a.Values(), c.Values());
  }
}

TEST_F(TrainerTest, CheckpointedActivationsAreTheSame) {
  TrainOptions options = Options();
  Lab a(options);
  options.checkpoint_activations = true;
  Lab b(options);
  a.trainer.Run({});
  b.trainer.Run({});
  EXPECT_EQ(a.Values(), b.Values());
}

TEST_F(TrainerTest, ResumesBitForBitInEveryPrecision) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kFp16}) {
    for (const bool eight_bit : {false, true}) {
      TrainOptions options = Options();
      options.precision = precision;
      options.optimizer.eight_bit = eight_bit;
      fs::remove_all(directory_);
      fs::create_directories(directory_ + "/whole");
      fs::create_directories(directory_ + "/cut");
      Lab whole(options, directory_ + "/whole");
      const TrainResult expected = whole.trainer.Run({});

      // Stopped in the middle of accumulating step 8.
      std::atomic<bool> stop = false;
      Trainer::Callbacks callbacks;
      callbacks.stop = &stop;
      callbacks.on_step = [&](const StepReport& m) { stop = m.step == 7; };
      Lab first(options, directory_ + "/cut");
      EXPECT_EQ(first.trainer.Run(callbacks).end, TrainResult::End::kInterrupted);
      Lab second(options, directory_ + "/cut", 3);
      std::vector<std::string> notes;
      ASSERT_TRUE(second.trainer.Resume(notes));
      EXPECT_TRUE(notes.empty());
      EXPECT_EQ(second.trainer.step(), 7);
      const TrainResult result = second.trainer.Run({});
      EXPECT_EQ(result.loss, expected.loss);
      EXPECT_EQ(result.best_loss, expected.best_loss);
      EXPECT_EQ(second.Values(), whole.Values());
    }
  }
}

TEST_F(TrainerTest, PassesOverDamagedCheckpoints) {
  const TrainOptions options = Options();
  Lab whole(options, directory_);
  whole.trainer.Run({});
  const std::string newest = directory_ + "/checkpoints/step-12/";
  const auto resumed_at = [&](std::vector<std::string>& notes) {
    Lab again(options, directory_);
    return again.trainer.Resume(notes) ? again.trainer.step() : -1;
  };
  std::vector<std::string> notes;
  EXPECT_EQ(resumed_at(notes), 12);
  {
    std::fstream file(newest + "tensors.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-5, std::ios::end);
    file.put('!');
  }
  EXPECT_EQ(resumed_at(notes), 9);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("tensors.safetensors: the checksum differs"), std::string::npos) << notes[0];
  // The damaged one is gone; damage the older one in other ways, too.
  const std::string older = directory_ + "/checkpoints/step-9/";
  fs::resize_file(older + "state.json", 10);
  notes.clear();
  EXPECT_EQ(resumed_at(notes), -1);
  EXPECT_NE(notes.at(0).find("state.json: 10 bytes"), std::string::npos) << notes[0];
  fs::remove(older + "manifest.json");
  notes.clear();
  EXPECT_EQ(resumed_at(notes), -1);
  EXPECT_EQ(notes.size(), 1u);
}

TEST_F(TrainerTest, RefusesToResumeWithOtherSettings) {
  Lab(Options(), directory_).trainer.Run({});
  TrainOptions other = Options();
  other.optimizer.lr = 1e-3f;
  std::vector<std::string> notes;
  Lab run(other, directory_);
  try {
    run.trainer.Resume(notes);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("lr was 0.005"), std::string::npos) << error.what();
  }
}

// A child trains; it is killed at random moments and started again until it is done. Nothing may be lost or doubled.
TEST_F(TrainerTest, KilledAtRandomInstantsItLosesNothing) {
  TrainOptions options = Options();
  options.steps = 120;  // of 8 ms and more: 20 lives of at most 30 ms end before it does
  options.save_every = 1;
  fs::create_directories(directory_ + "/whole");
  Lab whole(options, directory_ + "/whole");
  const TrainResult expected = whole.trainer.Run({});

  const std::string cut = directory_ + "/cut";
  fs::create_directories(cut);
  std::mt19937 random(1);
  int kills = 0;
  while (true) {
    const pid_t child = fork();
    if (child == 0) {
      try {
        RunLock lock(cut);
        Lab run(options, cut);
        std::vector<std::string> notes;
        run.trainer.Resume(notes);
        Trainer::Callbacks callbacks;
        callbacks.on_step = [](const StepReport&) { std::this_thread::sleep_for(std::chrono::milliseconds(8)); };
        run.trainer.Run(callbacks);
        _exit(0);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        _exit(1);
      }
    }
    if (kills < 20) {
      std::this_thread::sleep_for(std::chrono::microseconds(std::uniform_int_distribution<int>(5000, 30000)(random)));
      kill(child, SIGKILL);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
      ++kills;
      continue;
    }
    ASSERT_EQ(WEXITSTATUS(status), 0);
    break;
  }
  EXPECT_EQ(kills, 20);
  Lab resumed(options, cut);
  std::vector<std::string> notes;
  ASSERT_TRUE(resumed.trainer.Resume(notes));
  EXPECT_EQ(resumed.trainer.step(), 120);
  const TrainResult result = resumed.trainer.Run({});
  EXPECT_EQ(result.best_loss, expected.best_loss);
  EXPECT_EQ(resumed.Values(), whole.Values());
  // metrics.jsonl has each step once, in order.
  std::ifstream lines(cut + "/metrics.jsonl");
  int64_t next = 1;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json entry = nlohmann::json::parse(line);
    if (entry.contains("loss")) {
      EXPECT_EQ(entry["step"].get<int64_t>(), next++);
    }
  }
  EXPECT_EQ(next, 121);
}

TEST_F(TrainerTest, StopsEarlyAndKeepsTheBest) {
  TrainOptions options = Options();
  options.steps = 200;
  options.optimizer.lr = 3e-2f;
  options.optimizer.schedule = OptimizerOptions::Schedule::kConstant;
  options.eval_every = 2;
  options.patience = 3;
  Lab run(options, directory_);
  const TrainResult result = run.trainer.Run({});
  EXPECT_EQ(result.end, TrainResult::End::kEarlyStop);
  EXPECT_EQ(result.steps, result.best_step + 6);
  EXPECT_NEAR(run.trainer.ValidationLoss(), *result.best_loss, 1e-12);
}

TEST_F(TrainerTest, NamesStepAndLayerOfTheFirstNonFiniteValue) {
  TrainOptions options = Options();
  Lab run(options, directory_);
  std::atomic<bool> stop = false;
  Trainer::Callbacks callbacks;
  callbacks.on_step = [&](const StepReport& m) {
    if (m.step == 5) run.model.base().mutable_weights().blocks[1].ffn_norm.gain.view.f32()[3] = NAN;
  };
  try {
    run.trainer.Run(callbacks);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kRuntime);
    const std::string why = error.what();
    EXPECT_NE(why.find("step 6: the loss is not finite"), std::string::npos) << why;
    EXPECT_NE(why.find("the output of layer 1"), std::string::npos) << why;
    EXPECT_NE(why.find("the last checkpoint is step 3"), std::string::npos) << why;
  }
}

// The run ends at the loss that is no number; what was saved before is whole and finite.
TEST_F(TrainerTest, ADivergedRunKeepsItsLastGoodCheckpoint) {
  TrainOptions options = Options();
  options.save_every = 1;
  options.optimizer.lr = 1e30f;
  options.optimizer.clip = 0;
  Lab run(options, directory_);
  try {
    run.trainer.Run({});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kRuntime);
    const std::string why = error.what();
    EXPECT_NE(why.find("step 2: the loss is not finite; the first such value is in the output of layer"),
              std::string::npos) << why;
    EXPECT_NE(why.find("the last checkpoint is step 1"), std::string::npos) << why;
  }
  std::vector<std::string> notes;
  Lab again(options, directory_);
  ASSERT_TRUE(again.trainer.Resume(notes));
  for (const float value : again.Values()) ASSERT_TRUE(std::isfinite(value));
}

TEST_F(TrainerTest, NoCheckpointHoldsAValueThatIsNotFinite) {
  Lab run(Options(), directory_);
  Trainer::Callbacks callbacks;
  std::string name;
  callbacks.on_step = [&](const StepReport& m) {
    if (m.step != 6) return;
    Parameter* const param = run.trainer.optimizer().params().back();
    name = param->name;
    param->value.f32()[1] = INFINITY;
  };
  try {
    run.trainer.Run(callbacks);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()),
              "step 6: parameter " + name + " is not finite; the last checkpoint is step 3; try a lower lr");
  }
  EXPECT_EQ(CheckpointStore(directory_ + "/checkpoints", 2).Steps(), std::vector<int64_t>{3});
}

TEST_F(TrainerTest, NotANumberInTheModelIsFoundAtTheFirstStep) {
  Lab run(Options(), directory_);
  run.model.base().mutable_weights().blocks[0].attention_norm.gain.view.f32()[0] = NAN;
  try {
    run.trainer.Run({});
    FAIL();
  } catch (const Error& error) {
    const std::string why = error.what();
    EXPECT_NE(why.find("step 1: the loss is not finite; the first such value is in the output of layer 0"),
              std::string::npos) << why;
    EXPECT_NE(why.find("no checkpoint was saved yet"), std::string::npos) << why;
  }
}

// A token that only the validation data holds: the run ends with the loss that is none, and keeps what it learned.
TEST_F(TrainerTest, AValidationLossThatIsNoNumberEndsTheRun) {
  Lab run(Options(), directory_);
  PackedMatrix& embedding = run.model.base().mutable_weights().embedding;
  OwnedTensor rows({embedding.out(), embedding.in()});
  embedding.Unpack(run.pool, rows.view);
  rows.view.row(50)[0] = NAN;
  embedding = PackedMatrix(run.pool, rows.view);
  run.valid[0].ids[0] = 50;
  testing::ExpectError(ErrorCode::kRuntime, {"step 4: the validation loss is", "the last checkpoint is step 4"},
                       [&] { run.trainer.Run({}); });
}

// The file size limit stands in for a full disk; with room again the run goes on as if nothing had happened.
TEST_F(TrainerTest, AFullDiskStopsTheRunAndLosesNothing) {
  fs::create_directories(directory_ + "/whole");
  Lab whole(Options(), directory_ + "/whole");
  whole.trainer.Run({});
  const std::string cut = directory_ + "/cut";
  fs::create_directories(cut);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto ignored = signal(SIGXFSZ, SIG_IGN);
  Lab first(Options(), cut);
  Trainer::Callbacks callbacks;
  callbacks.on_step = [&](const StepReport& m) {
    if (m.step != 5) return;
    rlimit small = before;
    small.rlim_cur = 4096;  // more than metrics.jsonl has, less than a checkpoint
    setrlimit(RLIMIT_FSIZE, &small);
  };
  try {
    first.trainer.Run(callbacks);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResource);
    EXPECT_NE(std::string(error.what()).find("tensors.safetensors"), std::string::npos) << error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, ignored);
  Lab second(Options(), cut);
  std::vector<std::string> notes;
  ASSERT_TRUE(second.trainer.Resume(notes));
  EXPECT_TRUE(notes.empty());
  EXPECT_EQ(second.trainer.step(), 3);
  second.trainer.Run({});
  EXPECT_EQ(second.Values(), whole.Values());
}

// The scale halves after each overflowed step, which changes nothing, until gradients fit: from then on steps are taken. How
// often a later step overflows depends on its gradients, so the rule is checked at every step, not the last one's luck.
TEST_F(TrainerTest, Fp16SkipsOverflowedStepsAndLowersTheScale) {
  TrainOptions options = Options();
  options.precision = Precision::kFp16;
  options.steps = 30;
  Lab run(options);
  // A huge final gain makes scaled gradients overflow fp16 while the forward stays finite.
  float* const gain = run.model.base().mutable_weights().final_norm.gain.view.f32();
  for (int64_t i = 0; i < run.model.config().hidden; ++i) gain[i] *= 5000;
  std::vector<float> before = run.Values();
  double scale = static_cast<double>(LossScaler::kInit);
  int skipped = 0, taken = 0;
  Trainer::Callbacks callbacks;
  callbacks.on_step = [&](const StepReport& m) {
    EXPECT_EQ(m.loss_scale, scale) << "step " << m.step;
    const std::vector<float> after = run.Values();
    EXPECT_EQ(after == before, m.skipped) << "step " << m.step;
    before = after;
    ++(m.skipped ? skipped : taken);
    if (m.skipped) scale *= static_cast<double>(LossScaler::kBackoff);
    if (m.step == 1) EXPECT_TRUE(m.skipped);
  };
  run.trainer.Run(callbacks);
  EXPECT_GE(skipped, 4);
  EXPECT_GE(taken, 10);
}

TEST(RunLock, RefusesASecondWriterAndAnUnwritableDirectory) {
  const TempFolder folder;
  const std::string directory = folder / "run";
  {
    RunLock lock(directory);
    try {
      RunLock second(directory);
      FAIL();
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("another process is training"), std::string::npos);
    }
  }
  RunLock third(directory);
  std::ofstream(directory + "/file") << "x";
  for (const std::string& path : {std::string("/proc/nowhere/run"), directory + "/file"}) {
    try {
      RunLock lock(path);
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kResource);
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
  }
}

TEST(CheckpointStore, AFullDiskLeavesNoHalfCheckpoint) {
  const TempFolder folder;
  const std::string directory = folder / "checkpoints";
  CheckpointStore store(directory, 2);
  OwnedTensor values({1000});
  store.Save(1, {{"a", 1}}, {{"x", values.view}});
  // The file size limit stands in for a full disk.
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 2048;
  setrlimit(RLIMIT_FSIZE, &small);
  try {
    store.Save(2, {{"a", 2}}, {{"x", values.view}});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResource);
  }
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(store.Steps(), std::vector<int64_t>{1});
  EXPECT_FALSE(fs::exists(directory + "/step-2.tmp"));
  std::vector<std::string> skipped;
  EXPECT_EQ(store.LoadNewest(skipped)->step, 1);
  for (int64_t step = 2; step <= 5; ++step) store.Save(step, {{"a", step}}, {{"x", values.view}});
  EXPECT_EQ(store.Steps(), (std::vector<int64_t>{4, 5}));
}

TEST(LossScaler, FollowsPyTorchsConstants) {
  LossScaler scaler(true);
  EXPECT_EQ(scaler.scale(), 65536);
  scaler.Update(true);
  EXPECT_EQ(scaler.scale(), 32768);
  for (int i = 0; i < 1999; ++i) scaler.Update(false);
  EXPECT_EQ(scaler.scale(), 32768);
  scaler.Update(false);
  EXPECT_EQ(scaler.scale(), 65536);
  for (int i = 0; i < 1999; ++i) scaler.Update(false);
  scaler.Update(true);
  for (int i = 0; i < 1999; ++i) scaler.Update(false);
  EXPECT_EQ(scaler.scale(), 32768);  // the count begins anew after an overflow
  LossScaler off(false);
  off.Update(true);
  EXPECT_EQ(off.scale(), 1);
}

TEST(LearningRate, WarmsUpAndComesDown) {
  OptimizerOptions options;
  options.lr = 1;
  options.warmup = 4;
  EXPECT_DOUBLE_EQ(LearningRate(options, 1, 20), 0.25);
  EXPECT_DOUBLE_EQ(LearningRate(options, 4, 20), 1);
  EXPECT_DOUBLE_EQ(LearningRate(options, 5, 20), 1);
  EXPECT_DOUBLE_EQ(LearningRate(options, 13, 20), 0.5);
  EXPECT_LT(LearningRate(options, 20, 20), 0.02);
  options.schedule = OptimizerOptions::Schedule::kLinear;
  EXPECT_DOUBLE_EQ(LearningRate(options, 13, 20), 0.5);
  options.schedule = OptimizerOptions::Schedule::kConstant;
  EXPECT_DOUBLE_EQ(LearningRate(options, 20, 20), 1);
}

TEST(Metrics, TensorBoardRecordsAreWellFormed) {
  // Values from tensorboard's own writer: EventFileWriter's header at wall time 1.5, then one scalar.
  const auto hex = [](const std::string& bytes) {
    std::string out;
    for (const char c : bytes) {
      char digits[3];
      std::snprintf(digits, sizeof(digits), "%02x", static_cast<unsigned>(static_cast<uint8_t>(c)));
      out += digits;
    }
    return out;
  };
  const std::string header = TensorBoardHeader(1.5);
  EXPECT_EQ(header.size(), 12u + 24u + 4u);
  EXPECT_EQ(hex(header.substr(0, 8)), "1800000000000000");
  EXPECT_EQ(hex(header.substr(8, 4)), "a37f4b22");  // the masked checksum that begins every event file of this kind
  EXPECT_NE(header.find("brain.Event:2"), std::string::npos);
}

}  // namespace
}  // namespace cambium
