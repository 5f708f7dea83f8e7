#pragma once

// The whole vocabulary of the engine. Each op is a pair: forward, and Backward beneath it.
//
// Conventions. Tensors are f32 unless a line says otherwise. Parameter gradients (dgain, dbias) ADD to what is there;
// activation gradients (dx) OVERWRITE. Sums are fp32. A row's result does not depend on how many rows share the call, nor
// on the thread count (law 2): work splits by shape, and every sum has one fixed order. An optional tensor may be empty.

#include <cstdint>
#include <span>

#include "base/parallel.h"
#include "ops/attention.h"
#include "ops/matmul.h"
#include "tensor/buffer.h"
#include "tensor/tensor.h"

namespace cambium {

// ---- norm.cc ----------------------------------------------------------------------------------------------------
// y = x / rms(x) * gain, row by row over the last axis; x may be [rows, heads, head_dim] (QK-norm). Zhang & Sennrich 2019.
// y may alias x. inv_rms [rows] is optional and keeps 1 / sqrt(mean(x^2) + eps) for the backward pass.
void RmsNorm(ThreadPool& pool, Tensor x, Tensor gain, float eps, Tensor y, Tensor inv_rms = {});
void RmsNormBackward(ThreadPool& pool, Tensor dy, Tensor x, Tensor gain, Tensor inv_rms, Tensor dx, Tensor dgain);

// y = (x - mean) / sqrt(var + eps) * gain + bias. Ba et al. 2016. y may alias x.
void LayerNorm(ThreadPool& pool, Tensor x, Tensor gain, Tensor bias, float eps, Tensor y, Tensor mean = {},
               Tensor inv_std = {});
void LayerNormBackward(ThreadPool& pool, Tensor dy, Tensor x, Tensor gain, Tensor mean, Tensor inv_std, Tensor dx,
                       Tensor dgain, Tensor dbias);

// ---- rope.cc ----------------------------------------------------------------------------------------------------
// Rotates pairs (i, i + n/2) of the first n values of every head by position * inv_freq[i], in place; HF's half-split
// layout. x [rows, heads, head_dim]; inv_freq [n/2], the rest of a head stays as it is; `scale` multiplies cos and sin (YaRN's attention factor, else 1).
void Rope(ThreadPool& pool, Tensor x, std::span<const int32_t> positions, Tensor inv_freq, float scale = 1.0f);
void RopeBackward(ThreadPool& pool, Tensor dx, std::span<const int32_t> positions, Tensor inv_freq, float scale = 1.0f);

// ---- elementwise.cc ---------------------------------------------------------------------------------------------
enum class Activation : uint8_t { kSilu, kGeluTanh, kGelu, kRelu, kTanh };

// y = act(gate) * up, [rows, ffn]. y may alias gate or up.
void GatedActivation(ThreadPool& pool, Activation act, Tensor gate, Tensor up, Tensor y);
void GatedActivationBackward(ThreadPool& pool, Activation act, Tensor dy, Tensor gate, Tensor up, Tensor dgate,
                             Tensor dup);
// y = act(x); y may alias x.
void Activate(ThreadPool& pool, Activation act, Tensor x, Tensor y);
void ActivateBackward(ThreadPool& pool, Activation act, Tensor dy, Tensor x, Tensor dx);

void Add(ThreadPool& pool, Tensor x, Tensor y);                      // y += x
void AddScaled(ThreadPool& pool, float scale, Tensor x, Tensor y);   // y += scale * x
void Scale(ThreadPool& pool, float scale, Tensor x);                 // x *= scale; 0 whatever it was where scale is 0
// x = cap * tanh(x / cap), in place; dy becomes the gradient of x, y being the capped values.
void SoftCap(ThreadPool& pool, float cap, Tensor x);
void SoftCapBackward(ThreadPool& pool, float cap, Tensor y, Tensor dy);
void AddBias(ThreadPool& pool, Tensor bias, Tensor y);               // y[row] += bias
void BiasBackward(ThreadPool& pool, Tensor dy, Tensor dbias);        // dbias += sum over rows of dy, in row order

// Copies between f32, f16 and bf16 (round to nearest even), same shape.
void Convert(ThreadPool& pool, Tensor from, Tensor to);

// Sum of squares in double, in a fixed order; +inf or NaN if any element is not finite.
double SquaredNorm(ThreadPool& pool, Tensor x);

// ---- routing.cc -------------------------------------------------------------------------------------------------
// How a row's logits over a mixture's experts become those it goes through, and their weights in its result.
struct RouteRule {
  int64_t used = 0;        // experts of a row
  bool normalise = false;  // the weights sum to 1: a softmax over the chosen ones alone; else what one over all gives them
};
// logits [rows, experts]; chosen [rows * used], the greatest logit first and of equal ones the first; weights [rows, used].
void Route(ThreadPool& pool, const RouteRule& rule, Tensor logits, std::span<int32_t> chosen, Tensor weights);
void RouteBackward(ThreadPool& pool, const RouteRule& rule, Tensor logits, std::span<const int32_t> chosen,
                   Tensor dweights, Tensor dlogits);

// y[i] = x[rows[i]]
void GatherRows(ThreadPool& pool, Tensor x, std::span<const int32_t> rows, Tensor y);
// h[row] += sum over k of weights[row, k] * y[places[row * used + k]], k ascending; without weights, those of 1.
void AddGathered(ThreadPool& pool, Tensor y, std::span<const int32_t> places, Tensor weights, Tensor h);
// dy and dweights [rows, used] of that; each row of y is in one place.
void AddGatheredBackward(ThreadPool& pool, Tensor dh, Tensor y, std::span<const int32_t> places, Tensor weights, Tensor dy,
                         Tensor dweights);

// y[row] *= sigmoid(gate[row]); gate [rows, 1].
void GateRows(ThreadPool& pool, Tensor gate, Tensor y);
// y is the ungated one; dy becomes its gradient, in place.
void GateRowsBackward(ThreadPool& pool, Tensor gate, Tensor y, Tensor dy, Tensor dgate);

// ---- low_rank.cc ------------------------------------------------------------------------------------------------
// y [rows, out] += scale * (x [rows, in] a^T) b, a [rank, in], b [rank, out]: a low-rank term beside a linear (Hu et al.,
// "LoRA", 2021), from one row to many. Trained through Gemm, which has its backward.
void LowRank(ThreadPool& pool, Workspace& workspace, Tensor x, Tensor a, Tensor b, float scale, Tensor y);
// Its two halves: low [rows, rank] = scale * x a^T, and y += low b.
void LowRankDown(ThreadPool& pool, Tensor x, Tensor a, float scale, Tensor low);
void LowRankUp(ThreadPool& pool, Tensor low, Tensor b, Tensor y);

// ---- packed_low_rank.cc -----------------------------------------------------------------------------------------
// The same term for serving: factors in f16, in the order in which they are read, in memory of the caller's.
struct PackedLowRank {
  static int64_t Size(int64_t in, int64_t rank, int64_t out);  // values
  PackedLowRank() = default;
  PackedLowRank(Tensor a, Tensor b, float scale, uint16_t* to);  // a [rank, in], b [rank, out] in f32
  const uint16_t* values = nullptr;
  int64_t in = 0, rank = 0, out = 0;
  float scale = 1;
};
void LowRank(ThreadPool& pool, Workspace& workspace, Tensor x, const PackedLowRank& term, Tensor y);

// ---- loss.cc ----------------------------------------------------------------------------------------------------
// In place: logits [rows, vocab] become dlogits = (softmax(logits) - onehot(target)) * row_weight[row]; rows whose target
// is negative get zeros. loss[row] = -log softmax(logits)[target] (0 for skipped rows).
void CrossEntropy(ThreadPool& pool, Tensor logits, std::span<const int32_t> targets, std::span<const float> row_weights,
                  std::span<float> loss);
// logits [rows, vocab] -> log-probability of target per row, without touching logits.
void TargetLogProbs(ThreadPool& pool, Tensor logits, std::span<const int32_t> targets, std::span<float> log_probs);

// ---- adamw.cc ---------------------------------------------------------------------------------------------------
// Decoupled weight decay (Loshchilov & Hutter 2019), bias-corrected; step counts from 1.
// p -= lr * (m_hat / (sqrt(v_hat) + eps) + weight_decay * p), with g multiplied by grad_scale first.
struct AdamW {
  float lr, beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f, weight_decay = 0.0f;
};
void AdamWStep(ThreadPool& pool, const AdamW& hyper, int64_t step, float grad_scale, Tensor grad, Tensor param,
               Tensor m, Tensor v);

}  // namespace cambium
