// The bf16 tables for avx512_bf16: raw intrinsics, because Debian's Highway has no dot product of bf16 pairs.

#include "ops/gemm_isa.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <array>
#include <utility>

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 on its own AVX-512 header (GCC bug 105593)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

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

__mmask16 FirstLanes(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffffu : count <= 0 ? 0u : (1u << count) - 1);
}

__m512 LoadF32(const Source& source, int64_t offset, __mmask16 mask) {
  if (source.dtype == DType::kF16) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(source.data) + offset));
  }
  return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(source.data) + offset);
}

// Elements k .. k + 31 of a line as 16 pairs, those from `count` on zero.
__m512i LoadPairs(const Source& source, int64_t line, int64_t k, int64_t count) {
  const __mmask16 low_mask = FirstLanes(count), high_mask = FirstLanes(count - 16);
  const int64_t low = line * source.stride + k / 16 * source.k16, high = low + source.k16;
  if (source.dtype == DType::kBF16) {
    const uint16_t* from = static_cast<const uint16_t*>(source.data);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi16(low_mask, from + low)),
                              _mm256_maskz_loadu_epi16(high_mask, from + high), 1);
  }
  return (__m512i)_mm512_cvtne2ps_pbh(LoadF32(source, high, high_mask), LoadF32(source, low, low_mask));
}

void Transpose(__m512i x[16], uint32_t* to) {
  __m512i y[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 4) {
    const __m512i p = _mm512_unpacklo_epi32(x[i], x[i + 1]), q = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]);
    const __m512i r = _mm512_unpackhi_epi32(x[i], x[i + 1]), s = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
    y[i] = _mm512_unpacklo_epi64(p, q);
    y[i + 1] = _mm512_unpackhi_epi64(p, q);
    y[i + 2] = _mm512_unpacklo_epi64(r, s);
    y[i + 3] = _mm512_unpackhi_epi64(r, s);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i p = _mm512_shuffle_i32x4(y[i], y[i + 4], 0x44), q = _mm512_shuffle_i32x4(y[i + 8], y[i + 12], 0x44);
    const __m512i r = _mm512_shuffle_i32x4(y[i], y[i + 4], 0xee), s = _mm512_shuffle_i32x4(y[i + 8], y[i + 12], 0xee);
    _mm512_store_si512(to + 16 * i, _mm512_shuffle_i32x4(p, q, 0x88));
    _mm512_store_si512(to + 16 * (i + 4), _mm512_shuffle_i32x4(p, q, 0xdd));
    _mm512_store_si512(to + 16 * (i + 8), _mm512_shuffle_i32x4(r, s, 0x88));
    _mm512_store_si512(to + 16 * (i + 12), _mm512_shuffle_i32x4(r, s, 0xdd));
  }
}

void PackKMinor(const Source& source, int lines, int64_t k, int /*stride*/, uint32_t* panel) {
  for (int64_t begin = 0; begin < k; begin += 32) {
    __m512i x[16];
#pragma GCC unroll 16
    for (int line = 0; line < 16; ++line) {
      x[line] = LoadPairs(source, line < lines ? line : lines - 1, begin, k - begin);
    }
    Transpose(x, panel + begin / 2 * 16);
  }
}

void PackKMajor(const Source& source, int lines, int64_t k, int /*stride*/, uint32_t* panel) {
  const __mmask16 mask = FirstLanes(lines);
  alignas(64) static constexpr uint16_t kInterleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                           21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                           11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i interleave = _mm512_load_si512(kInterleave);
  for (int64_t i = 0; i < k; i += 2) {
    const int64_t even = i * source.stride, odd = even + source.stride;
    const __mmask16 odd_mask = i + 1 < k ? mask : 0;
    __m512i halves;
    if (source.dtype == DType::kBF16) {
      const uint16_t* from = static_cast<const uint16_t*>(source.data);
      halves = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi16(mask, from + even)),
                                  _mm256_maskz_loadu_epi16(odd_mask, from + odd), 1);
    } else {
      halves = (__m512i)_mm512_cvtne2ps_pbh(LoadF32(source, odd, odd_mask), LoadF32(source, even, mask));
    }
    _mm512_store_si512(panel + i / 2 * 16, _mm512_permutexvar_epi16(interleave, halves));
  }
}

}  // namespace
}  // namespace cambium::gemm

#pragma GCC pop_options

namespace cambium::gemm {

const Isa* NativeBF16Isa(const Isa& base) {
  static const bool supported = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!supported || base.nr != 32) return nullptr;
  static const Isa kIsa{kMr, 32, 16, 2, false, &RunTile, base.finish, &PackKMinor, &PackKMajor};
  return &kIsa;
}

}  // namespace cambium::gemm

#else

namespace cambium::gemm {
const Isa* NativeBF16Isa(const Isa&) { return nullptr; }
}  // namespace cambium::gemm

#endif
