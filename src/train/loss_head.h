#pragma once

#include <cstdint>
#include <span>

#include "model/transformer.h"

namespace cambium {

// Draft heads: another output matrix than the model's, and where each target stood among its logits.
struct LossReadout {
  const PackedMatrix* matrix = nullptr;  // null: the model's own head
  std::span<int32_t> ranks = {};         // [rows]: logits above the target's; empty: not wanted
  // [rows, hidden], f16: the final norm's result in a teacher with the same head. The loss of a row is then the KL
  // divergence of the teacher's distribution from the model's, its target only says that it counts; with dhidden only.
  Tensor teacher = {};
};

// The output head and the cross-entropy in chunks of rows, so that a [rows, vocab] matrix never exists; only rows that
// have a target pay for logits.
//
// hidden [rows, hidden] is the final norm's result; targets[row] is the token that row must predict, or negative for
// none. Returns the sum of -log p(target) over rows. If dhidden is not empty, it becomes the gradient of
// row_weight * that sum. If dhead [vocab, hidden] is not empty, the head's weight gradient is added to it.
double LossHead(Transformer& model, Compute compute, Tensor hidden, std::span<const int32_t> targets, float row_weight,
                Tensor dhidden = {}, Tensor dhead = {}, const LossReadout& readout = {});

// Rows of logits that LossHead holds at a time.
int64_t LossHeadChunk(int64_t vocab);

}  // namespace cambium
