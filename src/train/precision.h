#pragma once

#include <cstdint>
#include <string_view>

#include "ops/ops.h"

namespace cambium {

// Micikevicius et al., "Mixed precision training", 2018: 16-bit storage of weights, activations and gradients, fp32
// sums, norms, softmax and loss, fp32 master weights; fp16 scales the loss.
enum class Precision : uint8_t { kFp32, kBf16, kFp16 };

// kUsage for another name than fp32, bf16 and fp16.
Precision ParsePrecision(std::string_view name);
std::string_view PrecisionName(Precision precision);

struct PrecisionPlan {
  Compute compute;  // of the products
  DType storage;    // of activations on the tape, of gradients between sub-layers, of the trained working weights
  bool scale_loss;
};
PrecisionPlan PlanOf(Precision precision);

// Dynamic loss scale with the constants of torch.amp.GradScaler. Always a power of two, so scaling rounds nothing.
class LossScaler {
 public:
  static constexpr float kInit = 65536, kGrowth = 2, kBackoff = 0.5f;
  static constexpr int kInterval = 2000;  // clean steps before the scale grows

  struct State {
    float scale = kInit;
    int clean_steps = 0;
  };
  explicit LossScaler(bool enabled) : enabled_(enabled) {
    if (!enabled) state_.scale = 1;
  }

  float scale() const { return state_.scale; }
  // After each step. An overflowed step must be skipped.
  void Update(bool overflow);
  const State& state() const { return state_; }
  void Restore(const State& state) { state_ = state; }

 private:
  bool enabled_;
  State state_;
};

}  // namespace cambium
