#include <bit>
#include <cstring>

#include "base/simd_targets.h"
#include "hwy/base.h"
#include "ops/matmul_kernels.h"

#if HWY_ARCH_X86
#include <immintrin.h>

// AVX2 without VNNI. A panel is done in two halves of 8 outputs, so that the sums of four rows stay in registers.
HWY_PUSH_ATTRIBUTES("avx,avx2,fma,f16c,bmi2")
namespace cambium {
namespace {

#include "ops/matmul_common-inl.h"

constexpr int kMaxInt8Rows = 16, kRowsAtOnce = 4;

#include "ops/matmul_256-inl.h"

// Dot products by pairs of bytes, whose sums stay in 16 bits for as long as they fit.
struct PairDots {
  static constexpr bool kSignedBytes = true;
  // How many pair sums of unsigned weights and |q| <= 127 fit 16 bits: 8 * 2 * 15 * 127 = 30480, 4 * 2 * 31 * 127 =
  // 31496, 2 * 2 * 63 * 127 = 32004; signed bytes are summed one at a time, 2 * 128 * 127 = 32512.
  template <class B>
  static constexpr int kPairSums = B::kSigned              ? 1
                                   : B::kPlanes.high == 0  ? 8
                                   : B::kPlanes.high == 64 ? 4
                                                           : 2;

  // Groups [begin, begin + kCount), group(g), times every row's, added to dot.
  template <class B, int kRows, int kCount, class Group>
  static HWY_INLINE void Add(const Group& group, const ActBlock* x, int begin, __m256i dot[kRows]) {
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int g = begin; g < begin + kCount; g += kPairSums<B>) {
      __m256i pairs[kRows];
#pragma GCC unroll 8
      for (int i = 0; i < kPairSums<B>; ++i) {
        const __m256i w = group(g + i);
        const __m256i magnitude = B::kSigned ? _mm256_abs_epi8(w) : w;
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          __m256i a = BroadcastFour(x[r].q + 4 * (g + i));
          if constexpr (B::kSigned) a = _mm256_sign_epi8(a, w);
          const __m256i sum = _mm256_maddubs_epi16(magnitude, a);
          pairs[r] = i == 0 ? sum : _mm256_add_epi16(pairs[r], sum);
        }
      }
      for (int r = 0; r < kRows; ++r) dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(pairs[r], ones));
    }
  }
};

void Int8(const PanelCall& call) noexcept { MultiplyInt8<PairDots>(call); }

// dst [32][16], of which this half's 8 columns
template <DType kType>
HWY_INLINE void DecodeBlock(const Block<kType, true>& block, float* dst) {
  using B = Block<kType, true>;
  const __m256i byte = _mm256_set1_epi32(255), offset = _mm256_set1_epi32(B::kOffset);
  const __m256 d[2] = {block.Scale(0), B::kTwoScales ? block.Scale(1) : block.Scale(0)};
  __m256 m = _mm256_setzero_ps();
  if constexpr (B::kHasMinimum) m = block.Minimum();
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) {
    const __m256i group = block.Group(g);
    for (int i = 0; i < 4; ++i) {
      __m256i q;
      if constexpr (B::kSigned) {
        q = _mm256_srai_epi32(_mm256_slli_epi32(group, 24 - 8 * i), 24);
      } else {
        q = _mm256_sub_epi32(_mm256_and_si256(_mm256_srli_epi32(group, 8 * i), byte), offset);
      }
      // Products of a quantised value and its scale are exact in f32, so fusing the sum changes nothing.
      _mm256_storeu_ps(dst + (4 * g + i) * kPanel, _mm256_fmadd_ps(_mm256_cvtepi32_ps(q), d[g / 4], m));
    }
  }
}

void Decode(DType dtype, const PanelLayout& layout, const uint8_t* panel, int64_t begin, int64_t blocks,
            float* dst) noexcept {
  WithQuantized(dtype, [&]<DType kType>() {
    for (int64_t b = 0; b < blocks; ++b) {
      for (int half = 0; half < 2; ++half) {
        DecodeBlock(Block<kType, true>(layout, panel, begin + b, half), dst + b * kBlock * kPanel + half * kLanes);
      }
    }
  });
}

// Weights of input k, outputs 8 * half and on, of a dense panel.
template <DType kType>
HWY_INLINE __m256 DenseVector(const uint8_t* panel, int64_t k, int half) {
  if constexpr (kType == DType::kF32) {
    return _mm256_load_ps(reinterpret_cast<const float*>(panel + 64 * k + 32 * half));
  } else {
    const __m128i bits = _mm_load_si128(reinterpret_cast<const __m128i*>(panel + 32 * k + 16 * half));
    if constexpr (kType == DType::kF16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
}

template <DType kType, int kRows>
void F32Rows(const PanelCall& call) noexcept {
  __m256 y[2][kRows];
  for (int r = 0; r < kRows; ++r) y[0][r] = y[1][r] = _mm256_setzero_ps();
  const auto multiply = [&](const float* x, const __m256(&w)[2]) {
    for (int r = 0; r < kRows; ++r) {
      const __m256 a = _mm256_set1_ps(x[r * call.in]);
      y[0][r] = _mm256_fmadd_ps(w[0], a, y[0][r]);
      y[1][r] = _mm256_fmadd_ps(w[1], a, y[1][r]);
    }
  };
  if constexpr (IsDense(kType)) {
    constexpr int kBytes = kType == DType::kF32 ? 64 : 32;
    for (int64_t k = 0; k < call.in; ++k) {
      if (call.prefetch) {
        _mm_prefetch(reinterpret_cast<const char*>(call.panel + k * kBytes + 12288), _MM_HINT_T0);
      }
      multiply(call.x + k, {DenseVector<kType>(call.panel, k, 0), DenseVector<kType>(call.panel, k, 1)});
    }
  } else {
    alignas(64) float weights[kBlock * kPanel];
    for (int64_t b = 0; b < call.in / kBlock; ++b) {
      for (int half = 0; half < 2; ++half) {
        DecodeBlock(Block<kType, true>(*call.layout, call.panel, b, half), weights + half * kLanes);
      }
      for (int k = 0; k < kBlock; ++k) {
        const float* w = weights + k * kPanel;
        multiply(call.x + b * kBlock + k, {_mm256_load_ps(w), _mm256_load_ps(w + kLanes)});
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int half = 0; half < 2; ++half) Store(call, half, r, y[half][r]);
  }
}

void F32(const PanelCall& call) noexcept {
  WithStored(call.dtype, [&]<DType kType>() {
    WithRows<kRowsAtOnce>(call.rows, [&]<int kRows>() { F32Rows<kType, kRows>(call); });
  });
}

void Quantize(const float* x, int64_t blocks, ActBlock* to, int64_t stride) noexcept {
  QuantizeBlocks(x, blocks, to, stride);
}

}  // namespace

const KernelTable kAvx2Kernels = {kRowsAtOnce, kMaxInt8Rows, kRowsAtOnce, Quantize, Int8, F32, Decode, nullptr, nullptr};

}  // namespace cambium
HWY_POP_ATTRIBUTES
#endif
