#pragma once

#include "cambium/train.h"
#include "grafts/grafts.h"
#include "train/dataset.h"
#include "train/trainer.h"

namespace cambium {

// A config as the rooms below take it, without what only the data and the model tell.
struct TrainSetup {
  TrainOptions train;
  GraftOptions graft;
  DatasetOptions dataset;
};
TrainSetup SetupOf(const TrainConfig& config);

// Whether heads are trained with the graft, not after it.
inline bool TrainsBeside(const TrainConfig& config) { return config.joint || config.mtp_weight > 0; }
// The kind of those heads.
std::string HeadsBeside(const TrainConfig& config);

}  // namespace cambium
