#include <algorithm>

#include "base/simd_targets.h"
#include "ops/ops.h"
#include "ops/ranges.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/low_rank.cc"
#include "hwy/foreach_target.h"
#include "ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace cambium::HWY_NAMESPACE {
namespace {

// Rows of a tile: what 32 or 16 registers hold.
constexpr int kTileRows = kLanes >= 16 ? 4 : 2;

// low[r][k] = scale * x[r] . a[k] for kRows rows and kRanks ranks; a sum's order is the same in every tile.
template <int kRows, int kRanks>
HWY_INLINE void Dots(const float* HWY_RESTRICT x, int64_t in, const float* HWY_RESTRICT a, float scale,
                     float* HWY_RESTRICT low, int64_t rank) {
  const F32 d;
  VecF sums[kRows][kRanks];
  for (auto& row : sums) {
    for (VecF& sum : row) sum = hn::Zero(d);
  }
  const auto step = [&](int64_t i, int count) HWY_ATTR {
    VecF v[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) v[r] = Get(x + r * in + i, count);
#pragma GCC unroll 8
    for (int k = 0; k < kRanks; ++k) {
      const VecF w = Get(a + k * in + i, count);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sums[r][k] = hn::MulAdd(v[r], w, sums[r][k]);
    }
  };
  ForVectors(in, step);
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < kRanks; ++k) low[r * rank + k] = scale * Sum(d, sums[r][k]);
  }
}

template <int kRows, int kRanks>
HWY_INLINE int64_t DotsWhile(int64_t k, int64_t end, const float* x, int64_t in, const float* a, float scale, float* low,
                             int64_t rank) {
  for (; k + kRanks <= end; k += kRanks) Dots<kRows, kRanks>(x, in, a + k * in, scale, low + k, rank);
  return k;
}

// y[r][j..] += sum over k of low[r][k] b[k][j..] for kVecs vectors, or for `count` lanes of one.
template <int kRows, int kVecs>
HWY_INLINE void Combine(const float* HWY_RESTRICT low, int64_t rank, const float* HWY_RESTRICT b, int64_t out, int count,
                        float* HWY_RESTRICT y) {
  const F32 d;
  VecF sums[kRows][kVecs];
  for (auto& row : sums) {
    for (VecF& sum : row) sum = hn::Zero(d);
  }
  for (int64_t k = 0; k < rank; ++k) {
    VecF w[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) w[v] = Get(b + k * out + v * kLanes, count);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const VecF l = hn::Set(d, low[r * rank + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sums[r][v] = hn::MulAdd(l, w[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      float* const to = y + r * out + v * kLanes;
      Put(hn::Add(Get(to, count), sums[r][v]), to, count);
    }
  }
}

}  // namespace

void DownKernel(const float* x, int64_t rows, int64_t in, const float* a, int64_t begin, int64_t end, int64_t rank,
                 float scale, float* low) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    int64_t k = DotsWhile<kTileRows, 4>(begin, end, x + r * in, in, a, scale, low + r * rank, rank);
    DotsWhile<kTileRows, 1>(k, end, x + r * in, in, a, scale, low + r * rank, rank);
  }
  for (; r < rows; ++r) {
    int64_t k = DotsWhile<1, 8>(begin, end, x + r * in, in, a, scale, low + r * rank, rank);
    k = DotsWhile<1, 4>(k, end, x + r * in, in, a, scale, low + r * rank, rank);
    DotsWhile<1, 1>(k, end, x + r * in, in, a, scale, low + r * rank, rank);
  }
}

void UpKernel(const float* low, int64_t rows, int64_t rank, const float* b, int64_t begin, int64_t end, int64_t out,
               float* y) {
  constexpr int64_t kWide = 4 * kLanes;
  const auto run = [&](auto tile, int64_t r) HWY_ATTR {
    constexpr int kRows = decltype(tile)::value;
    const float* const l = low + r * rank;
    float* const to = y + r * out;
    int64_t j = begin;
    for (; j + kWide <= end; j += kWide) Combine<kRows, 4>(l, rank, b + j, out, kLanes, to + j);
    for (; j < end; j += kLanes) {
      Combine<kRows, 1>(l, rank, b + j, out, static_cast<int>(std::min<int64_t>(kLanes, end - j)), to + j);
    }
  };
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) run(std::integral_constant<int, kTileRows>(), r);
  for (; r < rows; ++r) run(std::integral_constant<int, 1>(), r);
}

}  // namespace cambium::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cambium {

HWY_EXPORT(DownKernel);
HWY_EXPORT(UpKernel);

namespace {

// f(row, rows, begin, end) on tiles of rows and of `width` columns, cut into pieces; at once where the work is less than
// what a barrier costs.
template <class F>
void Tiles(ThreadPool& pool, int64_t rows, int64_t width, int64_t piece, int64_t work, const F& f) {
  constexpr int64_t kInline = int64_t{1} << 17;  // multiply-adds
  constexpr int64_t kRows = 16;
  if (work <= kInline) return f(0, rows, 0, width);
  const int64_t across = (width + piece - 1) / piece;
  pool.Run((rows + kRows - 1) / kRows * across, [&](int64_t task, int) {
    const int64_t row = task / across * kRows, begin = task % across * piece;
    f(row, std::min(kRows, rows - row), begin, std::min(width, begin + piece));
  });
}

}  // namespace

void LowRankDown(ThreadPool& pool, Tensor x, Tensor a, float scale, Tensor low) {
  const int64_t rows = x.rows(), in = x.columns(), rank = a.rows();
  Check(a.columns() == in && low.rows() == rows && low.columns() == rank, "LowRankDown shapes agree");
  Tiles(pool, rows, rank, 32, rows * rank * in, [&](int64_t row, int64_t count, int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(DownKernel)
    (x.row(row), count, in, a.f32(), begin, end, rank, scale, low.row(row));
  });
}

void LowRankUp(ThreadPool& pool, Tensor low, Tensor b, Tensor y) {
  const int64_t rows = low.rows(), rank = low.columns(), out = y.columns();
  Check(b.rows() == rank && b.columns() == out && y.rows() == rows, "LowRankUp shapes agree");
  Tiles(pool, rows, out, 512, rows * rank * out, [&](int64_t row, int64_t count, int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(UpKernel)(low.row(row), count, rank, b.f32(), begin, end, out, y.row(row));
  });
}

void LowRank(ThreadPool& pool, Workspace& workspace, Tensor x, Tensor a, Tensor b, float scale, Tensor y) {
  const Workspace::Mark mark = workspace.GetMark();
  const Tensor low = workspace.New({x.rows(), a.rows()});
  LowRankDown(pool, x, a, scale, low);
  LowRankUp(pool, low, b, y);
  workspace.Release(mark);
}

}  // namespace cambium
#endif  // HWY_ONCE
