// bf16 products on AMX tiles. TDPBF16PS adds to a tile of 16 x 16 sums the products of 16 rows and 16 columns over 16
// words: even and odd values of k in a chain each, from zero, then the two to the sum; denormals count as zero (Intel
// SDM, volume 2). Words past the end are zero, which changes no sum.

#include "hwy/base.h"
#include "ops/gemm_isa.h"
#include "ops/matmul_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 on its own AVX-512 header (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
HWY_PUSH_ATTRIBUTES("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")

namespace cambium::gemm {
namespace {

#include "ops/bf16_pairs-inl.h"

constexpr int kEdge = 16;  // rows of a tile and words of a row
constexpr int kMr = 2 * kEdge, kNr = 2 * kEdge;
constexpr int kRowBytes = 64;

// Palette 1: eight tiles. 0..3 are sums, 4 and 5 rows of a, 6 and 7 columns of b.
struct alignas(64) TileConfig {
  explicit constexpr TileConfig(int rows) {  // of a, for both of its tiles together
    for (int i = 0; i < 8; ++i) bytes[i] = kRowBytes;
    const int upper = rows < kEdge ? rows : kEdge, lower = rows > kEdge ? rows - kEdge : kEdge;
    const int heights[] = {upper, upper, lower, lower, upper, lower, kEdge, kEdge};
    for (int i = 0; i < 8; ++i) height[i] = static_cast<uint8_t>(heights[i]);
  }
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t height[16] = {};
};

void Begin() {
  static constexpr TileConfig kWhole(kMr);
  _tile_loadconfig(&kWhole);
}
void End() { _tile_release(); }

// Sums of whole tiles, beginning at `from` or, if null, at zero.
template <int kRowTiles, int kColumnTiles>
void SumTiles(const Tile& t, const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  constexpr bool kLower = kRowTiles == 2, kRight = kColumnTiles == 2;
  if (from == nullptr) {
    _tile_zero(0);
    if constexpr (kRight) _tile_zero(1);
    if constexpr (kLower) _tile_zero(2);
    if constexpr (kLower && kRight) _tile_zero(3);
  } else {
    const int64_t bytes = from_stride * 4;
    const float* lower = from + kEdge * from_stride;
    _tile_loadd(0, from, bytes);
    if constexpr (kRight) _tile_loadd(1, from + kEdge, bytes);
    if constexpr (kLower) _tile_loadd(2, lower, bytes);
    if constexpr (kLower && kRight) _tile_loadd(3, lower + kEdge, bytes);
  }
  const uint32_t* a = t.a;
  const uint32_t* b = t.b;
  for (int64_t word = 0; word < t.words; word += kEdge, a += kMr * kEdge, b += kEdge * kEdge) {
    _tile_loadd(4, a, kRowBytes);
    _tile_loadd(6, b, kRowBytes);
    if constexpr (kRight) _tile_loadd(7, b + t.b_panel, kRowBytes);
    if constexpr (kLower) _tile_loadd(5, a + kEdge * kEdge, kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kRight) _tile_dpbf16ps(1, 4, 7);
    if constexpr (kLower) _tile_dpbf16ps(2, 5, 6);
    if constexpr (kLower && kRight) _tile_dpbf16ps(3, 5, 7);
  }
  const int64_t bytes = to_stride * 4;
  float* lower = to + kEdge * to_stride;
  _tile_stored(0, to, bytes);
  if constexpr (kRight) _tile_stored(1, to + kEdge, bytes);
  if constexpr (kLower) _tile_stored(2, lower, bytes);
  if constexpr (kLower && kRight) _tile_stored(3, lower + kEdge, bytes);
}

void RunTile(const Tile& t) {
  const bool lower = t.rows > kEdge, right = t.columns > kEdge;
  const auto sum = lower ? (right ? SumTiles<2, 2> : SumTiles<2, 1>) : (right ? SumTiles<1, 2> : SumTiles<1, 1>);
  const bool carried = t.carry && t.from != nullptr, added = !t.carry && t.from != nullptr;
  if (t.rows % kEdge == 0 && !added) return sum(t, t.from, t.from_stride, t.to, t.to_stride);
  alignas(64) float sums[kMr * kNr];
  const int vectors = right ? 2 : 1;
  if (carried) {
    for (int r = 0; r < t.rows; ++r) {
      std::memcpy(sums + r * kNr, t.from + r * t.from_stride, static_cast<size_t>(vectors * kRowBytes));
    }
  }
  sum(t, carried ? sums : nullptr, kNr, sums, kNr);
  for (int r = 0; r < t.rows; ++r) {
    for (int j = 0; j < vectors * kEdge; j += kEdge) {
      __m512 v = _mm512_load_ps(sums + r * kNr + j);
      if (added) v = _mm512_add_ps(v, _mm512_loadu_ps(t.from + r * t.from_stride + j));
      _mm512_storeu_ps(t.to + r * t.to_stride + j, v);
    }
  }
}

// Panels of a: [words / 16][32 rows][16 words].
void PackRowsKMinor(const Source& source, int lines, int64_t k, int /*stride*/, uint32_t* panel) {
  for (int line = 0; line < lines; ++line) {
    for (int64_t begin = 0; begin < k; begin += 32) {
      _mm512_store_si512(panel + begin / 2 * kMr + line * kEdge, LoadPairs(source, line, begin, k - begin));
    }
  }
}

void PackRowsKMajor(const Source& source, int lines, int64_t k, int /*stride*/, uint32_t* panel) {
  for (int64_t begin = 0; begin < k; begin += 32) {
    for (int half = 0; half < lines; half += kEdge) {
      __m512i words[kEdge];
#pragma GCC unroll 16
      for (int i = 0; i < kEdge; ++i) {
        const int64_t at = begin + 2 * i;
        words[i] = LoadAcross(source, at * source.stride + half, FirstLanes(at < k ? lines - half : 0),
                              FirstLanes(at + 1 < k ? lines - half : 0));
      }
      Transpose(words, panel + begin / 2 * kMr + half * kEdge);
    }
  }
}

// The word at `at` of 16 columns of a panel [in][16 outputs] of bf16, zero behind its end.
__m512i PanelWord(const PanelCall& call, int64_t at) {
  const int64_t left = call.in - 2 * at;  // inputs
  const __mmask8 mask = left >= 2 ? 0xFF : left == 1 ? 0x0F : 0;
  return _mm512_permutexvar_epi16(Interleave(), _mm512_maskz_loadu_epi64(mask, call.panel + 64 * at));
}

__m512i PanelWord(const uint8_t* line, bool prefetch) {
  if (prefetch) _mm_prefetch(line + 12288, _MM_HINT_T0);
  return _mm512_permutexvar_epi16(Interleave(), _mm512_load_si512(line));
}

void PairPanel(const PanelCall& call, int64_t word, uint32_t* to) {
  if (word * 2 + 32 <= call.in) {
    const uint8_t* from = call.panel + word * 64;
#pragma GCC unroll 16
    for (int i = 0; i < kEdge; ++i) _mm512_store_si512(to + i * kEdge, PanelWord(from + 64 * i, call.prefetch));
    return;
  }
  for (int i = 0; i < kEdge; ++i) _mm512_store_si512(to + i * kEdge, PanelWord(call, word + i));
}

// TDPBF16PS in fp32, bit for bit: products of bf16 are exact, so each chain is one of fused multiply-adds. For one row,
// whose tile would wait for its own sums longer than for the weights.
__m512 SumRowByFma(const PanelCall& call) {
  const unsigned control = _mm_getcsr();
  _mm_setcsr(control | 0x8040);  // denormals are zero, as they are for tiles
  const int64_t words = BF16Words(call.in);
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  __m512 y = _mm512_setzero_ps();
  for (int64_t word = 0; word < words; word += kEdge) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    const auto step = [&](int64_t at, __m512i w) __attribute__((always_inline)) {
      const __m512i x = _mm512_set1_epi32(static_cast<int>(call.pairs[at]));
      even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                             _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), even);
      odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, upper)),
                            _mm512_castsi512_ps(_mm512_and_si512(w, upper)), odd);
    };
    if (word * 2 + 32 <= call.in) {
      const uint8_t* from = call.panel + word * 64;
#pragma GCC unroll 16
      for (int i = 0; i < kEdge; ++i) step(word + i, PanelWord(from + 64 * i, call.prefetch));
    } else {
      for (int i = 0; i < kEdge; ++i) step(word + i, PanelWord(call, word + i));
    }
    y = _mm512_add_ps(y, _mm512_add_ps(even, odd));
  }
  _mm_setcsr(control);
  return y;
}

// The sums of a panel and the row pairs of a call: RunTile's, word for word.
template <bool kLower>
void SumPanel(const PanelCall& call, float* sums) {
  // Words are paired two steps before their tile is loaded, so that its stores are done.
  constexpr int kSlots = 4, kEarly = 2;
  alignas(64) uint32_t words[kSlots][kEdge * kEdge];
  const int64_t stride = BF16Words(call.in), steps = stride / kEdge;
  _tile_zero(0);
  if constexpr (kLower) _tile_zero(2);
  for (int64_t i = 0; i < std::min<int64_t>(kEarly, steps); ++i) PairPanel(call, i * kEdge, words[i]);
  for (int64_t i = 0; i < steps; ++i) {
    if (i + kEarly < steps) PairPanel(call, (i + kEarly) * kEdge, words[(i + kEarly) % kSlots]);
    _tile_loadd(4, call.pairs + i * kEdge, stride * 4);
    if constexpr (kLower) _tile_loadd(5, call.pairs + kEdge * stride + i * kEdge, stride * 4);
    _tile_loadd(6, words[i % kSlots], kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kLower) _tile_dpbf16ps(2, 5, 6);
  }
  _tile_stored(0, sums, kRowBytes);
  if constexpr (kLower) _tile_stored(2, sums + kEdge * kEdge, kRowBytes);
}

}  // namespace
}  // namespace cambium::gemm

namespace cambium {

void BF16Tiles(const PanelCall& call) noexcept {
  alignas(64) float sums[kBF16TileRows * kPanel];
  if (call.rows == 1) {
    _mm512_store_ps(sums, gemm::SumRowByFma(call));
  } else {
    const gemm::TileConfig config(call.rows);
    _tile_loadconfig(&config);
    call.rows > gemm::kEdge ? gemm::SumPanel<true>(call, sums) : gemm::SumPanel<false>(call, sums);
    _tile_release();
  }
  const __mmask16 mask = gemm::FirstLanes(call.outputs);
  const __m512 bias = call.bias != nullptr ? _mm512_maskz_loadu_ps(mask, call.bias) : _mm512_setzero_ps();
  for (int r = 0; r < call.rows; ++r) {
    __m512 y = _mm512_load_ps(sums + r * kPanel);
    if (call.bias != nullptr) y = _mm512_add_ps(y, bias);
    _mm512_mask_storeu_ps(call.y + r * call.y_stride, mask, y);
  }
}

}  // namespace cambium

HWY_POP_ATTRIBUTES

namespace cambium::gemm {

const Isa* AmxBF16Isa(const Isa& base) {
  static const Isa kIsa{.mr = kMr,
                        .nr = kNr,
                        .a_stride = kMr,
                        .k_per_word = 2,
                        .exact = false,
                        .tile = &RunTile,
                        .finish = base.finish,
                        .a = {&PackRowsKMinor, &PackRowsKMajor},
                        .b = {&PackKMinor, &PackKMajor},
                        .block_words = 320,
                        .row_block = 1024,
                        .begin = &Begin,
                        .end = &End};
  return &kIsa;
}

}  // namespace cambium::gemm

#else

namespace cambium::gemm {
const Isa* AmxBF16Isa(const Isa&) { return nullptr; }
}  // namespace cambium::gemm
namespace cambium {
void BF16Tiles(const PanelCall&) noexcept {}
}  // namespace cambium

#endif
