#pragma once

// What the op tests share: data, comparison, and a loop over the ISAs of this machine.

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "base/random.h"
#include "isa_testing.h"
#include "tensor/buffer.h"

namespace cambium::testing {

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
