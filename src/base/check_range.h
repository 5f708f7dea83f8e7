#pragma once

#include <string_view>

#include "cambium/error.h"

namespace cambium {

// kUsage with the value and the range unless low <= value <= high (false for NaN). `option`: its name.
inline void CheckRange(std::string_view option, double value, double low, double high) {
  if (!(value >= low && value <= high)) {
    Fail(ErrorCode::kUsage, option, ": ", value, " is not between ", low, " and ", high);
  }
}

}  // namespace cambium
