#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "train/batches.h"
#include "train/checkpoint.h"
#include "train/heads_loss.h"
#include "train/metrics.h"
#include "train/optimizer.h"
#include "train/precision.h"

namespace cambium {

struct TrainOptions {
  BatchOptions batch;
  OptimizerOptions optimizer;
  int64_t steps = 0;  // 0 = as many as `epochs` take
  double epochs = 3;
  Precision precision = Precision::kBf16;
  bool master_weights = true;           // false only to show what happens without
  bool scale_loss = true;               // likewise; fp16
  bool checkpoint_activations = false;  // keep only block inputs, run blocks again going back
  int64_t eval_every = 0;               // steps; 0 = at the end of each epoch
  int64_t patience = 0;                 // evaluations without a better one before the run stops; 0 = never stops early
  int64_t save_every = 50;              // steps; 0 = only at the end
  int keep = 2;                         // checkpoints
  uint64_t seed = 0;
  HeadsOptions heads;  // where the graft is draft heads
  // Draft heads trained beside the graft: L = L_main + heads_weight * L_heads, with gradients of both in the graft.
  // With heads.teacher L_main is the divergence from the model without the graft (Medusa-2), else the data's loss.
  Graft* with_heads = nullptr;
  float heads_weight = 0, heads_lr_scale = 1;
  Ranks* ranks = nullptr;  // the processes that share the run's micro-batches; null: this one alone
};

// Trains whatever parameters a graft shows, on the one forward and its backward. The result does not depend on the
// thread count, on accumulation against batch size, on how many processes share it, nor on how often the run was killed and
// resumed. With ranks, all call the constructor, Resume, Next and ValidationLoss alike; rank 0 reads and writes the files.
class Trainer {
 public:
  // `directory` takes checkpoints/, best/, metrics.jsonl, the event file and loss.svg; empty = write nothing. valid may
  // be empty. The model, the graft and the examples must outlive the trainer.
  Trainer(Transformer& model, Graft& graft, std::span<const Example> train, std::span<const Example> valid,
          const TrainOptions& options, std::string directory);
  ~Trainer();

  // Goes on from the newest whole checkpoint in the directory; false if there is none. `notes` gets a line for each
  // damaged one. kUsage naming what differs if options or data are not those of the checkpoint; only more steps than it
  // was made for are taken.
  bool Resume(std::vector<std::string>& notes);

  struct Callbacks {
    std::function<void(const StepReport&)> on_step;
    std::function<void(int64_t step, double loss, bool best)> on_valid;
    const std::atomic<bool>* stop = nullptr;  // becomes true when the user wants the run to end
  };
  // The next step, then log, validation and checkpoint where they are due; nothing where the run has ended, which
  // result() then tells. Behind the last step the best weights are back. Throws kRuntime naming step and layer when the
  // loss is not finite; the last checkpoint stays.
  std::optional<StepReport> Next(const Callbacks& callbacks);
  const TrainResult& result() const { return result_; }
  // Next until it has ended.
  TrainResult Run(const Callbacks& callbacks);

  int64_t total_steps() const { return total_steps_; }
  int64_t step() const { return step_; }
  int64_t lengthened_from() const { return lengthened_from_; }  // steps of the run that Resume took up, if fewer; else 0
  Optimizer& optimizer() { return *optimizer_; }
  const LossScaler& scaler() const { return scaler_; }
  double ValidationLoss();
  // Forward and backward of one micro-batch, adding gradients of row_weight * loss; returns the sum of its losses.
  double ForwardBackward(const std::vector<const Example*>& micro, float row_weight, uint64_t noise);
  double heads_sum() const { return heads_sum_; }  // losses of heads beside the graft since the step began
  // Called with every pass before it runs and after its backward (numerics report); may be empty.
  std::function<void(Pass&, bool after)> observe;
  size_t tape_bytes() const { return tape_.peak_bytes(); }
  HeadsLoss* heads_loss() { return heads_loss_.get(); }  // null unless draft heads are trained

 private:
  // One step of accumulated micro-batches. Nullopt if `stop` became true: then nothing but gradients changed.
  std::optional<StepReport> Step(const std::atomic<bool>* stop);
  bool Stopped(const std::atomic<bool>* stop) const;  // here or, before a step, at any rank
  // Sets up a pass over the examples, each a sequence of its own; returns the targets of its rows.
  std::vector<int32_t> Fill(Pass& pass, const std::vector<const Example*>& micro);
  void Updated();  // parameters changed
  const Parameter* FirstNonFinite() const;
  std::string LastCheckpoint() const;  // for messages
  [[noreturn]] void Diverged(const std::vector<const Example*>& micro, double loss);
  void Save();
  void SaveBest();
  void RestoreBest();
  void SaveGrafts(const std::string& directory);
  std::vector<TensorToWrite> Tensors() const;
  void ServeStates() const;  // to rank 0, which writes a checkpoint
  // The tensors of a checkpoint that rank 0 has open (null elsewhere), to all; of the best, values alone.
  void ReadTensors(const CheckpointStore::Loaded* loaded, bool best = false);
  void TakeState(const nlohmann::json& state);
  nlohmann::json MakeSettings() const;
  void RequireSameStart();
  bool EvaluateNow(int64_t epoch_before) const;
  void Validate(StepReport& report);
  std::vector<std::pair<double, double>> HeadsRight();
  void End(TrainResult::End end);

  Transformer& model_;
  Graft& graft_;
  std::vector<Graft*> grafts_;  // just the one, for segments
  std::span<const Example> train_, valid_;
  TrainOptions options_;
  std::string directory_;
  PrecisionPlan plan_;
  Batches batches_;
  Tape tape_;
  LossScaler scaler_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<CheckpointStore> store_;
  std::unique_ptr<MetricsLog> log_;
  std::unique_ptr<HeadsLoss> heads_loss_;
  double heads_sum_ = 0;  // of the step's heads beside the graft

  nlohmann::json settings_;  // what a resumed run must share
  int64_t total_steps_ = 0;
  int64_t step_ = 0;             // done
  int64_t saved_step_ = -1;      // of the newest checkpoint
  int64_t lengthened_from_ = 0;  // steps, by lengthened_from
  DataCursor cursor_;
  std::optional<double> best_loss_;
  int64_t best_step_ = 0, evaluations_without_best_ = 0;
  double last_loss_ = 0;
  TrainResult result_;
};

}  // namespace cambium
