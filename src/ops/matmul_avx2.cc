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

constexpr int kMaxRows = 4;
constexpr int kLanes = 8;

// Half of a block's weights: outputs 8 * half and on.
template <DType kType>
struct Block {
  static constexpr PanelPlanes kPlanes = Planes(kType);
  static constexpr bool kHasMinimum = kPlanes.offset == 0;
  static constexpr bool kTwoScales = kType == DType::kQ6_K;
  static constexpr bool kSigned = kType == DType::kQ8_0;
  static constexpr int kOffsetShift = kHasMinimum ? 0 : std::countr_zero(static_cast<unsigned>(kPlanes.offset));
  // How many pair sums of unsigned weights and |q| <= 127 fit 16 bits: 8 * 2 * 15 * 127 = 30480, 4 * 2 * 31 * 127 =
  // 31496, 2 * 2 * 63 * 127 = 32004; signed bytes are summed one at a time, 2 * 128 * 127 = 32512.
  static constexpr int kPairSums = kSigned ? 1 : kPlanes.high == 0 ? 8 : kPlanes.high == 64 ? 4 : 2;

  Block(const PanelLayout& layout, const uint8_t* panel, int64_t index, int half)
      : quants(panel + index * kPlanes.quants + 32 * half),
        high(panel + layout.high + index * kPlanes.high + 32 * half),
        scales(panel + layout.scales + index * kPlanes.scales + (kPlanes.supers == 0 ? 16 : 8) * half),
        supers(panel + layout.supers + index / kSuper * kPlanes.supers + 16 * half) {}

  // Group g; signed for Q8_0, else unsigned.
  HWY_INLINE __m256i Group(int g) const {
    if constexpr (kSigned) return _mm256_xor_si256(Load(quants + 64 * g), _mm256_set1_epi8(INT8_MIN));
    const __m256i both = Load(quants + 64 * (g % 4)), nibble = _mm256_set1_epi8(15);
    __m256i q = _mm256_and_si256(g < 4 ? both : _mm256_srli_epi16(both, 4), nibble);
    if constexpr (kPlanes.high == 64) {
      const __m256i bits = Load(high);
      const __m256i at4 = g <= 4 ? _mm256_slli_epi16(bits, 4 - g) : _mm256_srli_epi16(bits, g - 4);
      q = _mm256_or_si256(q, _mm256_and_si256(at4, _mm256_set1_epi8(16)));
    } else if constexpr (kPlanes.high == 128) {
      const __m256i bits = Load(high + 64 * (g / 4));
      const int shift = 4 - 2 * (g % 4);
      const __m256i at4 = shift >= 0 ? _mm256_slli_epi16(bits, shift) : _mm256_srli_epi16(bits, -shift);
      q = _mm256_or_si256(q, _mm256_and_si256(at4, _mm256_set1_epi8(48)));
    }
    return q;
  }

  HWY_INLINE __m256 Scale(int half_of_inputs = 0) const {
    if constexpr (kPlanes.supers == 0) return HalfVector(scales);
    const __m128i bytes = LoadBytes(scales + 16 * half_of_inputs);
    const __m256i wide = kTwoScales ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
    return _mm256_mul_ps(HalfVector(supers), _mm256_cvtepi32_ps(wide));
  }
  HWY_INLINE __m256 Minimum() const {
    if constexpr (kPlanes.supers == 0) return HalfVector(scales + 32);
    const __m256 minimum = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(LoadBytes(scales + 16)));
    return _mm256_xor_ps(_mm256_mul_ps(HalfVector(supers + 32), minimum), _mm256_set1_ps(-0.0f));
  }

  // Fetches what lies 12 KiB further on: a panel and the next ones are one run of memory, and each block asks for its
  // share of it.
  static HWY_INLINE void Prefetch(const uint8_t* panel, int64_t index) {
    constexpr int kShare = kPlanes.quants + kPlanes.high + kPlanes.scales + kPlanes.supers / kSuper;
    const char* at = reinterpret_cast<const char*>(panel + index * kShare + 12288);
    for (int line = 0; line < kShare; line += 64) _mm_prefetch(at + line, _MM_HINT_T0);
  }

  const uint8_t *quants, *high, *scales, *supers;

 private:
  static HWY_INLINE __m256i Load(const uint8_t* from) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
  }
  static HWY_INLINE __m128i LoadBytes(const uint8_t* from) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  }
  static HWY_INLINE __m256 HalfVector(const uint8_t* from) {
    return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(from)));
  }
};

HWY_INLINE __m256i Broadcast(const int8_t* from) {
  int32_t four;
  std::memcpy(&four, from, 4);
  return _mm256_set1_epi32(four);
}

HWY_INLINE void Store(const PanelCall& call, int half, int row, __m256 y) {
  const int outputs = call.outputs - half * kLanes;
  float* to = call.y + row * call.y_stride + half * kLanes;
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(outputs), lanes);
  if (call.bias != nullptr) y = _mm256_add_ps(y, _mm256_maskload_ps(call.bias + half * kLanes, mask));
  _mm256_maskstore_ps(to, mask, y);
}

// Integer dot products of groups [begin, begin + kCount) with every row, added to dot.
template <DType kType, int kRows, int kCount>
HWY_INLINE void Dots(const Block<kType>& block, const ActBlock* x, int begin, __m256i dot[kRows]) {
  using B = Block<kType>;
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
  for (int g = begin; g < begin + kCount; g += B::kPairSums) {
    __m256i pairs[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < B::kPairSums; ++i) {
      const __m256i w = block.Group(g + i);
      const __m256i magnitude = B::kSigned ? _mm256_abs_epi8(w) : w;
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        __m256i a = Broadcast(x[r].q + 4 * (g + i));
        if constexpr (B::kSigned) a = _mm256_sign_epi8(a, w);
        const __m256i sum = _mm256_maddubs_epi16(magnitude, a);
        pairs[r] = i == 0 ? sum : _mm256_add_epi16(pairs[r], sum);
      }
    }
    for (int r = 0; r < kRows; ++r) dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(pairs[r], ones));
  }
}

template <DType kType, int kRows>
HWY_INLINE void Int8Half(const PanelCall& call, int half) {
  using B = Block<kType>;
  const int64_t blocks = call.in / kBlock;
  const ActBlock* x = call.x8;
  __m256 y[kRows];
  for (int r = 0; r < kRows; ++r) y[r] = _mm256_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b, x += kRows) {
    const B block(*call.layout, call.panel, b, half);
    if (call.prefetch && half == 0) B::Prefetch(call.panel, b);
    for (int part = 0; part < (B::kTwoScales ? 2 : 1); ++part) {
      __m256i dot[kRows];
      for (int r = 0; r < kRows; ++r) {
        if constexpr (B::kTwoScales) {
          const int32_t sum = part == 0 ? x[r].neg_sum_low : x[r].neg_sum - x[r].neg_sum_low;
          dot[r] = _mm256_slli_epi32(_mm256_set1_epi32(sum), B::kOffsetShift);
        } else if constexpr (!B::kHasMinimum && !B::kSigned) {
          dot[r] = _mm256_slli_epi32(_mm256_set1_epi32(x[r].neg_sum), B::kOffsetShift);
        } else {
          dot[r] = _mm256_setzero_si256();
        }
      }
      Dots<kType, kRows, B::kTwoScales ? 4 : 8>(block, x, 4 * part, dot);
      const __m256 d = block.Scale(part);
      for (int r = 0; r < kRows; ++r) {
        y[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r]), _mm256_mul_ps(d, _mm256_set1_ps(x[r].scale)), y[r]);
      }
    }
    if constexpr (B::kHasMinimum) {
      const __m256 m = block.Minimum();
      for (int r = 0; r < kRows; ++r) y[r] = _mm256_fmadd_ps(m, _mm256_set1_ps(x[r].scaled_sum), y[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) Store(call, half, r, y[r]);
}

void Int8(const PanelCall& call) noexcept {
  WithQuantized(call.dtype, [&]<DType kType>() {
    WithRows<kMaxRows>(call.rows, [&]<int kRows>() {
      for (int half = 0; half < 2; ++half) Int8Half<kType, kRows>(call, half);
    });
  });
}

// dst [32][16], of which this half's 8 columns
template <DType kType>
HWY_INLINE void DecodeBlock(const Block<kType>& block, float* dst) {
  using B = Block<kType>;
  const __m256i byte = _mm256_set1_epi32(255), offset = _mm256_set1_epi32(B::kSigned ? 0 : B::kPlanes.offset);
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
        DecodeBlock(Block<kType>(layout, panel, begin + b, half), dst + b * kBlock * kPanel + half * kLanes);
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
        DecodeBlock(Block<kType>(*call.layout, call.panel, b, half), weights + half * kLanes);
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
  WithStored(call.dtype,
             [&]<DType kType>() { WithRows<kMaxRows>(call.rows, [&]<int kRows>() { F32Rows<kType, kRows>(call); }); });
}

void Quantize(const float* x, int64_t blocks, ActBlock* to, int64_t stride) noexcept {
  QuantizeBlocks(x, blocks, to, stride);
}

}  // namespace

const KernelTable kAvx2Kernels = {kMaxRows, Quantize, Int8, F32, Decode, nullptr, nullptr};

}  // namespace cambium
HWY_POP_ATTRIBUTES
#endif
