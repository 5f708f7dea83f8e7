#pragma once

#include <cstdint>

#include "ops/panel.h"
#include "tensor/tensor.h"

namespace cambium {

// 32 activations of one row in int8: x = scale * q, scale = max|x| / 127. Not finite if an x is not.
struct ActBlock {
  int8_t q[kBlock];
  float scale;
  float scaled_sum;     // scale * sum of q: pairs with the weights' minimum
  int32_t neg_sum;      // -sum of q: pairs with the weights' offset
  int32_t neg_sum_low;  // the same of q[0..15]
};
static_assert(sizeof(ActBlock) == 48);

// Words of a row in bf16 pairs: two inputs a word, the earlier one in the low half, zeros up to a multiple of 16 words.
constexpr int64_t BF16Words(int64_t in) { return (in + 31) / 32 * 16; }

// One panel times a group of rows: y[row][output] = sum over inputs in one fixed order, then + bias.
struct PanelCall {
  DType dtype;
  int rows;  // of this group: at most what the table says for the kernel
  const uint8_t* panel;
  const PanelLayout* layout;
  int64_t in;
  const ActBlock* x8;               // int8 kernels: int8_group rows after another, each [in / 32][rows of the group]
  const float* x;                   // f32 kernels: [rows][in]
  const uint32_t* pairs = nullptr;  // bf16 kernels: [rows][BF16Words(in)]
  float* y;                         // [rows][y_stride], already at the panel's first output
  int64_t y_stride;
  const float* bias;  // of the panel's first output; may be null
  int outputs;        // 1 to 16 that exist
  bool prefetch;      // the panels are being streamed from memory
};

// The kernels of one instruction set. Whatever `rows` is, an output's sum has the same order: for int8 kernels blocks
// of 32 inputs ascending, for f32 kernels one multiply-add chain over the inputs ascending, from zero, for bf16 kernels
// one such chain over the pairs, the dense product's (gemm_isa.h).
struct KernelTable {
  int int8_group;  // rows whose int8 activations are interleaved
  int max_int8_rows, max_f32_rows;
  void (*quantize)(const float* x, int64_t blocks, ActBlock* to, int64_t stride) noexcept;  // stride in ActBlocks
  void (*int8)(const PanelCall& call) noexcept;                                             // quantised types
  void (*f32)(const PanelCall& call) noexcept;                                              // every type
  void (*decode)(DType dtype, const PanelLayout& layout, const uint8_t* panel, int64_t begin, int64_t blocks,
                 float* dst) noexcept;  // quantised types; dst [32 * blocks][16]
  // bf16 panels, if the set multiplies bf16 pairs, else null; to be called only where the CPU has avx512_bf16.
  void (*to_pairs)(const float* x, int64_t in, uint32_t* to) noexcept;
  void (*bf16)(const PanelCall& call) noexcept;
  int max_pair_rows = 0;
};
void BF16Tiles(const PanelCall& call) noexcept;  // bf16 of up to kBF16TileRows rows on AMX, where HasAmx()
inline constexpr int kBF16TileRows = 32;
void Int8AvxVnni(const PanelCall& call) noexcept;  // in the place of AVX2's, where Vnni256() says so
void Int8Avx512Vnni256(const PanelCall& call) noexcept;
extern const KernelTable kAvx512Kernels, kAvx2Kernels, kPortableKernels;

// The best that the machine has and CAMBIUM_ISA allows.
const KernelTable& Kernels();

}  // namespace cambium
