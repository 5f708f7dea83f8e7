#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "base/check.h"

namespace cambium {

// Element types as files store them. Quantised types come in blocks along the innermost axis (ggml's layouts).
enum class DType : uint8_t { kF32, kF16, kBF16, kI32, kI64, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4_K, kQ5_K, kQ6_K };

struct DTypeInfo {
  std::string_view name;  // "F32", "Q4_1", ...
  int block;              // values a block holds
  int bytes;              // bytes a block takes
};
const DTypeInfo& Info(DType dtype);
inline bool IsQuantized(DType dtype) { return Info(dtype).block > 1; }

// A view of memory that somebody else owns; row-major, the last axis contiguous. An empty tensor has data == nullptr.
struct Tensor {
  static constexpr int kMaxRank = 4;

  Tensor() = default;
  Tensor(void* data, DType dtype, std::initializer_list<int64_t> shape);
  Tensor(float* data, std::initializer_list<int64_t> shape) : Tensor(data, DType::kF32, shape) {}

  explicit operator bool() const { return data != nullptr; }
  int64_t size() const { return rows() * columns(); }     // number of elements
  int64_t bytes() const { return rows() * row_bytes(); }  // size() in storage
  // The innermost axis.
  int64_t columns() const { return rank == 0 ? 0 : shape[static_cast<size_t>(rank - 1)]; }
  int64_t rows() const;  // all other axes flattened
  int64_t row_bytes() const;

  template <class T = float>
  T* as() const {
    return static_cast<T*>(data);
  }
  float* f32() const {
    Check(dtype == DType::kF32 || data == nullptr, "tensor is not f32");
    return static_cast<float*>(data);
  }
  float* row(int64_t index) const { return f32() + index * columns(); }
  Tensor Rows(int64_t begin, int64_t count) const;  // [count, columns], as matrix rows

  void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
};

}  // namespace cambium
