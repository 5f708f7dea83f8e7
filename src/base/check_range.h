#pragma once

#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>

#include "cambium/error.h"

namespace cambium {

// As people write it: 2147483647 and 0.5, not 2.14748e+09.
inline std::string Written(double value) {
  constexpr double kExact = 1e15;  // whole numbers up to here are written out
  std::ostringstream text;
  if (value == std::floor(value) && std::abs(value) < kExact) {
    text << static_cast<int64_t>(value);
  } else {
    text << value;
  }
  return text.str();
}

// kUsage with the value and the range unless low <= value <= high (false for NaN). `option`: its name.
inline void CheckRange(std::string_view option, double value, double low, double high) {
  if (!(value >= low && value <= high)) {
    Fail(ErrorCode::kUsage, option, ": ", Written(value), " is not between ", Written(low), " and ", Written(high));
  }
}

}  // namespace cambium
