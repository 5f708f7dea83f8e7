// bf16 products on AMX tiles. TDPBF16PS adds to a tile of 16 x 16 sums the products of 16 rows and 16 columns over 16
// words: even and odd values of k in a chain each, from zero, then the two to the sum; denormals count as zero (Intel
// SDM, volume 2). Words past the end are zero, which changes no sum.

#include "ops/gemm_isa.h"
#include "ops/matmul_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <cstring>

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 on its own AVX-512 header (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")

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

// The sums of a panel [in][16 outputs] of bf16 and the row pairs of a call: RunTile's, word for word.
template <bool kLower>
void SumPanel(const PanelCall& call, float* sums) {
  alignas(64) uint32_t words[4][kEdge * kEdge];  // in turn, so that a tile's stores are done when it is loaded
  const __m512i interleave = Interleave();
  const int64_t stride = BF16Words(call.in), lines = (call.in + 1) / 2;
  _tile_zero(0);
  if constexpr (kLower) _tile_zero(2);
  for (int64_t word = 0; word < lines; word += kEdge) {
    uint32_t* b = words[word / kEdge % 4];
    const uint8_t* from = call.panel + word * 64;
    if (word * 2 + 32 <= call.in) {
#pragma GCC unroll 16
      for (int i = 0; i < kEdge; ++i) {
        if (call.prefetch) _mm_prefetch(from + 64 * i + 12288, _MM_HINT_T0);
        _mm512_store_si512(b + i * kEdge, _mm512_permutexvar_epi16(interleave, _mm512_load_si512(from + 64 * i)));
      }
    } else {
      for (int i = 0; i < kEdge; ++i) {
        const int64_t left = call.in - 2 * (word + i);  // inputs
        const __m512i halves = _mm512_maskz_loadu_epi64(left >= 2 ? 0xFF : left == 1 ? 0x0F : 0, from + 64 * i);
        _mm512_store_si512(b + i * kEdge, _mm512_permutexvar_epi16(interleave, halves));
      }
    }
    _tile_loadd(4, call.pairs + word, stride * 4);
    if constexpr (kLower) _tile_loadd(5, call.pairs + kEdge * stride + word, stride * 4);
    _tile_loadd(6, b, kRowBytes);
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
  const gemm::TileConfig config(call.rows);
  _tile_loadconfig(&config);
  alignas(64) float sums[kBF16TileRows * kPanel];
  call.rows > gemm::kEdge ? gemm::SumPanel<true>(call, sums) : gemm::SumPanel<false>(call, sums);
  _tile_release();
  const __mmask16 mask = gemm::FirstLanes(call.outputs);
  const __m512 bias = call.bias != nullptr ? _mm512_maskz_loadu_ps(mask, call.bias) : _mm512_setzero_ps();
  for (int r = 0; r < call.rows; ++r) {
    __m512 y = _mm512_load_ps(sums + r * kPanel);
    if (call.bias != nullptr) y = _mm512_add_ps(y, bias);
    _mm512_mask_storeu_ps(call.y + r * call.y_stride, mask, y);
  }
}

}  // namespace cambium

#pragma GCC pop_options

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
                        .across_rows = true,
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
