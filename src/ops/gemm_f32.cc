#include "base/isa.h"
#include "base/simd_targets.h"
#include "ops/gemm_isa.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gemm_f32.cc"
#include <hwy/foreach_target.h>
// Highway's headers follow foreach_target.h.
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#if HWY_TARGET == HWY_AVX3_DL
#include <immintrin.h>
#endif
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 on its own AVX-512 header (GCC bug 105593)

HWY_BEFORE_NAMESPACE();
namespace cambium::gemm::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;
using Vec = hn::Vec<F32>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));

// 32 vector registers hold 14 x 2 sums, 16 hold 6 x 2.
constexpr int kVectors = kLanes >= 8 ? 2 : 16 / kLanes;
constexpr int kMr = kLanes == 16 ? 14 : kLanes == 8 ? 6 : 2;
constexpr int kNr = kVectors * kLanes;
constexpr int kAStride = kLanes == 16 ? 16 : 8;

template <int kRows, int kVecs>
HWY_NOINLINE void TileKernel(const Tile& t) {
  const F32 d;
  Vec sums[kRows][kVecs];
  const float* HWY_RESTRICT a = reinterpret_cast<const float*>(t.a);
  const float* const begin = t.carry ? t.from : nullptr;
  const float* const end = t.carry ? nullptr : t.from;
  const float* b[kVecs];
#pragma GCC unroll 16
  for (int v = 0; v < kVecs; ++v) {
    const int column = v * kLanes;
    b[v] = reinterpret_cast<const float*>(t.b) + column / kPanelColumns * t.b_panel + column % kPanelColumns;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      sums[r][v] = begin == nullptr ? hn::Zero(d) : hn::LoadU(d, begin + r * t.from_stride + v * kLanes);
    }
  }
  for (int64_t word = 0; word < t.words; ++word) {
    Vec bv[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) bv[v] = hn::Load(d, b[v] + word * kPanelColumns);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec av = hn::Set(d, a[word * kAStride + r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sums[r][v] = hn::MulAdd(av, bv[v], sums[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      if (end != nullptr) sums[r][v] = hn::Add(sums[r][v], hn::LoadU(d, end + r * t.from_stride + v * kLanes));
      hn::StoreU(sums[r][v], d, t.to + r * t.to_stride + v * kLanes);
    }
  }
}

template <int kVecs, int... kRow>
constexpr std::array<void (*)(const Tile&), sizeof...(kRow)> Kernels(std::integer_sequence<int, kRow...>) {
  return {&TileKernel<kRow + 1, kVecs>...};
}

void RunTile(const Tile& tile) {
  static constexpr auto kWide = Kernels<kVectors>(std::make_integer_sequence<int, kMr>());
  static constexpr auto kNarrow = Kernels<kVectors / 2>(std::make_integer_sequence<int, kMr>());
  (tile.columns > kNr / 2 ? kWide : kNarrow)[static_cast<size_t>(tile.rows - 1)](tile);
}

template <bool kBeta, bool kBias>
void FinishRows(const Finish& f) {
  const F32 d;
  const Vec alpha = hn::Set(d, f.alpha);
  const Vec beta = hn::Set(d, f.beta);
  const auto one = [&](const float* sums, const float* c, const float* bias) HWY_ATTR {
    Vec value = hn::Mul(alpha, hn::LoadU(d, sums));
    if constexpr (kBeta) value = hn::MulAdd(beta, hn::LoadU(d, c), value);
    if constexpr (kBias) value = hn::Add(value, hn::LoadU(d, bias));
    return value;
  };
  for (int r = 0; r < f.rows; ++r) {
    const float* HWY_RESTRICT sums = f.sums + r * f.sums_stride;
    float* c = f.c + r * f.c_stride;
    int j = 0;
    for (; j + kLanes <= f.columns; j += kLanes)
      hn::StoreU(one(sums + j, c + j, kBias ? f.bias + j : nullptr), d, c + j);
    if (j == f.columns) continue;
    float buffer[3][kLanes] = {};
    const size_t bytes = static_cast<size_t>(f.columns - j) * sizeof(float);
    std::memcpy(buffer[0], sums + j, bytes);
    if (kBeta) std::memcpy(buffer[1], c + j, bytes);
    if (kBias) std::memcpy(buffer[2], f.bias + j, bytes);
    hn::StoreU(one(buffer[0], buffer[1], buffer[2]), d, buffer[0]);
    std::memcpy(c + j, buffer[0], bytes);
  }
}

void RunFinish(const Finish& f) {
  if (f.bias == nullptr) {
    f.beta == 0.0f ? FinishRows<false, false>(f) : FinishRows<true, false>(f);
  } else {
    f.beta == 0.0f ? FinishRows<false, true>(f) : FinishRows<true, true>(f);
  }
}

template <bool kRound>
HWY_INLINE Vec Rounded(Vec value) {
  if constexpr (kRound) {
    const hn::RebindToUnsigned<F32> du;
    const auto bits = hn::BitCast(du, value);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
    const auto nearest = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff)));
    const auto kept = hn::BitCast(F32(), hn::And(nearest, hn::Set(du, 0xffff0000u)));
    return hn::IfThenElse(hn::Eq(value, value), kept, value);  // a NaN stays one
  } else {
    return value;
  }
}

template <bool kRound, class T>
HWY_INLINE Vec LoadF32(const T* from) {
  const F32 d;
  if constexpr (std::is_same_v<T, float>) {
    return Rounded<kRound>(hn::LoadU(d, from));
  } else {
    return Rounded<kRound>(hn::PromoteTo(d, hn::LoadU(hn::Rebind<T, F32>(), from)));
  }
}

// Converts `count` <= 16 elements into 16 floats, zeros behind.
template <bool kRound, class T>
HWY_INLINE void Stage(const T* from, int64_t count, float* HWY_RESTRICT to) {
  alignas(64) T padded[16];
  if (count < 16) {
    std::memset(padded, 0, sizeof(padded));
    std::memcpy(padded, from, static_cast<size_t>(count) * sizeof(T));
    from = padded;
  }
  for (int i = 0; i < 16; i += kLanes) hn::StoreU(LoadF32<kRound>(from + i), F32(), to + i);
}

// to [16][stride] = transpose of `stride` lines of 16; lines past `lines` repeat the last.
HWY_INLINE void Transpose(const float* from, int64_t line_stride, int lines, int stride, float* HWY_RESTRICT to) {
#if HWY_TARGET == HWY_AVX3_DL
  if (stride == 16) {
    __m512 x[16], y[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) x[i] = _mm512_loadu_ps(from + std::min(i, lines - 1) * line_stride);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 4) {
      const __m512d p = _mm512_castps_pd(_mm512_unpacklo_ps(x[i], x[i + 1]));
      const __m512d q = _mm512_castps_pd(_mm512_unpacklo_ps(x[i + 2], x[i + 3]));
      const __m512d r = _mm512_castps_pd(_mm512_unpackhi_ps(x[i], x[i + 1]));
      const __m512d s = _mm512_castps_pd(_mm512_unpackhi_ps(x[i + 2], x[i + 3]));
      y[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(p, q));
      y[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(p, q));
      y[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(r, s));
      y[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(r, s));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512 p = _mm512_shuffle_f32x4(y[i], y[i + 4], 0x44), q = _mm512_shuffle_f32x4(y[i + 8], y[i + 12], 0x44);
      const __m512 r = _mm512_shuffle_f32x4(y[i], y[i + 4], 0xee), s = _mm512_shuffle_f32x4(y[i + 8], y[i + 12], 0xee);
      _mm512_storeu_ps(to + 16 * i, _mm512_shuffle_f32x4(p, q, 0x88));
      _mm512_storeu_ps(to + 16 * (i + 4), _mm512_shuffle_f32x4(p, q, 0xdd));
      _mm512_storeu_ps(to + 16 * (i + 8), _mm512_shuffle_f32x4(r, s, 0x88));
      _mm512_storeu_ps(to + 16 * (i + 12), _mm512_shuffle_f32x4(r, s, 0xdd));
    }
    return;
  }
#endif
#if HWY_TARGET == HWY_SCALAR
  for (int k = 0; k < 16; ++k) {
    for (int line = 0; line < stride; ++line) {
      to[k * stride + line] = from[std::min(line, lines - 1) * line_stride + k];
    }
  }
#else
  const hn::FixedTag<float, 4> d4;
  const hn::FixedTag<double, 2> d2;
  for (int line = 0; line < stride; line += 4) {
    const float* f[4];
    for (int i = 0; i < 4; ++i) f[i] = from + std::min(line + i, lines - 1) * line_stride;
    for (int k = 0; k < 16; k += 4) {
      const auto x0 = hn::LoadU(d4, f[0] + k), x1 = hn::LoadU(d4, f[1] + k);
      const auto x2 = hn::LoadU(d4, f[2] + k), x3 = hn::LoadU(d4, f[3] + k);
      const auto p = hn::BitCast(d2, hn::InterleaveLower(d4, x0, x1));
      const auto q = hn::BitCast(d2, hn::InterleaveLower(d4, x2, x3));
      const auto r = hn::BitCast(d2, hn::InterleaveUpper(d4, x0, x1));
      const auto s = hn::BitCast(d2, hn::InterleaveUpper(d4, x2, x3));
      float* out = to + k * stride + line;
      hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, p, q)), d4, out);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, p, q)), d4, out + stride);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, r, s)), d4, out + 2 * stride);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, r, s)), d4, out + 3 * stride);
    }
  }
#endif
}

template <bool kRound, class T>
void PackMinor(const Source& source, int lines, int64_t k, int stride, float* HWY_RESTRICT panel) {
  const T* from = static_cast<const T*>(source.data);
  alignas(64) float staged[16 * 16];
  for (int64_t begin = 0; begin < k; begin += 16) {
    if (std::is_same_v<T, float> && !kRound && k - begin >= 16) {
      Transpose(reinterpret_cast<const float*>(from) + begin / 16 * source.k16, source.stride, lines, stride,
                panel + begin * stride);
      continue;
    }
    for (int line = 0; line < lines; ++line) {
      Stage<kRound>(from + line * source.stride + begin / 16 * source.k16, std::min<int64_t>(k - begin, 16),
                    staged + line * 16);
    }
    Transpose(staged, 16, lines, stride, panel + begin * stride);
  }
}

template <bool kRound, class T>
void PackMajor(const Source& source, int lines, int64_t k, int stride, float* HWY_RESTRICT panel) {
  const T* from = static_cast<const T*>(source.data);
  alignas(64) float staged[16];
  for (int64_t i = 0; i < k; ++i) {
    const T* line = from + i * source.stride;
    float* to = panel + i * stride;
    if (i * source.stride + 16 <= source.available) {
      for (int j = 0; j < stride; j += kLanes) hn::StoreU(LoadF32<kRound>(line + j), F32(), to + j);
    } else {
      Stage<kRound>(line, lines, staged);
      std::memcpy(to, staged, static_cast<size_t>(stride) * sizeof(float));
    }
  }
}

template <bool kRound>
void PackKMinor(const Source& source, int lines, int64_t k, int stride, uint32_t* panel) {
  float* to = reinterpret_cast<float*>(panel);
  switch (source.dtype) {
    case DType::kF16:
      return PackMinor<kRound, hwy::float16_t>(source, lines, k, stride, to);
    case DType::kBF16:
      return PackMinor<false, hwy::bfloat16_t>(source, lines, k, stride, to);
    default:
      return PackMinor<kRound, float>(source, lines, k, stride, to);
  }
}

template <bool kRound>
void PackKMajor(const Source& source, int lines, int64_t k, int stride, uint32_t* panel) {
  float* to = reinterpret_cast<float*>(panel);
  switch (source.dtype) {
    case DType::kF16:
      return PackMajor<kRound, hwy::float16_t>(source, lines, k, stride, to);
    case DType::kBF16:
      return PackMajor<false, hwy::bfloat16_t>(source, lines, k, stride, to);
    default:
      return PackMajor<kRound, float>(source, lines, k, stride, to);
  }
}

const Isa* FindIsa(bool round) {
  static constexpr auto kTable = [](bool exact, Packing packing) {
    return Isa{.mr = kMr,
               .nr = kNr,
               .a_stride = kAStride,
               .k_per_word = 1,
               .exact = exact,
               .tile = &RunTile,
               .finish = &RunFinish,
               .a = packing,
               .b = packing};
  };
  static constexpr Isa kExact = kTable(true, {&PackKMinor<false>, &PackKMajor<false>});
  static constexpr Isa kRounded = kTable(false, {&PackKMinor<true>, &PackKMajor<true>});
  return round ? &kRounded : &kExact;
}

}  // namespace
}  // namespace cambium::gemm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cambium::gemm {

HWY_EXPORT(FindIsa);

const Isa& F32Isa() { return *HWY_DYNAMIC_DISPATCH(FindIsa)(false); }

const Isa& BF16Isa() {
  const Isa& rounded = *HWY_DYNAMIC_DISPATCH(FindIsa)(true);
  const Isa* native = HasAmx() ? AmxBF16Isa(rounded) : NativeBF16Isa(rounded);
  return native != nullptr ? *native : rounded;
}

}  // namespace cambium::gemm
#endif
