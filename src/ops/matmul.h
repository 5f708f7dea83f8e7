#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/parallel.h"
#include "tensor/buffer.h"
#include "tensor/tensor.h"

namespace cambium {

// How a product treats its activations.
enum class Compute : uint8_t {
  kInt8,  // serving: rows quantised to int8 in blocks of 32, integer dot products; bf16 weights compute as kBF16 where
          // the CPU multiplies bf16 pairs, otherwise they and f16 and f32 ones as kF32
  kF32,   // --exact and fp32 training: weights decoded to f32, fp32 multiply-adds
  kBF16,  // mixed precision: both sides rounded to bf16, fp32 sums
};

// Keeps the stored weights of matrices that are packed when a product first needs them, such as a mixture's experts:
// one that no row is sent to costs no memory. Where memory runs short, what was not used for longest is given up, and
// packed again when it is needed.
class StoredWeights {
 public:
  StoredWeights();
  virtual ~StoredWeights() = default;
  // All of `weights` was read: its pages may go. Throws if what was read is not what was stored.
  virtual void WasRead(const Tensor& weights) const = 0;

 private:
  friend class PackedMatrix;
  class Shelf;
  std::shared_ptr<Shelf> shelf_;
};

// A weight matrix [out, in], repacked once into panels of 16 outputs; the only place that knows storage (law 4). The
// packing is lossless: every stored type decodes to exactly the value that Dequantize (tensor/quantize.h) gives.
class PackedMatrix {
 public:
  PackedMatrix();
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;
  // weights [out, in] of any dtype. row_order, if not empty, is the source row of each packed row (undoes GGUF's q/k
  // permutation). `release` is called with (first source row, rows) when those rows are no longer needed, so that a
  // mapped file need not stay resident beside its packed copy; may be null.
  PackedMatrix(ThreadPool& pool, Tensor weights, std::span<const int32_t> row_order = {},
               void (*release)(void* context, int64_t row, int64_t rows) = nullptr, void* context = nullptr);
  // Packed when a product needs it; `weights` are memory of `source`'s.
  PackedMatrix(std::shared_ptr<const StoredWeights> source, Tensor weights);
  ~PackedMatrix();

  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  DType dtype() const { return dtype_; }
  int64_t bytes() const { return bytes_; }  // once it is packed
  explicit operator bool() const { return panels_ != nullptr || late_ != nullptr; }

  // Decodes row `row` to f32: embedding lookups, merges, exports.
  void UnpackRow(int64_t row, float* dst) const;
  void Unpack(ThreadPool& pool, Tensor dst) const;  // [out, in] f32
  // Replaces the values by weights [out, in], f32, rounded; for f32, f16 and bf16 matrices only (full fine-tuning).
  void Repack(ThreadPool& pool, Tensor weights);

  // The panels, packed now if they are not yet; they stay as they are while the result is held. Any thread may ask.
  std::shared_ptr<const uint8_t> Panels(ThreadPool& pool) const;

 private:
  friend class StoredWeights::Shelf;
  struct Late;  // of one that is packed on demand

  std::unique_ptr<Late> late_;
  std::shared_ptr<uint8_t> panels_;  // in memory that is shared with the matrices packed before and after
  int64_t out_ = 0, in_ = 0, bytes_ = 0;
  DType dtype_ = DType::kF32;
};

// One of several products that share their rows: y [rows, out] = x w^T + bias (bias may be null).
struct Product {
  const PackedMatrix* w;
  Tensor y;
  const float* bias = nullptr;
};

// All products of x [rows, in] (f32, f16 or bf16) in one parallel region. Overwrites every y (f32). Row-invariant.
void MatMul(ThreadPool& pool, Workspace& workspace, Compute compute, Tensor x, std::span<const Product> products);

// Neighbouring rows [begin, begin + count) of x, and their products; y [count, out].
struct RowProducts {
  int64_t begin, count;
  std::span<const Product> products;
};
// MatMul of each group of rows with products of its own (a mixture's experts), as far as it can be in one parallel
// region.
void MatMulGroups(ThreadPool& pool, Workspace& workspace, Compute compute, Tensor x,
                  std::span<const RowProducts> groups);

// dx [rows, in] = dy [rows, out] w; adds to dx if `add`. kInt8 is not a training mode: it computes as kF32.
void MatMulBackward(ThreadPool& pool, Workspace& workspace, Compute compute, Tensor dy, const PackedMatrix& w,
                    Tensor dx, bool add = false);

// c = alpha * op(a) op(b) + beta * c for dense matrices (f32, f16 or bf16; c f32): weight gradients, LoRA factors.
// op(a) is [m, k]: a [m, k], or a [k, m] if transpose_a; op(b) is [k, n]: b [k, n], or b [n, k] if transpose_b.
// A row of c does not depend on m; sums over k run in one fixed order: chains of 512 words, whose results add up.
void Gemm(ThreadPool& pool, Workspace& workspace, Compute compute, bool transpose_a, bool transpose_b, float alpha,
          Tensor a, Tensor b, float beta, Tensor c);

}  // namespace cambium
