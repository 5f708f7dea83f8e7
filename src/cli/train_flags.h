#pragma once

#include <string>

#include "cambium/train.h"
#include "cli/options.h"

namespace cambium::cli {

// What `train` and `plan` share.
struct TrainFlags {
  OutputFlags output;
  std::string model, config;
  TrainConfig train;
  int threads = 0;
  bool print_config = false;
};
void AddTrainOptions(CLI::App& verb, TrainFlags& flags);
// Reads --config into every option that the command line left out; kUsage naming an unknown key. True if --print-config
// printed, and nothing else is to be done.
bool ApplyConfig(CLI::App& verb, TrainFlags& flags);

// The model to train; kUsage before it is read where the options are wrong. Joins the ranks of the job, of which
// only the first prints.
Model LoadToTrain(TrainFlags& flags, const TrainConfig& config);

// Prints the preflight and returns the predicted peak in bytes; kUsage if the stop token is not trained, unless --yes.
// `ranks`: the processes that would share the run.
int64_t PrintPlan(Training& training, const OutputFlags& output, int ranks = 1);

}  // namespace cambium::cli
