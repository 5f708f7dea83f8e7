#pragma once

#include <cstdint>

namespace cambium {

// The 12 bytes in which Q4_K and Q5_K keep eight pairs of a 6-bit scale and a 6-bit minimum: groups 0-3 have theirs
// in the low six bits of bytes 0-3 and 4-7; groups 4-7 have four bits of each in bytes 8-11 and the two high bits of
// each on top of bytes 0-3 and 4-7.
struct ScaleMin {
  int scale, minimum;  // 0 to 63
};

inline ScaleMin UnpackScaleMin(const uint8_t packed[12], int group) {
  if (group < 4) return {packed[group] & 63, packed[group + 4] & 63};
  const int low = packed[group + 4];
  return {(low & 15) | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4};
}

// Writes a group of a zeroed array.
inline void PackScaleMin(uint8_t packed[12], int group, ScaleMin pair) {
  if (group < 4) {
    packed[group] |= static_cast<uint8_t>(pair.scale);
    packed[group + 4] |= static_cast<uint8_t>(pair.minimum);
    return;
  }
  packed[group + 4] = static_cast<uint8_t>((pair.scale & 15) | (pair.minimum & 15) << 4);
  packed[group - 4] |= static_cast<uint8_t>(pair.scale >> 4 << 6);
  packed[group] |= static_cast<uint8_t>(pair.minimum >> 4 << 6);
}

}  // namespace cambium
