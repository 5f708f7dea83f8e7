#include "train/precision.h"

#include <cmath>

#include "cambium/error.h"

namespace cambium {

Precision ParsePrecision(std::string_view name) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kFp16}) {
    if (name == PrecisionName(precision)) return precision;
  }
  Fail(ErrorCode::kUsage, "precision is \"", name, "\", expected fp32, bf16 or fp16");
}

std::string_view PrecisionName(Precision precision) {
  static constexpr std::string_view kNames[] = {"fp32", "bf16", "fp16"};
  return kNames[static_cast<int>(precision)];
}

PrecisionPlan PlanOf(Precision precision) {
  switch (precision) {
    case Precision::kBf16:
      return {Compute::kBF16, DType::kBF16, false};
    case Precision::kFp16:
      return {Compute::kF32, DType::kF16, true};
    case Precision::kFp32:
      break;
  }
  return {Compute::kF32, DType::kF32, false};
}

void LossScaler::Update(bool overflow) {
  if (!enabled_) return;
  if (overflow) {
    state_ = {state_.scale * kBackoff, 0};
  } else if (++state_.clean_steps == kInterval) {
    // As in GradScaler, the scale does not grow beyond what is finite.
    if (std::isfinite(state_.scale * kGrowth)) state_.scale *= kGrowth;
    state_.clean_steps = 0;
  }
}

}  // namespace cambium
