// The bf16 tables for avx512_bf16: raw intrinsics, because Debian's Highway has no dot product of bf16 pairs.

#include "hwy/base.h"
#include "ops/gemm_isa.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <array>
#include <utility>

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 on its own AVX-512 header (GCC bug 105593)
#endif
HWY_PUSH_ATTRIBUTES("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace cambium::gemm {
namespace {

constexpr int kMr = 14;

template <int kRows, int kVecs>
__attribute__((noinline)) void TileKernel(const Tile& t) {
  __m512 sums[kRows][kVecs];
  const float* const begin = t.carry ? t.from : nullptr;
  const float* const end = t.carry ? nullptr : t.from;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      sums[r][v] = begin == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(begin + r * t.from_stride + v * 16);
    }
  }
  const uint32_t* a = t.a;
  const uint32_t* b = t.b;
  for (int64_t word = 0; word < t.words; ++word, a += 16, b += 16) {
    __m512bh bv[kVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) bv[v] = (__m512bh)_mm512_load_si512(b + v * t.b_panel);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const __m512bh av = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r]));
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], av, bv[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      if (end != nullptr) sums[r][v] = _mm512_add_ps(sums[r][v], _mm512_loadu_ps(end + r * t.from_stride + v * 16));
      _mm512_storeu_ps(t.to + r * t.to_stride + v * 16, sums[r][v]);
    }
  }
}

template <int kVecs, int... kRow>
constexpr std::array<void (*)(const Tile&), sizeof...(kRow)> Kernels(std::integer_sequence<int, kRow...>) {
  return {&TileKernel<kRow + 1, kVecs>...};
}

void RunTile(const Tile& tile) {
  static constexpr auto kWide = Kernels<2>(std::make_integer_sequence<int, kMr>());
  static constexpr auto kNarrow = Kernels<1>(std::make_integer_sequence<int, kMr>());
  (tile.columns > 16 ? kWide : kNarrow)[static_cast<size_t>(tile.rows - 1)](tile);
}

#include "ops/bf16_pairs-inl.h"

}  // namespace
}  // namespace cambium::gemm

HWY_POP_ATTRIBUTES

namespace cambium::gemm {

const Isa* NativeBF16Isa(const Isa& base) {
  static const bool supported = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!supported || base.nr != 32) return nullptr;
  static const Isa kIsa{.mr = kMr,
                        .nr = 32,
                        .a_stride = 16,
                        .k_per_word = 2,
                        .exact = false,
                        .tile = &RunTile,
                        .finish = base.finish,
                        .a = {&PackKMinor, &PackKMajor},
                        .b = {&PackKMinor, &PackKMajor}};
  return &kIsa;
}

}  // namespace cambium::gemm

#else

namespace cambium::gemm {
const Isa* NativeBF16Isa(const Isa&) { return nullptr; }
}  // namespace cambium::gemm

#endif
