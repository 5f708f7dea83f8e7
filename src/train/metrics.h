#pragma once

#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace cambium {

// What one step, or one evaluation after it, measured.
struct StepMetrics {
  int64_t step = 0;  // from 1
  double loss = 0;   // mean over the step's trained tokens, before the update
  std::optional<double> heads_loss;  // of draft heads beside the graft, of which `loss` has no part
  double grad_norm = 0;
  double lr = 0;
  int64_t tokens = 0;  // rows of the step
  double tokens_per_s = 0;
  double loss_scale = 1;
  bool skipped = false;  // fp16 overflow
};

// metrics.jsonl, a TensorBoard event file, and loss.svg in a run's directory.
class MetricsLog {
 public:
  // Keeps the lines up to `step` of an earlier run, if there are any: a resumed run continues them.
  MetricsLog(std::string directory, int64_t step);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  void Add(const StepMetrics& metrics);
  void AddValidation(int64_t step, double loss);
  void WritePlot() const;  // loss.svg

 private:
  std::string Earlier(const std::string& path, int64_t step);  // the lines up to `step`, whose losses it notes
  void Line(const nlohmann::ordered_json& line);
  void Event(int64_t step, std::initializer_list<std::pair<const char*, double>> scalars);
  std::string directory_;
  std::FILE* lines_ = nullptr;
  std::FILE* events_ = nullptr;
  std::vector<std::pair<double, double>> train_, valid_;  // (step, loss)
};

// One scalar event as TensorBoard reads it: a TFRecord that holds a tensorflow.Event.
std::string TensorBoardRecord(double wall_time, int64_t step, std::span<const std::pair<std::string, float>> scalars);
// The record that begins every event file.
std::string TensorBoardHeader(double wall_time);

// Training loss (thin, with a smoothed line over it) and validation loss against steps.
std::string LossPlotSvg(std::span<const std::pair<double, double>> train,
                        std::span<const std::pair<double, double>> valid);

}  // namespace cambium
