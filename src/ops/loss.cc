#include <cmath>

#include "base/simd_targets.h"
#include "ops/ops.h"
#include "ops/ranges.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/loss.cc"
#include "hwy/foreach_target.h"
#include "ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace cambium::HWY_NAMESPACE {
namespace {

float Largest(const float* x, int64_t count) {
  const F32 d;
  VecF top = hn::Set(d, -3.4e38f);
  float rest = -3.4e38f;
  ForVectors(count, [&](int64_t i, int lanes) HWY_ATTR {
    if (lanes == kLanes) {
      top = hn::Max(top, hn::LoadU(d, x + i));
    } else {
      for (int j = 0; j < lanes; ++j) rest = x[i + j] > rest ? x[i + j] : rest;
    }
  });
  const float vectors = Max(d, top);
  return vectors > rest ? vectors : rest;
}

// Sum of e^(x - top), and the exponentials themselves into `exps` unless it is null. Most of a vocabulary's terms are so
// small that one long fp32 sum would lose them beside the large ones, and its bias is every gradient's: short fp32 sums
// add up in double.
double SumExp(const float* x, int64_t count, float top, float* exps) {
  constexpr int64_t kShort = 512;
  const F32 d;
  const VecF shift = hn::Set(d, top);
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kShort) {
    VecF sums[2] = {hn::Zero(d), hn::Zero(d)};
    ForVectors(count - begin < kShort ? count - begin : kShort, [&](int64_t i, int lanes) HWY_ATTR {
      VecF e = ExpNonPositive(d, hn::Sub(Get(x + begin + i, lanes), shift));
      if (lanes < kLanes) e = hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(lanes)), e);
      if (exps != nullptr) Put(e, exps + begin + i, lanes);
      VecF& sum = sums[i / kLanes % 2];
      sum = hn::Add(sum, e);
    });
    total += static_cast<double>(Sum(d, hn::Add(sums[0], sums[1])));
  }
  return total;
}

}  // namespace

float CrossEntropyRow(float* logits, int64_t vocab, int32_t target, float weight) {
  const F32 d;
  const float top = Largest(logits, vocab), chosen = logits[target];
  const double total = SumExp(logits, vocab, top, logits);
  const VecF factor = hn::Set(d, static_cast<float>(static_cast<double>(weight) / total));
  ForVectors(vocab,
             [&](int64_t i, int count) HWY_ATTR { Put(hn::Mul(Get(logits + i, count), factor), logits + i, count); });
  logits[target] -= weight;
  return static_cast<float>(std::log(total)) - (chosen - top);
}

float TargetLogProbRow(const float* logits, int64_t vocab, int32_t target) {
  const float top = Largest(logits, vocab);
  return (logits[target] - top) - static_cast<float>(std::log(SumExp(logits, vocab, top, nullptr)));
}

}  // namespace cambium::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cambium {

HWY_EXPORT(CrossEntropyRow);
HWY_EXPORT(TargetLogProbRow);

void CrossEntropy(ThreadPool& pool, Tensor logits, std::span<const int32_t> targets, std::span<const float> row_weights,
                  std::span<float> loss) {
  const int64_t rows = logits.rows(), vocab = logits.columns();
  Check(std::ssize(targets) == rows && std::ssize(row_weights) == rows && std::ssize(loss) == rows,
        "CrossEntropy has one target, weight and loss a row");
  ForRows(pool, rows, vocab, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const size_t i = static_cast<size_t>(row);
      if (targets[i] < 0) {
        std::fill_n(logits.row(row), vocab, 0.0f);
        loss[i] = 0.0f;
        continue;
      }
      Check(targets[i] < vocab, "a target is a token of the vocabulary");
      loss[i] = HWY_DYNAMIC_DISPATCH(CrossEntropyRow)(logits.row(row), vocab, targets[i], row_weights[i]);
    }
  });
}

void TargetLogProbs(ThreadPool& pool, Tensor logits, std::span<const int32_t> targets, std::span<float> log_probs) {
  const int64_t rows = logits.rows(), vocab = logits.columns();
  Check(std::ssize(targets) == rows && std::ssize(log_probs) == rows, "TargetLogProbs has one target a row");
  ForRows(pool, rows, vocab, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const size_t i = static_cast<size_t>(row);
      Check(targets[i] >= 0 && targets[i] < vocab, "a target is a token of the vocabulary");
      log_probs[i] = HWY_DYNAMIC_DISPATCH(TargetLogProbRow)(logits.row(row), vocab, targets[i]);
    }
  });
}

}  // namespace cambium
#endif  // HWY_ONCE
