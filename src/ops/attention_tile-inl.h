// The two register-blocked products that attention is made of, forward and backward. Every element is one chain of
// fused multiply-adds in a fixed order, so neither the blocking nor the company of other rows changes a bit.
#if defined(CAMBIUM_OPS_ATTENTION_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CAMBIUM_OPS_ATTENTION_TILE_INL_H_
#undef CAMBIUM_OPS_ATTENTION_TILE_INL_H_
#else
#define CAMBIUM_OPS_ATTENTION_TILE_INL_H_
#endif

#include "ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace cambium::HWY_NAMESPACE {

constexpr int kTile = 64;      // logical positions a tile spans
constexpr int kGroup = 16;     // keys per page: lanes of one key group
constexpr int kBlockRows = 6;  // rows of a register block
// 6 x 4 accumulators of 32 registers, or 6 x 2 of 16.
constexpr int kBlockVecs = kLanes == 8 ? 2 : 4;

// scores[r][j] = sum over d of rows[d][r] * keys[j / 16][d][j % 16] for 64 keys; rows are packed [head_dim][R], keys in
// four groups [head_dim][16].
template <int R, class T>
void DotBlock(const float* HWY_RESTRICT rows, const T* const* keys, int64_t head_dim, float* HWY_RESTRICT scores,
              int64_t stride) {
  const F32 d;
  for (int first = 0; first < kTile; first += kBlockVecs * kLanes) {
    const T* key[kBlockVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kBlockVecs; ++v) {
      const int lane = first + v * kLanes;
      key[v] = keys[lane / kGroup] + lane % kGroup;
    }
    VecF sum[R][kBlockVecs];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kBlockVecs; ++v) sum[r][v] = hn::Zero(d);
    }
    for (int64_t i = 0; i < head_dim; ++i) {
      VecF k[kBlockVecs];
#pragma GCC unroll 4
      for (int v = 0; v < kBlockVecs; ++v) k[v] = LoadF32(d, key[v] + i * kGroup);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const VecF q = hn::Set(d, rows[i * R + r]);
#pragma GCC unroll 4
        for (int v = 0; v < kBlockVecs; ++v) sum[r][v] = hn::MulAdd(q, k[v], sum[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kBlockVecs; ++v) hn::StoreU(sum[r][v], d, scores + r * stride + first + v * kLanes);
    }
  }
}

// out[r][:] += sum over n steps of weights[r * kRowStep + step * kStep] * values[step][:], width a multiple of kLanes.
template <int R, int V, int kRowStep, int kStep, class T>
HWY_INLINE void AccumulateColumns(const float* HWY_RESTRICT weights, const T* const* values, int64_t n, int64_t column,
                                  float* HWY_RESTRICT out, int64_t stride) {
  const F32 d;
  VecF sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = hn::LoadU(d, out + r * stride + column + v * kLanes);
  }
  for (int64_t step = 0; step < n; ++step) {
    const T* value = values[step] + column;
    VecF x[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) x[v] = LoadF32(d, value + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const VecF w = hn::Set(d, weights[r * kRowStep + step * kStep]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(w, x[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) hn::StoreU(sum[r][v], d, out + r * stride + column + v * kLanes);
  }
}

template <int R, int kRowStep, int kStep, class T>
void AccumulateBlock(const float* HWY_RESTRICT weights, const T* const* values, int64_t n, int64_t width,
                     float* HWY_RESTRICT out, int64_t stride) {
  int64_t column = 0;
  for (; column + kBlockVecs * kLanes <= width; column += kBlockVecs * kLanes) {
    AccumulateColumns<R, kBlockVecs, kRowStep, kStep>(weights, values, n, column, out, stride);
  }
  for (; column < width; column += kLanes) {
    AccumulateColumns<R, 1, kRowStep, kStep>(weights, values, n, column, out, stride);
  }
}

// Calls f with std::integral_constant<int, R> for blocks of kBlockRows rows and one rest: f(R, first row).
template <class F>
HWY_INLINE void ForRowBlocks(int64_t rows, const F& f) {
  int64_t row = 0;
  for (; row + kBlockRows <= rows; row += kBlockRows) f(std::integral_constant<int, kBlockRows>(), row);
  switch (rows - row) {
    case 1:
      return f(std::integral_constant<int, 1>(), row);
    case 2:
      return f(std::integral_constant<int, 2>(), row);
    case 3:
      return f(std::integral_constant<int, 3>(), row);
    case 4:
      return f(std::integral_constant<int, 4>(), row);
    case 5:
      return f(std::integral_constant<int, 5>(), row);
    default:
      return;
  }
}

// scores [rows][stride] for 64 keys; `packed` holds the row blocks in the order of ForRowBlocks, each [head_dim][R].
template <class T>
void DotRows(const float* packed, int64_t rows, const T* const* keys, int64_t head_dim, float* scores, int64_t stride) {
  ForRowBlocks(rows, [&](auto block, int64_t row) {
    DotBlock<block.value>(packed + row * head_dim, keys, head_dim, scores + row * stride, stride);
  });
}

// out [rows][width] += weights [rows][64] values, n <= 64 steps.
template <class T>
void AccumulateRows(const float* weights, int64_t rows, const T* const* values, int64_t n, int64_t width, float* out) {
  ForRowBlocks(rows, [&](auto block, int64_t row) {
    AccumulateBlock<block.value, kTile, 1>(weights + row * kTile, values, n, width, out + row * width, width);
  });
}

// Packs rows for DotRows: row(r) is the address of row r.
template <class Row>
void PackRows(const Row& row, int64_t rows, int64_t head_dim, float* packed) {
  ForRowBlocks(rows, [&](auto block, int64_t first) {
    float* to = packed + first * head_dim;
    for (int r = 0; r < block.value; ++r) {
      const float* from = row(first + r);
      for (int64_t i = 0; i < head_dim; ++i) to[i * block.value + r] = from[i];
    }
  });
}

}  // namespace cambium::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // per-target guard
