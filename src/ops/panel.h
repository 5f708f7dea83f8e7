#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace cambium {

// The packed layout of a weight matrix [out, in]: panels of 16 outputs, one after another, the last one padded with
// zero weights. Panels start on 64 bytes.
//
// Dense types (f32, f16, bf16): [in][16 outputs], elements as stored.
//
// Quantised types: planes, each holding all blocks (32 inputs) of the panel in order. A "group" is 4 consecutive inputs
// of a block; within a plane, byte 4 * output + i stands for input i of a group.
//   quants  4-bit part: per block four 64-byte vectors; the low nibbles of vector v are group v, the high ones group v
//   + 4
//           8-bit (Q8_0): per block eight 64-byte vectors, group g in vector g, value + 128
//   high    5-bit types: one 64-byte vector per block, bit g of a byte is the fifth bit in group g
//           6-bit type: two vectors per block, bits 2g, 2g + 1 of vector h are the high bits in group 4h + g
//   scales  Q8_0 Q4_0 Q5_0: 16 x f16 d; Q4_1 Q5_1: 16 x f16 d, 16 x f16 m; Q4_K Q5_K: 16 x u8 scale, 16 x u8 minimum;
//           Q6_K: 16 x i8 scale of inputs 0..15, 16 x i8 scale of inputs 16..31
//   supers  per 8 blocks; Q4_K Q5_K: 16 x f16 d, 16 x f16 dmin; Q6_K: 16 x f16 d
// A weight is d * (q - offset) + m; for Q4_K and Q5_K d = super d * scale and m = -(super dmin * minimum).
inline constexpr int kPanel = 16;  // outputs
inline constexpr int kBlock = 32;  // inputs that share one activation scale
inline constexpr int kSuper = 8;   // blocks of a K-quant super-block

// Bytes per block of each plane (supers: per super-block).
struct PanelPlanes {
  int quants, high, scales, supers;
  int offset;  // subtracted from the unsigned value
};
constexpr PanelPlanes Planes(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0:
      return {512, 0, 32, 0, 128};
    case DType::kQ4_0:
      return {256, 0, 32, 0, 8};
    case DType::kQ4_1:
      return {256, 0, 64, 0, 0};
    case DType::kQ5_0:
      return {256, 64, 32, 0, 16};
    case DType::kQ5_1:
      return {256, 64, 64, 0, 0};
    case DType::kQ4_K:
      return {256, 0, 32, 64, 0};
    case DType::kQ5_K:
      return {256, 64, 32, 64, 0};
    case DType::kQ6_K:
      return {256, 128, 32, 32, 32};
    default:
      return {};
  }
}

constexpr bool IsDense(DType dtype) { return Planes(dtype).quants == 0; }

inline int64_t Panels(int64_t out) { return (out + kPanel - 1) / kPanel; }

// Where the planes of one panel begin, in bytes from its start.
struct PanelLayout {
  PanelLayout(DType dtype, int64_t in);
  int64_t high = 0, scales = 0, supers = 0;
  int64_t bytes = 0;  // of the whole panel
};

// Packs 16 source rows (each as stored in a file, `in` values; null for padding) into `panel`.
void PackPanel(DType dtype, int64_t in, const uint8_t* const rows[kPanel], uint8_t* panel) noexcept;
// The same from f32 rows, rounded to a dense type.
void RoundPanel(DType dtype, int64_t in, const float* const rows[kPanel], uint8_t* panel) noexcept;

// Decodes inputs [begin, begin + count) of a panel to dst [count][16]: exactly the values that Dequantize gives.
// begin and count are multiples of 32 for quantised types, free for dense ones.
void DecodePanel(DType dtype, int64_t in, const uint8_t* panel, int64_t begin, int64_t count, float* dst) noexcept;

// Decodes one output (0..15) of a panel to dst [in].
void DecodePanelRow(DType dtype, int64_t in, const uint8_t* panel, int output, float* dst) noexcept;

}  // namespace cambium
