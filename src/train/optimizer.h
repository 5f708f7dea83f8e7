#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/graft.h"
#include "tensor/buffer.h"
#include "train/gradients.h"

namespace cambium {

struct OptimizerOptions {
  enum class Schedule : uint8_t { kCosine, kLinear, kConstant };

  float lr = 2e-4f;
  float beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;
  float weight_decay = 0.0f;
  float clip = 1.0f;  // largest global gradient norm; 0 = no clipping
  Schedule schedule = Schedule::kCosine;
  int64_t warmup = 0;      // steps over which lr rises linearly from 0
  bool eight_bit = false;  // moments in 8 bits
};

// kUsage for another name than cosine, linear and constant.
OptimizerOptions::Schedule ParseSchedule(std::string_view name);

// The learning rate of step `step` (counted from 1) of `steps`: warm-up, then down to 0 along a half cosine or a line,
// or constant.
double LearningRate(const OptimizerOptions& options, int64_t step, int64_t steps);

// AdamW on a list of parameters, with fp32 master weights where the model computes with rounded ones.
class Optimizer {
 public:
  // Provides every parameter's `grad`, zeroed. `working` is what parameter values are rounded to after each step; with
  // `masters` the unrounded values are kept beside them. With ranks (else null) each has the moments of its stretch alone
  // (ZeRO-1: Rajbhandari et al., 2020), and what is collective there says so.
  Optimizer(ThreadPool& pool, std::vector<Parameter*> params, const OptimizerOptions& options, DType working,
            bool masters = true, Ranks* ranks = nullptr);

  Gradients& gradients() { return gradients_; }
  // sqrt of the sum of squares of all gradients times grad_scale; not finite if any is not. Collective.
  double GradNorm(float grad_scale) const;
  // One update with gradients grad_scale * grad, clipped to options.clip given their norm, at learning rate lr. Collective.
  void Step(double lr, float grad_scale, double grad_norm);

  int64_t steps() const { return steps_; }
  const std::vector<Parameter*>& params() const { return params_; }
  int64_t parameters() const;  // trainable numbers
  int64_t bytes() const;       // gradients, moments and masters
  // Of them, what takes memory only once a step of `micro_batches` writes it.
  int64_t bytes_to_come(int64_t micro_batches) const;

  // Every tensor that a checkpoint must hold, under unique names: values (masters where they exist) and moments.
  struct State {
    std::string name;
    Tensor tensor;            // F32, or I32 holding packed bytes; without data where ranks hold parts of it
    std::span<uint8_t> here;  // this rank's part: the parts of all, in their order, are the whole
    int64_t at = 0;           // where it begins in the whole
  };
  std::vector<State> states() const;
  // After states() were overwritten: derives what depends on them.
  void Restore(int64_t steps);

  // While it lives, parameter values are the masters: for saving.
  class UnroundedValues {
   public:
    explicit UnroundedValues(Optimizer& optimizer);
    ~UnroundedValues();
    UnroundedValues(const UnroundedValues&) = delete;
    UnroundedValues& operator=(const UnroundedValues&) = delete;

   private:
    Optimizer& optimizer_;
    OwnedTensor rounded_;  // room for the largest parameter: the destructor allocates nothing
  };

 private:
  // The numbers of a parameter that this rank owns: where they begin in it and in the stretch, and how many.
  struct Part {
    int64_t begin, at, size;
  };
  Part PartOf(size_t index) const;
  Tensor MasterOf(size_t index) const;
  void StepEightBit(const AdamW& hyper, float grad_scale, Tensor master, const Part& part);
  void SpreadMasters();
  // `per` numbers of a parameter take `bytes` of `storage`.
  State MomentState(const std::string& name, size_t index, const OwnedTensor& storage, int64_t per, int64_t bytes) const;
  bool Rounds(size_t index) const;
  // The working value from the master; `stored` has room for it in the working type.
  void Round(size_t index, Tensor stored);
  OwnedTensor RoomToRound() const;

  ThreadPool& pool_;
  std::vector<Parameter*> params_;
  OptimizerOptions options_;
  DType working_;
  bool masters_;
  Gradients gradients_;
  std::vector<OwnedTensor> master_;  // [parameters], empty where the value is its own
  OwnedTensor m_, v_;                // [own stretch] f32, or packed bytes
  OwnedTensor m_scale_, v_scale_;    // [its blocks], 8-bit moments only
  int64_t steps_ = 0;
};

}  // namespace cambium
