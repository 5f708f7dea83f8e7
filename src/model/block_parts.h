#pragma once

#include <span>

#include "model/block.h"

// What the sub-layers of a block share among their files.
namespace cambium {

void ApplyNorm(BlockRun& run, const NormWeights& weights, Tensor x, Tensor y);
// dx = gradient of ApplyNorm's input x given the gradient dy of its output; statistics are computed again.
void NormBackward(BlockRun& run, const NormWeights& weights, int layer, NormKind kind, Tensor dy, Tensor x, Tensor dx);

struct SiteResult {
  SiteKind kind;
  Tensor y;
};
// Lets grafts act on the linears of one layer that read x: site by site where backward follows in mirrored order, and
// all of a range's sites at once where ranges run side by side.
void AtLinears(BlockRun& run, int layer, Tensor x, std::span<const SiteResult> results);
void AtLinearBackward(BlockRun& run, Site site, Tensor x, Tensor dy, Tensor dx);

// h [rows, hidden] = attention branch of the normed input; dnormed = gradient of that, given dh.
void AttentionBranch(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor h);
void AttentionBranchBackward(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor dh, Tensor dnormed);
// The same of the feed-forward branch, a layer of its own or experts or both.
void FfnBranch(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor h);
void FfnBranchBackward(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor dh, Tensor dnormed);
// The same of a decoder's attention to its sources: keys and values are made of the encoder's result. Backward adds to
// the gradient of that.
void CrossBranch(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor h);
void CrossBranchBackward(BlockRun& run, const BlockWeights& w, int layer, Tensor normed, Tensor dh, Tensor dnormed);
// Keys and values of an encoder's result, as the decoder's layer sees it: k, v [rows, kv_heads * head_dim].
void MemoryKv(BlockRun& encoder, const BlockWeights& w, int layer, Tensor k, Tensor v);

}  // namespace cambium
