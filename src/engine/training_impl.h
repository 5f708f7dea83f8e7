#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cambium/train.h"
#include "engine/impl.h"
#include "engine/train_setup.h"
#include "model/heads.h"
#include "train/checkpoint.h"
#include "train/numerics.h"
#include "train/trainer.h"

namespace cambium {

// A run's claim on its model, given back with it.
class TrainingClaim {
 public:
  TrainingClaim(Model::Impl& model, bool whole);  // whole: the model's own weights change
  ~TrainingClaim();
  TrainingClaim(const TrainingClaim&) = delete;
  TrainingClaim& operator=(const TrainingClaim&) = delete;

 private:
  Model::Impl& model_;
};

struct Training::Impl {
  Impl(const Model& on, const TrainConfig& wanted, const Lines& tell);

  Heads* heads() const { return (with_heads != nullptr ? *with_heads : *graft).heads(); }
  std::string bundle() const { return config.bundle.empty() ? config.output : config.bundle; }
  void RequireAlikeRanks();
  void ReadData();
  void ResolveKind();
  void SetDefaults();
  int64_t StepsOfAnEpoch() const;
  void LoadTrunk();
  void ChooseDraftTokens();
  void MakeGrafts();
  std::unique_ptr<Graft> LoadInitial();
  void Resume();

  TrainConfig config;  // with what SetDefaults chose
  const Lines lines;
  const Model model;
  Model::Impl& m;
  Ranks* const ranks;  // null: this process alone
  TrainSetup setup;
  std::string kind, with_graft, init_from;
  TrainingClaim claim;
  Transformer transformer;  // the run's own memory for passes, on the model's weights
  Dataset data, valid;
  std::optional<RunLock> lock;
  std::vector<std::unique_ptr<Graft>> trunk;  // the fine-tune that draft heads are for
  std::unique_ptr<Graft> graft;
  std::unique_ptr<Graft> with_heads;  // trained beside it
  std::unique_ptr<Trainer> trainer;
  std::optional<NumericsReport> numerics;
  std::atomic<bool> stop = false;
  TrainResult result;
  bool frozen = false;  // by ReportHeads
};

// The model's own answers, with the run's trunk, to the prompts of config.distill: examples whose answers are trained.
// They stay in the run's directory as distilled.jsonl, and are taken from there when a run before left them. kUsage
// where that file is of other prompts or settings.
Dataset Distill(Training::Impl& training);

std::vector<std::string> ReportHeads(Training::Impl& training);

}  // namespace cambium
