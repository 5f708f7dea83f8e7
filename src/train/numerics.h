#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cambium/sliding_max.h"
#include "model/transformer.h"
#include "train/trainer.h"

namespace cambium {

// How many values have each binary exponent, and what fp16 would make of them.
class ExponentHistogram {
 public:
  static constexpr int kLowest = -149, kHighest = 127;  // of finite f32 values; subnormal ones count by their magnitude

  void Add(ThreadPool& pool, Tensor x);  // f32
  void Add(const ExponentHistogram& other);
  int64_t count() const { return count_; }
  int64_t zeros() const { return zeros_; }
  int64_t at(int exponent) const { return bins_[static_cast<size_t>(exponent - kLowest)]; }
  float amax() const { return amax_; }  // of the finite values
  // Shares of the values that are not zero: those that round to 0, become subnormal (and keep fewer than 11 digits), or
  // round to infinity (those that are not finite with them).
  double Underflow() const { return Share(underflow_); }
  double Subnormal() const { return Share(subnormal_); }
  double Overflow() const { return Share(overflow_); }
  int Quantile(double share) const;  // the exponent below or at which this share of the values that are not zero lies

 private:
  double Share(int64_t count) const {
    return count_ > zeros_ ? static_cast<double>(count) / static_cast<double>(count_ - zeros_) : 0.0;
  }
  std::array<int64_t, kHighest - kLowest + 1> bins_{};
  int64_t count_ = 0, zeros_ = 0, underflow_ = 0, subnormal_ = 0, overflow_ = 0;
  float amax_ = 0;
};

// Watches a trainer: for each layer the exponents of weights, of activations (the block's output), of the gradient that
// goes down the residual stream (before it is rounded to its storage), and of the parameters' gradients, the last two
// times the loss scale of their step; and the largest magnitude of each over a window of steps, as delayed scaling
// keeps it.
class NumericsReport {
 public:
  static constexpr int64_t kWindow = 1024;  // steps; TransformerEngine's amax_history_len

  NumericsReport(Trainer& trainer, Transformer& model);
  // After each step.
  void Step();
  // Writes numerics.json and numerics.txt into the directory; returns a line for each kind of value.
  std::vector<std::string> Write(const std::string& directory);

 private:
  enum Kind : uint8_t { kWeights, kActivations, kGradients, kParameterGradients, kKinds };
  struct Series {
    ExponentHistogram histogram;  // of the whole run; weights: of its end
    AmaxHistory history{kWindow};
    float step_amax = 0, window_amax = 0;
    std::vector<float> amax, window;  // by step
  };
  Series& At(int64_t layer, Kind kind) { return series_[static_cast<size_t>(layer * kKinds + kind)]; }
  void Observe(Pass& pass, bool after);
  void AddWeights();

  Trainer& trainer_;
  Transformer& model_;
  int64_t layers_;
  std::vector<Series> series_;  // [layers + 1, kinds]; the last "layer" is all that is in no block
};

}  // namespace cambium
