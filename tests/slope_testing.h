#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

// Gradients against differences of the loss.
namespace cambium {

// Along its own direction a gradient's slope is its length; fp32 noise is far below the change that a step of this size
// makes in the loss.
inline ::testing::AssertionResult SlopeAgrees(const std::string& name, Tensor value, const std::vector<float>& gradient,
                                              const std::function<double()>& loss) {
  double norm = 0;
  for (const float g : gradient) norm += static_cast<double>(g) * static_cast<double>(g);
  norm = std::sqrt(norm);
  if (!(norm > 1e-4)) return ::testing::AssertionFailure() << name << ": the gradient is " << norm;
  const double step = 0.01 / std::max(1.0, norm);
  const std::vector<float> before(value.f32(), value.f32() + value.size());
  const auto move = [&](double by) {
    for (size_t i = 0; i < gradient.size(); ++i) {
      value.f32()[i] = before[i] + static_cast<float>(by * static_cast<double>(gradient[i]) / norm);
    }
  };
  // Fourth-order central difference.
  double slope = 0;
  for (const auto& [at, weight] : {std::pair{1.0, 8.0}, {-1.0, -8.0}, {2.0, -1.0}, {-2.0, 1.0}}) {
    move(at * step);
    slope += weight * loss() / (12 * step);
  }
  std::copy(before.begin(), before.end(), value.f32());
  // The loss is a sum of fp32 terms of order 100.
  const double tolerance = 4e-3 * norm + 2e-5 / step;
  if (std::fabs(slope - norm) <= tolerance) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << name << ": slope " << slope << ", gradient " << norm;
}

inline std::vector<float> CopyOf(Tensor x) { return {x.f32(), x.f32() + x.size()}; }

}  // namespace cambium
