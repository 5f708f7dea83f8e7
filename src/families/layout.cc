#include "families/layout.h"

namespace cambium {

std::vector<int32_t> FileRows(Layout layout, Role role, const HeadSizes& sizes) {
  const int64_t dim = sizes.head_dim;
  std::vector<int32_t> rows;
  if (layout == Layout::kRopePairs) {
    for (int64_t head = 0; head < (role == Role::kQ ? sizes.heads : sizes.kv_heads); ++head) {
      for (int64_t r = 0; r < dim; ++r) {
        const int64_t j = r / (dim / 2), i = r % (dim / 2);
        rows.push_back(static_cast<int32_t>(head * dim + 2 * i + j));
      }
    }
  } else if (layout == Layout::kHeadThirds) {
    for (int64_t part = 0; part < 3; ++part) {
      for (int64_t head = 0; head < sizes.heads; ++head) {
        for (int64_t r = 0; r < dim; ++r) rows.push_back(static_cast<int32_t>((3 * head + part) * dim + r));
      }
    }
  }
  return rows;
}

}  // namespace cambium
