#include "ops/panel.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "ops/matmul_kernels.h"
#include "tensor/half.h"
#include "tensor/scale_pack.h"

namespace cambium {
namespace {

constexpr uint32_t kNibbles = 0x0F0F0F0F, kPairs = 0x03030303, kBits = 0x01010101;

int64_t RoundUp(int64_t bytes) { return (bytes + 63) / 64 * 64; }

uint32_t Load32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}
uint16_t Load16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}
void Store32(uint8_t* p, uint32_t v) { std::memcpy(p, &v, 4); }
void Store16(uint8_t* p, uint16_t v) { std::memcpy(p, &v, 2); }

// Bit i of the low nibble goes to bit 0 of byte i.
uint32_t SpreadBits(uint32_t nibble) { return (nibble * 0x00204081u) & kBits; }

struct Target {
  uint8_t *quants, *high, *scales, *supers;
};

// Four bytes of group g of a K-quant sub-block, from 32-byte chunks that hold two sub-blocks in their nibbles.
uint32_t KNibbles(const uint8_t* chunk, int shift, int group) { return Load32(chunk + 4 * group) >> shift & kNibbles; }

void PackSimple(DType dtype, const uint8_t* src, int o, const Target& t) {
  const bool has_min = dtype == DType::kQ4_1 || dtype == DType::kQ5_1;
  Store16(t.scales + 2 * o, Load16(src));
  src += 2;
  if (has_min) {
    Store16(t.scales + 32 + 2 * o, Load16(src));
    src += 2;
  }
  if (dtype == DType::kQ8_0) {
    for (int g = 0; g < 8; ++g) Store32(t.quants + 64 * g + 4 * o, Load32(src + 4 * g) ^ 0x80808080u);
    return;
  }
  if (dtype == DType::kQ5_0 || dtype == DType::kQ5_1) {
    const uint32_t bits = Load32(src);
    src += 4;
    uint32_t high = 0;
    for (int g = 0; g < 8; ++g) high |= SpreadBits(bits >> 4 * g & 15) << g;
    Store32(t.high + 4 * o, high);
  }
  // The files' nibble order (input j low, input j + 16 high) is already the panel's.
  for (int v = 0; v < 4; ++v) Store32(t.quants + 64 * v + 4 * o, Load32(src + 4 * v));
}

void PackK45(DType dtype, const uint8_t* src, int o, int b, const Target& t) {
  if (b == 0) {
    Store16(t.supers + 2 * o, Load16(src));
    Store16(t.supers + 32 + 2 * o, Load16(src + 2));
  }
  const ScaleMin pair = UnpackScaleMin(src + 4, b);
  t.scales[o] = static_cast<uint8_t>(pair.scale);
  t.scales[16 + o] = static_cast<uint8_t>(pair.minimum);
  const bool five = dtype == DType::kQ5_K;
  const uint8_t* chunk = src + 16 + (five ? 32 : 0) + 32 * (b / 2);
  const int shift = 4 * (b & 1);
  for (int v = 0; v < 4; ++v) {
    Store32(t.quants + 64 * v + 4 * o, KNibbles(chunk, shift, v) | KNibbles(chunk, shift, v + 4) << 4);
  }
  if (!five) return;
  uint32_t high = 0;
  for (int g = 0; g < 8; ++g) high |= (Load32(src + 16 + 4 * g) >> b & kBits) << g;
  Store32(t.high + 4 * o, high);
}

void PackK6(const uint8_t* src, int o, int b, const Target& t) {
  const int half = b / 4, sub = b % 4;
  if (b == 0) Store16(t.supers + 2 * o, Load16(src + 208));
  t.scales[o] = src[192 + 2 * b];
  t.scales[16 + o] = src[192 + 2 * b + 1];
  const uint8_t* chunk = src + 64 * half + 32 * (sub & 1);
  const int shift = 4 * (sub >> 1);
  for (int v = 0; v < 4; ++v) {
    Store32(t.quants + 64 * v + 4 * o, KNibbles(chunk, shift, v) | KNibbles(chunk, shift, v + 4) << 4);
  }
  const uint8_t* pairs = src + 128 + 32 * half;
  for (int h = 0; h < 2; ++h) {
    uint32_t high = 0;
    for (int g = 0; g < 4; ++g) high |= (Load32(pairs + 16 * h + 4 * g) >> 2 * sub & kPairs) << 2 * g;
    Store32(t.high + 64 * h + 4 * o, high);
  }
}

// The unsigned value of input k (of 32) for output o.
int QuantAt(const PanelPlanes& planes, const uint8_t* quants, const uint8_t* high, int o, int k) {
  const int g = k / 4, byte = 4 * o + k % 4;
  if (planes.quants == 512) return quants[64 * g + byte];
  const int low = quants[64 * (g % 4) + byte] >> (g < 4 ? 0 : 4) & 15;
  if (planes.high == 64) return low | (high[byte] >> g & 1) << 4;
  if (planes.high == 128) return low | (high[64 * (g / 4) + byte] >> 2 * (g % 4) & 3) << 4;
  return low;
}

// The 32 values of output o in a block.
void DecodeBlock(DType dtype, const PanelLayout& layout, const uint8_t* panel, int64_t block, int o, float* dst) {
  const PanelPlanes planes = Planes(dtype);
  const uint8_t* quants = panel + block * planes.quants;
  const uint8_t* high = panel + layout.high + block * planes.high;
  const uint8_t* scales = panel + layout.scales + block * planes.scales;
  const uint8_t* supers = panel + layout.supers + block / kSuper * planes.supers;
  float d[2], m = 0;  // d of inputs 0..15 and 16..31
  if (planes.supers == 0) {
    d[0] = d[1] = HalfToFloat(Load16(scales + 2 * o));
    if (planes.scales == 64) m = HalfToFloat(Load16(scales + 32 + 2 * o));
  } else if (dtype == DType::kQ6_K) {
    const float super = HalfToFloat(Load16(supers + 2 * o));
    for (int h = 0; h < 2; ++h) d[h] = super * static_cast<int8_t>(scales[16 * h + o]);
  } else {
    d[0] = d[1] = HalfToFloat(Load16(supers + 2 * o)) * scales[o];
    m = -(HalfToFloat(Load16(supers + 32 + 2 * o)) * scales[16 + o]);
  }
  for (int k = 0; k < kBlock; ++k) {
    const int q = QuantAt(planes, quants, high, o, k) - planes.offset;
    dst[k] = d[k / 16] * static_cast<float>(q) + m;
  }
}

float DenseAt(DType dtype, const uint8_t* panel, int64_t index) {
  if (dtype == DType::kF32) return std::bit_cast<float>(Load32(panel + 4 * index));
  const uint16_t bits = Load16(panel + 2 * index);
  return dtype == DType::kF16 ? HalfToFloat(bits) : BFloat16ToFloat(bits);
}

}  // namespace

PanelLayout::PanelLayout(DType dtype, int64_t in) {
  if (!IsQuantized(dtype)) {
    bytes = RoundUp(in * kPanel * Info(dtype).bytes);
    return;
  }
  const PanelPlanes planes = Planes(dtype);
  const int64_t blocks = in / kBlock;
  high = blocks * planes.quants;
  scales = high + blocks * planes.high;
  supers = scales + RoundUp(blocks * planes.scales);
  bytes = supers + RoundUp(blocks / kSuper * planes.supers);
}

void PackPanel(DType dtype, int64_t in, const uint8_t* const rows[kPanel], uint8_t* panel) noexcept {
  const PanelLayout layout(dtype, in);
  if (!IsQuantized(dtype)) {
    const int size = Info(dtype).bytes;
    for (int o = 0; o < kPanel; ++o) {
      for (int64_t k = 0; k < in; ++k) {
        uint8_t* to = panel + (k * kPanel + o) * size;
        if (rows[o] == nullptr) {
          std::memset(to, 0, size);
        } else if (size == 2) {
          Store16(to, Load16(rows[o] + 2 * k));
        } else {
          Store32(to, Load32(rows[o] + 4 * k));
        }
      }
    }
    return;
  }
  const PanelPlanes planes = Planes(dtype);
  const DTypeInfo& info = Info(dtype);
  std::memset(panel, 0, layout.bytes);
  for (int64_t block = 0; block < in / kBlock; ++block) {
    const Target t{panel + block * planes.quants, panel + layout.high + block * planes.high,
                   panel + layout.scales + block * planes.scales,
                   panel + layout.supers + block / kSuper * planes.supers};
    const int b = static_cast<int>(block % kSuper);
    for (int o = 0; o < kPanel; ++o) {
      if (rows[o] == nullptr) continue;
      const uint8_t* src = rows[o] + block * kBlock / info.block * info.bytes;
      if (info.block == kBlock) {
        PackSimple(dtype, src, o, t);
      } else if (dtype == DType::kQ6_K) {
        PackK6(src, o, b, t);
      } else {
        PackK45(dtype, src, o, b, t);
      }
    }
  }
}

void RoundPanel(DType dtype, int64_t in, const float* const rows[kPanel], uint8_t* panel) noexcept {
  const auto pack = [&](auto* to, const auto& round) {
    constexpr int64_t kStep = 16;  // lines of the panel that are written at a time
    for (int64_t begin = 0; begin < in; begin += kStep) {
      const int64_t end = std::min(in, begin + kStep);
      for (int o = 0; o < kPanel; ++o) {
        for (int64_t k = begin; k < end; ++k) to[k * kPanel + o] = rows[o] != nullptr ? round(rows[o][k]) : 0;
      }
    }
  };
  if (dtype == DType::kF32) {
    pack(reinterpret_cast<float*>(panel), [](float value) { return value; });
  } else if (dtype == DType::kBF16) {
    pack(reinterpret_cast<uint16_t*>(panel), FloatToBFloat16);
  } else {
    pack(reinterpret_cast<uint16_t*>(panel), FloatToHalf);
  }
}

void DecodePanel(DType dtype, int64_t in, const uint8_t* panel, int64_t begin, int64_t count, float* dst) noexcept {
  if (!IsQuantized(dtype)) {
    for (int64_t i = 0; i < count * kPanel; ++i) dst[i] = DenseAt(dtype, panel, begin * kPanel + i);
    return;
  }
  const PanelLayout layout(dtype, in);
  Kernels().decode(dtype, layout, panel, begin / kBlock, count / kBlock, dst);
}

void DecodePanelRow(DType dtype, int64_t in, const uint8_t* panel, int output, float* dst) noexcept {
  if (!IsQuantized(dtype)) {
    for (int64_t k = 0; k < in; ++k) dst[k] = DenseAt(dtype, panel, k * kPanel + output);
    return;
  }
  const PanelLayout layout(dtype, in);
  for (int64_t block = 0; block < in / kBlock; ++block) {
    DecodeBlock(dtype, layout, panel, block, output, dst + block * kBlock);
  }
}

}  // namespace cambium
