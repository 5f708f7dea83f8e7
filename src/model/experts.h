#pragma once

#include "model/block.h"

namespace cambium {

// The routed half of a mixture of experts: h [rows, hidden], the shared expert's result or zeros, gains what the
// experts of each row make of normed [rows, hidden]. Rows of one expert lie side by side, one product a group (law 2
// holds: a row's result comes of its own experts, added in the order of its own preference).
void ExpertsBranch(BlockRun& run, const ExpertWeights& w, int layer, Tensor normed, Tensor h);

// Adds to dnormed, and turns dh into the gradient of the shared expert's result.
void ExpertsBranchBackward(BlockRun& run, const ExpertWeights& w, int layer, Tensor normed, Tensor dh, Tensor dnormed);

// What a pass over so many rows reads of the weights, in what one over a row does: 1 without experts. Of `count` experts
// n rows of `used` each wake count (1 - (1 - used / count)^n), if they choose alike and apart.
double WeightsRead(const ModelWeights& weights, int64_t rows);

}  // namespace cambium
