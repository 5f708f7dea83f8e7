#include "train/numerics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "grafts/grafts.h"
#include "io/json.h"
#include "temp_folder.h"
#include "tensor/half.h"
#include "tiny_model.h"

namespace cambium {
namespace {

// Against rounding itself: what FloatToHalf makes of each value.
TEST(ExponentHistogram, SaysWhatHalfPrecisionMakesOfValues) {
  ThreadPool pool(2);
  OwnedTensor x({200000});
  const Philox noise(4);
  int64_t zeros = 0, under = 0, subnormal = 0, over = 0, at_three = 0;
  for (int64_t i = 0; i < x.view.size(); ++i) {
    const double exponent = 60 * noise.Uniform(static_cast<uint64_t>(i), 1) - 36;
    const float value = i % 50 == 0 ? 0.0f : static_cast<float>((i % 2 ? 1 : -1) * std::exp2(exponent));
    x.view.f32()[i] = value;
    const float rounded = std::fabs(HalfToFloat(FloatToHalf(value)));
    zeros += value == 0;
    under += value != 0 && rounded == 0;
    subnormal += rounded != 0 && std::fabs(value) < 0x1p-14f;
    over += std::isinf(rounded);
    at_three += std::fabs(value) >= 8 && std::fabs(value) < 16;
  }
  for (const float value : {0x1p-25f, 65520.0f, 65519.0f}) {  // the borders
    ExponentHistogram one;
    float copy = value;
    one.Add(pool, Tensor(&copy, {1}));
    const float rounded = HalfToFloat(FloatToHalf(value));
    EXPECT_EQ(one.Underflow() == 1, rounded == 0) << value;
    EXPECT_EQ(one.Overflow() == 1, std::isinf(rounded)) << value;
  }
  ExponentHistogram histogram;
  histogram.Add(pool, x.view);
  const double living = static_cast<double>(histogram.count() - histogram.zeros());
  EXPECT_EQ(histogram.zeros(), zeros);
  EXPECT_EQ(std::llround(histogram.Underflow() * living), under);
  EXPECT_EQ(std::llround(histogram.Subnormal() * living), subnormal);
  EXPECT_EQ(std::llround(histogram.Overflow() * living), over);
  EXPECT_EQ(histogram.at(3), at_three);
  EXPECT_NEAR(histogram.Quantile(0.5), -6, 2);
}

TEST(NumericsReport, WatchesWithoutChangingTheRun) {
  const TempFolder folder;
  std::vector<Example> examples(6);
  for (size_t i = 0; i < examples.size(); ++i) {
    for (int32_t j = 0; j < 9; ++j) examples[i].ids.push_back((j * 5 + static_cast<int32_t>(i)) % 31);
    examples[i].trained.assign(9, 1);
  }
  const std::vector<Example> none;
  const auto run = [&](Precision precision, bool watched) {
    ThreadPool pool(2);
    Transformer model(TinyModel(pool, 7), pool);
    const auto graft = MakeGraft("full", {.working = PlanOf(precision).storage}, model.base());
    TrainOptions options;
    options.precision = precision;
    options.batch = {.batch_size = 2};
    options.steps = 5;
    Trainer trainer(model, *graft, examples, none, options, "");
    std::optional<NumericsReport> report;
    if (watched) report.emplace(trainer, model);
    Trainer::Callbacks callbacks;
    callbacks.on_step = [&](const StepReport&) {
      if (report) report->Step();
    };
    const double loss = trainer.Run(callbacks).loss;
    if (report) EXPECT_EQ(report->Write(folder.path()).size(), 4u);
    return loss;
  };
  for (const Precision precision : {Precision::kFp32, Precision::kFp16}) {
    EXPECT_EQ(run(precision, true), run(precision, false)) << PrecisionName(precision);
    const nlohmann::json json = ParseJson(ReadTextFile(folder / "numerics.json"), "numerics.json");
    std::map<std::string, int> kinds;
    for (const auto& series : json["series"]) {
      ++kinds[series["values"]];
      if (series["values"] == "weights") continue;
      ASSERT_EQ(series["amax_by_step"].size(), 5u);
      float largest = 0;
      for (size_t i = 0; i < 5; ++i) {
        largest = std::max(largest, series["amax_by_step"][i].get<float>());
        EXPECT_EQ(series["amax_in_window"][i].get<float>(), largest);
      }
      EXPECT_GT(largest, 0) << series["values"];
    }
    EXPECT_EQ(kinds["activations"], 2);
    EXPECT_EQ(kinds["gradients"], 2);
    EXPECT_EQ(kinds["weights"], 3);
    EXPECT_EQ(kinds["parameter gradients"], 3);
    EXPECT_EQ(json["loss_scale"], precision == Precision::kFp16 ? 65536.0 : 1.0);
  }
}

}  // namespace
}  // namespace cambium
