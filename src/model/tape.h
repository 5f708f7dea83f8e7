#pragma once

#include <vector>

#include "base/parallel.h"
#include "tensor/buffer.h"
#include "tensor/tensor.h"

namespace cambium {

// What backward needs from a pass: a stack of activations, pushed going up and popped coming down, in mirrored order.
// Activations are kept in `storage` (f32, f16 or bf16); statistics and anything asked for exactly stay f32.
class Tape {
 public:
  explicit Tape(DType storage = DType::kF32) : storage_(storage) {}

  DType storage() const { return storage_; }
  // Keeps a copy of x, converted to storage().
  void Push(ThreadPool& pool, Tensor x);
  // Keeps a copy in f32.
  void PushExact(ThreadPool& pool, Tensor x);
  // The last kept tensor, in its stored dtype; valid until the next Push.
  Tensor Pop();
  // Pop, converted to f32 in `workspace` if it is not f32 already.
  Tensor PopF32(ThreadPool& pool, Workspace& workspace);

  void Clear();
  bool empty() const { return entries_.empty(); }
  size_t peak_bytes() const { return memory_.peak_bytes(); }

 private:
  void Keep(ThreadPool& pool, Tensor x, DType dtype);
  struct Entry {
    Tensor tensor;
    Workspace::Mark mark;  // where the memory stood before it
  };
  DType storage_;
  Workspace memory_;
  std::vector<Entry> entries_;
};

}  // namespace cambium
