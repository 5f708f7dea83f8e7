#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/parallel.h"
#include "cambium/engine.h"
#include "tensor/tensor.h"

namespace cambium {

// First index of the largest value; NaN never wins. -1 if nothing is above -inf.
int64_t ArgMax(std::span<const float> values);

struct TopToken {
  int32_t token;
  float probability;  // softmax over the row, estimated
};
// The `count` likeliest tokens of a row of logits, highest first, equal ones by id; fewer where fewer are finite.
std::vector<TopToken> TopTokens(std::span<const float> logits, size_t count);

struct RowLogprobs {
  TokenLogprob of;                // the token that was asked for
  std::vector<TokenLogprob> top;  // the likeliest, highest first
};
// Of a row of logits [1, vocab].
RowLogprobs LogprobsOf(ThreadPool& pool, Tensor row, int32_t token, size_t most);

}  // namespace cambium
