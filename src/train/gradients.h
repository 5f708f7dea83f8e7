#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/graft.h"
#include "tensor/buffer.h"
#include "train/ranks.h"

namespace cambium {

// All parameters as one vector, of which each rank owns a stretch.
struct ParameterLayout {
  static constexpr int64_t kAlign = 256;   // where parameters begin: a block of 8-bit moments
  static constexpr int64_t kPiece = 2048;  // where stretches begin: a partial sum of the norm

  ParameterLayout(std::span<Parameter* const> params, int ranks);
  std::vector<int64_t> begins;   // [parameters]
  int64_t size = 0;              // with the zeros between them
  std::vector<int64_t> borders;  // [ranks + 1]
};

// The gradient of a step: ((g0 + g1) + g2) + ... over its micro-batches, each g whole in fp32 before it is added. So
// neither how many ranks there are nor who computes which micro-batch can be seen in it. Alone, a process computes into
// the sum where that is the same (Parameter::adds_once), and beside it elsewhere; ranks compute beside it and hold
// their stretch of the sum.
class Gradients {
 public:
  // ranks: null where the process is alone. Provides the parameters' `grad`, zeroed.
  Gradients(ThreadPool& pool, std::vector<Parameter*> params, Ranks* ranks);

  // A round is a micro-batch for each rank: `first` of the step's `count` for rank 0. Between the two, the rank whose
  // micro-batch first + rank is one of the step's runs its backward.
  void BeginRound(int64_t first);
  void EndRound(int64_t first, int64_t count);

  // This rank's stretch of the sum.
  Tensor sum() const;
  double SquaredNorm() const;  // of the whole sum: partial sums of fixed size, in their order
  // The whole vector, whose gradients the next round overwrites: room to pass parameters' values through.
  std::span<float> room() { return {grads_.view.f32(), static_cast<size_t>(layout_.size)}; }

  const ParameterLayout& layout() const { return layout_; }
  int64_t own_begin() const { return layout_.borders[static_cast<size_t>(rank())]; }
  int64_t own_end() const { return layout_.borders[static_cast<size_t>(rank()) + 1]; }
  Ranks* ranks() const { return ranks_; }
  int64_t bytes() const;
  int64_t bytes_beside() const;  // what further micro-batches of a step take

 private:
  int rank() const { return ranks_ == nullptr ? 0 : ranks_->rank(); }
  void Add(std::span<const float> values, float* to) const;
  void PointAtSum();

  ThreadPool& pool_;
  std::vector<Parameter*> params_;
  Ranks* ranks_;
  ParameterLayout layout_;
  OwnedTensor grads_;   // [size]: alone the sum, else those of a micro-batch
  OwnedTensor sum_;     // [own stretch], with ranks
  OwnedTensor beside_;  // alone: of a further micro-batch, parameters that do not add once
};

}  // namespace cambium
