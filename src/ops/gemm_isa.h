#pragma once

// The inner level of the dense products: packed panels and the register tile, one table per instruction set.
//
// c [m, n] = sum over k of a(m, k) b(k, n). Both operands are packed into panels of `words` steps: a panel of a holds
// `mr` rows as [words][a_stride], for AMX as [words / 16][mr][16 words]; a panel of b holds 16 columns as [words][16].
// A word is 32 bits: one f32, or, where the instruction set multiplies bf16 pairs, the values of two consecutive k, the
// earlier one in the low half. Every output is a chain of multiply-adds over ascending words (AMX: of sums of 16
// words); between k blocks it is carried through memory, or each block begins a chain of its own and the blocks add up
// in order (law 2: either way by shape alone).

#include <cstdint>

#include "tensor/tensor.h"

namespace cambium::gemm {

inline constexpr int kPanelColumns = 16;
inline constexpr int kWordStep = 16;  // panels are padded to whole steps, so that packing may write past `words`

// Elements of a dense matrix (f32, f16 or bf16), `stride` elements between lines; `available` elements may be read.
struct Source {
  const void* data;
  DType dtype;
  int64_t stride;
  int64_t available;
  int64_t k16 = 16;  // pack_k_minor: elements from k to k + 16, for k a multiple of 16
};

struct Tile {
  int64_t words;
  const uint32_t* a;
  const uint32_t* b;
  int64_t b_panel;              // words between two panels of b
  int rows;                     // 1..mr
  int columns;                  // 1..nr; the kernel touches nr or nr / 2 of them, whichever holds these
  const float* from = nullptr;  // sums so far, or null for zeros
  int64_t from_stride = 0;
  bool carry = false;  // the sums so far begin the chain; else they are added to its end
  float* to = nullptr;
  int64_t to_stride = 0;
};

// c = alpha * sums + beta * c + bias
struct Finish {
  int rows, columns;
  const float* sums;
  int64_t sums_stride;
  float* c;
  int64_t c_stride;
  float alpha, beta;
  const float* bias;  // of the first column, or null
};

// Packs k elements of `lines` rows or columns into a panel whose steps are `stride` words. k_minor: k runs along the
// source's lines; k_major: across them. The values of an incomplete last pair are zero, for pairs also the words of an
// incomplete last step of 16; lanes past `lines` hold anything.
struct Packing {
  void (*k_minor)(const Source&, int lines, int64_t k, int stride, uint32_t* panel);
  void (*k_major)(const Source&, int lines, int64_t k, int stride, uint32_t* panel);
};

struct Isa {
  int mr, nr;    // rows and columns of a register tile, at most kMaxMr and kMaxNr
  int a_stride;  // words per step of a panel of a
  int k_per_word;
  bool exact;  // words are the f32 values themselves
  void (*tile)(const Tile&);
  void (*finish)(const Finish&);
  Packing a, b;
  int64_t block_words = 512;  // of a k block: a panel of a fits the first-level cache
  int64_t row_block = 768;    // rows that a tile of b is packed for where there are that many, at least a third
  void (*begin)() = nullptr;  // before and after a thread's calls of `tile`
  void (*end)() = nullptr;
};
inline constexpr int kMaxMr = 32, kMaxNr = 32;

const Isa& F32Isa();  // fp32 multiply-adds
// Inputs rounded to bf16: AMX tiles or native pairs where the machine has them, else fp32 multiply-adds.
const Isa& BF16Isa();
// The pairs of avx512_bf16, with `base` (an AVX-512 table) for the rest; or null if this build or machine lacks them.
const Isa* NativeBF16Isa(const Isa& base);
const Isa* AmxBF16Isa(const Isa& base);  // the same on AMX tiles; to be called only where HasAmx()

}  // namespace cambium::gemm
