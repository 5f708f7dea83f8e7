#pragma once

// What the op tests share: data, comparison, and a loop over the ISAs of this machine.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/simd_targets.h"
#include "hwy/highway.h"
#include "tensor/buffer.h"

namespace cambium::testing {

// Calls f once for every SIMD target that this machine can run and the library was built for.
inline void ForEachIsa(const std::function<void()>& f) {
  for (const int64_t target : {HWY_AVX3_DL, HWY_AVX2, HWY_EMU128, HWY_SCALAR}) {
    if ((hwy::SupportedTargets() & HWY_TARGETS & target) == 0) continue;
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    f();
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
}

// Normal numbers; `stream` picks a sequence.
inline std::vector<float> RandomFloats(int64_t count, uint64_t stream, double scale = 1.0) {
  const Philox random(stream);
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(random.Normal(i) * scale);
  return values;
}

inline std::vector<double> ToDouble(const std::vector<float>& values) { return {values.begin(), values.end()}; }

// The largest |a - b| over the largest |b| (root mean square would hide one bad element); infinite if anything is not
// finite or the sizes differ.
inline double RelativeError(const std::vector<float>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, size = 1e-30;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return INFINITY;
    difference = std::max(difference, std::abs(double{a[i]} - b[i]));
    size = std::max(size, std::abs(b[i]));
  }
  return difference / size;
}

}  // namespace cambium::testing
