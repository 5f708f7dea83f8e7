#include <cstring>

#include "tensor/half.h"
#include "tensor/quantize.h"
#include "tensor/scale_pack.h"

// The layouts are those of ggml (github.com/ggml-org/ggml, src/ggml-common.h); products are rounded in its order.

namespace cambium {
namespace {

template <class T>
T Load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
float LoadHalf(const uint8_t* at) { return HalfToFloat(Load<uint16_t>(at)); }

template <class T, class Convert>
void Each(const uint8_t* src, float* dst, int64_t count, const Convert& convert) {
  for (int64_t i = 0; i < count; ++i) dst[i] = convert(Load<T>(src + i * sizeof(T)));
}

// f16 scale, 32 x int8
void Q8_0(const uint8_t* b, float* y) {
  const float d = LoadHalf(b);
  for (int i = 0; i < 32; ++i) y[i] = static_cast<float>(static_cast<int8_t>(b[2 + i])) * d;
}

// f16 scale, [f16 minimum], [32 high bits], 16 bytes: value i in the low half of byte i, value i + 16 in the high half
template <bool kMinimum, bool kFifthBit>
void Small(const uint8_t* b, float* y) {
  const float d = LoadHalf(b), m = kMinimum ? LoadHalf(b + 2) : 0;
  b += kMinimum ? 4 : 2;
  const uint32_t high = kFifthBit ? Load<uint32_t>(b) : 0;
  if (kFifthBit) b += 4;
  constexpr int kZero = kFifthBit ? 16 : 8;
  for (int i = 0; i < 16; ++i) {
    const int low_code = (b[i] & 15) | static_cast<int>(high >> i & 1) << 4;
    const int high_code = b[i] >> 4 | static_cast<int>(high >> (i + 16) & 1) << 4;
    y[i] = kMinimum ? static_cast<float>(low_code) * d + m : static_cast<float>(low_code - kZero) * d;
    y[i + 16] = kMinimum ? static_cast<float>(high_code) * d + m : static_cast<float>(high_code - kZero) * d;
  }
}

// f16 scale, f16 scale of minima, 8 x (6-bit scale, 6-bit minimum), [32 bytes of fifth bits], 128 bytes of nibbles:
// each 32 bytes hold two groups of 32, the first in the low halves
template <bool kFifthBit>
void K4or5(const uint8_t* b, float* y) {
  const float d = LoadHalf(b), dmin = LoadHalf(b + 2);
  const uint8_t *scales = b + 4, *high = b + 16, *nibbles = b + (kFifthBit ? 48 : 16);
  for (int group = 0; group < 8; ++group) {
    const ScaleMin packed = UnpackScaleMin(scales, group);
    const float scale = d * static_cast<float>(packed.scale), minimum = dmin * static_cast<float>(packed.minimum);
    for (int i = 0; i < 32; ++i) {
      int code = nibbles[group / 2 * 32 + i] >> (group % 2 * 4) & 15;
      if (kFifthBit) code |= (high[i] >> group & 1) << 4;
      y[group * 32 + i] = scale * static_cast<float>(code) - minimum;
    }
  }
}

// 128 bytes of low nibbles, 64 bytes of two high bits, 16 x int8 scale, f16 scale of scales
void Q6_K(const uint8_t* b, float* y) {
  const float d = LoadHalf(b + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = i % 128 / 32, l = i % 32;
    const int low = b[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
    const int high = b[128 + half * 32 + l] >> (quarter * 2) & 3;
    const float scale = d * static_cast<float>(static_cast<int8_t>(b[192 + i / 16]));
    y[i] = scale * static_cast<float>((low | high << 4) - 32);
  }
}

template <int kBlock, int kBytes>
void Blocks(void (*decode)(const uint8_t*, float*), const uint8_t* src, float* dst, int64_t count) {
  for (int64_t i = 0; i < count / kBlock; ++i) decode(src + i * kBytes, dst + i * kBlock);
}

}  // namespace

void Dequantize(DType dtype, const void* src, float* dst, int64_t count) noexcept {
  Check(count % Info(dtype).block == 0, "a quantised run is whole blocks");
  const auto* b = static_cast<const uint8_t*>(src);
  switch (dtype) {
    case DType::kF32:
      std::memcpy(dst, src, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kF16:
      return Each<uint16_t>(b, dst, count, HalfToFloat);
    case DType::kBF16:
      return Each<uint16_t>(b, dst, count, BFloat16ToFloat);
    case DType::kI32:
      return Each<int32_t>(b, dst, count, [](int32_t v) { return static_cast<float>(v); });
    case DType::kI64:
      return Each<int64_t>(b, dst, count, [](int64_t v) { return static_cast<float>(v); });
    case DType::kQ8_0:
      return Blocks<32, 34>(Q8_0, b, dst, count);
    case DType::kQ4_0:
      return Blocks<32, 18>(Small<false, false>, b, dst, count);
    case DType::kQ4_1:
      return Blocks<32, 20>(Small<true, false>, b, dst, count);
    case DType::kQ5_0:
      return Blocks<32, 22>(Small<false, true>, b, dst, count);
    case DType::kQ5_1:
      return Blocks<32, 24>(Small<true, true>, b, dst, count);
    case DType::kQ4_K:
      return Blocks<256, 144>(K4or5<false>, b, dst, count);
    case DType::kQ5_K:
      return Blocks<256, 176>(K4or5<true>, b, dst, count);
    case DType::kQ6_K:
      return Blocks<256, 210>(Q6_K, b, dst, count);
  }
}

}  // namespace cambium
