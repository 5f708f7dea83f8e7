#pragma once

#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cambium/train.h"

namespace cambium {

// metrics.jsonl, a TensorBoard event file, and loss.svg in a run's directory.
class MetricsLog {
 public:
  // Keeps the lines up to `step` of an earlier run, if there are any: a resumed run continues them.
  MetricsLog(std::string directory, int64_t step);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  void Add(const StepReport& metrics);
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
