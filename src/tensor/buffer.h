#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "tensor/tensor.h"

namespace cambium {

// Owns zeroed memory aligned to 64 bytes. From 2 MiB on it is mapped on its own, asks for huge pages, and takes memory only
// where it is touched. Move-only.
// Throws kResource when the memory is not to be had.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// A tensor with its memory.
struct OwnedTensor {
  OwnedTensor() = default;
  OwnedTensor(DType dtype, std::initializer_list<int64_t> shape);
  explicit OwnedTensor(std::initializer_list<int64_t> shape) : OwnedTensor(DType::kF32, shape) {}
  Buffer buffer;
  Tensor view;
};

// A bump allocator for one pass: New() never zeroes, Reset() forgets everything. Memory already given out stays valid
// until Reset; after a Reset one block holds what the largest pass needed.
class Workspace {
 public:
  Tensor New(DType dtype, std::initializer_list<int64_t> shape);
  Tensor New(std::initializer_list<int64_t> shape) { return New(DType::kF32, shape); }
  template <class T>
  T* Array(int64_t count) {
    return static_cast<T*>(Allocate(CheckedBytes({count, static_cast<int64_t>(sizeof(T))})));
  }
  void Reset();
  size_t peak_bytes() const { return peak_; }

  // Marks and releases a scope inside a pass, so that a block's temporaries are reused by the next block.
  struct Mark {
    size_t block, offset;
  };
  Mark GetMark() const { return {blocks_.empty() ? 0 : current_, offset_}; }
  void Release(Mark mark);

 private:
  void* Allocate(size_t bytes);
  std::vector<Buffer> blocks_;
  size_t current_ = 0;  // index of the block in use
  size_t offset_ = 0;   // used bytes of that block
  size_t peak_ = 0;
};

}  // namespace cambium
