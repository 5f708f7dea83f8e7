#pragma once

#include "cli/train_flags.h"

namespace cambium::cli {

// The model's own answers, with the session's trunk, to the prompts of --distill: examples whose answers are trained. They
// stay in the run's directory as distilled.jsonl, and are taken from there when a run before left them. kUsage where that
// file is of other prompts or settings.
Dataset Distill(TrainSession& session, const TrainFlags& flags);

}  // namespace cambium::cli
