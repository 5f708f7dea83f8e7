// What each part of mixed precision is for (Micikevicius et al., "Mixed precision training", 2018), on a real run: full
// fine-tuning of MODEL on DATA in fp32, in bf16, and in fp16 with master weights and loss scaling, without the one and
// without the other. Writes precision.csv (loss by step) and precision.svg into OUT and prints a table.
//   precision_bench MODEL DATA OUT [steps] [lr] [threads]

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/isa.h"
#include "cambium/error.h"
#include "grafts/grafts.h"
#include "io/atomic_file.h"
#include "io/chart.h"
#include "train/dataset.h"
#include "train/numerics.h"
#include "train/trainer.h"

namespace cambium {
namespace {

struct Variant {
  const char *name, *color;
  Precision precision;
  bool masters, scale;
};
constexpr Variant kVariants[] = {
    {"fp32", "#222222", Precision::kFp32, true, false},
    {"bf16", "#2ca25f", Precision::kBf16, true, false},
    {"fp16", "#2171b5", Precision::kFp16, true, true},
    {"fp16 without masters", "#d94801", Precision::kFp16, false, true},
    {"fp16 without scaling", "#9e3ac2", Precision::kFp16, true, false},
};

// What the last step's gradients, as they went down the residual stream, lose when fp16 stores them.
struct Lost {
  double zero = 0, subnormal = 0;
};

std::vector<std::pair<double, double>> Run(const Variant& variant, const std::string& path, const Dataset& data,
                                           ThreadPool& pool, int64_t steps, float lr, Lost& lost) {
  Transformer model(LoadWeights(pool, path), pool);
  const auto graft = MakeGraft("full", {.working = PlanOf(variant.precision).storage}, model.base());
  TrainOptions options;
  options.precision = variant.precision;
  options.master_weights = variant.masters;
  options.scale_loss = variant.scale;
  options.batch = {.batch_size = 4, .seed = 1};
  options.optimizer.lr = lr;
  options.optimizer.schedule = OptimizerOptions::Schedule::kConstant;
  options.steps = steps;
  const std::vector<Example> none;
  Trainer trainer(model, *graft, data.examples, none, options, "");
  ExponentHistogram gradients;
  trainer.observe = [&](Pass& pass, bool after) {
    if (after || trainer.step() + 1 != steps) return;
    pass.training.observe_gradient = [&](int64_t, Tensor dx) { gradients.Add(pool, dx); };
  };
  std::vector<std::pair<double, double>> losses;
  Trainer::Callbacks callbacks;
  callbacks.on_step = [&](const StepReport& m) {
    losses.emplace_back(static_cast<double>(m.step), m.loss);
    std::fprintf(stderr, "%s: step %lld loss %.4f%s\n", variant.name, static_cast<long long>(m.step), m.loss,
                 m.skipped ? ", skipped" : "");
  };
  trainer.Run(callbacks);
  lost = {gradients.Underflow(), gradients.Subnormal()};
  return losses;
}

// The mean of the last quarter.
double Final(const std::vector<std::pair<double, double>>& losses) {
  double sum = 0;
  const size_t count = std::max<size_t>(1, losses.size() / 4);
  for (size_t i = losses.size() - count; i < losses.size(); ++i) sum += losses[i].second;
  return sum / static_cast<double>(count);
}

void Write(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.Write(text);
  file.Commit();
}

void Main(const std::string& path, const std::string& data_path, const std::string& out, int64_t steps, float lr,
          int threads) {
  ApplyIsaFromEnv();
  ThreadPool pool(threads);
  DatasetOptions options;
  options.max_tokens = 128;
  const Dataset data = LoadDataset(data_path, LoadTokenizer(path), options);
  std::filesystem::create_directories(out);
  Chart chart = {"step", {}};
  std::string csv = "variant,step,loss\n";
  std::printf("%-22s %10s %10s %22s %12s\n", "", "first loss", "last", "gradients to zero", "subnormal");
  for (const Variant& variant : kVariants) {
    Lost lost;
    const auto losses = Run(variant, path, data, pool, steps, lr, lost);
    chart.series.push_back({variant.name, variant.color, 2, false, losses});
    for (const auto& [step, loss] : losses) csv += fmt::format("{},{:.0f},{:.6f}\n", variant.name, step, loss);
    std::printf("%-22s %10.4f %10.4f %20.2f %% %10.2f %%\n", variant.name, losses.front().second, Final(losses),
                100 * lost.zero, 100 * lost.subnormal);
    std::fflush(stdout);
    Write(out + "/precision.csv", csv);
    Write(out + "/precision.svg", ChartSvg({&chart, 1}));
  }
}

}  // namespace
}  // namespace cambium

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: precision_bench MODEL DATA OUT [steps] [lr] [threads]\n");
    return 2;
  }
  try {
    cambium::Main(argv[1], argv[2], argv[3], argc > 4 ? std::atoll(argv[4]) : 40,
                  argc > 5 ? static_cast<float>(std::atof(argv[5])) : 1e-5f, argc > 6 ? std::atoi(argv[6]) : 2);
  } catch (const cambium::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
