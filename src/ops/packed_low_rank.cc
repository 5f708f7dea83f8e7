// A low-rank term whose factors lie in memory as they are read: where every row of a pass carries another adapter, each
// factor is read once a pass, and what that takes is all that it costs.
#include <algorithm>
#include <cmath>

#include "base/simd_targets.h"
#include "ops/ops.h"
#include "tensor/half.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/packed_low_rank.cc"
#include "hwy/foreach_target.h"
#include "ops/simd_math-inl.h"

// Values of a block of columns, and ranks that stand together: a is [groups][in / kColumns][ranks of the
// group][kColumns], groups of kGroup and at last one of kHalfGroup; b is [out / kColumns][ranks][kColumns]. What is
// missing is zero.
#ifndef CAMBIUM_OPS_PACKED_LOW_RANK
#define CAMBIUM_OPS_PACKED_LOW_RANK
namespace cambium {
constexpr int64_t kColumns = 16, kGroup = 8, kHalfGroup = 4;
inline int64_t Blocks(int64_t columns) { return (columns + kColumns - 1) / kColumns; }
inline int64_t Ranks(int64_t rank) { return (rank + kHalfGroup - 1) / kHalfGroup * kHalfGroup; }
}  // namespace cambium
#endif

HWY_BEFORE_NAMESPACE();
namespace cambium::HWY_NAMESPACE {
namespace {

constexpr int kVectors = static_cast<int>(kColumns) / kLanes;  // of a block
constexpr int kTileRows = kLanes >= 16 ? 4 : 2;

// low[r][k] = scale * x[r] . a[k] for kRows rows and kRanks of a group's `width` ranks; a sum's order is the same in
// every tile.
template <int kRows, int kRanks>
HWY_INLINE void Dots(const float* HWY_RESTRICT x, int64_t in, const Half* HWY_RESTRICT a, int64_t width, float scale,
                     float* HWY_RESTRICT low, int64_t ranks) {
  const F32 d;
  VecF sums[kRows][kRanks];
  for (auto& row : sums) {
    for (VecF& sum : row) sum = hn::Zero(d);
  }
  const int64_t step = width * kColumns;
  for (int64_t i = 0; i < in; i += kLanes) {
    const Half* const block = a + i / kColumns * step + i % kColumns;
    const int count = static_cast<int>(std::min<int64_t>(kLanes, in - i));
    VecF v[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) v[r] = Get(x + r * in + i, count);
#pragma GCC unroll 8
    for (int k = 0; k < kRanks; ++k) {
      const VecF w = LoadF32(d, block + k * kColumns);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sums[r][k] = hn::MulAdd(v[r], w, sums[r][k]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < kRanks; ++k) low[r * ranks + k] = scale * Sum(d, sums[r][k]);
  }
}

// y[r] += sum over k of low[r][k] b[k] in one block of `count` columns.
template <int kRows>
HWY_INLINE void Combine(const float* HWY_RESTRICT low, int64_t ranks, const Half* HWY_RESTRICT b, int64_t out,
                        int count, float* HWY_RESTRICT y) {
  const F32 d;
  for (int v = 0; v < kVectors && v * kLanes < count; ++v) {
    VecF sums[kRows];
    for (VecF& sum : sums) sum = hn::Zero(d);
    for (int64_t k = 0; k < ranks; ++k) {
      const VecF w = LoadF32(d, b + k * kColumns + v * kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sums[r] = hn::MulAdd(hn::Set(d, low[r * ranks + k]), w, sums[r]);
    }
    const int lanes = std::min(kLanes, count - v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      float* const to = y + r * out + v * kLanes;
      Put(hn::Add(Get(to, lanes), sums[r]), to, lanes);
    }
  }
}

template <class F>
HWY_INLINE void ForTiles(int64_t rows, const F& f) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) f(r, std::integral_constant<int, kTileRows>());
  for (; r < rows; ++r) f(r, std::integral_constant<int, 1>());
}

}  // namespace

// Ranks [begin, begin + width) of rows; begin is a group's.
void PackedDownKernel(const float* x, int64_t rows, const PackedLowRank& p, int64_t begin, int64_t width, float* low) {
  const int64_t in = p.in, ranks = Ranks(p.rank);
  const Half* const a = reinterpret_cast<const Half*>(p.values) + begin * Blocks(in) * kColumns;
  ForTiles(rows, [&](int64_t r, auto tile) HWY_ATTR {
    constexpr int kRows = decltype(tile)::value;
    const float* const from = x + r * in;
    float* const to = low + r * ranks + begin;
    if (kRows == 1 && width == kGroup) return Dots<1, kGroup>(from, in, a, width, p.scale, to, ranks);
    for (int64_t k = 0; k < width; k += kHalfGroup) {
      Dots<kRows, kHalfGroup>(from, in, a + k * kColumns, width, p.scale, to + k, ranks);
    }
  });
}

void PackedUpKernel(const float* low, int64_t rows, const PackedLowRank& p, int64_t begin, int64_t end, float* y) {
  const int64_t ranks = Ranks(p.rank);
  const Half* const b = reinterpret_cast<const Half*>(p.values) + ranks * Blocks(p.in) * kColumns;
  ForTiles(rows, [&](int64_t r, auto tile) HWY_ATTR {
    for (int64_t j = begin; j < end; j += kColumns) {
      Combine<decltype(tile)::value>(low + r * ranks, ranks, b + j * ranks, p.out,
                                     static_cast<int>(std::min(kColumns, end - j)), y + r * p.out + j);
    }
  });
}

}  // namespace cambium::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cambium {

HWY_EXPORT(PackedDownKernel);
HWY_EXPORT(PackedUpKernel);

int64_t PackedLowRank::Size(int64_t in, int64_t rank, int64_t out) {
  return Ranks(rank) * (Blocks(in) + Blocks(out)) * kColumns;
}

namespace {

// What the largest value is divided by: a power of two, so that none overflows and only what is 2^-24 of it is lost.
int Exponent(Tensor x) {
  float largest = 0;
  for (int64_t i = 0; i < x.size(); ++i) largest = std::max(largest, std::abs(x.f32()[i]));
  int exponent = 0;
  if (largest > 0 && std::isfinite(largest)) std::frexp(largest, &exponent);
  return exponent;
}

}  // namespace

PackedLowRank::PackedLowRank(Tensor a, Tensor b, float s, uint16_t* to)
    : values(to), in(a.columns()), rank(a.rows()), out(b.columns()) {
  Check(b.rows() == rank, "the factors of a low-rank term agree");
  const int64_t ranks = Ranks(rank);
  std::fill_n(to, Size(in, rank, out), uint16_t{0});
  const int down = -Exponent(a), up = -Exponent(b);
  scale = std::ldexp(s, -down - up);
  for (int64_t k = 0; k < rank; ++k) {
    const int64_t group = k / kGroup * kGroup, width = std::min(kGroup, ranks - group);
    uint16_t* const row = to + group * Blocks(in) * kColumns + (k - group) * kColumns;
    for (int64_t i = 0; i < in; ++i) {
      row[i / kColumns * width * kColumns + i % kColumns] = FloatToHalf(std::ldexp(a.row(k)[i], down));
    }
    uint16_t* const column = to + ranks * Blocks(in) * kColumns + k * kColumns;
    for (int64_t j = 0; j < out; ++j) {
      column[j / kColumns * ranks * kColumns + j % kColumns] = FloatToHalf(std::ldexp(b.row(k)[j], up));
    }
  }
}

void LowRank(ThreadPool& pool, Workspace& workspace, Tensor x, const PackedLowRank& p, Tensor y) {
  constexpr int64_t kInline = int64_t{1} << 17;  // multiply-adds that are less than what a barrier costs
  constexpr int64_t kRows = 16, kPiece = 512;
  const int64_t rows = x.rows(), ranks = Ranks(p.rank);
  Check(x.columns() == p.in && y.columns() == p.out && y.rows() == rows, "LowRank shapes agree");
  const Workspace::Mark mark = workspace.GetMark();
  const Tensor low = workspace.New({rows, ranks});
  const auto tiles = [&](int64_t width, int64_t piece, int64_t columns, const auto& f) {
    const int64_t across = (width + piece - 1) / piece;
    const auto one = [&](int64_t task, int64_t count) {
      const int64_t begin = task % across * piece;
      f(task / across * kRows, count, begin, std::min(piece, width - begin));
    };
    if (rows * ranks * columns <= kInline) {
      for (int64_t i = 0; i < across; ++i) one(i, rows);
    } else {
      pool.Run((rows + kRows - 1) / kRows * across,
               [&](int64_t task, int) { one(task, std::min(kRows, rows - task / across * kRows)); });
    }
  };
  tiles(ranks, kGroup, p.in, [&](int64_t row, int64_t count, int64_t begin, int64_t width) {
    HWY_DYNAMIC_DISPATCH(PackedDownKernel)(x.row(row), count, p, begin, width, low.row(row));
  });
  tiles(p.out, kPiece, p.out, [&](int64_t row, int64_t count, int64_t begin, int64_t width) {
    HWY_DYNAMIC_DISPATCH(PackedUpKernel)(low.row(row), count, p, begin, begin + width, y.row(row));
  });
  workspace.Release(mark);
}

}  // namespace cambium
#endif  // HWY_ONCE
