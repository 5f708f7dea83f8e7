#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/graft.h"
#include "tensor/buffer.h"

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
  // `masters` the unrounded values are kept beside them.
  Optimizer(ThreadPool& pool, std::vector<Parameter*> params, const OptimizerOptions& options, DType working,
            bool masters = true);

  // sqrt of the sum of squares of all gradients times grad_scale; not finite if any is not.
  double GradNorm(float grad_scale) const;
  // One update with gradients grad_scale * grad, clipped to options.clip given their norm, at learning rate lr.
  void Step(double lr, float grad_scale, double grad_norm);
  void ZeroGrad();

  int64_t steps() const { return steps_; }
  const std::vector<Parameter*>& params() const { return params_; }
  int64_t parameters() const;  // trainable numbers
  int64_t bytes() const;       // gradients, moments and masters

  // Every tensor that a checkpoint must hold, under unique names: values (masters where they exist) and moments.
  struct State {
    std::string name;
    Tensor tensor;  // F32, or I32 holding packed bytes
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
  struct Slot {
    OwnedTensor grad, master;
    OwnedTensor m, v;              // f32, or packed bytes
    OwnedTensor m_scale, v_scale;  // [blocks], 8-bit moments only
  };
  Tensor MasterOf(size_t index) const;
  void StepEightBit(const AdamW& hyper, float grad_scale, size_t index);
  bool Rounds(size_t index) const;
  // The working value from the master; `stored` has room for it in the working type.
  void Round(size_t index, Tensor stored);
  OwnedTensor RoomToRound() const;

  ThreadPool& pool_;
  std::vector<Parameter*> params_;
  OptimizerOptions options_;
  DType working_;
  bool masters_;
  std::vector<Slot> slots_;
  int64_t steps_ = 0;
};

}  // namespace cambium
