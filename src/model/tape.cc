#include "model/tape.h"

#include "ops/ops.h"

namespace cambium {

void Tape::Keep(ThreadPool& pool, Tensor x, DType dtype) {
  const Workspace::Mark mark = memory_.GetMark();
  Tensor kept = x;
  kept.dtype = dtype;
  kept.data = memory_.Array<char>(kept.bytes());
  Convert(pool, x, kept);
  entries_.push_back({kept, mark});
}

void Tape::Push(ThreadPool& pool, Tensor x) { Keep(pool, x, storage_); }
void Tape::PushExact(ThreadPool& pool, Tensor x) { Keep(pool, x, DType::kF32); }

Tensor Tape::Pop() {
  Check(!entries_.empty(), "backward pops more than forward pushed");
  const Entry entry = entries_.back();
  entries_.pop_back();
  memory_.Release(entry.mark);
  return entry.tensor;
}

Tensor Tape::PopF32(ThreadPool& pool, Workspace& workspace) {
  Tensor kept = Pop();
  if (kept.dtype == DType::kF32) return kept;
  Tensor f32 = kept;
  f32.dtype = DType::kF32;
  f32.data = workspace.Array<float>(f32.size());
  Convert(pool, kept, f32);
  return f32;
}

void Tape::Clear() {
  entries_.clear();
  memory_.Reset();
}

}  // namespace cambium
