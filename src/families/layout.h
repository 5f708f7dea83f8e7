#pragma once

#include <cstdint>
#include <vector>

#include "families/family.h"

namespace cambium {

// Heads whose rows a tensor holds.
struct HeadSizes {
  int64_t heads, kv_heads, head_dim;
};

// The file's row of each row of a tensor, in the order that the model has them (of a fused tensor: q's, k's, v's);
// empty: the same.
std::vector<int32_t> FileRows(Layout layout, Role role, const HeadSizes& sizes);

}  // namespace cambium
