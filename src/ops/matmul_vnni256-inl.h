// 256-bit dot products of four bytes, for the two ways that the instruction is encoded. Included inside a namespace,
// inside a set's target attributes and behind a function Dot(acc, weights, activations); no include guard for that
// reason.

#include "ops/matmul_common-inl.h"

constexpr int kMaxInt8Rows = 16, kRowsAtOnce = 4;

#include "ops/matmul_256-inl.h"

struct FourDots {
  static constexpr bool kSignedBytes = false;  // unsigned weights, signed activations

  template <class B, int kRows, int kCount, class Group>
  static HWY_INLINE void Add(const Group& group, const ActBlock* x, int begin, __m256i dot[kRows]) {
#pragma GCC unroll 8
    for (int g = begin; g < begin + kCount; ++g) {
      const __m256i w = group(g);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) dot[r] = Dot(dot[r], w, BroadcastFour(x[r].q + 4 * g));
    }
  }
};
