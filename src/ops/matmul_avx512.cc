#include <bit>
#include <cstring>

#include "base/simd_targets.h"
#include "hwy/base.h"
#include "ops/matmul_kernels.h"

#if HWY_ARCH_X86
#include <immintrin.h>

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12: PR 105593, in its own intrinsics
#endif

// AVX-512 with VNNI; the two functions with bf16 in their names also need AVX512_BF16. One panel is one register of 16
// sums a row; activations are embedded broadcasts.
HWY_PUSH_ATTRIBUTES("avx,avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")
namespace cambium {
namespace {

#include "ops/matmul_common-inl.h"

constexpr int kMaxRows = 8;

// A block's weights: unsigned bytes of eight groups, scales, minimum.
template <DType kType>
struct Block {
  static constexpr PanelPlanes kPlanes = Planes(kType);
  static constexpr bool kHasMinimum = kPlanes.offset == 0;
  static constexpr bool kTwoScales = kType == DType::kQ6_K;
  static constexpr int kOffsetShift = kHasMinimum ? 0 : std::countr_zero(static_cast<unsigned>(kPlanes.offset));

  Block(const PanelLayout& layout, const uint8_t* panel, int64_t index)
      : quants(panel + index * kPlanes.quants),
        high(panel + layout.high + index * kPlanes.high),
        scales(panel + layout.scales + index * kPlanes.scales),
        supers(panel + layout.supers + index / kSuper * kPlanes.supers) {}

  // Groups v and v + 4.
  HWY_INLINE void Groups(int v, __m512i& first, __m512i& second) const {
    if constexpr (kType == DType::kQ8_0) {
      first = _mm512_load_si512(quants + 64 * v);
      second = _mm512_load_si512(quants + 64 * (v + 4));
      return;
    }
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i both = _mm512_load_si512(quants + 64 * v);
    first = _mm512_and_si512(both, nibble);
    second = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
    if constexpr (kPlanes.high == 64) {
      const __m512i bits = _mm512_load_si512(high), bit = _mm512_set1_epi8(16);
      first = OrMasked(first, _mm512_slli_epi16(bits, 4 - v), bit);
      second = OrMasked(second, v == 0 ? bits : _mm512_srli_epi16(bits, v), bit);
    } else if constexpr (kPlanes.high == 128) {
      const __m512i pair = _mm512_set1_epi8(48);
      first = OrMasked(first, ToPair(_mm512_load_si512(high), v), pair);
      second = OrMasked(second, ToPair(_mm512_load_si512(high + 64), v), pair);
    }
  }

  HWY_INLINE __m512 Scale() const {
    if constexpr (kTwoScales) return ScaleOfHalf(0);
    if constexpr (kPlanes.supers == 0) return HalfVector(scales);
    return _mm512_mul_ps(HalfVector(supers), ByteVector(scales));
  }
  HWY_INLINE __m512 ScaleOfHalf(int half) const {
    const __m128i bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(scales + 16 * half));
    return _mm512_mul_ps(HalfVector(supers), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
  }
  HWY_INLINE __m512 Minimum() const {
    if constexpr (kPlanes.supers == 0) return HalfVector(scales + 32);
    const __m512 magnitude = _mm512_mul_ps(HalfVector(supers + 32), ByteVector(scales + 16));
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(magnitude), _mm512_set1_epi32(INT32_MIN)));
  }

  // Fetches what lies kAhead bytes further on: a panel and the next ones are one run of memory, and each block asks for
  // its share of it. Measured: 8 to 16 KiB ahead is best, twice as fast as following the planes; Q8_0 needs as many
  // lines as the first level has fill buffers, so it goes to the second.
  static HWY_INLINE void Prefetch(const uint8_t* panel, int64_t index) {
    constexpr int kShare = kPlanes.quants + kPlanes.high + kPlanes.scales + kPlanes.supers / kSuper;
    constexpr bool kFar = kType == DType::kQ8_0;
    const uint8_t* at = panel + index * kShare + (kFar ? 16384 : 12288);
    for (int line = 0; line < kShare; line += 64) _mm_prefetch(at + line, kFar ? _MM_HINT_T1 : _MM_HINT_T0);
  }

  const uint8_t *quants, *high, *scales, *supers;

 private:
  static HWY_INLINE __m512i OrMasked(__m512i a, __m512i b, __m512i mask) {
    return _mm512_ternarylogic_epi32(a, b, mask, 0xF8);  // a | (b & mask)
  }
  // The two bits of group v (0..3) at bits 4 and 5.
  static HWY_INLINE __m512i ToPair(__m512i bits, int v) {
    if (v < 2) return _mm512_slli_epi16(bits, 4 - 2 * v);
    return v == 2 ? bits : _mm512_srli_epi16(bits, 2);
  }
  static HWY_INLINE __m512 HalfVector(const uint8_t* from) {
    return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static HWY_INLINE __m512 ByteVector(const uint8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(from))));
  }
};

// acc + 16 x dot product of four unsigned weights with the four activations at `a`. In assembly, because GCC 12 does
// not fold the broadcast into the instruction.
HWY_INLINE __m512i Dot(__m512i acc, __m512i weights, const int8_t* a) {
  struct Four {
    int8_t values[4];
  };
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(weights), "m"(*reinterpret_cast<const Four*>(a)));
  return acc;
}

HWY_INLINE void Store(const PanelCall& call, int row, __m512 y) {
  const __mmask16 mask = static_cast<__mmask16>((1u << call.outputs) - 1);
  if (call.bias != nullptr) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, call.bias));
  _mm512_mask_storeu_ps(call.y + row * call.y_stride, mask, y);
}

template <DType kType, int kRows>
void Int8Rows(const PanelCall& call) noexcept {
  using B = Block<kType>;
  const int64_t blocks = call.in / kBlock;
  const ActBlock* x = call.x8;
  __m512 y[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) y[r] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b, x += kRows) {
    const B block(*call.layout, call.panel, b);
    if (call.prefetch) B::Prefetch(call.panel, b);
    __m512i dot[kRows], dot_high[B::kTwoScales ? kRows : 1];
    for (int r = 0; r < kRows; ++r) {
      if constexpr (B::kTwoScales) {
        dot[r] = _mm512_slli_epi32(_mm512_set1_epi32(x[r].neg_sum_low), B::kOffsetShift);
        dot_high[r] = _mm512_slli_epi32(_mm512_set1_epi32(x[r].neg_sum - x[r].neg_sum_low), B::kOffsetShift);
      } else if constexpr (!B::kHasMinimum) {
        dot[r] = _mm512_slli_epi32(_mm512_set1_epi32(x[r].neg_sum), B::kOffsetShift);
      } else {
        dot[r] = _mm512_setzero_si512();
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      __m512i first, second;
      block.Groups(v, first, second);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        dot[r] = Dot(dot[r], first, x[r].q + 4 * v);
        __m512i& rest = B::kTwoScales ? dot_high[B::kTwoScales ? r : 0] : dot[r];
        rest = Dot(rest, second, x[r].q + 16 + 4 * v);
      }
    }
    const __m512 d = block.Scale();
    for (int r = 0; r < kRows; ++r) {
      y[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r]), _mm512_mul_ps(d, _mm512_set1_ps(x[r].scale)), y[r]);
    }
    if constexpr (B::kTwoScales) {
      const __m512 d_high = block.ScaleOfHalf(1);
      for (int r = 0; r < kRows; ++r) {
        y[r] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot_high[r]), _mm512_mul_ps(d_high, _mm512_set1_ps(x[r].scale)), y[r]);
      }
    }
    if constexpr (B::kHasMinimum) {
      const __m512 m = block.Minimum();
      for (int r = 0; r < kRows; ++r) y[r] = _mm512_fmadd_ps(m, _mm512_set1_ps(x[r].scaled_sum), y[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) Store(call, r, y[r]);
}

void Int8(const PanelCall& call) noexcept {
  WithQuantized(call.dtype, [&]<DType kType>() {
    WithRows<kMaxRows>(call.rows, [&]<int kRows>() { Int8Rows<kType, kRows>(call); });
  });
}

// dst [32][16]
template <DType kType>
HWY_INLINE void DecodeBlock(const Block<kType>& block, float* dst) {
  using B = Block<kType>;
  const __m512i byte = _mm512_set1_epi32(255), offset = _mm512_set1_epi32(B::kPlanes.offset);
  const __m512 d = block.Scale();
  __m512 d_high = d, m = _mm512_setzero_ps();
  if constexpr (B::kTwoScales) d_high = block.ScaleOfHalf(1);
  if constexpr (B::kHasMinimum) m = block.Minimum();
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) {
    __m512i first, second;
    block.Groups(v, first, second);
    for (int i = 0; i < 4; ++i) {
      // Products of a quantised value and its scale are exact in f32, so fusing the sum changes nothing.
      const __m512i q0 = _mm512_sub_epi32(_mm512_and_si512(_mm512_srli_epi32(first, 8 * i), byte), offset);
      const __m512i q1 = _mm512_sub_epi32(_mm512_and_si512(_mm512_srli_epi32(second, 8 * i), byte), offset);
      _mm512_storeu_ps(dst + (4 * v + i) * kPanel, _mm512_fmadd_ps(_mm512_cvtepi32_ps(q0), d, m));
      _mm512_storeu_ps(dst + (16 + 4 * v + i) * kPanel, _mm512_fmadd_ps(_mm512_cvtepi32_ps(q1), d_high, m));
    }
  }
}

void Decode(DType dtype, const PanelLayout& layout, const uint8_t* panel, int64_t begin, int64_t blocks,
            float* dst) noexcept {
  WithQuantized(dtype, [&]<DType kType>() {
    for (int64_t b = 0; b < blocks; ++b) DecodeBlock(Block<kType>(layout, panel, begin + b), dst + b * kBlock * kPanel);
  });
}

// The 16 weights of input k of a dense panel.
template <DType kType>
HWY_INLINE __m512 DenseVector(const uint8_t* panel, int64_t k) {
  if constexpr (kType == DType::kF32) {
    return _mm512_load_ps(panel + 64 * k);
  } else {
    const __m256i bits = _mm256_load_si256(reinterpret_cast<const __m256i*>(panel + 32 * k));
    if constexpr (kType == DType::kF16) return _mm512_cvtph_ps(bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
}

template <DType kType, int kRows>
void F32Rows(const PanelCall& call) noexcept {
  __m512 y[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) y[r] = _mm512_setzero_ps();
  if constexpr (IsDense(kType)) {
    constexpr int kBytes = kType == DType::kF32 ? 64 : 32;
    for (int64_t k = 0; k < call.in; ++k) {
      if (call.prefetch) _mm_prefetch(call.panel + k * kBytes + 12288, _MM_HINT_T0);
      const __m512 w = DenseVector<kType>(call.panel, k);
      for (int r = 0; r < kRows; ++r) y[r] = _mm512_fmadd_ps(w, _mm512_set1_ps(call.x[r * call.in + k]), y[r]);
    }
  } else {
    alignas(64) float weights[kBlock * kPanel];
    for (int64_t b = 0; b < call.in / kBlock; ++b) {
      DecodeBlock(Block<kType>(*call.layout, call.panel, b), weights);
      for (int k = 0; k < kBlock; ++k) {
        const __m512 w = _mm512_load_ps(weights + k * kPanel);
        const float* x = call.x + b * kBlock + k;
        for (int r = 0; r < kRows; ++r) y[r] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[r * call.in]), y[r]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) Store(call, r, y[r]);
}

void F32(const PanelCall& call) noexcept {
  WithStored(call.dtype,
             [&]<DType kType>() { WithRows<kMaxRows>(call.rows, [&]<int kRows>() { F32Rows<kType, kRows>(call); }); });
}

__mmask16 FirstLanes(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFFu : count <= 0 ? 0u : (1u << count) - 1);
}

void ToBF16Pairs(const float* x, int64_t in, uint32_t* to) noexcept {
  for (int64_t k = 0; k < in; k += 32) {
    const __m512 low = _mm512_maskz_loadu_ps(FirstLanes(in - k), x + k);
    const __m512 high = _mm512_maskz_loadu_ps(FirstLanes(in - k - 16), x + k + 16);
    _mm512_storeu_si512(to + k / 2, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}

template <int kRows>
void BF16Rows(const PanelCall& call) noexcept {
  alignas(64) static constexpr uint16_t kInterleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                           21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                           11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i interleave = _mm512_load_si512(kInterleave);
  const int64_t words = (call.in + 1) / 2, stride = BF16Words(call.in);
  __m512 y[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) y[r] = _mm512_setzero_ps();
  for (int64_t k = 0; k < words; ++k) {
    if (call.prefetch) _mm_prefetch(call.panel + 64 * k + 12288, _MM_HINT_T0);
    // Panels are whole cache lines; what lies behind an odd last input may be anything.
    __m512i halves = _mm512_load_si512(call.panel + 64 * k);
    if (2 * k + 1 == call.in) halves = _mm512_maskz_mov_epi64(0x0F, halves);
    const __m512bh w = (__m512bh)_mm512_permutexvar_epi16(interleave, halves);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(static_cast<int>(call.pairs[r * stride + k]));
      y[r] = _mm512_dpbf16_ps(y[r], x, w);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) Store(call, r, y[r]);
}

void BF16(const PanelCall& call) noexcept {
  WithRows<kMaxRows>(call.rows, [&]<int kRows>() { BF16Rows<kRows>(call); });
}

int32_t SumOfBytes(__m128i q) {
  const __m128i sums = _mm_sad_epu8(_mm_xor_si128(q, _mm_set1_epi8(-128)), _mm_setzero_si128());  // of q + 128
  return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4) - 16 * 128;
}

// QuantizeBlocks of matmul_common-inl.h, with the same bits: both round to nearest even.
void Quantize(const float* x, int64_t blocks, ActBlock* to, int64_t stride) noexcept {
  const __m512i magnitude = _mm512_set1_epi32(INT32_MAX);
  for (int64_t b = 0; b < blocks; ++b, x += kBlock, to += stride) {
    const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
    const __m512i both = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low), magnitude),
                                          _mm512_and_si512(_mm512_castps_si512(high), magnitude));
    const float amax = std::bit_cast<float>(_mm512_reduce_max_epi32(both));
    to->scale = amax / 127.0f;
    const __m512 inverse = _mm512_set1_ps(amax >= 0x1p-120f ? 127.0f / amax : 0.0f);
    const __m128i q_low = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(low, inverse)));
    const __m128i q_high = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(high, inverse)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to->q), q_low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to->q + 16), q_high);
    const int32_t sum_low = SumOfBytes(q_low), sum_high = SumOfBytes(q_high);
    to->scaled_sum = to->scale * static_cast<float>(sum_low + sum_high);
    to->neg_sum = -(sum_low + sum_high);
    to->neg_sum_low = -sum_low;
  }
}

}  // namespace

const KernelTable kAvx512Kernels = {kMaxRows, kMaxRows, kMaxRows, Quantize, Int8, F32, Decode, ToBF16Pairs, BF16, kMaxRows};

}  // namespace cambium
HWY_POP_ATTRIBUTES
#endif
