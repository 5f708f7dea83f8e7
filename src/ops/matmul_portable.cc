#include <bit>
#include <cstring>

#include "ops/matmul_kernels.h"
#include "tensor/half.h"

// The definition of the kernels in plain C++, and what runs where there is no AVX2.
namespace cambium {
namespace {

#include "ops/matmul_common-inl.h"

constexpr int kMaxRows = 4;

uint16_t Load16(const uint8_t* from) {
  uint16_t value;
  std::memcpy(&value, from, 2);
  return value;
}

// A block's weights: w = d[input / 16] * q + m, q in [group][4 * output + input of the group], offset subtracted.
struct Block {
  int16_t q[8][64];
  float d[2][kPanel], m[kPanel];
};

template <DType kType>
void LoadBlock(const PanelLayout& layout, const uint8_t* panel, int64_t index, Block& block) {
  constexpr PanelPlanes kPlanes = Planes(kType);
  const uint8_t* quants = panel + index * kPlanes.quants;
  const uint8_t* high = panel + layout.high + index * kPlanes.high;
  const uint8_t* scales = panel + layout.scales + index * kPlanes.scales;
  const uint8_t* supers = panel + layout.supers + index / kSuper * kPlanes.supers;
  for (int g = 0; g < 8; ++g) {
    for (int i = 0; i < 64; ++i) {
      int q = kType == DType::kQ8_0 ? quants[64 * g + i] : quants[64 * (g % 4) + i] >> (g < 4 ? 0 : 4) & 15;
      if constexpr (kPlanes.high == 64) q |= (high[i] >> g & 1) << 4;
      if constexpr (kPlanes.high == 128) q |= (high[64 * (g / 4) + i] >> 2 * (g % 4) & 3) << 4;
      block.q[g][i] = static_cast<int16_t>(q - kPlanes.offset);
    }
  }
  for (int o = 0; o < kPanel; ++o) {
    block.m[o] = 0;
    if constexpr (kPlanes.supers == 0) {
      block.d[0][o] = block.d[1][o] = HalfToFloat(Load16(scales + 2 * o));
      if constexpr (kPlanes.scales == 64) block.m[o] = HalfToFloat(Load16(scales + 32 + 2 * o));
    } else if constexpr (kType == DType::kQ6_K) {
      const float super = HalfToFloat(Load16(supers + 2 * o));
      for (int h = 0; h < 2; ++h) block.d[h][o] = super * static_cast<int8_t>(scales[16 * h + o]);
    } else {
      block.d[0][o] = block.d[1][o] = HalfToFloat(Load16(supers + 2 * o)) * scales[o];
      block.m[o] = -(HalfToFloat(Load16(supers + 32 + 2 * o)) * scales[16 + o]);
    }
  }
}

void Store(const PanelCall& call, int row, const float* y) {
  for (int o = 0; o < call.outputs; ++o) {
    call.y[row * call.y_stride + o] = call.bias == nullptr ? y[o] : y[o] + call.bias[o];
  }
}

void Int8(const PanelCall& call) noexcept {
  WithQuantized(call.dtype, [&]<DType kType>() {
    float y[kMaxRows][kPanel] = {};
    for (int64_t b = 0; b < call.in / kBlock; ++b) {
      Block block;
      LoadBlock<kType>(*call.layout, call.panel, b, block);
      for (int r = 0; r < call.rows; ++r) {
        const ActBlock& x = call.x8[b * call.rows + r];
        int32_t dot[2][kPanel] = {};
        for (int g = 0; g < 8; ++g) {
          for (int o = 0; o < kPanel; ++o) {
            for (int i = 0; i < 4; ++i) dot[g / 4][o] += block.q[g][4 * o + i] * x.q[4 * g + i];
          }
        }
        for (int o = 0; o < kPanel; ++o) {
          y[r][o] += static_cast<float>(dot[0][o]) * (block.d[0][o] * x.scale);
          y[r][o] += static_cast<float>(dot[1][o]) * (block.d[1][o] * x.scale);
          y[r][o] += block.m[o] * x.scaled_sum;
        }
      }
    }
    for (int r = 0; r < call.rows; ++r) Store(call, r, y[r]);
  });
}

template <DType kType>
void DecodeBlock(const PanelLayout& layout, const uint8_t* panel, int64_t index, float* dst) {
  Block block;
  LoadBlock<kType>(layout, panel, index, block);
  for (int k = 0; k < kBlock; ++k) {
    for (int o = 0; o < kPanel; ++o) {
      dst[k * kPanel + o] = block.d[k / 16][o] * static_cast<float>(block.q[k / 4][4 * o + k % 4]) + block.m[o];
    }
  }
}

void Decode(DType dtype, const PanelLayout& layout, const uint8_t* panel, int64_t begin, int64_t blocks,
            float* dst) noexcept {
  WithQuantized(dtype, [&]<DType kType>() {
    for (int64_t b = 0; b < blocks; ++b) DecodeBlock<kType>(layout, panel, begin + b, dst + b * kBlock * kPanel);
  });
}

template <DType kType>
float DenseAt(const uint8_t* panel, int64_t index) {
  if constexpr (kType == DType::kF32) {
    float value;
    std::memcpy(&value, panel + 4 * index, 4);
    return value;
  } else {
    const uint16_t bits = Load16(panel + 2 * index);
    return kType == DType::kF16 ? HalfToFloat(bits) : BFloat16ToFloat(bits);
  }
}

void F32(const PanelCall& call) noexcept {
  WithStored(call.dtype, [&]<DType kType>() {
    float y[kMaxRows][kPanel] = {}, w[kBlock * kPanel];
    for (int64_t k = 0; k < call.in; ++k) {
      if constexpr (IsDense(kType)) {
        for (int o = 0; o < kPanel; ++o) w[o] = DenseAt<kType>(call.panel, k * kPanel + o);
      } else if (k % kBlock == 0) {
        DecodeBlock<kType>(*call.layout, call.panel, k / kBlock, w);
      }
      const float* weights = IsDense(kType) ? w : w + k % kBlock * kPanel;
      for (int r = 0; r < call.rows; ++r) {
        for (int o = 0; o < kPanel; ++o) y[r][o] += weights[o] * call.x[r * call.in + k];
      }
    }
    for (int r = 0; r < call.rows; ++r) Store(call, r, y[r]);
  });
}

void Quantize(const float* x, int64_t blocks, ActBlock* to, int64_t stride) noexcept {
  QuantizeBlocks(x, blocks, to, stride);
}

}  // namespace

const KernelTable kPortableKernels = {kMaxRows, kMaxRows, kMaxRows, Quantize, Int8, F32, Decode, nullptr, nullptr};

}  // namespace cambium
